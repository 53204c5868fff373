"""Real Caddys: Debian's on PATH and the newer one that set-up builds, each with its own ports and storage.

`caddy_server` is the session's, once for each program; `caddy` gives it with the base configuration and
nothing else, for one test. An endpoint in this process says which names get a certificate.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio import client as ws_client

from kennel_core import caddy_config
from kennel_core.adapters.caddy import Caddy
from kennel_core.errors import Unavailable
from kennel_core.reconcile import routes
from kennel_core.reconcile.host import LocalHost
from kennel_core.reconcile.lead import lead
from kennel_core.settings import Settings
from tests.servers.ports import free_port
from tests.waiting import until


def cache() -> Path:
    """Where set-up keeps what it built."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kennel"
    return Path(os.environ.get("DEV_CACHE", default))


def programs() -> list[Path]:
    """Find every Caddy there is."""
    debian = shutil.which("caddy", path="/usr/bin:/usr/local/bin:" + os.environ.get("PATH", ""))
    found = [Path(debian)] if debian else []
    return found + [path for path in [cache() / "bin" / "caddy"] if path.exists()]


def version_of(program: Path) -> tuple[int, int]:
    """Ask a Caddy for its version."""
    said = [
        subprocess.run([program, command], check=True, capture_output=True, text=True, timeout=30).stdout
        for command in ("version", "build-info")
    ]
    return caddy_config.version("".join(said))


@dataclass(frozen=True)
class Answer:
    """What a browser got. Names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Ask:
    """The endpoint that Caddy asks before it gets a certificate."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.asked: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}/internal/caddy/check-domain"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ask = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                [domain] = parse_qs(urlsplit(self.path).query)["domain"]
                ask.asked.append(domain)
                self.send_response(200 if domain in ask.allowed else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class CaddyServer:
    """One Caddy; ends with the process that started it."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program = program
        self.home = home
        self.version = version_of(program)
        self.ask = Ask()
        self.https_port = free_port()
        self.http_port = free_port()
        self.admin = f"unix://{home}/admin.sock"
        self.root_certificate = home / "storage/pki/authorities/local/root.crt"
        self.config = caddy_config.base(
            caddy_config.Base(
                admin=f"unix/{home}/admin.sock",
                ask=self.ask.url,
                https=f"127.0.0.1:{self.https_port}",
                http=f"127.0.0.1:{self.http_port}",
                https_port=self.https_port,
                storage=f"{home}/storage",
                internal=True,
            ),
            self.version,
        )
        settings = Settings(caddy_admin=self.admin, runtime_dir=home / "run")
        self.kennel = LocalHost(settings)  # what a pass has of it
        self.targets = settings.targets_dir
        self.reads_files = self.version >= (2, 8)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it with the base configuration: no route but the catch-all."""
        file = self.home / "caddy.json"
        file.write_text(json.dumps(self.config))
        argv = ["setpriv", "--pdeathsig", "KILL", str(self.program), "run", "--config", str(file)]
        directories = {name: str(self.home) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        with (self.home / "caddy.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv, env={"PATH": os.environ["PATH"], **directories}, stdout=log, stderr=log
            )
        until(self.answers, what="caddy answers")

    def answers(self) -> bool:
        """Tell whether the admin API answers."""
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "caddy.log").read_text()[-2000:]
        try:
            return Caddy(self.admin, timeout=2).routes() is not None
        except Unavailable:
            return False

    def kill(self) -> None:
        """End it at once; its routes are lost."""
        if self.process is not None:
            self.process.kill()  # also ends a frozen one
            self.process.wait()
            self.process = None
        (self.home / "admin.sock").unlink(missing_ok=True)  # it has no time to do so

    def restart_empty(self) -> None:
        """Kill it and start it with the base configuration."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> list[dict[str, Any]]:
        """Read what Caddy logged since its first start."""
        lines = (self.home / "caddy.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def writes(self) -> int:
        """Count the writes that its admin API got."""
        return sum(line.get("method") in {"PATCH", "POST", "PUT", "DELETE"} for line in self.log())

    def reloads(self) -> int:
        """Count how often it took up a changed configuration."""
        return sum(line.get("msg", "").startswith("autosaved config") for line in self.log())

    def reset(self) -> None:
        """Put the base configuration back, and let no name have a certificate."""
        self.ask.allowed.clear()
        self.ask.asked.clear()
        until(self._emptied, what="caddy takes its first routes")

    def _emptied(self) -> bool:
        try:
            Caddy(self.admin).replace_routes([caddy_config.NOT_YET])
        except Unavailable:  # it closes connections to its admin API, too, when it has just reloaded
            return False
        return True

    def lead(self, *entries: routes.Proxy | routes.Files, own: routes.Own | None = None) -> bool:
        """Lead hosts there, as a pass does; returns whether anything was written."""
        return lead(self.kennel, entries, own, self.targets)

    def connect(self, host: str, timeout: float = 20) -> http.client.HTTPConnection:
        """Open a TLS connection as a browser does that asks for `host`; the caller closes it."""
        context = ssl.create_default_context(cafile=str(self.root_certificate))
        plain = socket.create_connection(("127.0.0.1", self.https_port), timeout=timeout)
        connection = http.client.HTTPConnection(host, self.https_port, timeout=timeout)
        try:
            connection.sock = context.wrap_socket(plain, server_hostname=host)
        except OSError:
            plain.close()
            raise
        return connection

    def request(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Ask once over HTTPS; the path is sent as it is."""
        connection = self.connect(host)
        try:
            connection.request(method, path, body=body, headers={"Host": host, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)
        finally:
            connection.close()


def websocket(caddy: CaddyServer, host: str) -> ws_client.connect:
    """Open a WebSocket as a browser does: to use with `async with`.

    Not with the library's threads: one reads while another writes over the same TLS connection, and with
    Python 3.11 the handshake is then now and then never sent.
    """
    context = ssl.create_default_context(cafile=str(caddy.root_certificate))
    return ws_client.connect(
        f"wss://{host}/", host="127.0.0.1", port=caddy.https_port, ssl=context, open_timeout=20
    )


def _name(program: Path) -> str:
    return "caddy-{}.{}".format(*version_of(program))


@pytest.fixture(scope="session", params=programs(), ids=_name)
def caddy_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CaddyServer]:
    """The session's server, once for each program."""
    server = CaddyServer(request.param, tmp_path_factory.mktemp("caddy"))
    server.start()
    yield server
    server.kill()
    server.ask.close()


@pytest.fixture
def caddy(caddy_server: CaddyServer) -> CaddyServer:
    """The session's server with nothing but the base configuration."""
    caddy_server.reset()
    return caddy_server
