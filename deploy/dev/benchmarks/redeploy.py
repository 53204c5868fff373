"""Redeploys of a service under steady requests, on the whole running Kennel."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import ROOT, servers, stack, web
from benchmarks.rows import Bench, Row, Unmeasurable, median, row
from kennel_core import builds, db, lease
from kennel_core.models import Project
from kennel_core.outputs import Outputs, ServiceOutput
from kennel_core.settings import Settings

REDEPLOYS = 50
PER_S = 1000
HOST = "shop-api-main.localhost"

SERVER = """#!/usr/bin/python3 -SEI
import asyncio, os, signal

ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\n{version:05}"

class Http(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        *whole, self.data = (self.data + data).split(b"\\r\\n\\r\\n")
        for _ in whole:
            self.transport.write(ANSWER)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Http, "127.0.0.1", int(os.environ["PORT"]), backlog=1024)
    await server.serve_forever()

asyncio.run(main())
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Redeploy again and again, each time as soon as the one before is live."""
    bench.say("starting all of Kennel")
    store = bench.home / "store"
    store.mkdir(mode=0o755)
    with stack.running(bench.home) as running:
        running.caddy.ask.allowed.add(HOST)
        with db.connection():
            project = servers.add_project()
            _deploy(running, project, store, 0)
        load = _start_load(running)
        try:
            time.sleep(2)  # certificates and connections
            seconds = []
            with db.connection():
                for number in range(1, REDEPLOYS + 1):
                    bench.say(f"{number} of {REDEPLOYS} redeploys under {PER_S:,} requests/s")
                    seconds.append(_deploy(running, project, store, number))
            time.sleep(1)
            said, _ = load.communicate("", timeout=60)
        finally:
            load.kill()
            load.wait()
    seen: dict[str, Any] = json.loads(said)
    if seen["versions"] < REDEPLOYS:
        raise Unmeasurable(f"only {seen['versions']} versions answered: {seen}")
    reached = seen["per_second"] >= 0.95 * PER_S
    failures = "".join(f" {what}: {count}." for what, count in seen["failures"].items())
    yield row(
        f"{REDEPLOYS} redeploys under {PER_S:,} requests/s",
        f"{seen['failed']} of {seen['requests']:,} requests failed, {seen['repeated']} repeated",
        "0 failed",
        seen["failed"] == 0 and reached,
        ratio=f"{seen['per_second']:.0f} requests/s reached",
        by=f"by {seen['failed']}" if seen["failed"] else "the rate",
        why=f"over HTTPS through Caddy, on connections that are used again; repeated are requests whose "
        f"connection "
        f"Caddy closed before it answered, as RFC 9112, 9.3.1 has it. Answers: p50 "
        f"{seen['p50'] * 1000:.1f} ms, p99 "
        f"{seen['p99'] * 1000:.0f} ms, slowest {seen['max'] * 1000:.0f} ms. A redeploy took "
        f"{median(seconds):.2f} s "
        f"from built to live, {max(seconds):.2f} s at most.{failures}",
    )


def _start_load(running: stack.Stack) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "benchmarks.load", str(running.caddy.https_port)]
    argv += [str(running.caddy.root_certificate), HOST, str(PER_S)]
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *argv],
        cwd=ROOT / "deploy/dev",
        env=web.without_settings(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _deploy(running: stack.Stack, project: Project, store: Path, version: int) -> float:
    """Do what a builder does at its end, ring, and wait until it is live; returns the seconds."""
    with db.write():
        builds.enqueue(project, "main", f"{version:040x}", time.time())
    build = lease.claim(time.time())
    if build is None:
        raise Unmeasurable("there was no build to claim")
    outputs = Outputs(config_path=str(store), services=[_service(store, version)])
    lease.succeed(build, outputs, running.settings, time.time())
    began = time.monotonic()
    _ring(running.settings)
    servers.wait("the build is live", lambda: builds.get(build.id).status in {"done", "failed"}, 60, 0.01)
    took = time.monotonic() - began
    found = builds.get(build.id)
    if found.status != "done":
        raise Unmeasurable(f"version {version}: {found.error}")
    return took


def _service(store: Path, version: int) -> ServiceOutput:
    path = store / f"v{version}-api"
    program = path / "bin/api"
    program.parent.mkdir(parents=True)
    program.write_text(SERVER.replace("{version:05}", f"{version:05}"))
    program.chmod(0o755)
    return ServiceOutput(
        name="api", store_path=str(path), command=[str(program)], health_path="/", health_timeout=20
    )


def _ring(settings: Settings) -> None:
    """Ask for a pass, as a builder does."""
    from celery import Celery  # noqa: PLC0415  # nothing else here needs it

    with Celery(broker=settings.broker_url) as app:
        app.send_task("kennel.reconcile", queue="reconcile")
