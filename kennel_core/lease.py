"""What a worker may do to the build it holds. A lease is renewed; its token fences off who lost it.

Times are Unix seconds.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from peewee import fn

from kennel_core import build_log, builds, db, deployments, overtaking
from kennel_core.errors import Cancelled, Fenced
from kennel_core.models import Build, BuildStatus, LogChunk
from kennel_core.outputs import Outputs
from kennel_core.settings import Settings

LEASE_S = 30.0  # three heartbeats


def claim(now: float) -> Build | None:
    """Take the fairest queued build: the oldest one of the project with the fewest that run.

    Returns None when there is nothing to take: a message that came twice finds nothing.
    """
    other = Build.alias()
    running = other.select(fn.COUNT("*")).where(
        other.project == Build.project, other.status == BuildStatus.BUILDING
    )
    with db.write():
        build: Build | None = (
            builds.without_log().where(Build.status == BuildStatus.QUEUED).order_by(running, Build.id).first()
        )
        if build is None:
            return None
        build.status = BuildStatus.BUILDING
        build.token = secrets.token_hex(8)
        build.lease_until = now + LEASE_S
        build.attempt += 1
        build.error = build.error if build.error == builds.GONE_FROM_STORE else None  # why it waited
        build.started_at = now
        build.save(
            only=[Build.status, Build.token, Build.lease_until, Build.attempt, Build.started_at, Build.error]
        )
        LogChunk.delete().where(LogChunk.build == build).execute()  # of an attempt whose worker was lost
    return build


def renew(build: Build, now: float) -> None:
    """Keep the lease for another LEASE_S.

    Raises:
        Fenced: the lease was lost.
        Cancelled: somebody asked for the build to stop; the message says why.
    """
    with db.write():
        Build.update(lease_until=now + LEASE_S).where(_held(build)).execute()
    check(build)


def check(build: Build) -> None:
    """Read whether the build may go on; cheap enough for twice a second.

    Raises:
        Fenced: the lease was lost.
        Cancelled: somebody asked for the build to stop; the message says why.
    """
    row = Build.select(Build.cancel_requested, Build.error).where(_held(build)).first()
    if row is None:
        raise Fenced(f"build {build.id}: another worker took it over")
    if row.cancel_requested:
        raise Cancelled(row.error or "cancelled")


def append_log(build: Build, chunks: Sequence[tuple[str, str]]) -> None:
    """Append (phase, text) pairs to the log of a running build.

    Raises:
        Fenced: the lease was lost.
    """
    with db.write():
        if not Build.select(Build.id).where(_held(build)).exists():
            raise Fenced(f"build {build.id}: another worker took it over")
        build_log.append(build.id, chunks)


def succeed(build: Build, outputs: Outputs, settings: Settings, now: float) -> None:
    """End the work of a builder: outputs, the rows the build wants, and the status, in one transaction.

    Raises:
        Fenced: the lease was lost.
        Cancelled: a newer push came in the meantime.
        BuildFailed: the rows cannot be written: a host name is taken, or no port is free.
    """
    with db.write():
        check(build)
        changed = (
            Build.update(
                status=BuildStatus.BUILT,
                built_at=now,
                outputs=outputs.model_dump(mode="json"),
                token=None,
                lease_until=None,
            )
            .where(_held(build))
            .execute()
        )
        if not changed:
            raise Fenced(f"build {build.id}: another worker took it over")
        for older in builds.without_log().where(
            Build.project == build.project_id,
            Build.ref == build.ref,
            Build.id < build.id,
            Build.status == BuildStatus.BUILT,
        ):
            builds.end(older.id, BuildStatus.CANCELLED, f"superseded by build {build.id}", now)
        deployments.write_rows(build, outputs, settings, now)


def fail(build: Build, error: str, now: float) -> None:
    """End a running build as failed.

    Raises:
        Fenced: the lease was lost.
    """
    _end_held(build, BuildStatus.FAILED, error, now)


def cancelled(build: Build, reason: str, now: float) -> None:
    """End a running build that was asked to stop.

    Raises:
        Fenced: the lease was lost.
    """
    _end_held(build, BuildStatus.CANCELLED, reason, now)


def overtaken(build: Build, head: str, reason: str, now: float) -> None:
    """End a running build whose ref is at another commit, which is queued where nobody has done so.

    Raises:
        Fenced: the lease was lost.
    """
    with db.write():
        if not Build.select(Build.id).where(_held(build)).exists():
            raise Fenced(f"build {build.id}: another worker took it over")
        builds.end(build.id, BuildStatus.CANCELLED, reason, now)
        overtaking.follow(build, head, now)


def _held(build: Build) -> Any:
    return (Build.id == build.id) & (Build.token == build.token) & (Build.status == BuildStatus.BUILDING)


def _end_held(build: Build, status: BuildStatus, error: str, now: float) -> None:
    with db.write():
        if not Build.select(Build.id).where(_held(build)).exists():
            raise Fenced(f"build {build.id}: another worker took it over")
        builds.end(build.id, status, error, now)
