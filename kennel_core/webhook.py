"""Read a delivery of the forge: who signed it, and what happened to which ref. Pure.

Forgejo sends its own headers and those of Gitea and GitHub; Gitea sends the latter two. The first one
present decides: a bad signature is not rescued by another header.

Sources: https://forgejo.org/docs/latest/user/webhooks/, and deliveries recorded from both.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from kennel_core import environment
from kennel_core.errors import BadPayload, BadSignature

SIGNATURES = ("X-Forgejo-Signature", "X-Gitea-Signature", "X-Hub-Signature-256")
EVENTS = ("X-Forgejo-Event", "X-Gitea-Event", "X-GitHub-Event")
DELIVERIES = ("X-Forgejo-Delivery", "X-Gitea-Delivery", "X-GitHub-Delivery")
HEADERS = SIGNATURES + EVENTS + DELIVERIES

REF_MAX = 255  # bytes, the limit of a file name, which every ref is at the forge
ID_MAX = 100  # characters; forges send a UUID
NUMBER_MAX = 2**53  # what every JSON parser keeps exactly

NO_BRANCH = "only branches and pull requests are deployed"
BUILD_ACTIONS = frozenset({"opened", "reopened", "synchronize", "synchronized"})
CHANGE_ACTIONS = frozenset({"edited", "label_updated", "label_cleared", "labeled", "unlabeled"})
SKIP = ("[skip kennel]", "[kennel skip]")  # in a commit's message, or in a pull request's title
WORD = "/kennel"
WORDS_MAX = 200  # characters of a command
LABELS_MAX = 100
NAME_MAX = 100  # characters of a person's or a label's name
# fmt: off
IGNORED_EVENTS = frozenset({
    "action_run_failure", "action_run_recover", "action_run_success", "commit_comment",
    "deployment", "deployment_status", "fork", "issue_assign", "issue_label", "issue_milestone",
    "issues", "label", "member", "milestone", "package", "ping", "public",
    "pull_request_approved", "pull_request_assign", "pull_request_milestone",
    "pull_request_rejected", "pull_request_review",
    "pull_request_review_approved", "pull_request_review_comment", "pull_request_review_rejected",
    "pull_request_review_request", "registry_package", "release", "repository", "star", "status", "watch",
    "wiki", "workflow_job", "workflow_run",
})
# fmt: on

# git-check-ref-format(1), and no leading hyphen: a ref must not look like an option.
_NO_REF = re.compile(r"[ ~^:?*\[\\]|\.\.|@\{|//|(^|/)\.|(\.|\.lock)(/|$)|/$|^[/-]|^@$")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NO_COMMIT = re.compile(r"0{40}|0{64}")

_KINDS: dict[type, str] = {str: "text", int: "a whole number", dict: "an object"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Payload:
    """A body that is JSON and names a repository; nothing else is known about it."""

    repository: str  # owner/name
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Push:
    """The branch `ref` is at `commit` now."""

    ref: str
    commit: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """An open pull request as it is now. `fresh`: to be built, be its commit known or not.

    The author is empty where the forge names none.
    """

    number: int
    commit: str
    author: str
    fork: bool
    draft: bool
    labels: tuple[str, ...]
    skip: bool
    fresh: bool

    @property
    def ref(self) -> str:
        """``pr-<number>``."""
        return environment.pull_request_ref(self.number)


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody wrote a command to Kennel in a comment on a pull request."""

    number: int
    comment_id: int
    author: str
    words: str


@dataclass(frozen=True, slots=True)
class Removed:
    """The branch is deleted, or the pull request closed or merged."""

    ref: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing to do; `reason` is a sentence for a person. `push` is to be remembered, though not built."""

    reason: str
    push: Push | None = None


Event = Push | Proposal | Asked | Removed | Ignored


def verify(secret: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Check the HMAC-SHA256 of the raw body, in hex, ``sha256=`` before it or not.

    Takes the same time however much of the signature is right. An empty `secret` signs nothing.

    Raises:
        BadSignature: it differs, is missing, or is no SHA-256.
    """
    expected = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    given = _first(headers, SIGNATURES).removeprefix("sha256=")
    if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")) or not secret:
        raise BadSignature


