"""What happens when a branch is deleted or a pull request is closed."""

from kennel_core import builds, deployments
from kennel_core.models import Project


def remove(project: Project, ref: str, reason: str, now: float) -> list[str]:
    """Withdraw every wish of a ref, inside the caller's `db.write()`; returns the names of its deployments.

    Builds that wait end, one that runs is asked to stop; the next pass takes down what the rows named.
    """
    builds.cancel_ref(project, ref, reason, now)
    return deployments.remove_ref(project, ref)
