"""A real Keycloak with the realm of deploy/dev/keycloak-realm.json, and a relay that counts, cuts and lies.

`keycloak` is the session's server with no client but the realm's own; `relay` stands in front of it;
`keycloak_settings` lead Kennel to the relay.
"""

import base64
import hashlib
import html
import http.client
import json
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from kennel_core.settings import Settings
from tests.servers.caddy import cache
from tests.servers.ports import free_port
from tests.waiting import until

PROGRAM = Path(__file__).parents[2] / "deploy" / "dev" / "keycloak"
REALM = "acme"
SERVICE_CLIENT = ("kennel", "kennel-secret")
MASTER = ("admin", "admin-password")
PERSON = ("alice", "alice-password")
ROLE = "manage-clients"


class KeycloakServer:
    """One Keycloak; ends with the process that started it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.own_clients: frozenset[str] = frozenset()
        self._token = ""
        self._token_until = 0.0  # time.monotonic()

    def start(self) -> None:
        built = cache() / "keycloak"
        assert (built / "stamp").exists(), "Keycloak is not there: run `make setup` (it needs java and mvn)"
        argv = ["setpriv", "--pdeathsig", "KILL", PROGRAM, built, self.home, str(self.port)]
        with (self.home.parent / f"{self.home.name}.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(self.answers, timeout=120, interval=0.25, what="Keycloak is ready")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"Keycloak ended with status {self.process.returncode}"
        try:
            return requests.get(f"{self.url}/health/ready", timeout=10).ok
        except requests.ConnectionError:
            return False

    def freeze(self) -> None:
        """Let it accept connections and never answer."""
        self._signal(signal.SIGSTOP)
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/stat")
        until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", what="Keycloak is stopped")

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    # --- what the realm's administrator does ---

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """Call the admin API below the realm, as the administrator; gives the parsed answer."""
        if time.monotonic() > self._token_until:
            user, password = MASTER
            form = {
                "grant_type": "password",
                "client_id": "admin-cli",
                "username": user,
                "password": password,
            }
            endpoint = f"{self.url}/realms/master/protocol/openid-connect/token"
            answer = requests.post(endpoint, data=form, timeout=30).json()
            self._token = answer["access_token"]
            self._token_until = time.monotonic() + answer["expires_in"] / 2
        response = requests.request(
            method,
            f"{self.url}/admin/realms/{REALM}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=30,
        )
        response.raise_for_status()
        return response.json() if response.content else None

    def client(self, client_id: str) -> dict[str, Any]:
        (found,) = self.admin("GET", f"/clients?clientId={client_id}")
        return found

    def client_ids(self) -> frozenset[str]:
        """Name the clients that are not the realm's own."""
        return frozenset(each["clientId"] for each in self.admin("GET", "/clients")) - self.own_clients

    def change(self, client_id: str, **fields: object) -> None:
        self.admin("PUT", f"/clients/{self.client(client_id)['id']}", fields)

    def give_roles(self, *names: str) -> None:
        """Give Kennel's service account exactly these roles of realm-management."""
        account = self.admin("GET", f"/clients/{self.client(SERVICE_CLIENT[0])['id']}/service-account-user")
        roles = self.client("realm-management")["id"]
        path = f"/users/{account['id']}/role-mappings/clients/{roles}"
        self.admin("DELETE", path, self.admin("GET", path))
        self.admin("POST", path, [self.admin("GET", f"/clients/{roles}/roles/{name}") for name in names])

    def revoke(self, token: str) -> None:
        response = requests.post(
            f"{self.url}/realms/{REALM}/protocol/openid-connect/revoke",
            data={"token": token},
            auth=SERVICE_CLIENT,
            timeout=30,
        )
        response.raise_for_status()

    def reset(self) -> None:
        for client_id in self.client_ids():
            self.admin("DELETE", f"/clients/{self.client(client_id)['id']}")

    # --- what a browser and an application do ---

    def log_in(self, client_id: str, secret: str, redirect_uri: str) -> dict[str, Any]:
        """Go through the whole login of a person, and give the claims of the ID token."""
        endpoint = f"{self.url}/realms/{REALM}/protocol/openid-connect"
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        nonce = secrets.token_hex(8)
        with requests.Session() as browser:
            page = browser.get(
                f"{endpoint}/auth",
                params={
                    "client_id": client_id,
                    "redirect_uri": redirect_uri,
                    "response_type": "code",
                    "scope": "openid",
                    "state": "state",
                    "nonce": nonce,
                    "code_challenge": challenge,
                    "code_challenge_method": "S256",
                },
                timeout=30,
            )
            if page.status_code != 200:
                raise LoginRefused(re.sub(r"<[^>]*>|\s+", " ", page.text))
            for cookie in browser.cookies:
                cookie.secure = False  # it is, even over http to this host
            form = re.search(r'<form id="kc-form-login"[^>]* action="([^"]*)"', page.text)
            assert form, page.text
            answer = browser.post(
                html.unescape(form[1]),
                data={"username": PERSON[0], "password": PERSON[1]},
                allow_redirects=False,
                timeout=30,
            )
        assert answer.status_code == 302, answer.text
        assert answer.headers["Location"].startswith(f"{redirect_uri}?")
        tokens = requests.post(
            f"{endpoint}/token",
            data={
                "grant_type": "authorization_code",
                "code": parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0],
                "redirect_uri": redirect_uri,
                "code_verifier": verifier,
            },
            auth=(client_id, secret),
            timeout=30,
        )
        if not tokens.ok:
            raise LoginRefused(tokens.text)
        body = tokens.json()["id_token"].split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        assert claims["nonce"] == nonce
        return claims


