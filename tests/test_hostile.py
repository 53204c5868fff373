"""Everything a hostile person can name, write, declare and build: no shell, nothing outside."""

import random
from pathlib import Path

import pytest

from kennel_core import db, projects
from kennel_core.models import TABLES, Build, Project
from kennel_core.settings import Settings
from kennel_web import create_app
from tests import deliveries, hostile
from tests.campaigns import hostility
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.nix import Nix

SHARE = 0.12  # of the inputs, in tests that take seconds; `make campaign` takes all


def test_there_are_at_least_two_hundred_hostile_inputs() -> None:
    assert hostile.COUNT >= 200


def test_no_build_of_a_hostile_repository_starts_a_shell_or_writes_elsewhere(
    settings: Settings, database: Path, nix: Nix, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)

    outcome = hostility.play(tmp_path, settings, nix, SHARE, seed)

    repeat = f"deploy/dev/campaign --seed {seed} hostile {SHARE}"
    assert outcome.wrong == [], repeat
    assert outcome.shells == [], repeat
    assert outcome.strange == [], repeat
    assert outcome.outside == set(), repeat
    assert not list(Path.cwd().glob(f"*{hostile.MARK}*"))


# --- over HTTP


class Hook:
    """A registered project, and signed deliveries of its forge."""

    def __init__(self, settings: Settings) -> None:
        with db.connection():
            project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
            self.secret = projects.webhook_secret(project, settings.secret_key_file)
        self.client = create_app(settings, RecordingDoorbell()).test_client()

    def status(self, document: dict, event: str = "push") -> int:
        body = deliveries.encoded(document)
        headers = deliveries.headers(self.secret, body, event)
        return int(self.client.post("/webhook", data=body, headers=headers).status_code)


@pytest.fixture
def hook(settings: Settings, database_file: Path) -> Hook:
    return Hook(settings)


def rows() -> int:
    with db.connection():
        return sum(table.select().count() for table in TABLES)


def test_each_hostile_ref_that_git_allows_is_queued_once_under_its_own_name(hook: Hook) -> None:
    for ref in hostile.REFS:
        assert hook.status(deliveries.push(f"refs/heads/{ref}")) == 202, ref

    with db.connection():
        assert sorted(build.ref for build in Build.select()) == sorted(hostile.REFS)


def test_each_ref_and_repository_that_cannot_be_is_refused_and_leaves_nothing(hook: Hook) -> None:
    before = rows()

    refs = {hook.status(deliveries.push(f"refs/heads/{ref}")) for ref in hostile.REFUSED_REFS}
    gone = {hook.status(deliveries.deleted(f"refs/heads/{ref}")) for ref in hostile.REFUSED_REFS}
    strangers = {hook.status(deliveries.push(repository=name)) for name in hostile.REPOSITORIES}

    assert (refs, gone) == ({400}, {400})
    assert strangers <= {400, 401}
    assert len(hostile.REFUSED_REFS) + len(hostile.REPOSITORIES) >= 40
    assert rows() == before


def test_text_that_nobody_checks_changes_nothing(hook: Hook) -> None:
    for number, text in enumerate(hostile.TEXTS, 1):
        pushed = deliveries.push(commit=f"{number:040x}", message=text)
        pushed["repository"] |= {"clone_url": text, "description": text, "default_branch": text}
        pushed["pusher"] = {"login": text, "email": text}
        assert hook.status(pushed) == 202
        asked = deliveries.pull_request("opened", number, author=text, labels=(text,), title=text)
        assert hook.status(asked, "pull_request") == 202

    with db.connection():
        [project] = Project.select()
        assert (project.clone_url, project.default_branch) == (
            "https://forge.example.org/acme/shop.git",
            "main",
        )


def test_comments_are_read_as_words_and_never_fail(hook: Hook) -> None:
    for number, text in enumerate(hostile.COMMENTS, 1):
        assert hook.status(deliveries.comment(text, comment=number), "issue_comment") == 202, text
