"""What a signed delivery leaves in the database, and who is rung for."""

import sqlite3
import sys
import threading
import time

import peewee
import pytest

from kennel_core import db, lease, projects, receive
from kennel_core.errors import BadPayload, BadSignature
from kennel_core.models import TABLES, Build, BuildStatus, Delivery, Deployment, Project
from kennel_core.settings import Settings
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell
from tests.waiting import until

A, B = "a" * 40, "b" * 40


class Forge:
    """Sends deliveries of one project."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project, self.settings = project, settings
        self.doorbell = RecordingDoorbell()
        self.secret = projects.webhook_secret(project, settings.secret_key_file)

    def send(self, document: dict, event: str = "push", **changes: str) -> dict:
        body = deliveries.encoded(document)
        headers = deliveries.headers(self.secret, body, event) | changes
        receipt = receive.receive(headers, body, self.settings, self.doorbell, time.time())
        assert receipt.status == 202
        return dict(receipt.body)


@pytest.fixture
def forge(project: Project, settings: Settings) -> Forge:
    return Forge(project, settings)


def deployment(project: Project, build: Build, ref: str = "main", name: str = "site") -> Deployment:
    return Deployment.create(
        project=project,
        ref=ref,
        name=name,
        kind="site",
        environment="prod",
        build=build,
        commit=build.commit,
        store_path="/nix/store/x",
        config_path="/nix/store/y",
        host=f"{name}-{ref}.example.org",
    )


def rows() -> dict[str, list]:
    return {table.__name__: list(table.select().dicts()) for table in TABLES}


def test_a_project_that_is_removed_while_its_delivery_is_read_is_as_unknown_as_any(
    forge: Forge, settings: Settings
) -> None:
    other = sqlite3.connect(settings.database, isolation_level=None)
    other.execute("PRAGMA foreign_keys = 1")
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM projects")
    refused: list[BadSignature] = []

    def deliver() -> None:
        with db.connection():
            try:
                forge.send(deliveries.push(commit=A))
            except BadSignature as exc:
                refused.append(exc)

    thread = threading.Thread(target=deliver)
    thread.start()
    until(lambda: _waits_for_the_lock(thread), what="the delivery waits to be written")
    other.execute("COMMIT")
    other.close()
    thread.join()

    assert len(refused) == 1
    assert forge.doorbell.rung == []


def _waits_for_the_lock(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != "begin":
        frame = frame.f_back
    return frame is not None


def test_a_push_queues_a_build_and_rings_for_it(forge: Forge) -> None:
    answer = forge.send(deliveries.push(commit=A))

    build = Build.get()
    assert (build.ref, build.commit, build.status) == ("main", A, BuildStatus.QUEUED)
    assert answer == {"status": "queued", "build": build.id, "ref": "main", "commit": A}
    assert forge.doorbell.rung == [build.id]


def test_a_delivery_seen_before_changes_nothing(forge: Forge) -> None:
    forge.send(deliveries.push(commit=A), **{"X-Forgejo-Delivery": "same"})
    before = rows()

    answer = forge.send(deliveries.push(commit=B), **{"X-Forgejo-Delivery": "same"})

    assert answer["status"] == "ignored"
    assert "received before: build 1" in answer["reason"]
    assert rows() == before
    assert forge.doorbell.rung == [1]


def test_a_delivery_without_an_id_is_accepted_each_time(forge: Forge) -> None:
    for commit in (A, B):
        body = deliveries.encoded(deliveries.push(commit=commit))
        headers = deliveries.headers(forge.secret, body)
        del headers["X-Forgejo-Delivery"]
        receive.receive(headers, body, forge.settings, forge.doorbell, time.time())
    assert [build.commit for build in Build.select().order_by(Build.id)] == [A, B]


def test_a_newer_push_supersedes_the_one_that_waits(forge: Forge) -> None:
    forge.send(deliveries.push(commit=A))
    forge.send(deliveries.push(commit=B))

    old, new = Build.select().order_by(Build.id)
    assert (old.status, new.status) == (BuildStatus.CANCELLED, BuildStatus.QUEUED)
    assert f"superseded by build {new.id}" in old.error


def test_a_newer_push_asks_the_one_that_runs_to_stop(forge: Forge) -> None:
    forge.send(deliveries.push(commit=A))
    running = lease.claim(time.time())
    forge.send(deliveries.push(commit=B))

    assert Build.get_by_id(running.id).cancel_requested
    assert Build.get_by_id(running.id).status == BuildStatus.BUILDING


def test_pushes_to_other_refs_and_projects_do_not_supersede(forge: Forge, settings: Settings) -> None:
    other = Forge(projects.add("acme/blog", "https://forge.example.org/acme/blog.git", "main"), settings)
    forge.send(deliveries.push("refs/heads/main", A))
    forge.send(deliveries.push("refs/heads/dev", A))
    forge.send(deliveries.pull_request("opened"), "pull_request")
    other.send(deliveries.push("refs/heads/main", A, "acme/blog"))
    assert {build.status for build in Build.select()} == {BuildStatus.QUEUED}
    assert Build.select().count() == 4


def test_the_case_of_the_repository_does_not_matter(forge: Forge) -> None:
    assert forge.send(deliveries.push(repository="Acme/SHOP"))["status"] == "queued"


@pytest.mark.parametrize("action", ["opened", "reopened", "synchronize", "synchronized"])
def test_a_pull_request_is_built_as_its_own_ref(forge: Forge, action: str) -> None:
    forge.send(deliveries.pull_request(action, 7, A), "pull_request")
    assert [(build.ref, build.commit) for build in Build.select()] == [("pr-7", A)]


@pytest.mark.parametrize(
    ("event", "document", "ref"),
    [
        ("delete", deliveries.deleted("refs/heads/topic"), "topic"),
        ("delete", deliveries.deleted("topic"), "topic"),
        ("push", deliveries.push("refs/heads/topic", "0" * 40), "topic"),
        ("pull_request", deliveries.pull_request("closed", 7), "pr-7"),
    ],
)
def test_what_is_gone_at_the_forge_is_withdrawn(forge: Forge, event: str, document: dict, ref: str) -> None:
    built = Build.create(project=forge.project, ref=ref, commit=A, status=BuildStatus.DONE)
    deployment(forge.project, built, ref)
    deployment(forge.project, built, "main", "other")
    waiting = Build.create(project=forge.project, ref=ref, commit=B)

    answer = forge.send(document, event)

    assert answer == {"status": "removed", "ref": ref, "deployments": ["site"]}
    assert [row.name for row in Deployment.select()] == ["other"]
    assert Build.get_by_id(waiting.id).status == BuildStatus.CANCELLED
    assert forge.doorbell.rung == ["pass"]


@pytest.mark.parametrize(
    ("event", "document"),
    [
        ("push", deliveries.push("refs/heads/pr-7")),
        ("delete", deliveries.deleted("pr-7")),
        ("push", deliveries.push("refs/tags/v1")),
        ("push", deliveries.push("refs/tags/v1", "0" * 40)),
        ("delete", deliveries.deleted("v1") | {"ref_type": "tag"}),
        ("create", deliveries.created("v1") | {"ref_type": "tag"}),
        ("pull_request", deliveries.pull_request("assigned")),
        ("issue_comment", deliveries.comment("/kennel stop")),
        ("pull_request", deliveries.document("forgejo/pr-from-fork-opened/pull_request")),
    ],
)
def test_what_is_ignored_is_noted_and_touches_nothing(forge: Forge, event: str, document: dict) -> None:
    built = Build.create(project=forge.project, ref="pr-7", commit=A, status=BuildStatus.DONE)
    deployment(forge.project, built, "pr-7")
    before = rows()

    answer = forge.send(document, event)

    assert answer["status"] == "ignored"
    assert Delivery.get().outcome == answer["reason"]
    assert rows() | {"Delivery": []} == before
    assert forge.doorbell.rung == []


@pytest.mark.parametrize(
    ("patterns", "ref", "deploys"),
    [
        ("*", "feat/x", True),
        ("main staging", "main", True),
        ("main staging", "dev", False),
        ("main release/*", "release/1", True),
        ("main", "Main", False),
    ],
)
def test_a_setting_limits_which_branches_deploy(
    forge: Forge, patterns: str, ref: str, *, deploys: bool
) -> None:
    forge.settings = forge.settings.model_copy(update={"deploy_branches": patterns})
    answer = forge.send(deliveries.push(f"refs/heads/{ref}"))
    assert answer["status"] == ("queued" if deploys else "ignored")
    assert Build.select().count() == deploys


def test_pull_requests_are_built_whatever_branches_deploy(forge: Forge) -> None:
    forge.settings = forge.settings.model_copy(update={"deploy_branches": "main"})
    assert forge.send(deliveries.pull_request("opened"), "pull_request")["status"] == "queued"


def test_unknown_projects_and_wrong_secrets_are_refused_alike_and_write_nothing(forge: Forge) -> None:
    other = projects.add("acme/blog", "https://forge.example.org/acme/blog.git", "main")
    body, foreign, unknown = (
        deliveries.encoded(deliveries.push(repository=name))
        for name in ("acme/shop", "acme/blog", "nobody/nothing")
    )
    before = rows()
    refusals = []
    for sent, secret in ((body, "wrong"), (foreign, forge.secret), (unknown, forge.secret), (unknown, "")):
        with pytest.raises(BadSignature) as caught:
            receive.receive(
                deliveries.headers(secret, sent), sent, forge.settings, forge.doorbell, time.time()
            )
        refusals.append(str(caught.value))
    assert len(set(refusals)) == 1
    assert rows() == before
    assert forge.doorbell.rung == []
    assert other.name not in refusals[0]


@pytest.mark.parametrize(
    "name", ["../x", "a b", "é/ü", "\ud800/x", "acme/shop/x", "a\x00/b", "a'/*", "x" * 5000]
)
def test_a_repository_that_nobody_could_register_is_unknown(forge: Forge, name: str) -> None:
    body = deliveries.encoded(deliveries.push(repository=name))
    with pytest.raises((BadSignature, BadPayload)):
        receive.receive(
            deliveries.headers(forge.secret, body), body, forge.settings, forge.doorbell, time.time()
        )


def test_the_old_secret_is_worth_nothing_after_a_rotation(forge: Forge) -> None:
    projects.rotate_secret(forge.project)
    with pytest.raises(BadSignature):
        forge.send(deliveries.push())
    assert not Build.select().exists()


def test_nothing_is_written_when_the_record_of_the_delivery_fails(forge: Forge) -> None:
    db.database.execute_sql(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON deliveries BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    before = rows()
    with pytest.raises(peewee.IntegrityError, match="disk full"):
        forge.send(deliveries.push())
    assert rows() == before
    assert forge.doorbell.rung == []
