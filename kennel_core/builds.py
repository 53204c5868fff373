"""The build queue, as everybody but the worker sees it. The row is the job.

Every change of a build's status is one function, here or in `kennel_core.lease`. Times are Unix seconds.
"""

from typing import Any

from peewee import fn

from kennel_core import build_log, db
from kennel_core.errors import Conflict, NotFound
from kennel_core.models import FINAL, Build, BuildStatus, Deployment, LogChunk, Project

RING_AGAIN_S = 30.0  # a message is counted as lost after this time
ATTEMPTS_MAX = 3
QUEUED_MAX_S = 86_400.0
ROLLOUT_MAX_S = 1800.0

GONE_FROM_STORE = "what it made is gone from the store: built again"  # of a build that nobody pushed

HELD = "waits: "  # how the reason of a build begins that waits though a builder is free

UNFINISHED = (BuildStatus.QUEUED, BuildStatus.BUILDING, BuildStatus.BUILT)


def get(build_id: int) -> Build:
    """Return a build without its log.

    Raises:
        NotFound: there is none with this id.
    """
    build: Build | None = without_log().where(Build.id == build_id).first()
    if build is None:
        raise NotFound(f"build {build_id}: there is no such build")
    return build


def recent(project: Project | None, limit: int) -> list[Build]:
    """List builds without their logs, newest first."""
    query = without_log().order_by(Build.id.desc()).limit(limit)
    return list(query.where(Build.project == project) if project else query)


def enqueue(project: Project, ref: str, commit: str, now: float) -> Build:
    """Queue a build, inside the caller's `db.write()`.

    Older builds of the ref that wait end as superseded, and one that runs is asked to stop. When the newest
    build of the ref already is this commit, and did not fail, it is returned instead: the same push twice
    changes nothing, but wakes a ref that sleeps. The caller rings the doorbell once the transaction is
    committed.
    """
    db.database.execute_sql(  # type: ignore[no-untyped-call]  # in SQL: this is the webhook's hot path
        "INSERT INTO refs (project_id, ref, head) VALUES (?, ?, ?) ON CONFLICT (project_id, ref) "
        "DO UPDATE SET head = excluded.head, stopped_at = NULL, stopped_why = NULL",
        (project.id, ref, commit),
    )
    newest: Build | None = (
        Build.select(Build.id, Build.commit, Build.status, Build.cancel_requested)  # the webhook's hot path
        .where(Build.project == project, Build.ref == ref)
        .order_by(Build.id.desc())
        .first()
    )
    if newest and newest.commit == commit and _still_wanted(newest):
        return get(newest.id)
    build: Build = Build.create(project=project, ref=ref, commit=commit, created_at=now, enqueued_at=now)
    if newest:
        _supersede(newest, superseded_by(build), now)
    return build


def superseded_by(build: Build) -> str:
    """Say why a build was withdrawn, as its `error` does."""
    return f"superseded by build {build.id}"


def _still_wanted(build: Build) -> bool:
    if build.cancel_requested:
        return False
    if build.status == BuildStatus.DONE:
        return bool(Deployment.select(Deployment.id).where(Deployment.build == build).exists())
    return build.status in UNFINISHED


def _supersede(newest: Build, reason: str, now: float) -> None:
    """Withdraw what was the newest build of its ref until now; those before it were withdrawn by it."""
    if newest.status == BuildStatus.QUEUED:
        Build.update(status=BuildStatus.CANCELLED, error=reason, finished_at=now).where(
            Build.id == newest.id, Build.status == BuildStatus.QUEUED
        ).execute()
    elif newest.status == BuildStatus.BUILDING:
        Build.update(cancel_requested=True, error=reason).where(
            Build.id == newest.id, Build.status == BuildStatus.BUILDING
        ).execute()


def note(build_id: int, phase: str, text: str) -> None:
    """Append to the log of a build that is built but not live yet; nothing happens when it is neither."""
    with db.write():
        if Build.select(Build.id).where(Build.id == build_id, Build.status == BuildStatus.BUILT).exists():
            build_log.append(build_id, [(phase, text)])


def went_live(build_id: int, now: float) -> bool:
    """End a build whose rows all run, inside the caller's `db.write()`; False when it was superseded."""
    if not Build.select(Build.id).where(Build.id == build_id, Build.status == BuildStatus.BUILT).exists():
        return False
    end(build_id, BuildStatus.DONE, None, now)
    return True


def rollout_failed(build_id: int, error: str, now: float) -> None:
    """End a build whose rows did not come up: inside the caller's `db.write()`."""
    end(build_id, BuildStatus.FAILED, error, now)


def cancel(build_id: int, now: float) -> None:
    """Ask for a build to stop: one that waits ends at once, one that runs within a second or two.

    Raises:
        NotFound: there is no such build.
        Conflict: it has ended, or is already being deployed.
    """
    with db.write():
        build = get(build_id)
        if build.status == BuildStatus.QUEUED:
            end(build.id, BuildStatus.CANCELLED, "cancelled by an operator", now)
        elif build.status == BuildStatus.BUILDING:
            Build.update(cancel_requested=True, error="cancelled by an operator").where(
                Build.id == build.id
            ).execute()
        else:
            raise Conflict(f"build {build_id}: is {build.status}, so there is nothing to cancel")


