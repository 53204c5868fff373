"""From a push to its answer over HTTPS: what of that time is Kennel's own.

The example project is pushed to a real repository and built by real nix, on the whole running Kennel. What
git, devenv and nix take is noted by a wrapper around each; a service's own start is from the moment systemd
executes it until it answers its health check, asked every few milliseconds. Everything else is Kennel's.
"""

import contextlib
import http.client
import shutil
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jeepney import DBusAddress, Properties, new_method_call
from jeepney.io.blocking import DBusConnection
from jeepney.wrappers import unwrap_msg

from benchmarks import ROOT, servers, stack
from benchmarks.load import Client, NoAnswer
from benchmarks.rows import Bench, Row, Unmeasurable, at_most, median, row
from kennel_core import builds, db, delivery, projects, resources
from kennel_core.adapters.dbus import open_connection, socket_path
from kennel_core.adapters.unit_spec import MANAGER, SYSTEMD1
from kennel_core.models import Build, Deployment
from tests.servers import nix
from tests.servers.git import GitRepository

ROUNDS = 5
TARGET_S = 1.0
SERVICES = 2  # of the example
HOST = "hello-api-main.localhost"
TOOLS = ("git", "devenv", "nix")

WRAPPER = """#!/bin/bash
began=$EPOCHREALTIME
PATH={rest} {name} "$@"
status=$?
echo "{name} $began $EPOCHREALTIME" >>{file}
exit $status
"""

Span = tuple[float, float]  # Unix seconds


@dataclass(frozen=True)
class Push:
    """When what happened, in Unix seconds; `tools` and `services` are spans of time that are not Kennel's."""

    sent: float
    answered: float
    build: Build
    tools: dict[str, list[Span]]
    services: list[Span]
    live: float

    def steps(self) -> dict[str, float]:
        """Split Kennel's own time."""
        started, built = float(self.build.started_at or 0), float(self.build.built_at or 0)
        executed, healthy = min(s for s, _ in self.services), max(e for _, e in self.services)
        working = covered([span for spans in self.tools.values() for span in spans])
        return {
            "webhook answered": self.answered - self.sent,
            "builder took it": max(0.0, started - self.answered),
            "around git, devenv and nix": built - started - working,
            "unit executed": executed - built,
            "around the services' start": healthy - executed - covered(self.services),
            "healthy to answering over HTTPS": self.live - healthy,
        }


def covered(spans: Sequence[Span]) -> float:
    """Add up what spans cover, what overlaps once."""
    total, until = 0.0, 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def measure(bench: Bench) -> Iterator[Row]:
    """Push a few times."""
    if not nix.programs():
        raise Unmeasurable("nix is not installed: run `make setup`")
    bench.say("starting all of Kennel")
    variables = _tools(bench.home)
    repository = GitRepository(bench.home / "git")
    shutil.copytree(ROOT / "examples/hello", repository.tree, dirs_exist_ok=True)
    with stack.running(bench.home, variables=variables) as running:
        running.caddy.ask.allowed |= {
            f"hello-{name}-main.localhost" for name in ("api", "worker", "docs", "app")
        }
        with db.connection():
            project = projects.add("acme/hello", repository.url, "main")
            secret = projects.webhook_secret(project, running.settings.secret_key_file)
            pushes = []
            for number in range(ROUNDS + 1):
                bench.say(f"push {number} of {ROUNDS}" if number else "a first push")
                repository.commit({"VERSION": f"{number}\n"})
                commit = repository.push("main")
                event = delivery.event(project, "main", commit)
                pushes.append(_push(running, bench.home, event, secret, str(number)))
                servers.wait("old units have gone", lambda: len(resources.units()) == SERVICES)
    yield _row(pushes[1:])  # the first also has to evaluate and build everything


def _tools(home: Path) -> dict[str, str]:
    """Prepare a store and wrappers around the programs; returns the variables that make Kennel use both."""
    (home / "nix/etc").mkdir(parents=True)
    (home / "nix/etc/nix.conf").write_text(nix.CONFIG)
    made = nix.Nix(nix.programs()[-1], home / "nix", home / "tools")
    made.tools.mkdir()
    rest = made.variables["PATH"].partition(":")[2]
    for name in TOOLS:
        program = made.tools / name
        program.write_text(WRAPPER.format(name=name, rest=rest, file=home / "spans"))
        program.chmod(0o755)
    (home / "spans").touch()
    return made.variables


