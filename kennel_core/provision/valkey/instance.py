"""A small server for each ref, as a transient unit that listens on a Unix socket alone."""

import os
import shutil
import stat
import time
from pathlib import Path

from kennel_core import naming
from kennel_core.adapters.stateful_units import StatefulSystemd
from kennel_core.adapters.systemd import RUNNING
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.adapters.valkey import Valkey
from kennel_core.effects import Effect
from kennel_core.errors import AdapterError, Rejected, Unavailable
from kennel_core.provision import Memory, Owner
from kennel_core.provision.valkey.modes import forget
from kennel_core.settings import Settings

SYSTEM = "valkey"
PROGRAMS = ("valkey-server", "redis-server")
ALWAYS_SEEN = ("/usr/", "/bin/", "/nix/store/")  # where the sandbox hides no program
PREFIX = "kennel-valkey-"  # of units and their state directories
SOCKET = "valkey.sock"

NAME_MAX = 24  # what a socket's path leaves room for below a long runtime directory
SOCKET_PATH_MAX = 107  # octets, unix(7)

START_TIMEOUT_S = 15.0  # until it has read its data and answers
STOP_TIMEOUT_S = 15.0  # it writes its data first
PING_TIMEOUT_S = 2.0
POLL_S = 0.01

# What a fork that saves may add, and what the server needs beside its data.
MEMORY_FACTOR = 2
MEMORY_EXTRA = 64 * 1024**2
TASKS_MAX = 32

CONFIGURATION = {
    "port": "0",
    "unixsocketperm": "666",  # who may reach the directory may use the server
    "dir": "./",
    "daemonize": "no",
    "supervised": "no",
    "maxclients": "900",  # with more, it would raise its limit of 1024 files, which the sandbox forbids
    "save": "300 1 60 10000",  # a kill costs five minutes at the most; an ordered stop saves
    "appendonly": "no",
    "stop-writes-on-bgsave-error": "no",
    "maxmemory-policy": "volatile-lru",  # what has no expiry was stored, not cached
    "hz": "1",  # hundreds of them are idle
}


