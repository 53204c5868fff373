"""Reading deliveries, without a database or a server."""

import json
import string
import subprocess

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kennel_core import webhook
from kennel_core.errors import BadPayload, BadSignature
from kennel_core.webhook import Asked, Ignored, Proposal, Push, Removed
from tests import deliveries
from tests.deliveries import COMMIT, RECORDED, RECORDED_SECRET, Recording

MEANINGS = {
    "branch-create-with-new-commit/create": Push,
    "branch-create-with-new-commit/push": Push,
    "branch-delete/delete": Removed,
    "force-push/push": Push,
    "pr-closed/pull_request": Removed,
    "pr-from-fork-opened/pull_request": Proposal,
    "pr-merged/pull_request": Removed,
    "pr-merged/push": Push,
    "pr-opened/pull_request": Proposal,
    "pr-synchronized/pull_request_sync": Proposal,
    "pr-synchronized/push": Push,
    "push/push": Push,
    "tag-push-light/create": Ignored,
    "tag-push-light/push": Ignored,
}


def proposal(**changes: object) -> Proposal:
    """What the recorded pull request is."""
    same: dict = {"number": 7, "commit": COMMIT, "author": "alice", "fork": False, "draft": False}
    return Proposal(**(same | {"labels": (), "skip": False, "fresh": True} | changes))


recorded = pytest.mark.parametrize("recording", RECORDED, ids=lambda recording: recording.name)


def read(event: str, document: object) -> webhook.Event:
    return webhook.parse(event, webhook.read(deliveries.encoded(document)))


def test_both_forges_are_recorded_with_every_event() -> None:
    names = {recording.name for recording in RECORDED}
    assert names == {f"{forge}/{meaning}" for forge in ("forgejo", "gitea") for meaning in MEANINGS}


@recorded
def test_a_recorded_delivery_verifies_and_has_its_meaning(recording: Recording) -> None:
    webhook.verify(RECORDED_SECRET, recording.body, recording.headers)

    payload = webhook.read(recording.body)
    event = webhook.parse(webhook.event_name(recording.headers), payload)

    assert payload.repository == "acme/app"
    assert isinstance(event, MEANINGS[recording.name.partition("/")[2]])
    assert len(webhook.delivery_id(recording.headers)) == 36


@recorded
def test_a_recorded_delivery_with_one_byte_changed_does_not_verify(recording: Recording) -> None:
    body = recording.body.replace(b"acme", b"acmE", 1)
    with pytest.raises(BadSignature):
        webhook.verify(RECORDED_SECRET, body, recording.headers)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("push/push", Push("main", "b9226fcd3503d825ef814bf0c584054556e6bdf9")),
        ("branch-delete/delete", Removed("feat/x")),
        ("pr-merged/pull_request", Removed("pr-1")),
    ],
)
def test_forgejo_and_gitea_mean_the_same(name: str, event: webhook.Event) -> None:
    for forge in ("forgejo", "gitea"):
        found = read(name.partition("/")[2], deliveries.document(f"{forge}/{name}"))
        assert (type(found), found.ref) == (type(event), event.ref)
    assert read(name.partition("/")[2], deliveries.document(f"forgejo/{name}")) == event


BODY = deliveries.encoded(deliveries.push())
GOOD = deliveries.signature("s3cret", BODY)
BAD = deliveries.signature("another", BODY)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forgejo-Signature": GOOD},
        {"X-Gitea-Signature": GOOD},
        {"X-Hub-Signature-256": f"sha256={GOOD}"},
        {"X-Forgejo-Signature": f"sha256={GOOD}"},
        {"X-Forgejo-Signature": GOOD, "X-Gitea-Signature": BAD, "X-Hub-Signature-256": "sha256=no"},
    ],
)
def test_the_first_signature_present_decides(headers: dict[str, str]) -> None:
    webhook.verify("s3cret", BODY, headers)


FORGED = {
    "missing": {},
    "empty": {"X-Forgejo-Signature": ""},
    "of another secret": {"X-Forgejo-Signature": BAD},
    "cut": {"X-Forgejo-Signature": GOOD[:-1]},
    "with something behind": {"X-Forgejo-Signature": GOOD + "0"},
    "in capitals": {"X-Forgejo-Signature": GOOD.upper()},
    "with a space": {"X-Forgejo-Signature": f" {GOOD}"},
    "twice": {"X-Forgejo-Signature": f"{GOOD},{GOOD}"},
    "not ASCII": {"X-Forgejo-Signature": "é" * 64},
    "a lone surrogate": {"X-Forgejo-Signature": "\ud800" * 64},
    "only the prefix": {"X-Hub-Signature-256": "sha256="},
    "SHA-1": {"X-Hub-Signature": "sha1=" + "0" * 40},
    "SHA-1 in the place of SHA-256": {"X-Hub-Signature-256": "sha1=" + "0" * 40},
    "of Gogs": {"X-Gogs-Signature": GOOD},
    "bad, rescued by a later one": {"X-Forgejo-Signature": BAD, "X-Gitea-Signature": GOOD},
    "empty, rescued by a later one": {"X-Forgejo-Signature": "", "X-Hub-Signature-256": f"sha256={GOOD}"},
}


