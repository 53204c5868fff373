"""Previews and dev branches that nobody pushes to: they sleep after some days, and go later."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog
from peewee import fn

from kennel_core import db, refs
from kennel_core.builds import UNFINISHED
from kennel_core.models import Build, Deployment, Project, Ref
from kennel_core.resources import LASTING
from kennel_core.settings import Settings

log = structlog.get_logger(__name__)

DAY_S = 86_400.0


@dataclass(slots=True)
class Expired:
    """What was put to sleep and what was removed, as ``owner/name ref``."""

    stopped: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


def expire(settings: Settings, now: float) -> Expired:
    """Stop and remove what has had no push for too long; prod and staging never.

    A redeploy is no push. Who wakes a ref by hand gives it its days again. What is to sleep before it goes
    has slept for the days in between: neither a clock that is put forward nor a host that was off for a
    month takes data at once.
    """
    done = Expired()
    removing, stopping = settings.preview_remove_days, settings.preview_stop_days
    between = (removing - stopping) * DAY_S if stopping else 0.0
    if removing:
        asleep = refs.asleep()
        for project, ref in _idle(now - removing * DAY_S):
            sleeper = asleep.get((project.id, ref))
            if between > 0 and (sleeper is None or sleeper.stopped_at > now - between):
                continue
            why = f"{ref} is removed: {_nobody(removing)}"
            with db.write():
                head = _last_head(project, ref)
                refs.remove(project, ref, why, now)
                if head:
                    refs.heard(project, ref, head)  # it is not to be built again
            done.removed.append(f"{project.full_name} {ref}")
            log.info("expired", project=project.full_name, ref=ref, why=why)
    if stopping:
        asleep = refs.asleep()
        for project, ref in _idle(now - stopping * DAY_S):
            if (project.id, ref) in asleep:
                continue
            with db.write():
                refs.stop(project, ref, _nobody(stopping), now)
            done.stopped.append(f"{project.full_name} {ref}")
            log.info("put to sleep", project=project.full_name, ref=ref, why=_nobody(stopping))
    return done


def _nobody(days: float) -> str:
    return f"nobody has pushed for {days:g} days"


def _idle(since: float) -> Iterator[tuple[Project, str]]:
    """Give the deployed refs that may expire and had no push and no waking since then."""
    of_ref = (Build.project == Deployment.project) & (Build.ref == Deployment.ref)
    origin = fn.json_extract(Build.outputs, "$.origin")
    pushed = Build.select(Build.id).where(of_ref, Build.created_at >= since, origin.is_null())
    working = Build.select(Build.id).where(of_ref, Build.status << list(UNFINISHED))
    woken = Ref.select(Ref.id).where(
        Ref.project == Deployment.project, Ref.ref == Deployment.ref, Ref.woken_at >= since
    )
    rows = (
        Deployment.select(Deployment.project, Deployment.ref)
        .where(
            Deployment.environment.not_in([str(one) for one in LASTING]),
            ~fn.EXISTS(working),
            ~fn.EXISTS(pushed),
            ~fn.EXISTS(woken),
        )
        .distinct()
    )
    for row in list(rows):
        yield row.project, row.ref


def _last_head(project: Project, ref: str) -> str | None:
    row = Ref.get_or_none(Ref.project == project, Ref.ref == ref)
    return None if row is None else row.head
