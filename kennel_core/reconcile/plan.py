"""Decide what must change so that the host matches the rows. Pure: no clock, no I/O, no logging."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kennel_core.provision import Owner


@dataclass(frozen=True, slots=True)
class Health:
    """When a service counts as up: GET `path` answers 2xx within `timeout` seconds of its start.

    Without a path it counts as up when it has run for a second.
    """

    path: str | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Desired:
    """One deployment row, as the planner sees it. `unit`, `port` and `command` are None for a site."""

    id: int
    name: str
    owner: Owner  # whom its resources belong to
    build_id: int
    rollout: bool  # the build is not live yet: its rows come up together or not at all
    hosts: tuple[str, ...]  # generated host, alias, custom domain
    store_path: str
    spa: bool = False
    unit: str | None = None
    port: int | None = None
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = "/"
    health: Health | None = None
    project: str = ""  # owner/name
    resources: frozenset[str] = frozenset()
    oidc: tuple[str, ...] = ()  # paths that a login may come back to
    custom_domain: str | None = None
    inputs: Mapping[str, Any] | None = None  # see `kennel_core.inputs.Inputs.noted`; None: not gathered yet
    asleep: bool = False  # wants no unit; its hosts say so


@dataclass(frozen=True, slots=True)
class Actual:
    """What the host says: state by unit name (systemd's ActiveState), and the units Kennel made."""

    units: Mapping[str, str]
    made: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order: start, route, stop."""

    start: tuple[Desired, ...]
    stop: tuple[str, ...]


RUNNING = frozenset({"active", "activating", "reloading"})


def diff(desired: Iterable[Desired], actual: Actual, waiting: Collection[str] = ()) -> Plan:
    """Compare the rows with the host.

    A row whose unit does not run is started, unless its name is among `waiting` (it failed lately and
    its time has not come). What Kennel made and no row names is stopped; nothing else ever is.
    """
    rows = {row.unit: row for row in desired if row.unit}
    missing = (row for name, row in sorted(rows.items()) if actual.units.get(name) not in RUNNING)
    return Plan(
        start=tuple(row for row in missing if row.unit not in waiting),
        stop=tuple(sorted(actual.made - rows.keys())),
    )
