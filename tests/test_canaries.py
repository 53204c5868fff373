"""Secrets that builds and services print in every way are nowhere to be read afterwards."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from urllib.parse import quote

import pytest

from kennel_core import builds, db, env_file, projects
from kennel_core.adapters import process_tree
from kennel_core.adapters.lines import LINE_MAX
from kennel_core.models import BuildStatus, Deployment
from kennel_core.redaction import REDACTED
from kennel_core.settings import Settings
from kennel_web import create_app
from tests.servers.caddy import programs
from tests.servers.git import GitRepository
from tests.servers.nix import DEVENV, Nix
from tests.servers.openbao import OpenBaoServer
from tests.servers.web import environment
from tests.servers.world import World
from tests.waiting import until

CANARIES = {name: f"{name}+canary/4711=ä {os.urandom(6).hex()}" for name in ("cachix", "clone")}
CANARIES["forge"] = f"forge+canary/4711={os.urandom(6).hex()}"  # a header holds it


def forms(secret: str) -> set[bytes]:
    """Ways of writing a secret, and parts of it: a half is a leak as well."""
    data = secret.encode()
    coded = {base64.b64encode(before + data)[4:-4] for before in (b"", b"x", b"xy")}
    return {data, data[-12:], quote(secret, safe="").encode(), json.dumps(secret)[1:-1].encode(), *coded}


def prints(secret: str, borders: tuple[int, ...] = (4096, 8192, LINE_MAX, 2 * LINE_MAX)) -> str:
    """Make a program that prints a secret in each way, in pieces, and at the borders of long lines."""
    return f"""
