"""What an application needs of other servers, for each ref of each project.

A provisioner makes and removes one kind of resource on one server. It holds no state of its own: what must
be remembered (ids, never secrets) goes to the owner's row of the table `resources`, before it is acted upon.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kennel_core.environment import Environment

SECRET = frozenset(  # the variables that hold a secret, or may
    {
        "AWS_SECRET_ACCESS_KEY",
        "DATABASE_URL",
        "OIDC_CLIENT_SECRET",
        "PGPASSWORD",
        "REDIS_URL",
        "S3_SECRET_KEY",
        "VALKEY_URL",
    }
)


@dataclass(frozen=True, slots=True)
class Owner:
    """One ref of one project: whom a database, a cache and a bucket belong to."""

    project_id: int
    project: str  # the repository's name, for names that people read
    ref: str
    environment: Environment
    services: tuple[str, ...] = ()  # sorted; each gets a login of its own where the server has logins


class Memory(Protocol):
    """What is remembered of one resource: the column `state` of its row."""

    @property
    def state(self) -> Mapping[str, Any]:
        """What was noted so far, as JSON has it; empty for one that was never made."""

    def note(self, **changes: Any) -> None:
        """Add to the state, committed at once: call it before the step that needs to be found again."""


class Provisioner(Protocol):
    """Makes one kind of resource. Threads call it for several owners at once, for one owner one at a time.

    Any method may raise `Unavailable` (the next pass tries again) or `Rejected` (a clear no, such as a role
    of this name that somebody else made: it fails the deployment).
    """

    kind: str  # as kennel.json says it: "postgres", "valkey", "garage"

    def name(self, owner: Owner) -> str:
        """Name the owner's resource, for people and for the table. Unique, at most 63 characters."""

    def parts(self, owner: Owner, memory: Memory) -> frozenset[str]:
        """Name everything that must exist for the owner, as `present` would: ``database x``, ``role y``."""

    def present(self) -> frozenset[str]:
        """Name everything on the server that could be a part of anybody's: one listing, few round trips."""

    def ensure(self, owner: Owner, memory: Memory) -> None:
        """Make what is missing and put right what differs; may be repeated after a crash at any step."""

    def variables(self, owner: Owner, memory: Memory, service: str) -> dict[str, str]:
        """Return the environment variables that lead one service of the owner to the resource."""

    def remove(self, owner: Owner, memory: Memory) -> None:
        """Remove all of it, whoever is still connected; quiet for what is gone; may be repeated."""
