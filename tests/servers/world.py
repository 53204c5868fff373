"""`world`: a registered project on a host whose systemd and Caddy are real, and passes that a test calls."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kennel_core import builds, db, lease
from kennel_core.adapters.systemd import Systemd
from kennel_core.models import Build, Project
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.reconcile import Report, converge, run_pass
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.host import LocalHost
from kennel_core.settings import Settings
from tests.servers.caddy import CaddyServer
from tests.servers.systemd import PrivateSystemd

SERVER = """#!/usr/bin/python3
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1)
        code = {health} if self.path == "/api/health" else 200
        body = "{version} {{KENNEL_BRANCH}}".format(**os.environ).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        print("asked for", self.path, flush=True)

server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
print("version {version} listens", flush=True)
server.serve_forever()
"""
CRASHES = "#!/bin/sh\necho cannot find my configuration\nexit 3\n"


class SilentDoorbell:
    """Nobody listens: the passes of a test are called by the test."""

    def __init__(self) -> None:
        self.rung: list[int] = []

    def build(self, build_id: int) -> None:
        self.rung.append(build_id)

    def reconcile(self) -> None:
        pass

    def report(self) -> None:
        pass


@dataclass
class World:
    """A project on a host whose systemd and Caddy are real."""

    project: Project
    settings: Settings
    caddy: CaddyServer
    store: Path
    host: LocalHost
    doorbell: SilentDoorbell
    backoff: Backoff
    systemd: PrivateSystemd
    commits: int = 0

    def service(
        self, version: str, name: str = "api", health: int = 200, timeout: float = 5, script: str = SERVER
    ) -> ServiceOutput:
        path = self.store / f"{version}-{name}"
        program = path / "bin" / name
        if not program.exists():
            program.parent.mkdir(parents=True)
            text = script.format(version=version, health=health) if script is SERVER else script
            program.write_text(text)
            program.chmod(0o755)
        return ServiceOutput(
            name=name,
            store_path=str(path),
            command=[str(program)],
            health_path="/api/health",
            health_timeout=timeout,
        )

    def site(self, version: str, name: str = "docs") -> SiteOutput:
        path = self.store / f"{version}-{name}"
        path.mkdir(exist_ok=True)
        (path / "index.html").write_text(f"<h1>{version}</h1>")
        return SiteOutput(name=name, store_path=str(path))

    def build(
        self, *items: ServiceOutput | SiteOutput, ref: str = "main", needs: tuple[str, ...] = ()
    ) -> Build:
        self.commits += 1
        with db.write():
            builds.enqueue(self.project, ref, f"{self.commits:040x}", time.time())
        build = lease.claim(time.time())
        assert build is not None
        outputs = Outputs(
            config_path=str(self.store),
            resources=list(needs),
            services=[item for item in items if isinstance(item, ServiceOutput)],
            sites=[item for item in items if isinstance(item, SiteOutput)],
        )
        lease.succeed(build, outputs, self.settings, time.time())
        for item in items:
            host = f"shop-{item.name}-{ref}.localhost"
            self.caddy.ask.allowed.add(host)
        return build

    def converge(self) -> Report:
        return converge(self.settings, self.doorbell, self.host, self.backoff)

    def one_pass(self) -> Report:
        return run_pass(self.settings, self.doorbell, self.host, self.backoff)

    def get(self, name: str, ref: str = "main", path: str = "/") -> tuple[int, str]:
        """Ask once; an older Caddy once more, when the connection ends before there is an answer.

        It reloads for a new version, and closes a connection that it accepted just before (RFC 9112 section
        9.3.1 has clients repeat such a request).
        """
        host = f"shop-{name}-{ref}.localhost"
        try:
            answer = self.caddy.request(host, path)
        except ConnectionError:
            if self.caddy.reads_files:
                raise
            answer = self.caddy.request(host, path)
        return answer.status, answer.body.decode()

    def units(self) -> dict[str, str]:
        with Systemd(self.settings.bus) as systemd:
            return systemd.units()

    def status(self, build: Build) -> str:
        return builds.get(build.id).status

    def is_settled(self) -> bool:
        """The next pass does nothing and writes nothing."""
        before = self.written()
        return self.one_pass() == Report() and self.written() == before

    def written(self) -> tuple[int, list[tuple[str, int]]]:
        """What changes when anything is written for Caddy: how many writes it got, the files as they are."""
        found = self.settings.targets_dir.glob("*")
        return self.caddy.writes(), sorted((path.name, path.stat().st_ino) for path in found)


@pytest.fixture
def world(
    settings: Settings,
    database: Path,
    project: Project,
    systemd: PrivateSystemd,
    caddy: CaddyServer,
    tmp_path: Path,
) -> Iterator[World]:
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    host = settings.model_copy(
        update={
            "bus": systemd.bus,
            "journal_dir": systemd.journal,
            "caddy_admin": caddy.admin,
            "drain_timeout": 10.0,
        }
    )
    yield World(project, host, caddy, store, LocalHost(host), SilentDoorbell(), Backoff(), systemd)
    with Systemd(systemd.bus) as client:
        for name in client.units():
            client.stop(name, 30)