def delivery_id(headers: Mapping[str, str]) -> str:
    """Return the id of this delivery; empty when the sender gave none.

    Raises:
        BadPayload: it is too long or not printable.
    """
    found = _first(headers, DELIVERIES)
    if len(found) > ID_MAX or not (found.isascii() and found.isprintable()):
        raise BadPayload(f"the delivery id must be at most {ID_MAX} printable characters")
    return found


def event_name(headers: Mapping[str, str]) -> str:
    """Return the name of the event; empty when there is none."""
    return _first(headers, EVENTS)


def read(body: bytes) -> Payload:
    """Parse a body as far as it is needed to know whose secret must have signed it.

    Raises:
        BadPayload: it is not a JSON object, or names no repository.
    """
    try:
        document = _DECODER.decode(body.decode())
    except RecursionError as exc:
        raise BadPayload("the body is nested too deeply") from exc
    except ValueError as exc:  # also wrong UTF-8, NaN, and numbers of thousands of digits
        raise BadPayload("the body is not JSON") from exc
    if not isinstance(document, dict):
        raise BadPayload("the body is not a JSON object")
    owner = _find(document, "repository.owner.login") or _find(document, "repository.owner.username")
    if not isinstance(owner, str):
        raise BadPayload("repository.owner.login: must be text")
    return Payload(f"{owner}/{_take(document, 'repository.name', str)}", document)


def parse(event: str, payload: Payload) -> Event:
    """Say what happened.

    Raises:
        BadPayload: the event is unknown, or one of its fields is missing or wrong; the message names it.
    """
    match event:
        case "push":
            return _push(payload.document)
        case "delete":
            return _delete(payload.document)
        case "create":
            return _create(payload.document)
        case "pull_request" | "pull_request_sync" | "pull_request_label":
            return _pull_request(payload.document)
        case "issue_comment" | "pull_request_comment":
            return _comment(payload.document)
        case "":
            raise BadPayload(f"the header {EVENTS[0]} is missing")
        case _ if event in IGNORED_EVENTS:
            return Ignored(f"event {event}: changes nothing")
        case _:
            raise BadPayload(f"{event[:40]!a}: there is no such event")


def _push(document: Mapping[str, Any]) -> Event:
    ref = _take(document, "ref", str)
    if not ref.startswith("refs/"):
        raise BadPayload("ref: must begin with refs/")
    if not ref.startswith("refs/heads/"):
        return Ignored(NO_BRANCH)
    commit = _take(document, "after", str)
    if _find(document, "deleted") is True or _NO_COMMIT.fullmatch(commit):
        return _on_branch(ref, None)
    event = _on_branch(ref, _commit(commit, "after"))
    message = _find(document, "head_commit.message")
    if isinstance(event, Push) and isinstance(message, str) and says_skip(message):
        return Ignored(f"the commit's message says {SKIP[0]}", event)
    return event


def _create(document: Mapping[str, Any]) -> Event:
    """Read that a branch came to be: of one that was renamed nothing else is sent."""
    if _find(document, "ref_type") != "branch":
        return Ignored(NO_BRANCH)
    return _on_branch(_take(document, "ref", str), _commit(_take(document, "sha", str), "sha"))


def _delete(document: Mapping[str, Any]) -> Event:
    ref, kind = _take(document, "ref", str), _take(document, "ref_type", str)
    return _on_branch(ref, None) if kind == "branch" else Ignored(NO_BRANCH)


