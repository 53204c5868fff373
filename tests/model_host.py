"""A model of the machine: systemd, Caddy and the programs that services run, in memory.

`Machine` outlives Kennel; `ModelHost` is what a pass has of it. tests/test_host_contract.py holds it to what
the real ones do. Everything happens in the order of the calls, so that a history can be repeated.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kennel_core.effects import Effect
from kennel_core.errors import AdapterError, Rejected, Unavailable
from kennel_core.inputs import Inputs
from kennel_core.provision.servers import Servers
from kennel_core.reconcile import routes
from kennel_core.reconcile.plan import RUNNING, Desired
from kennel_core.settings import Settings

CATCH_ALL: dict[str, Any] = {"@id": "kennel-not-yet", "handle": [{"handler": "static_response"}]}
FOREIGN = "somebody else"


@dataclass
class Machine:
    """`programs` tells what becomes of a command: ok, sick (never healthy) or broken (cannot be run)."""

    programs: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)  # ActiveState by name
    commands: dict[str, str] = field(default_factory=dict)  # of each unit
    listeners: dict[int, str] = field(default_factory=dict)  # who listens, by port
    table: list[dict[str, Any]] = field(default_factory=lambda: [copy.deepcopy(CATCH_ALL)])
    written: int = 0  # the table's version
    files: dict[str, str] = field(default_factory=dict)
    has_systemd: bool = True
    has_caddy: bool = True

    def start(self, unit: str, command: str, port: int | None) -> None:
        """Run a unit; a program whose port is taken never listens."""
        if self.units.get(unit) in RUNNING:
            return
        self.end(unit)
        if self.programs.get(command, "ok") == "broken":
            raise Rejected("systemd", f"start {unit}", "it cannot be executed")
        self.units[unit], self.commands[unit] = "active", command
        if port is not None:
            self.listeners.setdefault(port, unit)

    def end(self, unit: str) -> None:
        """Let a unit go without a trace."""
        self.units.pop(unit, None)
        self.commands.pop(unit, None)
        self.listeners = {port: who for port, who in self.listeners.items() if who != unit}

    def crash(self, unit: str) -> None:
        """Let a unit end so often that systemd gives up."""
        self.end(unit)
        self.units[unit] = "failed"

    def lose_routes(self) -> None:
        """Start Caddy again with its base configuration."""
        self.table = [copy.deepcopy(CATCH_ALL)]
        self.written += 1

    def is_healthy(self, port: int, unit: str) -> bool:
        """Whether this unit answers 2xx on the port."""
        return (
            self.listeners.get(port) == unit and self.programs.get(self.commands.get(unit, ""), "ok") == "ok"
        )

    def answer(self, host: str) -> str | None:
        """What a browser gets: the command or the directory that serves it; None: nothing good."""
        for entry in routes.entries(self.table, self.files).values():
            if host in entry.hosts and isinstance(entry, routes.Proxy):
                unit = self.listeners.get(entry.port, "")
                return self.commands.get(unit) if self.is_healthy(entry.port, unit) else None
            if host in entry.hosts and isinstance(entry, routes.Files):
                return entry.root
        return None


class ModelHost:
    """See `kennel_core.reconcile.host.Host`. `sleep` lets time go by."""

    def __init__(self, settings: Settings, machine: Machine, sleep: Callable[[float], None]) -> None:
        self.servers = Servers(settings)
        self._machine = machine
        self._sleep = sleep
        self._read: int | None = None

    def units(self) -> dict[str, str]:
        return dict(self._systemd("list units").units)

    def each_tell(self, units: Sequence[tuple[str, Inputs]]) -> list[AdapterError | None]:
        return [None for _ in units]

    def told(self, unit: str) -> list[bytes]:
        return []

    def each_start(self, rows: Sequence[Desired]) -> list[AdapterError | None]:
        return [self._attempt(self._start, row) for row in rows]

    def each_probe(self, rows: Sequence[Desired], window: float) -> list[str | None]:
        found = [self._probe(row) for row in rows]
        if any(found):
            self._sleep(window)
        return found

    def each_stop(self, names: Sequence[str]) -> list[AdapterError | None]:
        return [self._attempt(self._stop, name) for name in names]

    def tail(self, unit: str) -> list[str]:
        return [f"the last line of {unit}"]

    def is_free(self, port: int) -> bool:
        return port not in self._machine.listeners

    def connections(self, port: int) -> int:
        return 0

    def routes(self) -> list[dict[str, Any]]:
        machine = self._caddy("read the routes")
        self._read = machine.written
        return copy.deepcopy(machine.table)

    def replace_routes(self, routes: list[dict[str, Any]]) -> None:
        machine = self._caddy("write the routes")
        with Effect("caddy write"):
            if self._read is not None and self._read != machine.written:
                raise Unavailable("caddy", "write the routes", "somebody else changed the routes meanwhile")
            machine.table = copy.deepcopy(list(routes))
            machine.written += 1
        self._read = None

    def targets(self) -> dict[str, str] | None:
        return dict(self._machine.files)

    def write_target(self, name: str, target: str) -> None:
        with Effect("target"):
            self._machine.files[name] = target

    def remove_target(self, name: str) -> None:
        with Effect("remove target"):
            self._machine.files.pop(name, None)

    # ---

    def _start(self, row: Desired) -> None:
        machine = self._systemd(f"start {row.unit}")
        with Effect("systemd job"):
            machine.start(str(row.unit), row.command[0], row.port)

    def _stop(self, name: str) -> None:
        machine = self._systemd(f"stop {name}")
        with Effect("systemd job"):
            machine.end(name)

    def _probe(self, row: Desired) -> str | None:
        if row.health is None or row.health.path is None or row.port is None:
            return None
        return None if self._machine.is_healthy(row.port, str(row.unit)) else "HTTP 503"

    def _systemd(self, operation: str) -> Machine:
        if not self._machine.has_systemd:
            raise Unavailable("systemd", operation, "the bus is gone")
        return self._machine

    def _caddy(self, operation: str) -> Machine:
        if not self._machine.has_caddy:
            raise Unavailable("caddy", operation, "it is down")
        return self._machine

    @staticmethod
    def _attempt(action: Callable[[Any], None], task: Any) -> AdapterError | None:
        try:
            action(task)
        except AdapterError as exc:
            return exc
        return None
