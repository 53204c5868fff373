"""Deliveries of a forge: recorded ones, and ones made like them."""

import copy
import hmac
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RECORDINGS = Path(__file__).parent / "fixtures" / "webhooks"
RECORDED_SECRET = "hook-secret-for-tests"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

_ids = itertools.count(1)


@dataclass(frozen=True)
class Recording:
    """What a real forge sent."""

    name: str  # such as forgejo/branch-delete
    headers: Mapping[str, str]
    body: bytes


def _load(path: Path) -> Recording:
    headers = dict(json.loads(path.read_text())["headers"])
    body = path.with_name(path.name.replace(".headers.", ".body.")).read_bytes()
    name, _number, _repo, event = path.name.removesuffix(".headers.json").split(".")
    return Recording(f"{path.parent.name}/{name}/{event}", headers, body)


RECORDED = [_load(path) for path in sorted(RECORDINGS.glob("*/*.headers.json"))]


def document(name: str, repository: str = "acme/shop") -> dict:
    """A copy of a recorded document, as if it came from `repository`."""
    found = next(recording for recording in RECORDED if recording.name == name)
    made = copy.deepcopy(json.loads(found.body))
    owner, _, short = repository.partition("/")
    made["repository"] |= {"name": short, "full_name": repository}
    made["repository"]["owner"] |= {"login": owner, "username": owner}
    return made


def push(
    ref: str = "refs/heads/main", commit: str = COMMIT, repository: str = "acme/shop", message: str = ""
) -> dict:
    made = document("forgejo/push/push", repository) | {"ref": ref, "after": commit}
    made["head_commit"]["message"] = message
    return made


def created(ref: str, commit: str = COMMIT, repository: str = "acme/shop") -> dict:
    made = document("forgejo/branch-create-with-new-commit/create", repository)
    return made | {"ref": ref, "sha": commit}


def deleted(ref: str, repository: str = "acme/shop") -> dict:
    return document("forgejo/branch-delete/delete", repository) | {"ref": ref}


def pull_request(  # what a pull request has
    action: str,
    number: int = 7,
    commit: str = COMMIT,
    repository: str = "acme/shop",
    *,
    author: str = "alice",
    fork: bool = False,
    labels: tuple[str, ...] = (),
    **changes: object,
) -> dict:
    made = document("forgejo/pr-opened/pull_request", repository) | {"action": action, "number": number}
    made["pull_request"] |= {
        "user": {"login": author},
        "labels": [{"name": name} for name in labels],
        **changes,
    }
    made["pull_request"]["head"]["sha"] = commit
    if fork:
        made["pull_request"]["head"]["repo_id"] = 2
    return made


def comment(  # what a comment has
    body: str,
    number: int = 7,
    comment: object = 21,
    author: str = "alice",
    repository: str = "acme/shop",
    action: str = "created",
) -> dict:
    made = {"repository": document("forgejo/push/push", repository)["repository"]}
    made |= {"action": action, "is_pull": True, "issue": {"number": number}}
    return made | {"comment": {"id": comment, "body": body, "user": {"login": author}}}


def encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def signature(secret: str, body: bytes) -> str:
    return hmac.digest(secret.encode(), body, "sha256").hex()


def headers(secret: str, body: bytes, event: str = "push", delivery: str = "") -> dict[str, str]:
    """The headers that Forgejo sends with a body; each call has a delivery id of its own."""
    return {
        "Content-Type": "application/json",
        "X-Forgejo-Event": event,
        "X-Forgejo-Delivery": delivery or f"00000000-0000-4000-8000-{next(_ids):012}",
        "X-Forgejo-Signature": signature(secret, body),
    }