def _pull_request(document: Mapping[str, Any]) -> Event:
    action, number = _take(document, "action", str), _number(document, "number")
    if action == "closed":
        return Removed(environment.pull_request_ref(number))
    changed = action in CHANGE_ACTIONS and _find(document, "pull_request.state") != "closed"
    if action not in BUILD_ACTIONS and not changed:
        return Ignored("this action on a pull request changes nothing")
    title = _find(document, "pull_request.title")
    return Proposal(
        number=number,
        commit=_commit(_take(document, "pull_request.head.sha", str), "pull_request.head.sha"),
        author=_name(_find(document, "pull_request.user.login")),
        fork=_is_from_fork(document),
        draft=_find(document, "pull_request.draft") is True,
        labels=_labels(_find(document, "pull_request.labels")),
        skip=isinstance(title, str) and says_skip(title),
        fresh=action in BUILD_ACTIONS,
    )


def _comment(document: Mapping[str, Any]) -> Event:
    """Read the first line of a comment that is a command; quoted ones, and those of a review, are none."""
    body = _find(document, "comment.body")
    if _find(document, "action") != "created" or _find(document, "is_pull") is not True:
        return Ignored("only new comments on pull requests are read")
    lines = (line.split() for line in body.splitlines()) if isinstance(body, str) else ()
    words = next((line[1:] for line in lines if line and line[0] == WORD), None)
    author = _name(_find(document, "comment.user.login"))
    if words is None or not author:
        return Ignored("the comment asks for nothing")
    return Asked(
        number=_number(document, "issue.number"),
        comment_id=_number(document, "comment.id"),
        author=author,
        words=" ".join(words)[:WORDS_MAX],
    )


def says_skip(text: str) -> bool:
    """Tell whether a title or a message asks that nothing be built."""
    return any(mark in text.lower() for mark in SKIP)


def _number(document: Mapping[str, Any], path: str) -> int:
    number = _take(document, path, int)
    if not 0 < number < NUMBER_MAX:
        raise BadPayload(f"{path}: must be that of a pull request or a comment")
    return number


def _labels(value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, list) else []
    names = (_name(_find(label, "name")) for label in found[:LABELS_MAX] if isinstance(label, dict))
    return tuple(sorted({name for name in names if name}))


def _name(value: Any) -> str:
    """Return a name that can be shown; empty when it is none."""
    good = isinstance(value, str) and len(value) <= NAME_MAX and value.isprintable()
    return value if good else ""


def _is_from_fork(document: Mapping[str, Any]) -> bool:
    """Tell whether the head is in another repository than the base; one that is gone counts as another."""
    head = _take(document, "pull_request.head", dict)
    if "repo_id" in head:
        return bool(head["repo_id"] != _find(document, "pull_request.base.repo_id"))
    return "repo" in head and _find(head, "repo.id") != _find(document, "pull_request.base.repo.id")


def _on_branch(ref: str, commit: str | None) -> Event:
    """Make the event of a branch, whose name comes full (Forgejo) or short (Gitea)."""
    name = ref.removeprefix("refs/heads/")
    if not _is_ref(name):
        raise BadPayload(f"ref: {name[:40]!a} is not a branch name that Kennel accepts")
    if environment.is_pull_request(name):
        return Ignored(f"a branch named {name} is not deployed: the name belongs to a pull request")
    return Push(name, commit) if commit else Removed(name)


def _is_ref(name: str) -> bool:
    size = len(name.encode("utf-8", "replace"))
    return 0 < size <= REF_MAX and name.isprintable() and not _NO_REF.search(name)


def _commit(text: str, path: str) -> str:
    if not _COMMIT.fullmatch(text):
        raise BadPayload(f"{path}: must be a commit id of 40 or 64 hex digits")
    return text


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((headers[name] for name in names if name in headers), "")


def _find(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _take(document: Mapping[str, Any], path: str, kind: type[T]) -> T:
    value = _find(document, path)
    if type(value) is not kind:  # True must not pass as an int
        raise BadPayload(f"{path}: must be {_KINDS[kind]}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)
