"""A private systemd: `systemd` is the session's, `own_systemd` this test's alone, to be broken.

Whatever ends the tests ends every process in it. What a SIGKILL leaves of files and mounts, the next
session removes.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from jeepney import DBusErrorResponse, Properties
from jeepney.io.blocking import open_dbus_connection
from jeepney.wrappers import unwrap_msg

from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_spec import MANAGER
from tests.waiting import until

SCRIPT = Path(__file__).parents[2] / "deploy/dev/private-systemd"
BASE = Path("/var/tmp")
PREFIX = "kennel-systemd."


@dataclass(frozen=True)
class PrivateSystemd:
    """A running systemd. `dir` is readable for every user, so what its units are to run can lie there."""

    dir: Path
    bus: str
    journal: Path

    def run(self, *argv: str) -> str:
        """Run a program inside (systemctl, systemd-analyze); returns what it prints."""
        done = subprocess.run(
            [SCRIPT, "exec", self.dir, *argv], check=False, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout


@contextmanager
def private_systemd() -> Iterator[PrivateSystemd]:
    """Start a systemd and end it again."""
    missing = [name for name in ("/lib/systemd/systemd", "/usr/bin/dbus-daemon") if not Path(name).exists()]
    assert not missing, f"{missing} not installed: run `make setup`"
    assert os.geteuid() == 0, "a private systemd needs root"
    mutex = _lock(BASE)  # no sibling may take a directory that has no lock yet for a dead session's
    try:
        sweep()
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=BASE))
        lock = _lock(directory)
    finally:
        os.close(mutex)
    log = directory / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", SCRIPT, "up", directory],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = PrivateSystemd(
        directory, f"unix:path={directory}/run/dbus/system_bus_socket", directory / "run/log/journal"
    )
    try:
        until(lambda: child.poll() is not None or _is_running(server.bus), what="systemd answers")
        assert child.poll() is None, log.read_text()
        yield server
    finally:
        _remove(directory)
        child.wait(5)
        os.close(lock)


@pytest.fixture(scope="session")
def systemd() -> Iterator[PrivateSystemd]:
    """The systemd of this session."""
    with private_systemd() as server:
        yield server


@pytest.fixture
def own_systemd() -> Iterator[PrivateSystemd]:
    """A systemd of this test's own."""
    with private_systemd() as server:
        yield server


@pytest.fixture
def manager(systemd: PrivateSystemd) -> Iterator[Systemd]:
    """The adapter, connected to the session's systemd; what the test has started is stopped afterwards."""
    with Systemd(systemd.bus) as client:
        yield client
        for name in client.units():
            client.stop(name, 30)


def sweep() -> list[Path]:
    """Finish what sessions that were killed could not; returns their directories."""
    swept = []
    for directory in BASE.glob(f"{PREFIX}*"):
        lock = _lock(directory, wait=False)
        if lock is not None:
            _remove(directory)
            os.close(lock)
            swept.append(directory)
    return swept


def _lock(directory: Path, *, wait: bool = True) -> int | None:
    """Lock a directory itself; the kernel drops the lock however its holder ends."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _remove(directory: Path) -> None:
    subprocess.run([SCRIPT, "down", directory], check=True, timeout=30)
    shutil.rmtree(directory)


def _is_running(bus: str) -> bool:
    try:
        with open_dbus_connection(bus) as connection:
            reply = connection.send_and_get_reply(Properties(MANAGER).get("SystemState"), timeout=2)
            return unwrap_msg(reply)[0][1] == "running"
    except (OSError, DBusErrorResponse):
        return False
