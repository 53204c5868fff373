"""What the steps of a pass share: what was seen at its start, and what it did."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from kennel_core.errors import KennelError
from kennel_core.inputs import Inputs
from kennel_core.models import Resource
from kennel_core.oidc import Client
from kennel_core.provision.servers import Listing
from kennel_core.reconcile.desired import Wanted
from kennel_core.reconcile.host import Host
from kennel_core.resources import Key
from kennel_core.settings import Settings

WINDOW_S = 0.5  # how long a pass waits for services to become healthy, and for connections to end

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Report:
    """What a pass did. `again` asks for another one at once: something is on its way."""

    rung: list[int] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    provided: list[str] = field(default_factory=list)  # resources that were made or repaired
    removed: list[str] = field(default_factory=list)
    redeployed: list[int] = field(default_factory=list)  # builds, because what services are told changed
    live: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    routed: bool = False
    again: bool = False

    @property
    def result(self) -> str:
        """One word for metrics: error, changed or unchanged."""
        changed = (
            self.started
            or self.stopped
            or self.provided
            or self.removed
            or self.redeployed
            or self.live
            or self.failed
            or self.routed
        )
        return "error" if self.errors else "changed" if changed else "unchanged"

    def add(self, later: "Report") -> None:
        """Take in what the next pass did; errors and `again` are those of the last one."""
        self.rung += later.rung
        self.started += later.started
        self.stopped += later.stopped
        self.provided += later.provided
        self.removed += later.removed
        self.redeployed += later.redeployed
        self.live += later.live
        self.failed |= later.failed
        self.routed = self.routed or later.routed
        self.errors, self.again = later.errors, later.again

    def error(self, step: str, error: KennelError) -> None:
        """Note a step that failed and is left for the next pass."""
        log.warning("step failed", step=step, error=str(error))
        self.errors.append(str(error))


@dataclass(slots=True)
class State:
    """The rows, what systemd said (state by unit name), and what Kennel made: units by name, and the rest.

    `present` tells what servers have, by kind, and waits for their answers; `clients` are the OIDC clients
    that are wanted; `inputs` is what units are about to be told.
    """

    settings: Settings
    host: Host
    rows: Wanted
    units: Mapping[str, str]
    made: dict[str, Resource]
    owned: dict[Key, Resource] = field(default_factory=dict)
    present: Callable[[], dict[str, Listing]] = dict
    clients: Sequence[Client] = ()
    inputs: dict[str, Inputs] = field(default_factory=dict)
    report: Report = field(default_factory=Report)
