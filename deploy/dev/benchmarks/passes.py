"""The pass over 10, 100 and 1,000 deployments: nothing to do, one changed, Caddy restarted empty.

The deployments are services of four to a ref, each a running unit of the real systemd and a route of the real
Caddy. The units run `sleep` without the sandbox, which a pass that finds them running cannot tell from
others; the one that is changed is an HTTP server in the sandbox.
"""

import dataclasses
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from jeepney import HeaderFields
from jeepney.io.blocking import DBusConnection

from benchmarks import servers
from benchmarks.rows import Bench, Row, Unmeasurable, at_most, median, row
from kennel_core import builds, db, deployments, lease, resources
from kennel_core.adapters.systemd import Systemd
from kennel_core.errors import AdapterError
from kennel_core.models import Build, Project
from kennel_core.outputs import Outputs, ServiceOutput
from kennel_core.reconcile import Report, converge
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.desired import wanted
from kennel_core.reconcile.host import LocalHost, unit_spec
from kennel_core.reconcile.plan import Desired
from kennel_core.settings import Settings
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.caddy import CaddyServer
from tests.servers.systemd import private_systemd

SIZES = (10, 100, 1000)
SERVICES = 4  # of each ref
TARGET_S, TARGET_CALLS = 0.25, 3
CHANGED_S = RESTORED_S = 1.0

SERVER = """#!/usr/bin/python3 -SEI
import os, socket
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=128)
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
    connection.close()
"""


class TimedHost(LocalHost):
    """Notes how long each step takes, how often Caddy is led elsewhere, and when it last was."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.seconds: Counter[str] = Counter()
        self.routed_at = 0.0
        self.led = 0

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[step] += time.monotonic() - began

    def each_start(self, rows: Sequence[Desired]) -> list[AdapterError | None]:
        """See `Host`."""
        with self._timed("start"):
            return super().each_start(rows)

    def each_probe(self, rows: Sequence[Desired], window: float) -> list[str | None]:
        """See `Host`."""
        with self._timed("health"):
            return super().each_probe(rows, window)

    def replace_routes(self, routes: list[dict[str, Any]]) -> None:
        """See `Host`."""
        with self._timed("route"):
            super().replace_routes(routes)
        self.routed_at = time.monotonic()
        self.led += 1

    def write_target(self, name: str, target: str) -> None:
        """See `Host`."""
        with self._timed("route"):
            super().write_target(name, target)
        self.routed_at = time.monotonic()
        self.led += 1


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Count every D-Bus message and every request of this process."""
    seen: Counter[str] = Counter()
    send, request = DBusConnection.send_message, requests.Session.request

    def counting_send(self: Any, message: Any, serial: Any = None) -> Any:
        seen[f"D-Bus {message.header.fields[HeaderFields.member]}"] += 1
        return send(self, message, serial)

    def counting_request(self: Any, method: Any, *args: Any, **options: Any) -> Any:
        seen[f"Caddy {method}"] += 1
        return request(self, method, *args, **options)

    DBusConnection.send_message, requests.Session.request = counting_send, counting_request
    try:
        yield seen
    finally:
        DBusConnection.send_message, requests.Session.request = send, request


