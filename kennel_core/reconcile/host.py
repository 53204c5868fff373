"""What a pass does to the machine: a dull layer over the adapters."""

import dataclasses
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kennel_core import env_file, naming, ports
from kennel_core.adapters import health, journal
from kennel_core.adapters.caddy import Caddy
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.targets import Targets
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.adapters.unit_spec import UnitSpec
from kennel_core.errors import AdapterError, Unavailable
from kennel_core.inputs import Inputs
from kennel_core.provision.servers import Servers, each
from kennel_core.reconcile.plan import Desired
from kennel_core.settings import Settings

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 120.0
AT_ONCE = 8  # starts, probes and stops side by side


class Host(Protocol):
    """The machine as a pass sees it. Any method may raise AdapterError; `each_*` return errors instead."""

    def units(self) -> dict[str, str]:
        """Return systemd's ActiveState of every kennel unit, by name."""

    @property
    def servers(self) -> Servers:
        """The servers that resources, secrets and logins come from."""

    def each_tell(self, units: Sequence[tuple[str, Inputs]]) -> list[AdapterError | None]:
        """Write the files that units read their secrets from."""

    def told(self, unit: str) -> list[bytes]:
        """Return the secrets that a unit was told."""

    def each_start(self, rows: Sequence[Desired]) -> list[AdapterError | None]:
        """Start units, side by side; quiet for one that runs."""

    def each_probe(self, rows: Sequence[Desired], window: float) -> list[str | None]:
        """Ask services until they are healthy (None), for `window` seconds at most; else what was seen."""

    def each_stop(self, names: Sequence[str]) -> list[AdapterError | None]:
        """Stop units and remove their files, side by side; quiet for one that is gone."""

    def tail(self, unit: str) -> list[str]:
        """Return the last lines that a unit wrote."""

    def is_free(self, port: int) -> bool:
        """Tell whether nobody listens on a port."""

    def connections(self, port: int) -> int:
        """Count the connections that a service still has."""

    def routes(self) -> list[dict[str, Any]]:
        """Return Caddy's route table."""

    def replace_routes(self, routes: list[dict[str, Any]]) -> None:
        """Write Caddy's route table."""

    def targets(self) -> dict[str, str] | None:
        """Return what Caddy finds in the files of the targets; None when it reads none. After `routes`."""

    def write_target(self, name: str, target: str) -> None:
        """Write such a file."""

    def remove_target(self, name: str) -> None:
        """Remove such a file."""


class LocalHost:
    """This machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._caddy = Caddy(settings.caddy_admin, settings.caddy_server)
        self._targets = Targets(settings.targets_dir)
        self._files = UnitFiles(settings.inputs_dir, settings.inputs_group)
        self.servers = Servers(settings)

    def units(self) -> dict[str, str]:
        """See `Host`: one D-Bus call."""
        with Systemd(self._settings.bus) as systemd:
            return systemd.units()

    def each_tell(self, units: Sequence[tuple[str, Inputs]]) -> list[AdapterError | None]:
        """See `Host`."""
        return each(lambda told: self._tell(*told), units)

    def told(self, unit: str) -> list[bytes]:
        """See `Host`."""
        return self._files.values(unit)

    def each_start(self, rows: Sequence[Desired]) -> list[AdapterError | None]:
        """See `Host`."""
        return each(self._start, rows)

    def each_probe(self, rows: Sequence[Desired], window: float) -> list[str | None]:
        """See `Host`."""

        def probe(row: Desired) -> str | None:
            if row.health is None or row.port is None:
                return None
            return health.wait(row.port, row.health.path, window, alive=lambda: True)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(probe, rows))

    def each_stop(self, names: Sequence[str]) -> list[AdapterError | None]:
        """See `Host`."""
        return each(self._stop, names)

    def tail(self, unit: str) -> list[str]:
        """See `Host`."""
        return journal.tail(unit, lines=20, directory=self._settings.journal_dir)

    def is_free(self, port: int) -> bool:
        """See `Host`."""
        return ports.can_bind(port)

    def connections(self, port: int) -> int:
        """See `Host`."""
        return health.connections(port)

    def routes(self) -> list[dict[str, Any]]:
        """See `Host`: one GET."""
        return self._caddy.routes()

    def replace_routes(self, routes: list[dict[str, Any]]) -> None:
        """See `Host`: one PATCH."""
        self._caddy.replace_routes(routes)

    def targets(self) -> dict[str, str] | None:
        """See `Host`."""
        return self._targets.read() if self._caddy.reads_files else None

    def write_target(self, name: str, target: str) -> None:
        """See `Host`."""
        self._targets.write(name, target)

    def remove_target(self, name: str) -> None:
        """See `Host`."""
        self._targets.remove(name)

    def _tell(self, unit: str, inputs: Inputs) -> None:
        if environment := inputs.environment(self._credentials(unit)):
            self._files.write(unit, env_file.render(environment), inputs.secrets.files)

    def _credentials(self, unit: str) -> str:
        """Say where systemd shows a unit its credentials: systemd.exec(5), LoadCredential."""
        run = f"/run/user/{os.getuid()}" if self._settings.bus == "session" else "/run"
        return f"{run}/credentials/{unit}"

    def _start(self, row: Desired) -> None:
        environment_file, credentials = self._files.of(str(row.unit))
        plain = unit_spec(row, self._settings)
        spec = dataclasses.replace(
            plain,
            environment_file=environment_file,
            credentials=credentials,
            readable=(*plain.readable, *self.servers.directories(row.owner, row.resources)),
        )
        with Systemd(self._settings.bus) as systemd:
            systemd.start(spec, START_TIMEOUT_S)

    def _stop(self, name: str) -> None:
        with Systemd(self._settings.bus) as systemd:
            systemd.stop(name, STOP_TIMEOUT_S)
        self._files.remove(name)


def unit_spec(row: Desired, settings: Settings) -> UnitSpec:
    """Describe the unit of a service."""
    name = str(row.unit)
    store = str(Path(row.store_path).parent)
    service, branch = row.environment["KENNEL_SERVICE"], row.environment["KENNEL_BRANCH"]
    return UnitSpec(
        name=name,
        argv=row.command,
        environment=row.environment,
        working_directory=row.working_directory,
        description=f"Kennel: {service} of {row.project}, {branch}",
        user=naming.login(row.owner.project_id, row.owner.ref, row.name),
        log_fields={
            "KENNEL_DEPLOYMENT": str(row.id),
            "KENNEL_BUILD": str(row.build_id),
            "KENNEL_PROJECT": row.project,
        },
        memory_max=settings.memory_max,
        tasks_max=settings.tasks_max,
        readable=() if store == "/nix/store" else (store,),
        hidden=(str(settings.runtime_dir),),
    )


@contextmanager
def only_one(lock: Path) -> Iterator[int]:
    """Hold the host's lock for a pass; the kernel drops it when the holder dies. Gives its descriptor.

    Raises:
        Unavailable: another pass held it for LOCK_TIMEOUT_S.
    """
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                raise Unavailable(
                    "reconciler", "lock", f"another pass has held {lock} for {LOCK_TIMEOUT_S:.0f} s"
                )
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