@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
def test_a_signature_that_is_not_ours_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        webhook.verify("s3cret", BODY, headers)


def test_an_empty_secret_signs_nothing() -> None:
    with pytest.raises(BadSignature):
        webhook.verify("", BODY, {"X-Forgejo-Signature": deliveries.signature("", BODY)})


@given(body=st.binary(), secret=st.text(min_size=1), other=st.binary())
def test_only_the_signed_bytes_verify(body: bytes, secret: str, other: bytes) -> None:
    assume(body != other)
    signed = {"X-Forgejo-Signature": deliveries.signature(secret, body)}
    webhook.verify(secret, body, signed)
    with pytest.raises(BadSignature):
        webhook.verify(secret, other, signed)


@pytest.mark.parametrize(
    ("event", "document", "meaning"),
    [
        ("push", deliveries.push("refs/heads/feat/Login"), Push("feat/Login", COMMIT)),
        ("push", deliveries.push("refs/heads/refs/heads/x"), Push("refs/heads/x", COMMIT)),
        ("push", deliveries.push(commit="a" * 64), Push("main", "a" * 64)),
        ("push", deliveries.push(commit="0" * 40), Removed("main")),
        ("push", deliveries.push(commit="0" * 64), Removed("main")),
        ("push", deliveries.push() | {"deleted": True}, Removed("main")),
        ("delete", deliveries.deleted("topic"), Removed("topic")),
        ("delete", deliveries.deleted("refs/heads/topic"), Removed("topic")),
        ("create", deliveries.created("topic"), Push("topic", COMMIT)),
        ("create", deliveries.created("refs/heads/topic"), Push("topic", COMMIT)),
        ("pull_request", deliveries.pull_request("opened"), proposal()),
        ("pull_request", deliveries.pull_request("reopened"), proposal()),
        ("pull_request", deliveries.pull_request("synchronize"), proposal()),
        ("pull_request_sync", deliveries.pull_request("synchronized"), proposal()),
        ("pull_request", deliveries.pull_request("edited"), proposal(fresh=False)),
        (
            "pull_request",
            deliveries.pull_request("label_updated", labels=("b", "a", "b")),
            proposal(fresh=False, labels=("a", "b")),
        ),
        ("pull_request", deliveries.pull_request("opened", draft=True), proposal(draft=True)),
        ("pull_request", deliveries.pull_request("opened", title="x [Skip Kennel]"), proposal(skip=True)),
        ("issue_comment", deliveries.comment("/kennel redeploy"), Asked(7, 21, "alice", "redeploy")),
        (
            "issue_comment",
            deliveries.comment("Please:\r\n  /kennel   approve  abc \r\n/kennel stop"),
            Asked(7, 21, "alice", "approve abc"),
        ),
        ("pull_request_comment", deliveries.comment("/kennel"), Asked(7, 21, "alice", "")),
        ("issue_comment", deliveries.comment("/kennel " + "x" * 5000), Asked(7, 21, "alice", "x" * 200)),
        ("pull_request", deliveries.pull_request("closed"), Removed("pr-7")),
    ],
)
def test_what_happened_is_understood(event: str, document: dict, meaning: webhook.Event) -> None:
    assert read(event, document) == meaning


@pytest.mark.parametrize(
    ("event", "document", "reason"),
    [
        ("push", deliveries.push("refs/tags/v1"), "only branches"),
        ("push", deliveries.push("refs/tags/v1", "0" * 40), "only branches"),
        ("push", deliveries.push("refs/for/main/topic"), "only branches"),
        ("delete", deliveries.deleted("v1") | {"ref_type": "tag"}, "only branches"),
        ("push", deliveries.push("refs/heads/pr-7"), "belongs to a pull request"),
        ("delete", deliveries.deleted("pr-7"), "belongs to a pull request"),
        ("pull_request", deliveries.pull_request("assigned"), "changes nothing"),
        ("pull_request", deliveries.pull_request("edited", state="closed"), "changes nothing"),
        ("create", deliveries.created("v1") | {"ref_type": "tag"}, "only branches"),
        ("create", deliveries.created("pr-7"), "belongs to a pull request"),
        ("create", deliveries.push(), "only branches"),
        ("push", deliveries.push(message="Tidy up\n\n[skip kennel]"), "says [skip kennel]"),
        ("issue_comment", deliveries.push(), "only new comments"),
        ("issue_comment", deliveries.comment("/kennel stop") | {"action": "edited"}, "only new comments"),
        ("issue_comment", deliveries.comment("/kennel stop") | {"is_pull": False}, "only new comments"),
        ("issue_comment", deliveries.comment("> /kennel stop"), "asks for nothing"),
        ("issue_comment", deliveries.comment("/kennels stop"), "asks for nothing"),
        ("issue_comment", deliveries.comment("looks good"), "asks for nothing"),
        ("issue_comment", deliveries.comment("/kennel stop", author="a\u202eb"), "asks for nothing"),
        ("ping", deliveries.push(), "event ping"),
    ],
)
def test_what_changes_nothing_is_ignored_with_the_reason(event: str, document: dict, reason: str) -> None:
    found = read(event, document)
    assert isinstance(found, Ignored)
    assert reason in found.reason