import base64, json, sys, time, urllib.parse
secret = {secret!r}
ways = [secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret), json.dumps(secret)]
ways += [base64.b64encode((before + secret).encode()).decode() for before in ("", "x", "xy", "user:")]
out = sys.stderr.buffer
for way in ways:
    data = way.encode()
    out.write(b"whole: " + data + b"\\n")
    out.flush()
    for size in (1, 7):  # reads end anywhere
        for at in range(0, len(data), size):
            out.write(data[at : at + size])
            out.flush()
        out.write(b"\\n")
    for border in {borders}:
        for before in (1, len(data) // 2, len(data) - 1):
            out.write(b"x" * (border - before) + data + b"\\n")
            out.flush()
    out.write(b"error: " + b"x" * 281 + data + b"\\n")
    out.flush()
"""


def texts(*places: Path) -> Iterator[tuple[str, bytes]]:
    """Give the content of every file below."""
    for place in places:
        for path in place.rglob("*") if place.is_dir() else (place,):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def answers(settings: Settings, *paths: str) -> dict[str, bytes]:
    """Ask over HTTP, in a thread that has no connection to the database yet."""

    def ask() -> dict[str, bytes]:
        client = create_app(settings, None).test_client()
        found = {path: client.get(path) for path in paths}
        assert {path: answer.status_code for path, answer in found.items()} == dict.fromkeys(paths, 200)
        return {path: answer.data for path, answer in found.items()}

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


class Watch(threading.Thread):
    """Reads the command lines of all processes until it is stopped."""

    def __init__(self, secrets: dict[str, str]) -> None:
        super().__init__()
        self.wanted = {form: name for name, secret in secrets.items() for form in forms(secret)}
        self.found: set[str] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            for pid in process_tree.table():
                try:
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                self.found |= {name for form, name in self.wanted.items() if form in line}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


@pytest.mark.parametrize("phase", ["clone", "discover", "build", "publish", "clone fails", "publish fails"])
def test_what_a_tool_of_a_phase_prints_shows_no_secret(  # fixtures
    settings: Settings,
    database: Path,
    nix: Nix,
    git_repo: GitRepository,
    tmp_path: Path,
    phase: str,
) -> None:
    from tests.test_pipeline import hello  # noqa: PLC0415  # its fixtures are not wanted here

    (tmp_path / "cachix-token").write_text(CANARIES["cachix"] + "\n")
    (tmp_path / "forge-token").write_text(CANARIES["forge"] + "\n")
    secrets = CANARIES
    told = settings.model_copy(
        update={
            "cachix_cache": "acme",
            "cachix_token_file": tmp_path / "cachix-token",
            "forge_url": "http://forge.example.org",
            "forge_token_file": tmp_path / "forge-token",
        }
    )
    commit = git_repo.commit(hello())
    git_repo.push("main")
    url = f"http://ada:{quote(CANARIES['clone'], safe='')}@forge.example.org/acme/shop.git"
    project = projects.add("acme/shop", url, "main")
    _tools(nix, git_repo, tmp_path, phase, secrets)
    with db.write():
        build = builds.enqueue(project, "main", commit, time.time())

    with Watch(secrets) as watch:
        done = subprocess.run(
            [sys.executable, "-m", "tests.campaigns.work_all"],
            env=environment(told) | nix.variables,
            check=True,
            capture_output=True,
            timeout=120,
        )

    row = builds.get(build.id)
    assert row.status == (BuildStatus.FAILED if phase == "clone fails" else BuildStatus.BUILT), row.error
    log = builds.full_log(build.id)
    assert log.count(REDACTED) > 100
    shown = {
        "structured log": done.stdout + done.stderr,
        "error": str(row.error).encode(),
        **answers(told, f"/builds/{build.id}/log"),
        **dict(texts(told.state_dir)),
    }
    del shown[str(told.secret_key_file)]
    clean = {place: text.replace(url.encode(), b"") for place, text in shown.items()}
    wanted = {form: name for name, secret in secrets.items() for form in forms(secret)}
    leaks = {(place, name) for place, text in clean.items() for form, name in wanted.items() if form in text}
    assert leaks == set()
    assert watch.found == set()


def _tools(nix: Nix, repository: GitRepository, tmp_path: Path, phase: str, secrets: dict[str, str]) -> None:
    """Put tools in place that say what they know, and git in reach of the repository."""
    known = ("clone", "forge") if phase != "publish" else ("cachix", "clone", "forge")
    loud = tmp_path / "loud.py"
    loud.write_text("".join(prints(secrets[name]) for name in known))
    away = tmp_path / "loud-cachix.py"
    away.write_text("".join(prints(secret) for secret in secrets.values()))
    say, told = f"python3 {loud}; env >&2", f"python3 {away}; env >&2"
    access = "GIT_ALLOW_PROTOCOL=file"
    real = f'{access} GIT_CONFIG_VALUE_0={repository.url} exec /usr/bin/git "$@"'
    begins = say if phase.startswith("clone") else ":"
    nix.tool("git", f"{begins}\n{'exit 3' if phase == 'clone fails' else real}")
    nix.tool("devenv", f'{say if phase == "discover" else ":"}; exec {DEVENV}/devenv "$@"')
    if phase == "build":
        nix.tool("nix", f'case "$*" in *.drv*) {say};; esac; exec {nix.program_dir}/nix "$@"')
    last = "exit 1" if phase == "publish fails" else f'exec {DEVENV}/cachix "$@"'
    wanted = told if phase.startswith("publish") else ":"
    nix.tool("cachix", f"{wanted}; export CACHIX_STAND_IN_DIR={tmp_path}/caches; {last}")


# --- what services are told

SHOUTS = """#!/usr/bin/python3
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

secrets = [value for name, value in os.environ.items() if name in NAMES]
for secret in secrets:
    exec(WAYS, {{"secret": secret}})
if FAILS:
    sys.exit(3)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass

print("all is said", flush=True)
HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
TOLD = ("TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "REDIS_URL", "VALKEY_URL", "OIDC_CLIENT_SECRET")
ALL = ("garage", "postgres", "valkey")
SPECIFICATION = """
[project]
name = "shop"
revision = "1.0"
[profiles.default]
TOKEN = { description = "for the mail server" }
[profiles.prod]
"""


def shouts(*, fails: bool) -> str:
    """Make a service that prints what it was told in every way."""
    ways = prints("", (48 * 1024,)).split("secret = ''\n")
    text = SHOUTS.replace("{{", "{").replace("}}", "}").replace("NAMES", repr(TOLD))
    return text.replace("WAYS", repr("".join(ways))).replace("FAILS", repr(fails))


@pytest.mark.parametrize("caddy_server", programs()[-1:], indirect=True, ids=["newest"])
def test_what_services_print_shows_no_secret(
    with_logins: World, openbao: OpenBaoServer, capfd: pytest.CaptureFixture[str]
) -> None:
    world = with_logins
    openbao.put("secretspec/shop/prod/TOKEN", f"token+canary/4711=ä {os.urandom(6).hex()}")
    (world.store / "secretspec.toml").write_text(SPECIFICATION)
    with Watch({}) as watch:
        watch.wanted = {form: name for name, secret in _own(world).items() for form in forms(secret)}
        good = world.service("loud", script=shouts(fails=False), timeout=60).model_copy(
            update={"oidc": ["/callback"]}
        )
        first = world.build(good, needs=ALL)
        world.converge()
        assert world.status(first) == BuildStatus.DONE, builds.get(first.id).error
        [unit] = _services(world)
        told = _told(world, unit)
        watch.wanted |= {form: name for name, secret in told.items() for form in forms(secret)}
        bad = world.service("bad", script=shouts(fails=True), timeout=10)
        bad = bad.model_copy(update={"oidc": ["/callback"]})
        second = world.build(bad, needs=ALL)
        until(lambda: world.converge() and world.status(second) == BuildStatus.FAILED, what="it fails")

    row = Deployment.get(Deployment.kind == "service")
    log, *others = f"/deployments/{row.id}/logs?lines=10000", f"/deployments/{row.id}/health"
    others += [f"/builds/{build.id}/log" for build in (first, second)]
    over_http = answers(world.settings, log, *others)
    answer = over_http[log]
    assert b"all is said" in answer
    assert answer.count(REDACTED.encode()) > 100
    shown = {
        **over_http,
        "systemctl show": "".join(
            world.systemd.run("systemctl", "show", name) for name in world.units()
        ).encode(),
        "structured log": "".join(capfd.readouterr()).encode(),
        **{path: text for path, text in texts(world.settings.state_dir) if "kennel.db" in path},
    }
    secrets = told | _own(world)
    assert set(TOLD) <= secrets.keys()
    wanted = {form: name for name, secret in secrets.items() for form in forms(secret)}
    leaks = {(place, name) for place, text in shown.items() for form, name in wanted.items() if form in text}
    assert leaks == set()
    assert watch.found == set()


def _services(world: World) -> list[str]:
    """Name the units of services: those with a port."""
    return [str(row.unit) for row in Deployment.select().where(Deployment.kind == "service")]


def _told(world: World, unit: str) -> dict[str, str]:
    """What a unit was told in secret, by name."""
    [environment_file] = (world.settings.inputs_dir / unit).glob("environ*")
    found = dict(line.split("=", 1) for line in environment_file.read_text().splitlines() if "=" in line)
    return {name: env_file.values(f"{name}={value}")[0] for name, value in found.items() if name in TOLD}


def _own(world: World) -> dict[str, str]:
    """What Kennel itself is told."""
    settings = world.settings
    names = [name for name in settings.model_fields_set if name.endswith("_file") and "role_id" not in name]
    files = {name: getattr(settings, name) for name in names}
    found = {name: path.read_text().strip() for name, path in files.items() if isinstance(path, Path)}
    return found | {"webhook": projects.webhook_secret(world.project, settings.secret_key_file)}
