"""Fixtures for every test: settings that reach nothing of the machine's own, and a database file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kennel_core import db, migrations, projects
from kennel_core.models import Project
from kennel_core.settings import PREFIX, Settings

SERVERS = (
    "redis",
    "git",
    "systemd",
    "caddy",
    "nix",
    "prometheus",
    "postgres",
    "web",
    "stack",
    "garage",
    "openbao",
    "keycloak",
    "valkey",
    "world",
    "equipped",
    "gitea",
    "toolchains",
)
pytest_plugins = [f"tests.servers.{server}" for server in SERVERS]

FIRST_PORT = 20_000 + os.getpid() % 24 * 500  # another session beside this one has its own ports

for variable in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[variable]  # a person's own Kennel must not reach the tests


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with all state below the test's directory. For others: `settings.model_copy(update={...})`."""
    return Settings(
        state_dir=tmp_path / "state",
        runtime_dir=tmp_path / "run",
        gcroots_dir=tmp_path / "gcroots",
        broker_url=f"redis+socket://{tmp_path}/no-redis.sock",
        caddy_admin=f"unix://{tmp_path}/no-caddy.sock",
        bus=f"unix:path={tmp_path}/no-bus.sock",
        git_allow_file=True,
        ports=f"{FIRST_PORT}-{FIRST_PORT + 499}",
    )


@pytest.fixture
def database_file(settings: Settings) -> Iterator[Path]:
    """A new database file and secret key, and no connection: for what opens its own, as a request does."""
    db.configure(settings.database)
    projects.create_secret_key(settings.secret_key_file)
    migrations.migrate(settings.database)
    yield settings.database
    db.database.close()


@pytest.fixture
def database(database_file: Path) -> Iterator[Path]:
    """A new database file with a connection open in this thread."""
    with db.connection():
        yield database_file


@pytest.fixture
def project(database: Path) -> Project:
    """A registered project."""
    return projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
