"""What the doctor says of neighbours that are well, and of each that is not."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kennel_core import db, projects
from kennel_core.adapters.garage import SCOPES
from kennel_core.adapters.systemd import Systemd
from kennel_core.doctor import examine, names
from kennel_core.doctor.checks import Check, Verdict
from kennel_core.settings import Settings
from tests.servers.caddy import CaddyServer
from tests.servers.garage import GarageServer
from tests.servers.keycloak import KeycloakServer
from tests.servers.openbao import OpenBaoServer
from tests.servers.ports import free_port
from tests.servers.postgres import KENNEL_ROLE, PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.systemd import PrivateSystemd
from tests.servers.valkey import ValkeyServer, programs
from tests.test_cli import data, runner


def said(settings: Settings, system: str) -> list[Check]:
    db.configure(settings.database)
    return [check for check in examine(settings) if check.system == system]


def verdicts(settings: Settings, system: str) -> list[str]:
    found = said(settings, system)
    assert all(check.remedy for check in found if check.verdict is not Verdict.OK)
    return [str(check.verdict) for check in found]


def complaint(settings: Settings, system: str) -> str:
    """Give the one line that is not well."""
    (bad,) = [check for check in said(settings, system) if check.verdict is not Verdict.OK]
    return f"{bad.verdict}: {bad.what}: {bad.remedy}"


def with_key(settings: Settings, **changes: Any) -> Settings:
    projects.create_secret_key(settings.secret_key_file)
    return settings.model_copy(update=changes)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may read, and with a short name."""
    with tempfile.TemporaryDirectory(prefix="kd", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


# --- PostgreSQL ---


@pytest.fixture
def with_postgres(settings: Settings, postgres: PostgresServer) -> Iterator[Settings]:
    yield with_key(settings, **postgres.settings)
    left = "SELECT datname FROM pg_database WHERE datname LIKE 'kennel%'"
    left += " UNION SELECT rolname FROM pg_roles WHERE rolname LIKE 'kennel%' AND rolname <> 'kennel_itself'"
    assert postgres.query(left) == [], "the doctor has left something behind"


def test_a_postgres_that_is_well_is_tried_and_left_as_it_was(with_postgres: Settings) -> None:
    checks = said(with_postgres, "postgres")

    assert {str(check.verdict) for check in checks} == {"ok"}
    assert any("made and dropped a database" in check.what for check in checks)


def test_a_role_without_rights_is_told_how_to_get_them(
    with_postgres: Settings, postgres: PostgresServer
) -> None:
    postgres.query(f"ALTER ROLE {KENNEL_ROLE} NOCREATEDB")
    try:
        checks = said(with_postgres, "postgres")
    finally:
        postgres.query(f"ALTER ROLE {KENNEL_ROLE} CREATEDB")

    assert any(f"ALTER ROLE {KENNEL_ROLE} CREATEDB" in check.remedy for check in checks)
    assert checks[-1].verdict is Verdict.FAILED
    assert "create database" in checks[-1].what


def test_an_extension_and_a_template_that_are_not_there_are_noticed(with_postgres: Settings) -> None:
    lacking = with_postgres.model_copy(update={"postgres_extensions": "no_such_extension"})
    assert "KENNEL_POSTGRES_EXTENSIONS" in complaint(lacking, "postgres")
    lacking = with_postgres.model_copy(update={"postgres_template": "no_such_template"})
    assert "no_such_template" in complaint(lacking, "postgres")


def test_too_few_connections_for_the_next_database_are_a_warning(with_postgres: Settings) -> None:
    greedy = with_postgres.model_copy(update={"postgres_connections": 1000})

    assert complaint(greedy, "postgres").startswith("warning: 0 databases with up to 1000")


def test_a_postgres_that_is_down_or_does_not_know_the_password_fails(
    with_postgres: Settings, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    for changes in ({"postgres_password_file": wrong}, {"postgres": f"host=127.0.0.1 port={free_port()}"}):
        lacking = with_postgres.model_copy(update=changes)
        assert complaint(lacking, "postgres").startswith("failed: connect: ")


def test_a_postgres_whose_pg_dump_is_missing_or_old_is_a_warning(
    with_postgres: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "pg_dump is not on PATH" in complaint(with_postgres, "postgres")
    program(tmp_path / "pg_dump", "pg_dump (PostgreSQL) 9.6")
    assert "is older than the server" in complaint(with_postgres, "postgres")


def program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


# --- Valkey ---


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[ValkeyServer]:
    home = tmp_path / "valkey"
    home.mkdir()
    server = ValkeyServer(home, programs()[0])
    server.start()
    yield server
    server.kill()


def test_a_valkey_with_users_is_tried_and_left_as_it_was(
    settings: Settings, valkey_server: ValkeyServer
) -> None:
    there = with_key(settings, valkey="acl", valkey_url=valkey_server.unix)

    assert verdicts(there, "valkey") == ["ok", "ok"]
    with valkey_server.client() as client:
        assert client.acl_users() == ["default"]
        client.execute_command("ACL", "SETUSER", "default", "-acl")
    assert "+@all" in complaint(there, "valkey")


def test_a_valkey_with_few_numbers_left_is_a_warning(settings: Settings, valkey_server: ValkeyServer) -> None:
    there = with_key(settings, valkey="db", valkey_url=valkey_server.unix)

    assert verdicts(there, "valkey") == ["ok", "ok"]
    for number in range(1, 6):
        with valkey_server.client(number) as client:
            client.set("a", "b")
    assert complaint(there, "valkey").startswith("warning: 6 of 8 numbered databases")


def test_a_valkey_that_is_down_or_not_named_fails(settings: Settings) -> None:
    there = with_key(settings, valkey="acl", valkey_url=f"redis://127.0.0.1:{free_port()}")

    assert complaint(there, "valkey").startswith("failed: ")
    assert "KENNEL_VALKEY_URL" in complaint(there.model_copy(update={"valkey_url": ""}), "valkey")


def test_a_valkey_of_each_refs_own_is_started_and_removed(
    settings: Settings, systemd: PrivateSystemd, public: Path
) -> None:
    there = with_key(settings, valkey="instance", bus=systemd.bus, runtime_dir=public)

    assert verdicts(there, "valkey") == ["ok"]
    assert list((public / "valkey").iterdir()) == []
    missing = there.model_copy(update={"valkey_program": "/no/such/program"})
    assert "KENNEL_VALKEY_PROGRAM" in complaint(missing, "valkey")


# --- Garage ---


@pytest.fixture
def with_garage(settings: Settings, garage_server: GarageServer) -> Settings:
    return with_key(garage_server.settings(settings))


def test_a_garage_is_tried_and_left_as_it_was(with_garage: Settings, garage_server: GarageServer) -> None:
    assert verdicts(with_garage, "garage") == ["ok", "ok"]
    names = [alias for row in garage_server.root("ListBuckets") for alias in row["globalAliases"]]
    assert not [name for name in names if "doctor" in name]
    assert not [row for row in garage_server.root("ListKeys") if "doctor" in row["name"]]


def test_a_garage_whose_token_lacks_a_scope_or_is_wrong_fails(
    with_garage: Settings, garage_server: GarageServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(garage_server.token(*(scope for scope in SCOPES if scope != "DeleteBucket")))
    lacking = with_garage.model_copy(update={"garage_token_file": token})
    assert complaint(lacking, "garage").startswith("failed: the token lacks DeleteBucket")
    token.write_text("wrong")
    assert "wrong, revoked or expired" in complaint(lacking, "garage")


def test_a_garage_without_its_s3_api_or_with_another_region_fails_and_leaves_nothing(
    with_garage: Settings, garage_server: GarageServer
) -> None:
    for changes in ({"garage_s3": f"http://127.0.0.1:{free_port()}"}, {"garage_region": "mars"}):
        assert complaint(with_garage.model_copy(update=changes), "garage").startswith("failed: ")
    assert not [row for row in garage_server.root("ListKeys") if "doctor" in row["name"]]


def test_a_garage_without_a_layout_is_told_what_to_run(settings: Settings, own_garage: GarageServer) -> None:
    own_garage.token_file.write_text(own_garage.root_token)  # without a layout there is no other
    own_garage.start(layout=False)

    assert "garage layout" in complaint(with_key(own_garage.settings(settings)), "garage")


# --- OpenBao and Keycloak ---


def test_an_openbao_that_lets_kennel_in_and_one_that_lets_it_only_read(
    settings: Settings, openbao: OpenBaoServer
) -> None:
    writer = openbao.settings(settings, policy="write-secrets")
    with_login = {"keycloak": f"http://127.0.0.1:{free_port()}"}

    assert verdicts(writer, "openbao") == ["ok"] * 3
    assert verdicts(writer.model_copy(update=with_login), "openbao") == ["ok"] * 5
    reader = openbao.settings(settings).model_copy(update=with_login)
    stored, removed = said(reader, "openbao")[3:]
    assert stored.what == "logins of projects cannot be stored"
    assert 'path "secret/data/secretspec/+/+/OIDC_*"' in stored.remedy
    assert (removed.verdict, removed.what) == (Verdict.WARNING, "logins of projects cannot be removed")
    old = openbao.settings(settings, mount="kv1", kv="1")
    assert complaint(old, "openbao").startswith("warning: the mount is of KV version 1")


def test_an_openbao_that_is_down_or_refuses_fails(
    settings: Settings, openbao: OpenBaoServer, tmp_path: Path
) -> None:
    there = openbao.settings(settings)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    for changes in (
        {"secrets_secret_id_file": wrong},
        {"secrets": f"openbao://127.0.0.1:{free_port()}?auth=approle&tls=false"},
    ):
        assert complaint(there.model_copy(update=changes), "openbao").startswith("failed: ")


def test_a_keycloak_is_tried_and_left_as_it_was(
    keycloak_settings: Settings, keycloak: KeycloakServer
) -> None:
    before = keycloak.client_ids()

    assert verdicts(keycloak_settings, "keycloak") == ["ok", "ok"]
    assert keycloak.client_ids() == before


def test_a_keycloak_that_refuses_or_is_down_fails(
    keycloak_settings: Settings, keycloak: KeycloakServer, tmp_path: Path
) -> None:
    keycloak.give_roles("view-clients")
    assert "manage-clients" in complaint(keycloak_settings, "keycloak")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    for changes in (
        {"keycloak_secret_file": wrong},
        {"keycloak_realm": "no-such-realm"},
        {"keycloak": f"http://127.0.0.1:{free_port()}"},
    ):
        assert complaint(keycloak_settings.model_copy(update=changes), "keycloak").startswith("failed: ")


# --- this host ---


def test_systemd_starts_a_unit_and_keeps_none(settings: Settings, systemd: PrivateSystemd) -> None:
    there = settings.model_copy(update={"bus": systemd.bus})

    assert verdicts(there, "systemd") == ["ok", "ok"]
    with Systemd(systemd.bus) as client:
        assert not [name for name in client.units() if "doctor" in name]
    assert complaint(settings, "systemd").startswith("failed: ")


def test_a_caddy_is_asked_for_its_server_and_may_read_kennels_files(
    settings: Settings, caddy: CaddyServer, public: Path
) -> None:
    there = settings.model_copy(update={"caddy_admin": caddy.admin, "runtime_dir": public / "run"})
    there.targets_dir.mkdir(parents=True)

    assert verdicts(there, "caddy") == (["ok", "ok"] if caddy.reads_files else ["ok", "warning"])
    if caddy.reads_files:
        there.runtime_dir.chmod(0o700)
        assert f"chmod o+x {there.runtime_dir}" in complaint(there, "caddy")
    other = there.model_copy(update={"caddy_server": "other"})
    assert complaint(other, "caddy").startswith("failed: read the routes: no server 'other'")
    assert complaint(settings, "caddy").startswith("failed: ")


def test_the_broker_the_database_and_the_key_are_looked_at(
    settings: Settings, database_file: Path, broker: RedisServer
) -> None:
    there = settings.model_copy(update={"broker_url": broker.url})

    assert verdicts(there, "broker") == verdicts(there, "secret key") == ["ok"]
    assert verdicts(there, "database") == ["ok", "ok"]
    assert complaint(settings, "broker").startswith("failed: ")
    database_file.chmod(0o644)
    settings.secret_key_file.chmod(0o640)
    assert f"chmod 600 {database_file}" in complaint(there, "database")
    assert "mode 640" in complaint(there, "secret key")


def test_a_database_that_is_not_there_fails(settings: Settings) -> None:
    db.configure(settings.database)
    checks = [check for check in examine(settings) if "kennel migrate" in check.remedy]

    assert {check.system for check in checks} >= {"database", "secret key"}


def test_a_runtime_directory_on_disk_is_a_warning(settings: Settings) -> None:
    on_disk = settings.model_copy(update={"runtime_dir": Path("/var/tmp/kennel/not-there-yet")})
    in_memory = settings.model_copy(update={"runtime_dir": Path("/dev/shm/kennel")})

    assert complaint(on_disk, "runtime directory").startswith("warning: ")
    assert verdicts(in_memory, "runtime directory") == ["ok"]


@pytest.mark.parametrize("name", ["git", "nix", "devenv", "cachix"])
def test_a_program_that_is_missing_old_or_broken_fails(
    settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = settings.model_copy(update={"cachix_cache": "mine"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "it is not on PATH" in complaint(there, name)
    program(tmp_path / name, f"{name} 0.9")
    assert complaint(there, name).endswith("where the builder's PATH finds it")
    program(tmp_path / name, f"{name} (that is it) 99.1.2")
    assert verdicts(there, name) == ["ok"]


# --- names ---


def judged(settings: Settings, *hosts: str) -> list[tuple[str, str]]:
    return [(str(check.verdict), check.what) for check in names.examine(settings, hosts)]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the resolver answers: the names of this machine's resolver are not the test's."""
    records: dict[str, str] = {}
    addresses = names._addresses

    def answer(host: str) -> frozenset[str]:
        if host.endswith("localhost"):
            return addresses(host)
        found = records.get(host) or records.get(f"*.{host.partition('.')[2]}")
        return frozenset({found} if found else ())

    monkeypatch.setattr(names, "_addresses", answer)
    return records


def test_names_that_lead_here_are_well_and_one_line_each(settings: Settings, zone: dict[str, str]) -> None:
    zone |= {"*.apps.example.org": "127.0.0.1", "shop.example.org": "127.0.0.1"}
    there = settings.model_copy(update={"base_domain": "apps.example.org"})

    assert judged(there, "shop-api-main.apps.example.org", "shop.example.org") == [
        ("ok", "*.apps.example.org leads to this host"),
        ("ok", "shop.example.org leads to this host"),
    ]


def test_names_that_do_not_resolve_and_those_that_lead_elsewhere_are_told(
    settings: Settings, zone: dict[str, str]
) -> None:
    zone |= {"shop.example.org": "192.0.2.7"}
    there = settings.model_copy(update={"base_domain": "apps.example.org", "domain": "kennel.example.org"})

    assert judged(there, "shop-api-main.apps.example.org", "shop.example.org") == [
        ("failed", "do not resolve: shop-api-main.apps.example.org"),
        ("failed", "kennel.example.org does not resolve"),
        ("warning", "shop.example.org leads to 192.0.2.7, no address of this host"),
    ]
    zone["*.apps.example.org"] = "192.0.2.7"
    assert judged(there)[0][0] == "warning"


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(names, "_addresses", lambda _host: frozenset({str(ended.wait(20))}))

    assert names.resolve(["slow.example.org"], timeout=0.05) == {"slow.example.org": frozenset()}
    ended.set()


def test_names_of_this_host_are_found_without_a_resolver() -> None:
    assert names.resolve(["a.localhost"]) == {"a.localhost": frozenset({"127.0.0.1"})}
    assert names.resolve(["no-such-name.invalid"]) == {"no-such-name.invalid": frozenset()}
    assert names.is_own("127.0.0.1")
    assert not names.is_own("192.0.2.7")


# --- the command ---


def test_the_command_marks_each_line_and_fails_when_one_does(settings: Settings, database_file: Path) -> None:
    run = runner(settings)

    shown = run("doctor", status=1).stdout
    listed = data(run("doctor", "--json", status=1))

    assert "✗  caddy" in shown
    assert "✓  database" in shown
    assert {"system", "verdict", "what", "remedy"} == set(listed[0])
    assert {one["verdict"] for one in listed} >= {"ok", "failed"}
