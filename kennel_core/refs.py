"""What happens to a branch or pull request as a whole: it goes, sleeps, or wakes."""

from kennel_core import builds, deployments
from kennel_core.models import Project, Ref
from kennel_core.sleeping import asleep, start, stop

__all__ = ["asleep", "heard", "remove", "start", "stop"]


def remove(project: Project, ref: str, reason: str, now: float) -> list[str]:
    """Withdraw every wish of a ref, inside the caller's `db.write()`; returns the names of its deployments.

    Builds that wait end, one that runs is asked to stop; the next pass takes down what the rows named.
    """
    builds.cancel_ref(project, ref, reason, now)
    Ref.delete().where(Ref.project == project, Ref.ref == ref).execute()
    return deployments.remove_ref(project, ref)


def heard(project: Project, ref: str, commit: str) -> None:
    """Remember the commit that a ref is at; nothing is built. Inside the caller's `db.write()`."""
    Ref.insert(project=project, ref=ref, head=commit).on_conflict(
        conflict_target=[Ref.project, Ref.ref], update={Ref.head: commit}
    ).execute()