class World:
    """The project, and how it grows."""

    def __init__(self, settings: Settings, home: Path, caddy: CaddyServer) -> None:
        self.settings = settings
        self.caddy = caddy
        self.host = TimedHost(settings)
        self.store = home / "store"
        self.project: Project = servers.add_project()
        self.commits = 0

    def service(self, name: str, version: str) -> ServiceOutput:
        """Make a version of the HTTP server."""
        path = self.store / f"{version}-{name}"
        program = path / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(SERVER)
        program.chmod(0o755)
        path.chmod(0o755)
        return ServiceOutput(
            name=name, store_path=str(path), command=[str(program)], health_path="/", health_timeout=10
        )

    def built(self, ref: str, services: list[ServiceOutput]) -> Build:
        """Do what a builder does at its end."""
        self.commits += 1
        with db.write():
            builds.enqueue(self.project, ref, f"{self.commits:040x}", time.time())
        build = lease.claim(time.time())
        if build is None:
            raise Unmeasurable("there was no build to claim")
        lease.succeed(build, self.outputs(services), self.settings, time.time())
        return build

    def outputs(self, services: list[ServiceOutput]) -> Outputs:
        """Say what a build made."""
        return Outputs(config_path=str(self.store), services=services, resources=[])

    def grow(self, size: int) -> None:
        """Have `size` deployments that run, without a pass."""
        have = len(deployments.all_rows())
        while have < size:
            count = min(SERVICES, size - have)
            ref = f"branch-{have}"
            services = [
                ServiceOutput(name=f"svc{n}", store_path=f"{self.store}/{ref}-svc{n}", command=["/bin/sleep"])
                for n in range(count)
            ]
            build = self.built(ref, services)
            with db.write():
                builds.went_live(build.id, time.time())
                deployments.went_live(build)
            have += count
        running = self.host.units()
        missing = [item for item in wanted(self.settings).live if item.unit not in running]
        with db.write():
            resources.note_units({str(item.unit): (item.port, item.owner) for item in missing}, time.time())
        with Systemd(self.settings.bus) as systemd:
            for item in missing:
                spec = dataclasses.replace(item, command=("/bin/sleep", "infinity"))
                systemd.start(dataclasses.replace(unit_spec(spec, self.settings), sandbox=False), 30)

    def converge(self) -> Report:
        """Do what the reconciler does when it is rung for."""
        return converge(self.settings, RecordingDoorbell(), self.host, Backoff())


def measure(bench: Bench) -> Iterator[Row]:
    """Measure at each size; at the largest also what follows a change."""
    bench.say("starting systemd and Caddy")
    (bench.home / "store").mkdir(mode=0o755)
    with private_systemd() as systemd, servers.caddy(bench.home / "caddy") as caddy:
        settings = Settings(
            state_dir=bench.home / "state",
            runtime_dir=bench.home / "run",
            gcroots_dir=bench.home / "gcroots",
            bus=systemd.bus,
            journal_dir=systemd.journal,
            caddy_admin=caddy.admin,
        )
        servers.new_database(settings)
        with db.connection():
            world = World(settings, bench.home, caddy)
            for size in SIZES:
                bench.say(f"starting units until there are {size:,}")
                world.grow(size)
                bench.say(f"passes over {size:,} deployments with nothing to do")
                yield _no_op(world, size)
            yield _one_changed(world, bench.say)
            yield _caddy_restarted(world, bench.say)
            bench.say("stopping the units")


def _no_op(world: World, size: int, rounds: int = 15) -> Row:
    report = world.converge()
    if report.errors:
        raise Unmeasurable(report.errors[0])
    world.converge()
    writes, connection = world.caddy.writes(), db.database.connection()
    changes = connection.total_changes
    with counted_calls() as calls:
        if world.converge() != Report():
            raise Unmeasurable("a pass over a settled host did something")
    changes = connection.total_changes - changes
    writes = world.caddy.writes() - writes + changes
    walls, processor, floors = [], [], []
    for _ in range(rounds):  # in turn, so that a busy machine is busy for both
        floors.append(_elapsed(lambda: _answers(world)))
        used = time.process_time()
        walls.append(_elapsed(world.converge))
        processor.append(time.process_time() - used)
    took, floor = median(walls), median(floors)
    what = ", ".join(f"{name} {count}" for name, count in sorted(calls.items()))
    met = took <= TARGET_S and calls.total() <= TARGET_CALLS and writes == 0
    return row(
        f"no-op pass over {size:,} deployments",
        f"{took * 1000:.0f} ms, {calls.total()} backend calls, {writes} writes",
        f"≤ {TARGET_S * 1000:.0f} ms, ≤ {TARGET_CALLS} calls, 0 writes" if size == SIZES[-1] else "",
        met if size == SIZES[-1] else None,
        ratio=f"{took / floor:.1f} times the three answers alone ({floor * 1000:.0f} ms)",
        by=at_most(took * 1000, TARGET_S * 1000, "ms"),
        why=f"median of {rounds} passes, slowest {max(walls) * 1000:.0f} ms, processor time "
        f"{median(processor) * 1000:.0f} ms; calls: {what}. The three answers alone: one SELECT of all rows, "
        "one D-Bus list, one GET with the files that say what is live.",
    )


