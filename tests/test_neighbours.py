"""The servers of the local stack: each comes up, lets Kennel in as the settings say, and keeps its state."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import requests

from kennel_core import settings as kennel_settings
from kennel_core.adapters.forge import Forge
from kennel_core.adapters.garage import Admin
from kennel_core.errors import Unavailable
from kennel_core.secrets import Secrets
from tests.servers.openbao import program
from tests.waiting import until

PROGRAM = Path(__file__).parents[1] / "deploy/dev/neighbour"
SPECIFICATION = """
[project]
name = "shop"
revision = "1.0"
[profiles.prod]
TOKEN = { description = "a token" }
"""


def variables(stack: Path, **environment: str) -> dict[str, str]:
    """What the stack's programs are told."""
    told = os.environ | {"STACK": str(stack), "STACK_RUN": str(stack / "run")} | environment
    done = subprocess.run([PROGRAM, "settings"], env=told, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return told | dict(shlex.split(line)[0].split("=", 1) for line in done.stdout.splitlines())


@contextmanager
def running(name: str, told: dict[str, str]) -> Iterator[kennel_settings.Settings]:
    with (Path(told["STACK"]) / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", PROGRAM, name],
            env=told,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield kennel_settings.load(told)
        assert process.poll() is None, (Path(told["STACK"]) / f"{name}.log").read_text()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)  # also when somebody is connected
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that PostgreSQL's user may enter."""
    monkeypatch.delenv("WITHOUT", raising=False)
    home = Path(tempfile.mkdtemp(prefix="kennel-neighbours.", dir="/var/tmp"))
    home.chmod(0o755)
    (home / "run").mkdir()
    yield home
    shutil.rmtree(home)


def log_in(settings: kennel_settings.Settings) -> psycopg.Connection | None:
    assert settings.postgres_password_file
    try:
        return psycopg.connect(
            settings.postgres, password=settings.postgres_password_file.read_text(), autocommit=True
        )
    except psycopg.OperationalError:
        return None


def test_postgres_lets_kennel_in_and_ends_whoever_is_connected(stack):
    told = variables(stack)
    with running("postgres", told) as settings:
        connection = until(lambda: log_in(settings), timeout=60, what="postgres lets Kennel in")
        connection.execute("CREATE DATABASE shop")
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = 'kennel'"
        )
        assert row.fetchone() == (False, True, True)

    connection.close()
    with running("postgres", variables(stack)) as settings:
        connection = until(lambda: log_in(settings), timeout=60, what="postgres lets Kennel in")
        with connection:
            assert connection.execute("SELECT FROM pg_database WHERE datname = 'shop'").rowcount == 1


def test_garage_takes_the_token(stack):
    with running("garage", variables(stack)) as settings:
        admin = Admin(settings.garage_admin, settings.garage_token_file)

        def buckets() -> list | None:
            try:
                return [admin.buckets()]
            except Exception:  # noqa: BLE001  # it starts
                return None

        assert until(buckets, what="garage answers") == [[]]


def test_openbao_is_unsealed_again_and_keeps_what_it_was_told(stack):
    told = variables(stack)
    home = stack / "servers/openbao"
    with running("openbao", told):
        until((home / "secret-id").exists, timeout=60, what="openbao is set up")
        token = (home / "root-token").read_text()
        bao = {"BAO_ADDR": f"http://127.0.0.1:{told['STACK_OPENBAO_PORT']}", "BAO_TOKEN": token}
        argv = [program(), "kv", "put", "-mount=secret", "secretspec/shop/prod/TOKEN", "value=-"]
        subprocess.run(argv, env=told | bao, input=b"s3cret", check=True, capture_output=True, timeout=30)
    assert (home / "root-token").stat().st_mode & 0o077 == 0

    told = variables(stack)
    with running("openbao", told) as settings:

        def resolved() -> dict | None:
            try:
                return dict(Secrets(settings).resolve(SPECIFICATION, "shop", "prod").variables)
            except Exception:  # noqa: BLE001  # it starts
                return None

        assert until(resolved, timeout=60, what="openbao lets Kennel in") == {"TOKEN": "s3cret"}


def test_the_forge_takes_kennels_token_and_peoples_passwords_also_the_next_time(stack):
    token = stack / "servers/forge/token"
    for _ in range(2):
        told = variables(stack, KENNEL_BIND="127.0.0.1:3100")
        assert told["KENNEL_FORGE_HOOK_URL"] == "http://127.0.0.1:3100/webhook"
        with running("forge", told) as settings:

            def version() -> str | None:
                try:
                    return Forge(settings).version()
                except Unavailable:
                    return None

            until(token.exists, timeout=60, what="the forge is set up")
            assert until(version, timeout=60, what="the forge answers")
            assert Forge(settings).missing_scopes() == []
            for who in ("ada", "mallory"):
                asked = f"{settings.forge_url}/api/v1/user"
                assert requests.get(asked, auth=(who, f"{who}-password"), timeout=30).ok
    assert token.stat().st_mode & 0o077 == 0


def test_what_is_left_out_waits_and_is_in_no_setting(stack):
    told = variables(stack, WITHOUT="keycloak, garage")

    assert told["STACK_SERVERS"].split() == ["postgres", "openbao", "forge"]
    settings = kennel_settings.load(told)
    assert (settings.garage_admin, settings.keycloak, bool(settings.postgres)) == ("", "", True)
    assert variables(stack)["STACK_SERVERS"] == told["STACK_SERVERS"]  # a stack keeps its servers
    with running("garage", told):
        pass
