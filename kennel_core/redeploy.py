"""Roll out again what was built: what a ref runs, told something else by now, or what it ran before."""

from pathlib import Path

from peewee import fn

from kennel_core import build_log, builds, db, deployments, sleeping
from kennel_core.errors import Conflict, NotFound
from kennel_core.models import Build, BuildStatus, Project
from kennel_core.outputs import Outputs
from kennel_core.settings import Settings


def redeploy(project_id: int, ref: str, reason: str, settings: Settings, now: float) -> Build | None:
    """Write a build that takes over the outputs of the one that runs; its services start as for any other.

    None when a build of the ref is on its way already, nothing of it is live, or it sleeps.

    Raises:
        BuildFailed: no port is free, or a host name is taken.
    """
    with db.write():
        if _is_under_way(project_id, ref) or (project_id, ref) in sleeping.asleep():
            return None
        running = deployments.live_build(project_id, ref)
        return None if running is None else _take_over(running, f"deployed again: {reason}", settings, now)


def again(project: Project, ref: str, reason: str, settings: Settings, now: float) -> Build:
    """Deploy a ref again and wake it; when its newest build did not end well, that one is tried again.

    The caller rings for a build that is queued, else for a pass.

    Raises:
        NotFound: nothing of the ref was built.
        Conflict: a build of it is on its way.
        BuildFailed: no port is free, or a host name is taken.
    """
    newest = _newest(project.id, ref)
    if newest is None:
        raise NotFound(f"{ref}: nothing of it was built yet")
    if newest.status in builds.UNFINISHED:
        raise Conflict(f"{ref}: build {newest.id} is on its way")
    with db.write():
        sleeping.start(project, ref)
    ended_well = newest.status == BuildStatus.DONE
    build = redeploy(project.id, ref, reason, settings, now) if ended_well else None
    return build or builds.retry(newest.id, now)


def rollback(project: Project, ref: str, reason: str, settings: Settings, now: float) -> Build:
    """Write a build that takes over the outputs of the build before the one that runs: nothing is built.

    Done twice, it goes back twice. The next push rolls forward.

    Raises:
        Conflict: a build of the ref is on its way, nothing runs, or there is nothing to go back to.
        BuildFailed: no port is free, or a host name is taken.
    """
    with db.write():
        if _is_under_way(project.id, ref):
            raise Conflict(f"{ref}: a build of it is on its way; wait for it, or cancel it")
        running = deployments.live_build(project.id, ref)
        if running is None:
            raise Conflict(f"{ref}: nothing of it runs, so there is nothing to roll back")
        before = _before(running)
        if before is None:
            raise Conflict(f"{ref}: there is no earlier build that was live")
        if gone := _gone(Outputs.model_validate(before.outputs)):
            raise Conflict(
                f"{ref}: build {before.id} is not whole any more, {gone} was collected; push it again"
            )
        sleeping.start(project, ref)
        return _take_over(before, f"rolled back to build {before.id}: {reason}", settings, now)


def _is_under_way(project_id: int, ref: str) -> bool:
    newest = _newest(project_id, ref)
    return newest is not None and newest.status in builds.UNFINISHED


def _newest(project_id: int, ref: str) -> Build | None:
    query = builds.without_log().where(Build.project == project_id, Build.ref == ref)
    found: Build | None = query.order_by(Build.id.desc()).first()
    return found


def _before(running: Build) -> Build | None:
    """Find the build that was live before; one that took over the outputs of another is none."""
    origin = Outputs.model_validate(running.outputs).origin or running.id
    found: Build | None = (
        builds.without_log()
        .where(
            Build.project == running.project_id,
            Build.ref == running.ref,
            Build.id < origin,
            Build.status == BuildStatus.DONE,
            Build.outputs.is_null(is_null=False),
            fn.json_extract(Build.outputs, "$.origin").is_null(),
        )
        .order_by(Build.id.desc())
        .first()
    )
    return found


def _gone(outputs: Outputs) -> str | None:
    """Name an output that was collected."""
    paths = [*(item.store_path for item in outputs.services), *(item.store_path for item in outputs.sites)]
    return next((path for path in paths if not Path(path).exists()), None)


def _take_over(made: Build, why: str, settings: Settings, now: float) -> Build:
    outputs = Outputs.model_validate(made.outputs)
    outputs = outputs.model_copy(update={"origin": outputs.origin or made.id})
    build: Build = Build.create(
        project=made.project_id,
        ref=made.ref,
        commit=made.commit,
        status=BuildStatus.BUILT,
        created_at=now,
        started_at=now,
        built_at=now,
        outputs=outputs.model_dump(mode="json"),
    )
    build_log.append(build.id, [(deployments.PHASE, f"{why}\n")])
    deployments.write_rows(build, outputs, settings, now)
    return build