def _push(running: stack.Stack, home: Path, event: delivery.Event, secret: str, version: str) -> Push:
    (home / "spans").write_text("")
    watch = _Watch(running, version)
    watch.start()
    sent = time.time()
    answer = delivery.deliver(f"http://{running.settings.bind}/webhook", event, secret)
    answered = time.time()
    number = answer["build"]
    servers.wait(
        "the build is built", lambda: builds.get(number).status not in {"queued", "building"}, 120, 0.01
    )
    services = _services(running, number)
    watch.join(60)
    with contextlib.suppress(TimeoutError):  # said below
        servers.wait("its end is noted", lambda: builds.get(number).status in {"done", "failed"}, 5)
    build = builds.get(number)
    if build.status != "done" or not watch.live:
        log = (home / "reconciler.log").read_text()[-2000:]
        raise Unmeasurable(
            f"build {number} is {build.status}: {build.error}\n{builds.full_log(number)[-2000:]}\n{log}"
        )
    tools = defaultdict(list)
    for line in (home / "spans").read_text().splitlines():
        name, begin, end = line.split()
        tools[name].append((float(begin), float(end)))
    return Push(sent, answered, build, tools, services, watch.live)


class _Watch(threading.Thread):
    """Notes when a version answers over HTTPS."""

    def __init__(self, running: stack.Stack, version: str) -> None:
        super().__init__(daemon=True)
        self.live = 0.0
        self._caddy = running.caddy
        self._wanted = f'"version": "{version}"'

    def run(self) -> None:
        context = ssl.create_default_context(cafile=str(self._caddy.root_certificate))
        client = Client(self._caddy.https_port, HOST, context)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                status, body = client.get()
                if status == 200 and self._wanted in body:
                    self.live = time.time()
                    break
            except (OSError, ValueError, KeyError, NoAnswer):
                pass
            time.sleep(0.005)
        client.close()


def _services(running: stack.Stack, build_id: int) -> list[Span]:
    """Find for each service that the build starts when it was executed, and when it was healthy."""
    rows = [
        found
        for found in Deployment.select().where(Deployment.build == build_id)
        if found.unit and found.unit != (found.live or {}).get("unit")
    ]
    spans: list[Span] = []
    threads = [threading.Thread(target=lambda r=found: spans.append(_span(running, r))) for found in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(spans) != len(rows) or not spans:
        raise Unmeasurable("a service was not seen to start")
    return spans


def _span(running: stack.Stack, found: Deployment) -> Span:
    deadline = time.monotonic() + 60
    while not _is_healthy(found.port, found.health["path"]):
        if time.monotonic() > deadline:
            raise Unmeasurable(f"{found.unit} is not healthy")
        time.sleep(0.003)
    healthy = time.time()
    connection = open_connection(socket_path(running.settings.bus))
    with connection:
        return _executed(connection, found.unit), healthy


def _executed(connection: DBusConnection, unit: str) -> float:
    (path,) = unwrap_msg(connection.send_and_get_reply(new_method_call(MANAGER, "GetUnit", "s", (unit,))))
    service = DBusAddress(path, SYSTEMD1, f"{SYSTEMD1}.Service")
    message = Properties(service).get("ExecMainStartTimestamp")
    ((_signature, microseconds),) = unwrap_msg(connection.send_and_get_reply(message))
    return float(microseconds) / 1e6


def _is_healthy(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _row(pushes: Sequence[Push]) -> Row:
    steps = [push.steps() for push in pushes]
    own = median([sum(found.values()) for found in steps])
    whole = median([push.live - push.sent for push in pushes])
    parts = ", ".join(f"{name} {median([found[name] for found in steps]) * 1000:.0f}" for name in steps[0])
    tools = ", ".join(
        f"{name} {median([covered(push.tools[name]) for push in pushes]):.2f} s" for name in TOOLS
    )
    start = median([covered(push.services) for push in pushes])
    return row(
        "push to live, beyond git, nix and the service's own start",
        f"{own:.2f} s of {whole:.2f} s",
        f"≤ {TARGET_S:.0f} s",
        own <= TARGET_S,
        ratio=f"{own / whole:.2f} of all",
        by=at_most(own, TARGET_S, "s"),
        why=f"median of {len(pushes)} pushes of the example, whose commit changes both services "
        f"and both sites; in ms: {parts}. Not Kennel's: {tools} (devenv calls "
        f"nix, so they overlap), the service's own start {start:.2f} s.",
    )
