"""Roll out again what a ref runs, because what its services are told has changed."""

from kennel_core import build_log, builds, db, deployments
from kennel_core.models import Build, BuildStatus
from kennel_core.outputs import Outputs
from kennel_core.settings import Settings


def redeploy(project_id: int, ref: str, reason: str, settings: Settings, now: float) -> Build | None:
    """Write a build that takes over the outputs of the newest one; its services start as for any other.

    None when a build of the ref is on its way already, or nothing of it is live.

    Raises:
        BuildFailed: no port is free, or a host name is taken.
    """
    with db.write():
        newest = (
            builds.without_log()
            .where(Build.project == project_id, Build.ref == ref)
            .order_by(Build.id.desc())
            .first()
        )
        if newest is None or newest.status in builds.UNFINISHED:
            return None
        running = deployments.live_build(project_id, ref)
        if running is None:
            return None
        outputs = Outputs.model_validate(running.outputs)
        outputs = outputs.model_copy(update={"origin": outputs.origin or running.id})
        build: Build = Build.create(
            project=project_id,
            ref=ref,
            commit=running.commit,
            status=BuildStatus.BUILT,
            created_at=now,
            started_at=now,
            built_at=now,
            outputs=outputs.model_dump(mode="json"),
        )
        build_log.append(build.id, [(deployments.PHASE, f"deployed again: {reason}\n")])
        deployments.write_rows(build, outputs, settings, now)
        return build
