"""The servers that every row shares, and a database with a project in it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import caddy as newest_caddy
from kennel_core import db, migrations, projects
from kennel_core.models import Project
from kennel_core.settings import Settings
from tests.servers.caddy import CaddyServer
from tests.servers.redis import RedisServer


@contextmanager
def caddy(home: Path) -> Iterator[CaddyServer]:
    """Run the Caddy of the local stack."""
    home.mkdir()
    server = CaddyServer(newest_caddy(), home)
    server.start()
    try:
        yield server
    finally:
        server.kill()
        server.ask.close()


@contextmanager
def redis(home: Path) -> Iterator[RedisServer]:
    """Run a Redis without files."""
    home.mkdir()
    server = RedisServer(home)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def new_database(settings: Settings) -> None:
    """Make a database file and a secret key; opens no connection that stays."""
    db.configure(settings.database)
    projects.create_secret_key(settings.secret_key_file)
    migrations.migrate(settings.database)


def add_project(name: str = "acme/shop", url: str = "https://forge.example.org/acme/shop.git") -> Project:
    """Register a project; needs a database connection."""
    return projects.add(name, url, "main")


def wait(what: str, condition: object, timeout: float = 60, interval: float = 0.02) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(interval)