def retry(build_id: int, now: float) -> Build:
    """Queue the commit of an ended build again, as a new build.

    Raises:
        NotFound: there is no such build.
        Conflict: it has not ended, or its ref has a newer one.
    """
    with db.write():
        build = get(build_id)
        if build.status not in FINAL:
            raise Conflict(f"build {build_id}: is {build.status}; only a build that ended can be retried")
        newer = (Build.project == build.project_id) & (Build.ref == build.ref) & (Build.id > build.id)
        found = Build.select(Build.id).where(newer).order_by(Build.id.desc()).first()
        if found is not None:
            raise Conflict(f"build {build_id}: build {found.id} of {build.ref} is newer; retry that one")
        fresh: Build = Build.create(
            project=build.project_id, ref=build.ref, commit=build.commit, created_at=now, enqueued_at=now
        )
        return fresh


def cancel_ref(project: Project, ref: str, reason: str, now: float) -> None:
    """End or stop every unfinished build of a ref that is gone: inside the caller's `db.write()`."""
    of_ref = (Build.project == project) & (Build.ref == ref)
    Build.update(cancel_requested=True, error=reason).where(
        of_ref, Build.status == BuildStatus.BUILDING
    ).execute()
    for build in without_log().where(of_ref, Build.status << [BuildStatus.QUEUED, BuildStatus.BUILT]):
        end(build.id, BuildStatus.CANCELLED, reason, now)


def forgotten(now: float, slots: int) -> list[int]:
    """Put right what no worker will, and return the ids of builds to ring for again.

    A running build whose lease ran out is queued again, or failed after ATTEMPTS_MAX attempts; a build that
    waited QUEUED_MAX_S fails. Messages are counted as lost after RING_AGAIN_S, while a slot is free.
    """
    with db.write():
        lost = (Build.status == BuildStatus.BUILDING) & (Build.lease_until < now)
        for build in without_log().where(lost):
            if build.cancel_requested:
                end(build.id, BuildStatus.CANCELLED, build.error, now)
            elif build.attempt >= ATTEMPTS_MAX:
                end(
                    build.id,
                    BuildStatus.FAILED,
                    f"its worker was lost {ATTEMPTS_MAX} times; see the log",
                    now,
                )
            else:
                Build.update(status=BuildStatus.QUEUED, token=None, lease_until=None, enqueued_at=None).where(
                    Build.id == build.id, lost
                ).execute()
        stale = (Build.status == BuildStatus.QUEUED) & (Build.created_at < now - QUEUED_MAX_S)
        for build in without_log().where(stale):
            error = build.error or "waited a day for a builder; is one running?"
            end(build.id, BuildStatus.FAILED, error, now)
        free = slots - Build.select().where(Build.status == BuildStatus.BUILDING).count()
        unheard = (Build.status == BuildStatus.QUEUED) & (
            Build.enqueued_at.is_null() | (Build.enqueued_at < now - RING_AGAIN_S)
        )
        ids = [row.id for row in Build.select(Build.id).where(unheard).order_by(Build.id).limit(max(free, 0))]
        Build.update(enqueued_at=now).where(Build.id << ids).execute()
    return ids


def hold(reason: str) -> None:
    """Note at the builds that wait why none of them begins; who takes one forgets it again."""
    waiting = (Build.status == BuildStatus.QUEUED) & (Build.error.is_null() | Build.error.startswith(HELD))
    with db.write():
        Build.update(error=f"{HELD}{reason}").where(waiting).execute()


def held() -> int:
    """Count the builds that wait for another reason than that others run."""
    return Build.select().where(Build.status == BuildStatus.QUEUED, Build.error.startswith(HELD)).count()


def rolling_out() -> list[Build]:
    """List the builds that are built and not live yet."""
    return list(without_log().where(Build.status == BuildStatus.BUILT))


def counts() -> dict[str, int]:
    """Count builds by status; every status has an entry."""
    rows: Any = Build.select(Build.status, fn.COUNT(Build.id)).group_by(Build.status).tuples()
    found = dict(rows)
    return {status.value: found.get(status.value, 0) for status in BuildStatus}


def full_log(build_id: int) -> str:
    """Return the log so far, phases set apart by ``=== phase: <name> ===``.

    Raises:
        NotFound: there is no such build.
    """
    row = Build.select(Build.log).where(Build.id == build_id).first()
    if row is None:
        raise NotFound(f"build {build_id}: there is no such build")
    return row.log if row.log is not None else build_log.compose(build_log.chunks(build_id))


def log_since(build_id: int, seq: int) -> tuple[list[LogChunk], int, bool]:
    """Return the chunks from `seq` on, the next `seq` to ask for, and whether the build has ended.

    A build that has ended has no chunks any more: `full_log` has the text.
    """
    build = get(build_id)
    found = build_log.chunks(build_id, seq)
    return found, (found[-1].seq + 1 if found else seq), build.status in FINAL


def without_log() -> Any:
    """Select builds with every column but the log, which may be large."""
    fields = Build._meta.sorted_fields  # noqa: SLF001  # Peewee's documented way to list them
    return Build.select(*(field for field in fields if field is not Build.log))


def end(build_id: int, status: BuildStatus, error: str | None, now: float) -> None:
    """Set a final status and the log in one statement: inside the caller's `db.write()`.

    So the row that holds the log is written once.
    """
    log = build_log.compose(build_log.chunks(build_id), grouped=True)
    Build.update(status=status, error=error, finished_at=now, token=None, lease_until=None, log=log).where(
        Build.id == build_id, Build.status << list(UNFINISHED)
    ).execute()
    LogChunk.delete().where(LogChunk.build == build_id).execute()
