"""``kennel pr``, ``kennel deployment redeploy`` and ``rollback``, ``kennel audit-log``: as processes."""

import json
import time
from pathlib import Path

import pytest

from kennel_core import db, deployments, lease, pull_requests
from kennel_core.builds import enqueue, went_live
from kennel_core.models import Build, Project, PullRequest
from kennel_core.outputs import Outputs, SiteOutput
from kennel_core.settings import Settings
from kennel_core.webhook import Proposal
from tests.test_cli import Cli, data, runner

A, B = "a" * 40, "b" * 40


@pytest.fixture
def cli(settings: Settings) -> Cli:
    return runner(settings)


def proposed(project: Project, commit: str = A) -> None:
    with db.write():
        seen = Proposal(7, commit, "mallory", fork=True, draft=False, labels=(), skip=False, fresh=True)
        pull_requests.note(project, seen)


def went_up(project: Project, settings: Settings, commit: str, tmp_path: Path) -> Build:
    with db.write():
        enqueue(project, "pr-7", commit, time.time())
    build = lease.claim(time.time())
    assert build is not None
    site = tmp_path / commit
    site.mkdir()
    outputs = Outputs(config_path="/", resources=[], sites=[SiteOutput(name="docs", store_path=str(site))])
    lease.succeed(build, outputs, settings, time.time())
    with db.write():
        went_live(build.id, time.time())
        deployments.went_live(build)
    return build


def test_a_pull_request_is_listed_and_its_commit_approved(cli: Cli, project: Project) -> None:
    assert "no pull request is open" in cli("pr", "list").stderr
    proposed(project)
    (row,) = data(cli("pr", "list", "--json"))
    assert (row["number"], row["author"], row["fork"], row["state"]) == (7, "mallory", True, "new")

    refused = cli("pr", "approve", "acme/shop", "7", "--commit", B, status=4)
    assert "look at that commit" in refused.stderr
    cli("pr", "approve", "acme/shop", "8", status=3)
    assert "aaaaaaaaaaaa is approved" in cli("pr", "approve", "acme/shop", "7", "--commit", A[:8]).stdout
    assert PullRequest.get().approved_commit == A

    (entry,) = data(cli("audit-log", "--json"))
    assert (entry["what"], entry["target"], entry["outcome"]) == (
        "approve",
        "acme/shop pr-7",
        f"approved {A}",
    )
    assert entry["who"].endswith("@host")


def test_a_ref_is_deployed_again_and_rolled_back(
    cli: Cli, project: Project, settings: Settings, tmp_path: Path
) -> None:
    cli("deployment", "redeploy", "acme/shop", "pr-7", status=3)
    cli("deployment", "rollback", "acme/shop", "pr-7", status=4)
    first = went_up(project, settings, A, tmp_path)
    assert "no earlier build" in cli("deployment", "rollback", "acme/shop", "pr-7", status=4).stderr
    went_up(project, settings, B, tmp_path)

    back = data(cli("deployment", "rollback", "acme/shop", "pr-7", "--json"))
    assert (back["commit"], back["status"]) == (A, "built")
    assert Build.get_by_id(back["id"]).outputs["origin"] == first.id
    assert "on its way" in cli("deployment", "redeploy", "acme/shop", "pr-7", status=4).stderr

    row = Build.get_by_id(back["id"])
    with db.write():
        went_live(row.id, time.time())
        deployments.went_live(row)
    again = data(cli("deployment", "redeploy", "acme/shop", "pr-7", "--json"))
    assert again["commit"] == A
    assert [json.dumps(entry["what"]) for entry in data(cli("audit-log", "--json"))] == [
        '"redeploy"',
        '"rollback"',
    ]


def test_what_was_collected_from_the_store_is_not_gone_back_to(
    cli: Cli, project: Project, settings: Settings, tmp_path: Path
) -> None:
    went_up(project, settings, A, tmp_path)
    went_up(project, settings, B, tmp_path)
    (tmp_path / A).rmdir()
    assert "was collected" in cli("deployment", "rollback", "acme/shop", "pr-7", status=4).stderr
