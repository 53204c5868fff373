"""What the forge answers, as far as Kennel reads it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository. `permission` is that of the token's user: none, read, write or admin."""

    id: int
    full_name: str
    clone_url: str
    default_branch: str
    private: bool
    permission: str
    archived: bool = False
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Pull:
    """A pull request.

    `head_ref` is ``refs/pull/N/head`` when the branch is gone or never was; `head_repository` is empty when
    the fork is gone, which counts as one.
    """

    number: int
    author: str
    head_ref: str
    head_commit: str
    head_repository: str
    base_ref: str
    fork: bool
    draft: bool
    labels: tuple[str, ...]
    title: str
    open: bool


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment on a pull request."""

    id: int
    author: str
    body: str


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook; the forge never tells its secret."""

    id: int
    kind: str
    url: str
    content_type: str
    active: bool
    events: frozenset[str]
    branch_filter: str


def repository(document: Document) -> Repository:
    """Read a repository."""
    rights = document.get("permissions") or {}
    granted = (
        name for key, name in (("admin", "admin"), ("push", "write"), ("pull", "read")) if rights.get(key)
    )
    return Repository(
        id=int(document["id"]),
        full_name=str(document["full_name"]),
        clone_url=str(document["clone_url"]),
        default_branch=str(document.get("default_branch") or "main"),
        private=bool(document.get("private")),
        permission=next(granted, "none"),
        archived=bool(document.get("archived")),
        empty=bool(document.get("empty")),
    )


def pull(document: Document) -> Pull:
    """Read a pull request."""
    head, base = document["head"], document["base"]
    source = head.get("repo") or {}
    return Pull(
        number=int(document["number"]),
        author=str((document.get("user") or {}).get("login") or ""),
        head_ref=str(head["ref"]),
        head_commit=str(head["sha"]),
        head_repository=str(source.get("full_name") or ""),
        base_ref=str(base["ref"]),
        fork=not source or source.get("id") != base["repo"]["id"],
        draft=bool(document.get("draft")),
        labels=tuple(str(label["name"]) for label in document.get("labels") or ()),
        title=str(document.get("title") or ""),
        open=document.get("state") == "open",
    )


def comment(document: Document) -> Comment:
    """Read a comment."""
    author = (document.get("user") or {}).get("login") or ""
    return Comment(int(document["id"]), str(author), str(document.get("body") or ""))


def hook(document: Document) -> Hook:
    """Read a webhook."""
    config = document.get("config") or {}
    return Hook(
        id=int(document["id"]),
        kind=str(document.get("type") or ""),
        url=str(config.get("url") or document.get("url") or ""),
        content_type=str(config.get("content_type") or ""),
        active=bool(document.get("active")),
        events=frozenset(map(str, document.get("events") or ())),
        branch_filter=str(document.get("branch_filter") or ""),
    )