@pytest.mark.parametrize(
    "head",
    [
        {"repo_id": 2},
        {"repo_id": -1, "repo": None},
        {"repo_id": None, "repo": None},
        {"repo": None},
        {"repo": {"id": 2}},
    ],
)
def test_a_pull_request_from_a_fork_is_known_as_one_and_its_end_is_seen(head: dict) -> None:
    document = deliveries.pull_request("opened")
    document["pull_request"]["head"] = {"sha": COMMIT, **head}
    assert read("pull_request", document) == proposal(fork=True)
    assert read("pull_request", document | {"action": "closed"}) == Removed("pr-7")


MALFORMED_BODIES = {
    "nothing": b"",
    "not JSON": b"payload=%7B%7D",
    "half of it": BODY[:-1],
    "something behind": BODY + b"x",
    "a list": b"[]",
    "text": b'"push"',
    "null": b"null",
    "a number": b"1",
    "NaN": b'{"repository": NaN}',
    "Infinity": b'{"repository": -Infinity}',
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "control characters": b'{"a": "\x00"}',
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "a number of 5,000 digits": b'{"number": ' + b"9" * 5000 + b"}",
    "no repository": b"{}",
    "a repository that is text": b'{"repository": "acme/shop"}',
    "no owner": b'{"repository": {"name": "shop"}}',
    "an owner that is text": b'{"repository": {"name": "shop", "owner": "acme"}}',
    "an owner without a name": b'{"repository": {"name": "shop", "owner": {"login": ""}}}',
    "an owner that is a number": b'{"repository": {"name": "shop", "owner": {"login": 1}}}',
    "a name that is a list": b'{"repository": {"name": ["shop"], "owner": {"login": "acme"}}}',
}


@pytest.mark.parametrize("body", MALFORMED_BODIES.values(), ids=MALFORMED_BODIES)
def test_a_body_that_names_no_repository_is_refused(body: bytes) -> None:
    with pytest.raises(BadPayload) as caught:
        webhook.read(body)
    assert caught.value.status == 400


def _without(document: dict, path: str) -> dict:
    *parents, last = path.split(".")
    inner = document
    for name in parents:
        inner = inner[name]
    del inner[last]
    return document


HOSTILE_REFS = [
    "refs/heads/",
    "refs/heads/-x",
    "refs/heads/--upload-pack=touch x",
    "refs/heads/../../etc",
    "refs/heads/a..b",
    "refs/heads//x",
    "refs/heads/x/",
    "refs/heads/x.lock",
    "refs/heads/a.lock/b",
    "refs/heads/.hidden",
    "refs/heads/a/.hidden",
    "refs/heads/a$(touch x)",
    "refs/heads/a b",
    "refs/heads/a\tb",
    "refs/heads/a\nb",
    "refs/heads/a\x00b",
    "refs/heads/a\x1b[2Jb",
    "refs/heads/a\x7fb",
    "refs/heads/a\x9bb",
    "refs/heads/a\u2028b",
    "refs/heads/a\u202eb",
    "refs/heads/a\u200bb",
    "refs/heads/a\ud800b",
    "refs/heads/a~1",
    "refs/heads/a^",
    "refs/heads/a:b",
    "refs/heads/a?",
    "refs/heads/a*",
    "refs/heads/a[b",
    "refs/heads/a\\b",
    "refs/heads/a@{1}",
    "refs/heads/@",
    "refs/heads/" + "a" * 300,
    "refs/heads/" + "é" * 128,
    "main",
    "--upload-pack=x",
    "../x",
    "",
]
SAFE_REFS = [
    "a$(id)",
    "a`id`",
    "a|b",
    "a;b",
    "a&b",
    "a'b",
    'a"b',
    "münchen",
    "m\u0430\u0456n",
    "a" * 255,
    "a%2e%2e",
    "{a}",
]
WRONG = [None, 1, True, [], {}]