class LoginRefused(Exception):
    """Keycloak did not let the person, or the application, in."""


class Relay(ThreadingHTTPServer):
    """Passes requests on to a server; `seen` has method and path of each, `tokens` what it was sent with.

    `cut` closes the connection of the request of that number (from 0): before it reaches the server, or with
    `late` after, so that only the answer is lost. `lies` are answers in place of the server's: status, type
    and body by the beginning of the path.
    """

    block_on_close = False
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.port = port
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.cut = -1
        self.late = False
        self.lies: dict[str, tuple[int, str, str]] = {}
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def writes(self) -> list[str]:
        """Give the methods of the requests that change something."""
        return [method for method, path in self.seen if method != "GET" and not path.endswith("/token")]

    def forget(self) -> None:
        self.seen.clear()
        self.tokens.clear()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Passing(BaseHTTPRequestHandler):
    """One connection to a relay."""

    server: Relay
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            is_cut = len(self.server.seen) == self.server.cut
            self.server.seen.append((self.command, self.path))
            self.server.tokens.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
        lies = [lie for start, lie in self.server.lies.items() if self.path.startswith(start)]
        if lies and not is_cut:
            status, kind, text = lies[0]
            self._say(status, {"Content-Type": kind}, text.encode())
        elif is_cut and not self.server.late:
            self._hang_up()
        else:
            self._pass_on(body, is_cut=is_cut)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _pass_on(self, body: bytes, *, is_cut: bool) -> None:
        wire = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            wire.request(self.command, self.path, body, dict(self.headers))
            answer = wire.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            is_cut = True
        finally:
            wire.close()
        if is_cut:
            self._hang_up()
        else:
            self._say(answer.status, dict(answer.headers), content)

    def _say(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def keycloak_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeycloakServer]:
    """The session's server."""
    server = KeycloakServer(tmp_path_factory.mktemp("keycloak") / "home")
    server.start()
    server.own_clients = server.client_ids()
    yield server
    server.kill()


@pytest.fixture
def keycloak(keycloak_server: KeycloakServer) -> KeycloakServer:
    """The session's server, as it was at first."""
    keycloak_server.reset()
    keycloak_server.give_roles(ROLE)
    return keycloak_server


@pytest.fixture
def relay(keycloak: KeycloakServer) -> Iterator[Relay]:
    """What stands between Kennel and Keycloak."""
    made = Relay(keycloak.port)
    yield made
    made.close()


@pytest.fixture
def keycloak_settings(settings: Settings, relay: Relay, tmp_path: Path) -> Settings:
    """Settings that lead to the relay."""
    file = tmp_path / "keycloak-secret"
    file.write_text(f"{SERVICE_CLIENT[1]}\n")
    return settings.model_copy(
        update={"keycloak": relay.url, "keycloak_realm": REALM, "keycloak_secret_file": file}
    )
