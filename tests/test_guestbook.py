"""The example that uses everything, on real servers: what it was given it uses, and without it gets along."""

import html
import json
import os
import re
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from kennel_core import manifest
from kennel_core.environment import Environment
from kennel_core.oidc import Client
from kennel_core.provision import Owner
from kennel_core.provision.garage import Garage
from kennel_core.provision.oidc import Oidc, variables
from kennel_core.provision.postgres import Postgres
from kennel_core.settings import Settings
from tests.remembered import Remembered
from tests.servers.garage import GarageServer
from tests.servers.keycloak import PERSON, KeycloakServer
from tests.servers.nix import Nix
from tests.servers.ports import accepts, free_port
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import ValkeyServer
from tests.waiting import until

GUESTBOOK = Path(__file__).parents[1] / "examples/guestbook"
OWNER = Owner(7, "guestbook", "main", Environment.PROD, ("guestbook",))
PNG = b"\x89PNG\r\n\x1a\n" + zlib.compress(b"a picture")


class App:
    """One that runs, and a browser that keeps cookies of a secure host, though this one is not."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.url, self.process = f"http://127.0.0.1:{port}", process
        self.browser = requests.Session()

    def get(self, path: str) -> requests.Response:
        return self.see(self.browser.get(self.url + path, timeout=20))

    def post(self, path: str, **content: object) -> requests.Response:
        return self.see(self.browser.post(self.url + path, timeout=20, **content))

    def see(self, answer: requests.Response) -> requests.Response:
        for cookie in self.browser.cookies:
            cookie.secure = False
        return answer

    def state(self) -> dict:
        return self.get("/api/state").json()

    def upload(self, content: bytes) -> requests.Response:
        return self.post("/pictures", files={"picture": ("a.png", content, "image/png")})


@contextmanager
def running(port: int = 0, **environment: str) -> Iterator[App]:
    port = port or free_port()
    own = {"PORT": str(port), "APP_URL": f"http://127.0.0.1:{port}", "PATH": "/usr/bin:/bin"}
    argv = ["setpriv", "--pdeathsig", "KILL", "/usr/bin/python3", "-B", GUESTBOOK / "guestbook"]
    process = subprocess.Popen(argv, env=own | environment, stdout=subprocess.PIPE)
    try:
        until(lambda: accepts(port) or process.poll() is not None, what="the guestbook listens")
        yield App(port, process)
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=20)
        assert process.returncode == 0, said.decode()


@pytest.fixture
def place(settings: Settings, database_file: Path, postgres: PostgresServer, garage_server: GarageServer):
    """Settings with servers that a service reaches over TCP, with a password of its own."""
    at = f"host=127.0.0.1 port={postgres.port} user=kennel_itself dbname=postgres"
    mine = {"postgres": at, "postgres_password_file": postgres.password_file, "postgres_auth": "password"}
    return garage_server.settings(settings.model_copy(update=mine))


@pytest.fixture
def given(place: Settings, shared_valkey: ValkeyServer) -> Iterator[dict[str, str]]:
    """What Kennel tells the service of a database, a cache and a bucket."""
    told = {"VALKEY_URL": f"redis+unix://{shared_valkey.socket}?db=3", "KENNEL_BRANCH": "main"}
    made = [(provisioner(place), Remembered()) for provisioner in (Postgres, Garage)]
    for provisioner, memory in made:
        provisioner.ensure(OWNER, memory)
        told |= provisioner.variables(OWNER, memory, "guestbook")
    yield told
    for provisioner, memory in made:
        provisioner.remove(OWNER, memory)


def test_it_uses_its_database_its_cache_and_its_bucket(given, shared_valkey):
    with running(**given) as app:
        app.post("/entries", data={"words": "Robert'); DROP TABLE entries;--"})
        app.post("/entries", data={"words": "<script>\0alert(1)</script>"})
        assert app.upload(PNG).status_code == 200
        state, page = app.state(), app.get("/").text
        picture = app.get(f"/pictures/{state['pictures'][0]}")

    assert [words for _name, words, _at in state["entries"]] == [
        "<script>alert(1)</script>",
        "Robert'); DROP TABLE entries;--",
    ]
    assert "<script>" not in page
    assert (picture.content, picture.headers["Content-Type"]) == (PNG, "image/png")
    assert shared_valkey.client(3).get("visits") == str(state["visits"] + 1)
    assert (state["database"], state["bucket"]) == (given["PGDATABASE"], given["S3_BUCKET"])


def test_what_was_written_is_there_after_a_restart(given):
    with running(**given) as app:
        app.post("/entries", data={"words": "remember"})
        before = app.state()

    with running(**given) as app:
        assert app.state()["entries"] == before["entries"]


def test_it_takes_pictures_only_and_no_large_ones(given):
    with running(**given) as app:
        assert app.upload(b"<html>").status_code == 415
        assert app.post("/pictures", data=b"nothing").status_code == 415
        assert app.post("/pictures", headers={"Content-Length": str(2**40)}).status_code == 413
        assert app.get("/pictures/..%2F..%2Fpasswd").status_code == 404
        assert app.state()["pictures"] == []


def test_it_is_not_healthy_without_a_server_that_it_was_given(given, shared_valkey):
    with running(**given) as app:
        assert app.get("/api/health").status_code == 200
        shared_valkey.kill()

        answer = app.get("/api/health")
        assert (answer.status_code, app.get("/").status_code) == (503, 502)
        assert "refused" in answer.json()["status"] or "No such file" in answer.json()["status"]


def test_a_person_logs_in_through_keycloak(keycloak: KeycloakServer, keycloak_settings: Settings, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    port = free_port()
    uri = f"http://127.0.0.1:{port}/oauth2/callback"
    client = Client("guestbook", 7, "guestbook", (Environment.PROD,), redirect_uris=frozenset({uri}))
    secret = Oidc(keycloak_settings).ensure(client)
    told = variables(client, secret, keycloak_settings) | {
        "OIDC_ISSUER": f"{keycloak.url}/realms/acme",
        "SIGNING_KEY": str(key),
    }

    with running(port, **told) as app:
        assert app.get("/oauth2/callback?code=x&state=y").status_code == 403  # nobody began that
        app.see(app.browser.get(f"{app.url}/login", timeout=20, allow_redirects=False))
        page = app.get("/login")
        form = re.search(r'<form id="kc-form-login"[^>]* action="([^"]*)"', page.text)
        assert form
        login = dict(zip(("username", "password"), PERSON, strict=True))
        answer = app.see(
            app.browser.post(html.unescape(form[1]), data=login, timeout=20, allow_redirects=False)
        )
        app.see(app.browser.get(answer.headers["Location"], timeout=20))
        again = app.browser.get(answer.headers["Location"], timeout=20)

        assert app.state()["user"] == "Alice Example"
        assert again.status_code == 403  # an answer of Keycloak serves once
        app.get("/logout")
        assert app.state()["user"] is None


@pytest.mark.parametrize("forged", ["", "x", "x.y", "ü.ü", "WyJNYWxsb3J5IiwgOWU5OV0.x", "."])
def test_a_cookie_that_it_did_not_sign_is_nobody(forged):
    with running() as app:
        answer = requests.get(
            f"{app.url}/api/state", headers={"Cookie": f"person={forged}".encode()}, timeout=20
        )

        assert (answer.status_code, answer.json()["user"]) == (200, None)


def test_it_gets_along_with_nothing():
    with running() as app:
        page = app.get("/").text

        assert app.get("/api/health").status_code == 200
        assert "Nobody can log in here" in page
        assert app.post("/entries", data={"words": "x"}).status_code == 404
        assert app.get("/login").status_code == 404


def test_it_declares_what_it_needs(nix: Nix, tmp_path):
    project = tmp_path / "guestbook"
    nix.run("cp", "-r", str(GUESTBOOK), str(project))

    built = Path(nix.run("devenv", "build", "scottylabs.kennel.config", cwd=project))
    reference = f"path:{project}#packages.{os.uname().machine}-linux.guestbook"
    program = Path(nix.run("nix", "build", "--no-link", "--print-out-paths", reference)) / "bin/guestbook"

    assert (built / "secretspec.toml").read_text() == (GUESTBOOK / "secretspec.toml").read_text()
    text = (built / "kennel.json").read_text()
    assert json.loads(text)["resources"] == ["postgres", "valkey", "garage"]
    assert json.loads(text)["services"]["guestbook"]["oidc"] == {"redirect_paths": ["/oauth2/callback"]}
    assert manifest.parse(text)
    assert os.access(program, os.X_OK)
