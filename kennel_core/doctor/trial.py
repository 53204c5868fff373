"""Try what a provisioner will have to do, for an owner that does not exist."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from kennel_core.environment import Environment
from kennel_core.errors import AdapterError
from kennel_core.provision import Memory, Owner, Provisioner

PROJECT = "kennel-doctor"
PROJECT_ID = 0  # no project has it
SERVICE = "doctor"


class Notes:
    """A `Memory` that is forgotten."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}

    def note(self, **changes: Any) -> None:
        """See `kennel_core.provision.Memory`."""
        self.state = {**self.state, **changes}


def nobody() -> Owner:
    """Make up an owner: a pull request, so that what a power cut leaves counts as nobody's data."""
    number = 1 + secrets.randbelow(10**12)
    return Owner(PROJECT_ID, PROJECT, f"pr-{number}", Environment.PREVIEW, (SERVICE,))


@contextmanager
def provided(provisioner: Provisioner) -> Iterator[tuple[Owner, Memory]]:
    """Make a resource for the block, and remove it again, whatever happens.

    Raises:
        Unavailable, Rejected: what a pass would get.
    """
    owner, notes = nobody(), Notes()
    try:
        provisioner.ensure(owner, notes)
        provisioner.variables(owner, notes, SERVICE)
        yield owner, notes
    except BaseException:
        with suppress(AdapterError):  # what went wrong first says more
            provisioner.remove(owner, notes)
        raise
    provisioner.remove(owner, notes)