class Instances:
    """Units, one for each owner; see `Provisioner`.

    The data is the unit's state directory, so that only systemd can remove it.
    """

    kind = "valkey"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.runtime_dir / "valkey"

    def name(self, owner: Owner) -> str:
        """Name the owner's server."""
        return naming.resource(owner.project_id, owner.project, owner.ref, NAME_MAX)

    def directory(self, owner: Owner) -> Path:
        """Name the directory with the socket: the one thing a service of the owner must be able to see."""
        return self._home / self.name(owner)

    def parts(self, owner: Owner, memory: Memory) -> frozenset[str]:  # noqa: ARG002
        """Name the unit and its socket."""
        return frozenset({f"unit {self._unit(owner)}", f"socket {self._socket(owner)}"})

    def present(self) -> frozenset[str]:
        """Name every unit that runs and every socket that is there."""
        with StatefulSystemd(self._settings.bus) as systemd:
            units = systemd.units()
        running = {name for name, state in units.items() if state in RUNNING and name.startswith(PREFIX)}
        sockets = self._home.glob(f"*/{SOCKET}")
        return frozenset({f"unit {name}" for name in running} | {f"socket {path}" for path in sockets})

    def ensure(self, owner: Owner, memory: Memory) -> None:
        """Start the server, and wait until it answers."""
        operation = f"start {self._unit(owner)}"
        with StatefulSystemd(self._settings.bus) as systemd:
            spec = self._spec(owner, operation, sandbox=systemd.sandboxed)
            if self._is_ours(systemd, owner, operation):
                if self._socket(owner).exists():
                    if reason := self._failure(systemd, owner, operation):
                        raise Unavailable(SYSTEM, operation, reason)
                    return
                systemd.stop(spec.name, STOP_TIMEOUT_S)  # what emptied the runtime directory took its socket
            memory.note(unit=spec.name)
            self._prepare(owner, operation)
            if not systemd.sandboxed:
                Path(spec.working_directory).mkdir(parents=True, exist_ok=True)
            systemd.start(spec, START_TIMEOUT_S)
            if reason := self._failure(systemd, owner, operation):
                systemd.stop(spec.name, STOP_TIMEOUT_S)
                raise Rejected(SYSTEM, operation, reason)

    def variables(self, owner: Owner, memory: Memory, service: str) -> dict[str, str]:  # noqa: ARG002
        """Give the socket, spelled as projects of the first Kennel expect it and as libraries read it."""
        socket = self._socket(owner)
        return {"VALKEY_URL": f"redis+unix://{socket}?db=0", "REDIS_URL": f"unix://{socket}?db=0"}

    def remove(self, owner: Owner, memory: Memory) -> None:
        """Stop the server, and delete its data and its directory."""
        if memory.state.get("unit") is not None:  # else it was never made, and what has its name is another's
            self._remove(owner)
        forget(memory, "unit", self.name(owner))

    def _remove(self, owner: Owner) -> None:
        unit = self._unit(owner)
        with StatefulSystemd(self._settings.bus) as systemd:
            self._is_ours(systemd, owner, f"remove {unit}")
            systemd.stop(unit, STOP_TIMEOUT_S)
            if systemd.sandboxed:
                systemd.clean(unit, self._state(owner), STOP_TIMEOUT_S)
        for directory in (self._own_data(owner), self.directory(owner)):
            if directory.exists():
                with Effect("remove data"):
                    shutil.rmtree(directory)

    def _unit(self, owner: Owner) -> str:
        return f"{PREFIX}{self.name(owner)}.service"

    def _state(self, owner: Owner) -> str:
        """Name the data's directory, as systemd is told it."""
        return f"{PREFIX}{self.name(owner)}"

    def _own_data(self, owner: Owner) -> Path:
        """Name the data's directory where systemd is a user's own, and there are no dynamic users."""
        return self._settings.state_dir / "valkey" / self.name(owner)

    def _socket(self, owner: Owner) -> Path:
        return self.directory(owner) / SOCKET

    def _is_ours(self, systemd: StatefulSystemd, owner: Owner, operation: str) -> bool:
        """Tell whether the owner's server is loaded.

        Raises:
            Rejected: what runs under its name does not listen on its socket, so somebody else made it.
        """
        argv = systemd.argv(self._unit(owner))
        if argv is not None and str(self._socket(owner)) not in argv:
            detail = f"Kennel did not make the unit that runs as {self._unit(owner)}: stop it or rename it"
            raise Rejected(SYSTEM, operation, detail)
        return argv is not None

    def _failure(self, systemd: StatefulSystemd, owner: Owner, operation: str) -> str:
        """Wait until the server answers; says why it ended instead.

        Raises:
            Unavailable: it runs, and does not answer.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with Valkey(f"unix://{self._socket(owner)}", timeout=PING_TIMEOUT_S) as server:
                    server.ping()
            except AdapterError as exc:
                if not systemd.is_alive(self._unit(owner)):
                    return f"the server ended at once; `journalctl -u {self._unit(owner)}` says why"
                if time.monotonic() > deadline:
                    detail = f"no answer within {START_TIMEOUT_S:g} s: {exc}"
                    raise Unavailable(SYSTEM, operation, detail) from exc
                time.sleep(POLL_S)
            else:
                return ""

    def _prepare(self, owner: Owner, operation: str) -> None:
        """Make the directory of the socket.

        Its user's number is known only when the unit runs, so all may write in it; but nobody gets there.
        """
        _make_private(self._home, operation)
        directory = self.directory(owner)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)

    def _spec(self, owner: Owner, operation: str, *, sandbox: bool) -> UnitSpec:
        socket, state = self._socket(owner), self._state(owner)
        if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
            detail = (
                f"{socket} is too long for a socket: choose a KENNEL_RUNTIME_DIR of at most 63 characters"
            )
            raise Rejected(SYSTEM, operation, detail)
        memory = self._settings.valkey_memory
        options = {"unixsocket": str(socket), "maxmemory": str(memory), **CONFIGURATION}
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        program = self._program(operation)
        elsewhere = () if program.startswith(ALWAYS_SEEN) else (str(Path(program).parent),)
        return UnitSpec(
            name=self._unit(owner),
            argv=(program, *arguments),
            environment={},
            working_directory=f"/var/lib/{state}" if sandbox else str(self._own_data(owner)),
            description=f"Valkey of {owner.project}, {owner.ref}",
            user=dynamic_user(self._unit(owner)),
            log_fields={"KENNEL_PROJECT": owner.project},
            memory_max=MEMORY_FACTOR * memory + MEMORY_EXTRA,
            tasks_max=TASKS_MAX,
            hidden=(str(self._settings.runtime_dir),),
            readable=elsewhere,
            visible=(str(self.directory(owner)),),
            state_directory=state if sandbox else "",
        )

    def _program(self, operation: str) -> str:
        chosen = self._settings.valkey_program
        found = next(filter(None, map(shutil.which, (chosen,) if chosen else PROGRAMS)), None)
        if found is None:
            what = chosen or " or ".join(PROGRAMS)
            detail = f"{what} is not installed: install it, or set KENNEL_VALKEY_PROGRAM"
            raise Rejected(SYSTEM, operation, detail)
        return os.path.abspath(found)  # noqa: PTH100  # no links followed: the name tells it what to be


def _make_private(directory: Path, operation: str) -> None:
    """Make a directory that only Kennel may enter.

    A service gets past it nevertheless: its sandbox has another in its place, with the service's own alone.

    Raises:
        Rejected: something else has that name.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        detail = f"{directory} is not a directory of Kennel's own: move it away"
        raise Rejected(SYSTEM, operation, detail)
    directory.chmod(0o700)
