"""Kennel's own web processes, under the real gunicorn with the configuration that is shipped."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import requests

from kennel_core.settings import PREFIX, Settings
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer
from tests.waiting import until

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy" / "gunicorn.conf.py"


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make these settings."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    variables = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items() if value is not None}
    return {"PATH": os.environ["PATH"], "HOME": str(settings.state_dir), **variables}


class Gunicorn:
    """One gunicorn: `application` is ``wsgi`` or ``follow_wsgi``."""

    def __init__(self, settings: Settings, application: str, port: int) -> None:
        self.settings = settings
        self.application = application
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = settings.state_dir / f"{application}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv(), cwd=ROOT, env=environment(self.settings), stderr=log)
        until(self.answers, what=f"gunicorn answers ({self.log})")

    def argv(self) -> list[str]:
        gunicorn = [sys.executable, "-m", "gunicorn", "-c", str(CONFIGURATION)]
        return ["setpriv", "--pdeathsig", "TERM", *gunicorn, f"kennel_web.{self.application}:app"]

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        except requests.ConnectionError:
            return False

    def workers(self) -> set[int]:
        """The process ids of the workers."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(child) for child in path.read_text().split()}

    def kill_worker(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def raw(self, head: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send bytes that no HTTP library would; returns status and body of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(head.replace("\n", "\r\n").encode() + body)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


@pytest.fixture
def web_settings(settings: Settings, database_file: Path, broker: RedisServer) -> Settings:
    """Settings with ports of their own, a database file and a Redis."""
    changes: Mapping[str, object] = {
        "bind": f"127.0.0.1:{free_port()}",
        "follow_bind": f"127.0.0.1:{free_port()}",
        "broker_url": broker.url,
    }
    return settings.model_copy(update=changes)


@pytest.fixture
def web(web_settings: Settings) -> Iterator[Gunicorn]:
    """The web process with its two workers."""
    yield from _running(Gunicorn(web_settings, "wsgi", int(web_settings.bind.rpartition(":")[2])))


@pytest.fixture
def follow(web_settings: Settings) -> Iterator[Gunicorn]:
    """The process for ``?follow=true``."""
    yield from _running(
        Gunicorn(web_settings, "follow_wsgi", int(web_settings.follow_bind.rpartition(":")[2]))
    )


def _running(server: Gunicorn) -> Iterator[Gunicorn]:
    try:
        server.start()
        yield server
    finally:
        server.stop()
