"""Where a history is played: a database in memory, a model of the machine, a clock, and Kennel's own code."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kennel_core import db, effects, migrations, ports, projects
from kennel_core.effects import Effect
from kennel_core.errors import AdapterError, Conflict
from kennel_core.models import Project
from kennel_core.reconcile.backoff import Backoff
from kennel_core.settings import Settings
from tests.campaigns import look
from tests.model_host import Machine, ModelHost

MEMORY = Path("/dev/shm")
PREFIX = "kennel-history."
PORTS = "30000-30039"
FIRST = 1_700_000_000.0


class Killed(BaseException):
    """Kennel was killed here."""


class Clock:
    """Stands still until somebody sleeps; `jump` moves only what the wall shows."""

    def __init__(self) -> None:
        self.wall, self.steady = FIRST, 1000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        self.sleep(0.001)
        return self.steady

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def jump(self, seconds: float) -> None:
        self.wall += seconds


def remove_left_by(pid: int) -> None:
    """Remove what a process that was killed has left."""
    for path in MEMORY.glob(f"{PREFIX}{pid}.*"):
        shutil.rmtree(path, ignore_errors=True)


class Stage:
    """Kennel is whoever holds a `host`, a `backoff` and messages; a kill takes all of them."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}.", dir=MEMORY))
        self.settings = Settings(
            state_dir=self.home / "state",
            runtime_dir=self.home / "run",
            gcroots_dir=self.home / "gcroots",
            ports=PORTS,
            drain_timeout=1.0,
            preview_stop_days=0,
            preview_remove_days=0,
        )
        self.store = self.home / "store"
        self.store.mkdir()
        self.clock = Clock()
        self.machine = Machine()
        self.kill_in: int | None = None
        self.wrote: list[str] = []
        self.rung: list[int] = []
        self._undo = [(module, name, getattr(module, name)) for module, name in PATCHED]
        for module, name, own in (
            (time, "time", self.clock.time),
            (time, "monotonic", self.clock.monotonic),
            (time, "sleep", self.clock.sleep),
            (ports, "can_bind", self._is_free),
        ):
            setattr(module, name, own)
        _prepare(self.settings)
        db.configure(self.settings.database)
        db.database.connect()
        self.project = Project.get()
        self.secret = projects.webhook_secret(self.project, self.settings.secret_key_file)
        self.start_kennel()

    def close(self) -> None:
        effects.watch(None)
        db.database.close()
        for module, name, original in self._undo:
            setattr(module, name, original)
        shutil.rmtree(self.home)

    # --- the doorbell

    def build(self, build_id: int) -> None:
        with Effect("publish"):
            self.rung.append(build_id)

    def reconcile(self) -> None:
        with Effect("publish"):
            pass

    report = reconcile

    def alive(self, action: Callable[[], Any]) -> bool:
        """Run something of Kennel's; False when it was killed, and started again."""
        try:
            action()
        except Killed:
            db.database.close()
            db.database.connect()
            self.start_kennel()
            return False
        except (AdapterError, Conflict):
            pass  # the task ends, and is logged
        return True

    def start_kennel(self) -> None:
        self.host = ModelHost(self.settings, self.machine, self.clock.sleep)
        self.backoff = Backoff()
        self.rung = []  # messages may be lost with it
        effects.watch(self._watch)

    def _watch(self, name: str, when: str) -> None:
        self.wrote.append(name)
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                self.kill_in = None
                raise Killed(f"{when} {name}")

    def _is_free(self, port: int) -> bool:
        return port not in self.machine.listeners

    def rows(self) -> look.Seen:
        return look.rows(exact=True)


PATCHED = ((time, "time"), (time, "monotonic"), (time, "sleep"), (ports, "can_bind"))
_template: list[tuple[bytes, bytes]] = []


def _prepare(settings: Settings) -> None:
    """Make database and key; the first time as set-up does, then from a copy."""
    if _template:
        settings.state_dir.mkdir()
        settings.secret_key_file.write_bytes(_template[0][0])
        settings.secret_key_file.chmod(0o600)
        settings.database.write_bytes(_template[0][1])
        return
    db.configure(settings.database)
    projects.create_secret_key(settings.secret_key_file)
    migrations.migrate(settings.database)
    with db.connection():
        projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
    _template.append((settings.secret_key_file.read_bytes(), settings.database.read_bytes()))
