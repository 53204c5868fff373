"""What happens to a branch or pull request as a whole: it goes, sleeps, or wakes."""

from kennel_core import builds, deployments
from kennel_core.models import Project, Ref
from kennel_core.sleeping import start, stop

__all__ = ["remove", "start", "stop"]


def remove(project: Project, ref: str, reason: str, now: float) -> list[str]:
    """Withdraw every wish of a ref, inside the caller's `db.write()`; returns the names of its deployments.

    Builds that wait end, one that runs is asked to stop; the next pass takes down what the rows named.
    """
    builds.cancel_ref(project, ref, reason, now)
    Ref.delete().where(Ref.project == project, Ref.ref == ref).execute()
    return deployments.remove_ref(project, ref)


def stop(project: Project, ref: str, why: str, now: float) -> bool:
    """Note that the services of a ref shall not run, inside the caller's `db.write()`; False: it was so."""
    row, _made = Ref.get_or_create(project=project, ref=ref)
    if row.stopped_at is not None:
        return False
    row.stopped_at, row.stopped_why = now, why
    row.save()
    return True


def start(project: Project, ref: str) -> bool:
    """Note that the services of a ref shall run, inside the caller's `db.write()`; False: it was so."""
    changed = (
        Ref.update(stopped_at=None, stopped_why=None)
        .where(Ref.project == project, Ref.ref == ref, Ref.stopped_at.is_null(is_null=False))
        .execute()
    )
    return bool(changed)
