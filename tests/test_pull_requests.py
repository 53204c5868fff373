"""Which pull requests are built: the gate, by itself and through deliveries."""

import time
from pathlib import Path

import pytest

from kennel_core import builds, db, gate, projects, pull_requests, receive
from kennel_core.errors import Conflict, NotFound
from kennel_core.gate import Facts, Hold, Rules
from kennel_core.models import AuditEntry, Build, Command, Deployment, Project, PullRequest
from kennel_core.pull_requests import State
from kennel_core.settings import Settings
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell

A, B = "a" * 40, "b" * 40
FORGE = {"forge_url": "http://127.0.0.1:9", "forge_token_file": Path("/nowhere")}


class Sender:
    """Sends deliveries about pull requests; `settings` may be changed in between."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project, self.settings = project, settings
        self.doorbell = RecordingDoorbell()
        self.secret = projects.webhook_secret(project, settings.secret_key_file)

    def rules(self, **changes: object) -> None:
        self.settings = self.settings.model_copy(update=changes)

    def send(self, action: str, number: int = 7, commit: str = A, **changes: object) -> dict:
        return self.deliver(deliveries.pull_request(action, number, commit, **changes), "pull_request")

    def deliver(self, document: dict, event: str) -> dict:
        body = deliveries.encoded(document)
        headers = deliveries.headers(self.secret, body, event)
        return dict(receive.receive(headers, body, self.settings, self.doorbell, time.time()).body)

    def decide(self, *, trusted: bool = False) -> list[int]:
        """What a report does once it knows what the authors may do."""
        rung = []
        for row in pull_requests.undecided():
            with db.write():
                row.trusted = row.trusted or trusted
                build = pull_requests.settle(row, self.settings, time.time())
            rung += [build.id] if build else []
        return rung


@pytest.fixture
def alone(project: Project, settings: Settings) -> Sender:
    """Kennel without a forge that could be asked."""
    return Sender(project, settings)


@pytest.fixture
def asked(project: Project, settings: Settings) -> Sender:
    """Kennel with a forge that can be asked."""
    return Sender(project, settings.model_copy(update=FORGE))


RULES = Rules(limit=2, drafts=False, labels=frozenset({"preview"}), excluded=frozenset({"no preview"}))
FINE = {"fork": False, "draft": False, "labels": ["Preview"], "skip": False, "approved": False}


@pytest.mark.parametrize(
    ("changes", "why", "waits"),
    [
        ({}, None, False),
        ({"skip": True}, "[skip kennel]", False),
        ({"draft": True}, "drafts", False),
        ({"labels": []}, "none of the labels", False),
        ({"labels": ["preview", "NO PREVIEW"]}, "excludes", False),
        ({"fork": True}, "from a fork", True),
        ({"trusted": False}, "may not write", True),
        ({"fork": True, "approved": True}, None, False),
        ({"trusted": False, "approved": True}, None, False),
        ({"others": 2}, "no more may be", True),
        ({"others": 1}, None, False),
        ({"fork": True, "approved": True, "draft": True}, "drafts", False),
        ({"fork": True, "approved": True, "others": 2}, "no more may be", True),
    ],
)
def test_the_gate_says_what_a_pull_request_waits_for(changes: dict, why: str | None, *, waits: bool) -> None:
    held = gate.hold(Facts(**(FINE | {"trusted": True, "others": 0} | changes)), RULES)
    if why is None:
        assert held is None
    else:
        assert isinstance(held, Hold)
        assert why in held.why
        assert held.waits == waits


def test_without_a_forge_to_ask_a_pull_request_is_built_at_once(alone: Sender) -> None:
    answer = alone.send("opened")
    assert (answer["status"], answer["ref"]) == ("queued", "pr-7")
    assert alone.doorbell.rung == [answer["build"]]


def test_without_a_forge_to_ask_a_fork_is_never_built(alone: Sender) -> None:
    assert "fork" in alone.send("opened", fork=True)["reason"]
    assert not Build.select().exists()
    assert not PullRequest.select().exists()


def test_a_forge_without_a_token_is_as_none(alone: Sender) -> None:
    alone.rules(forge_url="http://127.0.0.1:9")
    assert alone.send("opened")["status"] == "queued"
    assert "fork" in alone.send("opened", 8, fork=True)["reason"]
    assert "report" not in alone.doorbell.rung


def test_the_forge_is_not_asked_while_it_waits_for_the_answer(asked: Sender) -> None:
    answer = asked.send("opened")
    assert answer == {"status": "noted", "ref": "pr-7", "commit": A}
    assert asked.doorbell.rung == ["report"]
    assert not Build.select().exists()
    assert len(asked.decide(trusted=True)) == 1


def test_the_same_event_twice_is_one_build(asked: Sender) -> None:
    for _hook in ("repository", "organisation"):
        asked.send("opened")
        asked.send("synchronized")
    asked.decide(trusted=True)
    asked.send("synchronized")
    asked.decide(trusted=True)
    assert Build.select().count() == 1


@pytest.mark.parametrize(
    ("rules", "opened", "changed"),
    [
        ({"preview_drafts": False}, {"draft": True}, {"draft": False}),
        ({}, {"title": "WIP [skip kennel]"}, {"title": "Ready"}),
        ({"preview_labels": "deploy me, preview"}, {"labels": ()}, {"labels": ("Deploy me",)}),
        ({"preview_labels_excluded": "no preview"}, {"labels": ("no preview",)}, {"labels": ()}),
    ],
)
def test_what_is_kept_back_is_built_when_it_changes_and_goes_when_it_changes_back(
    alone: Sender, rules: dict, opened: dict, changed: dict
) -> None:
    alone.rules(**rules)
    assert alone.send("opened", **opened)["status"] == "ignored"
    assert not Build.select().exists()

    assert alone.send("edited", **changed)["status"] == "queued"
    build = Build.get()
    Build.update(status="done").execute()
    Deployment.create(
        project=alone.project, ref="pr-7", name="s", kind="site", environment="preview",
        build=build, commit=A, store_path="/s", config_path="/c", host="h.example.org",
    )  # fmt: skip

    assert alone.send("edited", **opened)["status"] == "ignored"
    assert not Deployment.select().exists()
    assert PullRequest.get().state == State.HELD


def test_a_changed_label_does_not_build_again_what_failed(alone: Sender) -> None:
    alone.send("opened")
    Build.update(status="failed").execute()
    alone.send("label_updated", labels=("x",))
    assert Build.select().count() == 1
    assert PullRequest.get().state == State.BUILT
    alone.send("reopened")
    assert Build.select().count() == 2


def test_a_push_with_skip_in_its_message_is_not_built(alone: Sender) -> None:
    answer = alone.deliver(deliveries.push(message="Reword\n\n[kennel skip]"), "push")
    assert "[skip kennel]" in answer["reason"]
    assert not Build.select().exists()


def test_an_approval_is_for_one_commit_and_lapses_on_a_new_push(asked: Sender) -> None:
    asked.send("opened", fork=True)
    assert asked.decide() == []
    row = PullRequest.get()
    assert row.state == State.WAITING
    assert pull_requests.needs_approval(row)

    with pytest.raises(Conflict, match="is at aaaaaaaaaaaa by now"):
        pull_requests.approve(asked.project, 7, B, "ada", time.time())
    with pytest.raises(Conflict):
        pull_requests.approve(asked.project, 7, "aaaa", "ada", time.time())  # too short to mean one commit
    pull_requests.approve(asked.project, 7, "aaaaaaa", "ada", time.time())
    assert len(asked.decide()) == 1

    asked.send("synchronized", commit=B, fork=True)
    assert asked.decide() == []
    assert PullRequest.get().state == State.WAITING
    assert [build.commit for build in Build.select()] == [A]
    entry = AuditEntry.get()
    assert (entry.who, entry.what, entry.outcome) == ("ada", "approve", f"approved {A}")


def test_a_commit_that_was_approved_before_it_was_left_has_to_be_approved_no_more(asked: Sender) -> None:
    asked.send("opened", fork=True)
    pull_requests.approve(asked.project, 7, A, "ada", time.time())
    asked.send("synchronized", commit=B, fork=True)
    asked.send("synchronized", commit=A, fork=True)
    assert len(asked.decide()) == 1


def test_what_is_closed_or_unknown_cannot_be_approved(asked: Sender) -> None:
    with pytest.raises(NotFound):
        pull_requests.approve(asked.project, 7, A, "ada", time.time())
    asked.send("opened", fork=True)
    asked.send("closed")
    with pytest.raises(Conflict, match="closed"):
        pull_requests.approve(asked.project, 7, A, "ada", time.time())


def test_a_closed_pull_request_is_not_decided_and_reopens_as_new(asked: Sender) -> None:
    asked.send("opened")
    asked.send("closed")
    assert asked.decide(trusted=True) == []
    asked.send("reopened")
    assert len(asked.decide(trusted=True)) == 1


def test_the_limit_counts_what_is_up_or_on_its_way_and_not_itself(alone: Sender) -> None:
    alone.rules(preview_limit=2)
    for number in (1, 2):
        assert alone.send("opened", number, A)["status"] == "queued"
    assert "no more may be" in alone.send("opened", 3, B)["reason"]
    assert alone.send("synchronized", 1, B)["status"] == "queued"
    alone.send("closed", 2)
    assert [build.commit for build in Build.select().where(Build.ref == "pr-3")] == [B]


def test_branches_do_not_count_for_the_limit(alone: Sender) -> None:
    alone.rules(preview_limit=1)
    with db.write():
        builds.enqueue(alone.project, "topic", A, time.time())
    assert alone.send("opened")["status"] == "queued"


def test_a_command_is_kept_once_with_the_commit_of_that_moment(asked: Sender) -> None:
    asked.send("opened", commit=A)
    document = deliveries.comment("/kennel approve", 7, 21)
    assert asked.deliver(document, "issue_comment")["command"] == "approve"
    asked.send("synchronized", commit=B)
    assert asked.deliver(document, "issue_comment")["status"] == "ignored"
    command = Command.get()
    assert (command.number, command.comment_id, command.author, command.commit) == (7, 21, "alice", A)


def test_a_branch_that_is_renamed_is_built_under_its_new_name(alone: Sender) -> None:
    alone.deliver(deliveries.push("refs/heads/old", A), "push")
    alone.deliver(deliveries.deleted("old"), "delete")
    answer = alone.deliver(deliveries.created("new", A), "create")
    assert (answer["status"], answer["ref"], answer["commit"]) == ("queued", "new", A)
    assert {build.ref: build.status for build in Build.select()} == {"old": "cancelled", "new": "queued"}


def test_a_new_branch_that_is_pushed_is_built_once(alone: Sender) -> None:
    alone.deliver(deliveries.created("topic", A), "create")
    alone.deliver(deliveries.push("refs/heads/topic", A), "push")
    assert Build.select().count() == 1