@pytest.mark.parametrize("ref", HOSTILE_REFS, ids=ascii)
def test_a_hostile_ref_is_refused(ref: str) -> None:
    with pytest.raises(BadPayload, match="ref"):
        read("push", deliveries.push(ref))


@pytest.mark.parametrize("ref", SAFE_REFS, ids=ascii)
def test_a_ref_that_git_and_every_file_system_take_is_kept_as_it_is(ref: str) -> None:
    assert read("push", deliveries.push(f"refs/heads/{ref}")) == Push(ref, COMMIT)


MALFORMED_EVENTS = [
    *(("push", deliveries.push() | {"ref": value}, "ref: must be text") for value in WRONG),
    *(("push", deliveries.push() | {"after": value}, "after: must be text") for value in WRONG),
    ("push", _without(deliveries.push(), "ref"), "ref: must be text"),
    ("push", _without(deliveries.push(), "after"), "after: must be text"),
    ("push", deliveries.push(commit="main"), "after: must be a commit id"),
    ("push", deliveries.push(commit="0" * 39), "after: must be a commit id"),
    ("push", deliveries.push(commit=COMMIT.upper()), "after: must be a commit id"),
    ("push", deliveries.push(commit=COMMIT + "\n"), "after: must be a commit id"),
    ("push", deliveries.push(commit="\u0660" * 40), "after: must be a commit id"),
    ("push", deliveries.push(commit="--upload-pack=touch x"), "after: must be a commit id"),
    ("create", deliveries.created("topic") | {"sha": "x"}, "sha: must be a commit id"),
    ("issue_comment", deliveries.comment("/kennel stop", number=0), "issue.number: must be"),
    ("issue_comment", deliveries.comment("/kennel stop", comment="1"), "comment.id: must be"),
    ("delete", _without(deliveries.deleted("x"), "ref_type"), "ref_type: must be text"),
    ("delete", deliveries.deleted("x") | {"ref": 1}, "ref: must be text"),
    ("delete", deliveries.deleted("-x"), "ref: '-x' is not a branch name"),
    *(
        ("pull_request", deliveries.pull_request("opened") | {"number": value}, "number: must be")
        for value in (None, "7", 7.0, True, [], 0, -1, 10**30)
    ),
    ("pull_request", deliveries.pull_request("opened") | {"action": 1}, "action: must be text"),
    ("pull_request", deliveries.pull_request("opened") | {"pull_request": []}, "pull_request.head.sha"),
    ("pull_request", deliveries.pull_request("opened") | {"pull_request": {"head": 1}}, "pull_request.head"),
    (
        "pull_request",
        deliveries.pull_request("opened", commit="x"),
        "pull_request.head.sha: must be a commit",
    ),
    ("", deliveries.push(), "X-Forgejo-Event is missing"),
    ("Push", deliveries.push(), "'Push': there is no such event"),
    ("push\x1b[2J", deliveries.push(), r"'push\\x1b\[2J': there is no such event"),
    ("e" * 5000, deliveries.push(), "there is no such event"),
]


@pytest.mark.parametrize(("event", "document", "sentence"), MALFORMED_EVENTS)
def test_a_malformed_event_is_refused_with_the_field(event: str, document: dict, sentence: str) -> None:
    with pytest.raises(BadPayload, match=sentence) as caught:
        read(event, document)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("delivery", ["x" * 101, "é", "a\nb", "a\x00b"])
def test_a_delivery_id_that_is_no_id_is_refused(delivery: str) -> None:
    with pytest.raises(BadPayload):
        webhook.delivery_id({"X-Forgejo-Delivery": delivery})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ["ref", "ref_type", "after", "sha", "deleted", "action", "number", "pull_request", "comment"]


@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        webhook.read(body)
    except BadPayload:
        return


@given(
    event=st.sampled_from(["push", "create", "delete", "pull_request", "issue_comment"]) | st.text(),
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON),
)
def test_any_document_is_understood_or_refused(event: str, changes: dict) -> None:
    base = deliveries.push() | {"ref_type": "branch", "action": "opened", "number": 1, "is_pull": True}
    base |= {"comment": {"id": 1, "body": "/kennel", "user": {"login": "a"}}, "issue": {"number": 1}}
    try:
        found = read(event, base | changes)
    except BadPayload:
        return
    assert isinstance(found, Push | Proposal | Asked | Removed | Ignored)


@given(ref=st.text(string.printable + "é\u202e\x9b", min_size=1, max_size=40))
def test_no_ref_is_accepted_that_git_would_not_take_for_a_branch(ref: str) -> None:
    try:
        read("push", deliveries.push(f"refs/heads/{ref}"))
    except BadPayload:
        return
    checked = subprocess.run(["git", "check-ref-format", "--branch", ref], check=False, capture_output=True)
    assert checked.returncode == 0