def _answers(world: World) -> None:
    """Ask for what a pass has to know, and do nothing with it."""
    with sqlite3.connect(f"file:{world.settings.database}?mode=ro", uri=True) as reader:
        reader.execute("SELECT * FROM deployments").fetchall()
    reader.close()
    world.host.units()
    world.host.routes()
    world.host.targets()


def _one_changed(world: World, say: Callable[[str], None], rounds: int = 7) -> Row:
    walls, steps, started, written = [], [], 0, 0
    for number in range(rounds):
        say(f"one changed among {SIZES[-1]:,}: {number + 1} of {rounds}")
        services = [
            ServiceOutput(name=f"svc{n}", store_path=f"{world.store}/branch-0-svc{n}", command=["/bin/sleep"])
            for n in range(1, SERVICES)
        ]
        build = world.built("branch-0", [world.service("svc0", f"v{number}"), *services])
        world.host.seconds.clear()
        led = world.host.led
        began = time.monotonic()
        with counted_calls() as calls:
            report = world.converge()
        if report.failed or report.errors or builds.get(build.id).status != "done":
            raise Unmeasurable(str(report))
        walls.append(world.host.routed_at - began)
        steps.append(dict(world.host.seconds))
        started += calls["D-Bus StartTransientUnit"]
        written += world.host.led - led
    took = median(walls)
    parts = {name: median([found.get(name, 0.0) for found in steps]) for name in ("start", "health", "route")}
    rest = took - sum(parts.values())
    return row(
        f"one changed among {SIZES[-1]:,}, from built to routed",
        f"{took * 1000:.0f} ms, {started / rounds:g} unit start, {written / rounds:g} write for Caddy",
        "≤ 1 s, 1 start, 1 write",
        took <= CHANGED_S and started == written == rounds,
        by=at_most(took, CHANGED_S, "s"),
        why=f"median of {rounds}, slowest {max(walls) * 1000:.0f} ms: unit start "
        f"{parts['start'] * 1000:.0f} ms, "
        f"wait for health (the application's own start included) {parts['health'] * 1000:.0f} ms, write "
        f"for Caddy "
        f"{parts['route'] * 1000:.0f} ms, everything else {rest * 1000:.0f} ms.",
    )


def _caddy_restarted(world: World, say: Callable[[str], None], rounds: int = 5) -> Row:
    walls, writes = [], []
    for number in range(rounds):
        say(f"Caddy restarted empty: {number + 1} of {rounds}")
        world.caddy.restart_empty()
        began = time.monotonic()
        with counted_calls() as calls:
            world.converge()
        walls.append(world.host.routed_at - began)
        writes.append(calls["Caddy PATCH"])
        if len(world.host.routes()) < SIZES[-1]:
            raise Unmeasurable("not all routes came back")
    took = median(walls)
    return row(
        f"Caddy restarted empty, {SIZES[-1]:,} routes",
        f"{took * 1000:.0f} ms until all are back, {max(writes)} write",
        "≤ 1 s after detection",
        took <= RESTORED_S,
        by=at_most(took, RESTORED_S, "s"),
        why=f"median of {rounds}, slowest {max(walls) * 1000:.0f} ms; from the begin of the pass that "
        f"finds the routes "
        "gone, which comes within 30 s, or at once after any push.",
    )


def _elapsed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began
