"""Refs whose services are stopped while their resources stay: a preview that nobody pushes to sleeps."""

import time

from kennel_core.environment import of_ref
from kennel_core.errors import Conflict
from kennel_core.models import Project, Ref
from kennel_core.resources import LASTING


def stop(project: Project, ref: str, why: str, now: float) -> None:
    """Let a ref sleep, inside the caller's `db.write()`; `why` is a sentence. One that sleeps stays so.

    Raises:
        Conflict: it is prod or staging.
    """
    environment = of_ref(ref, project.default_branch)
    if environment in LASTING:
        raise Conflict(f"{ref} of {project.full_name} is {environment}, which never sleeps")
    Ref.insert(project=project, ref=ref, stopped_at=now, stopped_why=why).on_conflict(
        conflict_target=[Ref.project, Ref.ref],
        update={Ref.stopped_at: now, Ref.stopped_why: why},
        where=Ref.stopped_at.is_null(),
    ).execute()


def start(project: Project, ref: str) -> bool:
    """Wake a ref, inside the caller's `db.write()`; False when it did not sleep."""
    changed = (
        Ref.update(stopped_at=None, stopped_why=None, woken_at=time.time())
        .where(Ref.project == project, Ref.ref == ref, Ref.stopped_at.is_null(is_null=False))
        .execute()
    )
    return bool(changed)


def asleep() -> dict[tuple[int, str], Ref]:
    """Return the refs that sleep, by project id and ref."""
    found = Ref.select().where(Ref.stopped_at.is_null(is_null=False))
    return {(row.project_id, row.ref): row for row in found}
