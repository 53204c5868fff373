"""Act on a delivery of the forge: check, read, record, then ask for the work."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import peewee
import structlog

from kennel_core import builds, db, environment, refs, registration, webhook
from kennel_core.doorbell import Doorbell
from kennel_core.models import Delivery, Project
from kennel_core.settings import Settings
from kennel_core.webhook import Event, Ignored, Push, Removed

log = structlog.get_logger()


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
    except (
        peewee.IntegrityError
    ):  # all of it is undone; asking beforehand would cost every new delivery a query
        seen = Delivery.get_or_none(Delivery.delivery_id == delivery_id)
        if seen is None:
            raise
        done = _ignored(f"this delivery was received before: {seen.outcome}")
    if done.build_id is not None:
        doorbell.build(done.build_id)
    elif done.removed:
        doorbell.reconcile()
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
        case Ignored(reason):
            return _ignored(reason)
        case Removed(ref):
            names = refs.remove(project, ref, f"{ref} is gone at the forge", now)
            body = {"status": "removed", "ref": ref, "deployments": names}
            return _Done(f"{ref} removed", body, removed=True)
        case Push(ref) if not _deploys(ref, settings):
            return _ignored(f"branch {ref}: KENNEL_DEPLOY_BRANCHES does not name it")
        case Push(ref, commit):
            build = builds.enqueue(project, ref, commit, now)
            body = {"status": build.status, "build": build.id, "ref": ref, "commit": commit}
            return _Done(f"build {build.id}", body, build_id=build.id)


def _ignored(reason: str) -> _Done:
    return _Done(reason, {"status": "ignored", "reason": reason})


def _deploys(ref: str, settings: Settings) -> bool:
    return environment.is_pull_request(ref) or any(
        fnmatchcase(ref, pattern) for pattern in settings.deploy_branches.split()
    )
