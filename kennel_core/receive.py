"""Act on a delivery of the forge: check, read, record, then ask for the work."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import peewee
import structlog

from kennel_core import (
    builds,
    comment_commands,
    db,
    environment,
    pull_requests,
    refs,
    registration,
    webhook,
)
from kennel_core.doorbell import Doorbell
from kennel_core.errors import BadSignature
from kennel_core.models import Build, Delivery, Project
from kennel_core.settings import Settings
from kennel_core.webhook import Asked, Event, Ignored, Proposal, Push, Removed

log = structlog.get_logger()

OUTCOME_MAX = 250  # characters


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the forge is told; it shows `body` to the admins of the repository."""

    body: Mapping[str, Any]
    status: int = 202


@dataclass(frozen=True, slots=True)
class _Done:
    outcome: str  # for the table of deliveries
    body: dict[str, Any] = field(default_factory=dict)
    build_id: int | None = None
    removed: bool = False
    told: bool = False  # there may be something to ask the forge, or to tell it


def receive(
    headers: Mapping[str, str], body: bytes, settings: Settings, doorbell: Doorbell, now: float
) -> Receipt:
    """Record what a delivery asks for and ring for it; needs a database connection.

    `headers` has those of `webhook.HEADERS` that came, by these names. A delivery id seen before changes
    nothing. When this returns, the intent is on disk: the doorbell may fail.

    Raises:
        BadPayload: the body is not an event Kennel understands; nothing is written.
        ConfigError: the secret key, or the shared secret, cannot be used.
        BadSignature: it was not signed with the project's secret, or there is no such project (the two
            answers are the same on purpose); nothing is written.
        Unavailable: the database could not be written.
    """
    payload = webhook.read(body)
    project = registration.signed_by(payload, body, headers, settings)
    name = webhook.event_name(headers)
    event = webhook.parse(name, payload)
    delivery_id = webhook.delivery_id(headers) or f"none:{uuid.uuid4()}"
    try:
        with db.write():
            done = _apply(project, event, settings, now)
            _note(delivery_id, project.id, name, done.outcome, now)
    except peewee.IntegrityError:  # all of it is undone; asking first would cost each new delivery a query
        seen = Delivery.get_or_none(Delivery.delivery_id == delivery_id)
        if seen is None and Project.get_or_none(Project.id == project.id) is None:
            raise BadSignature from None  # it was removed meanwhile
        if seen is None:
            raise
        done = _ignored(f"this delivery was received before: {seen.outcome}")
    if done.build_id is not None:
        doorbell.build(done.build_id)
    elif done.removed:
        doorbell.reconcile()
    if settings.reports and (done.told or done.removed or done.build_id is not None):
        doorbell.report()
    log.info(
        "delivery", project=project.full_name, event_name=name, delivery=delivery_id, outcome=done.outcome
    )
    return Receipt(done.body)


def _note(*values: object) -> None:
    """Write the row of a delivery; in SQL, which Peewee takes longer to make than SQLite to run."""
    db.database.execute_sql(  # type: ignore[no-untyped-call]
        "INSERT INTO deliveries (delivery_id, project_id, event, outcome, received_at) "
        "VALUES (?, ?, ?, ?, ?)",
        values,
    )


def _apply(project: Project, event: Event, settings: Settings, now: float) -> _Done:
    match event:
        case Ignored(reason, push):
            if push is not None:
                refs.heard(project, push.ref, push.commit)
            return _ignored(reason)
        case Removed(ref):
            names = refs.remove(project, ref, f"{ref} is gone at the forge", now)
            if environment.is_pull_request(ref):
                pull_requests.closed(project, ref, names)
                if not settings.reports:  # else a report looks
                    pull_requests.let_in(project, settings, now)
            body = {"status": "removed", "ref": ref, "deployments": names}
            return _Done(f"{ref} removed", body, removed=True)
        case Push(ref, commit) if deploys(ref, settings):
            return _queued(builds.enqueue(project, ref, commit, now))
        case Push(ref):
            return _ignored(f"branch {ref}: KENNEL_DEPLOY_BRANCHES does not name it")
        case Proposal():
            return _proposed(project, event, settings, now)
        case Asked():
            return _asked(project, event, settings, now)


def _asked(project: Project, asked: Asked, settings: Settings, now: float) -> _Done:
    """Keep a command for a report, which asks the forge what its author may do."""
    if not settings.reports:
        return _ignored("commands in comments need KENNEL_FORGE_URL and a token")
    if not comment_commands.note(project, asked, now):
        return _ignored("this comment was received before")
    ref = environment.pull_request_ref(asked.number)
    outcome = f"{asked.author} asks for {asked.words or 'help'}"[:OUTCOME_MAX]
    return _Done(outcome, {"status": "noted", "ref": ref, "command": asked.words}, told=True)


def _proposed(project: Project, seen: Proposal, settings: Settings, now: float) -> _Done:
    """Decide about a pull request, or leave it to a report where the forge must be asked something."""
    if seen.fork and not settings.reports:
        return _ignored(f"pull request {seen.number} comes from a fork, whose code is not built")
    row = pull_requests.note(project, seen)
    if row is None:
        return _ignored("nothing that matters has changed")
    if settings.reports:
        body = {"status": "noted", "ref": seen.ref, "commit": seen.commit}
        return _Done(f"{seen.ref} noted", body, told=True)
    row.trusted = True  # nobody can be asked; who can push to the repository may write
    build = pull_requests.settle(row, settings, now)
    return _queued(build) if build else _ignored(f"pull request {seen.number}: {row.why or 'is built'}")


def _queued(build: Build) -> _Done:
    body = {"status": build.status, "build": build.id, "ref": build.ref, "commit": build.commit}
    return _Done(f"build {build.id}", body, build_id=build.id)


def _ignored(reason: str) -> _Done:
    return _Done(reason, {"status": "ignored", "reason": reason})


def deploys(ref: str, settings: Settings) -> bool:
    """Tell whether the settings let a branch deploy."""
    return any(fnmatchcase(ref, pattern) for pattern in settings.deploy_branches.split())
