"""All of Kennel as the Procfile starts it, beside a Redis, a Caddy and a systemd of its own.

Its state lies in one temporary directory, so it runs beside a local stack.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from benchmarks import ROOT, servers, web
from benchmarks.rows import Unmeasurable
from kennel_core import db
from kennel_core.settings import Settings
from tests.servers.caddy import CaddyServer
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer
from tests.servers.systemd import PrivateSystemd, private_systemd
from tests.servers.web import environment

KENNEL = ("web", "follow", "builder", "reconciler", "beat")


@dataclass(frozen=True)
class Stack:
    """What runs. `processes` are Kennel's, by their names in the Procfile."""

    settings: Settings
    systemd: PrivateSystemd
    caddy: CaddyServer
    redis: RedisServer
    processes: dict[str, subprocess.Popen[bytes]]


@contextmanager
def running(
    home: Path, names: tuple[str, ...] = KENNEL, variables: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """Start everything, wait until it is ready, and end it again. `variables` are for Kennel's processes."""
    with ExitStack() as stack:
        systemd = stack.enter_context(private_systemd())
        redis = stack.enter_context(servers.redis(home / "redis"))
        caddy = stack.enter_context(servers.caddy(home / "caddy"))
        settings = Settings(
            state_dir=home / "state",
            runtime_dir=home / "run",
            gcroots_dir=home / "gcroots",
            bind=f"127.0.0.1:{free_port()}",
            follow_bind=f"127.0.0.1:{free_port()}",
            broker_url=redis.url,
            caddy_admin=caddy.admin,
            https_port=caddy.https_port,
            bus=systemd.bus,
            journal_dir=systemd.journal,
            git_allow_file=True,
            log_format="json",
        )
        servers.new_database(settings)
        given = web.without_settings() | environment(settings) | dict(variables or {})
        given |= {
            "PATH": f"{ROOT}/.venv/bin:" + given["PATH"],
            "PROMETHEUS_MULTIPROC_DIR": str(home / "metrics"),
            "PYTHONWARNINGS": "ignore:You",  # Celery warns at length of running as root
            "STACK_FLOWER_PORT": str(free_port()),
        }
        (home / "metrics").mkdir()
        processes = {name: stack.enter_context(_process(name, home, given)) for name in names}
        for name in ("builder", "reconciler"):
            if name in names:
                _wait_for(
                    f"{name} takes messages",
                    lambda name=name: "ready" in (home / f"{name}.log").read_text(),
                    home,
                )
        _wait_for("Kennel is ready", lambda: _is_ready(settings), home)
        try:
            yield Stack(settings, systemd, caddy, redis, processes)
        finally:
            db.database.close()


@contextmanager
def _process(name: str, home: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one line of the Procfile."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if ": " in line)
    argv = shlex.split(_expanded(lines[name].removeprefix("exec "), variables))
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *argv], cwd=ROOT, env=dict(variables), stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            for pid in tree(process.pid):
                os.kill(pid, 9)
            process.wait()


def _expanded(line: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    return line


def tree(pid: int) -> list[int]:
    """List a process and all it started, by their ids."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def _is_ready(settings: Settings) -> bool:
    try:
        return requests.get(f"http://{settings.bind}/readyz", timeout=5).ok
    except requests.RequestException:
        return False


def _wait_for(what: str, condition: object, home: Path) -> None:
    try:
        servers.wait(what, condition, 60)
    except TimeoutError as exc:
        tails = {log.name: log.read_text()[-300:] for log in home.glob("*.log")}
        raise Unmeasurable(f"{exc}: {tails}") from exc
