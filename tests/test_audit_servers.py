"""The audit of the servers that resources, secrets and logins come from: found, named, and put right."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kennel_core import naming, projects, resources
from kennel_core.adapters.garage import Admin
from kennel_core.audit import Verdict
from kennel_core.environment import Environment
from kennel_core.models import Deployment, Project
from kennel_core.outputs import ServiceOutput
from kennel_core.reconcile import logins
from kennel_core.reconcile.host import LocalHost
from tests.servers import caddy
from tests.servers.garage import GarageServer
from tests.servers.keycloak import KeycloakServer
from tests.servers.openbao import OpenBaoServer
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import ValkeyServer, programs
from tests.servers.world import World
from tests.test_audit import PREVIEW, PROD, at, delete_branch, deploy, forget_rows, found, look, put_right
from tests.test_cli import data, runner

pytestmark = pytest.mark.parametrize("caddy_server", caddy.programs()[-1:], indirect=True, ids=["newest"])


# --- PostgreSQL ---


@pytest.fixture
def with_postgres(world: World, postgres: PostgresServer) -> World:
    return at(world, **postgres.settings)


def databases(postgres: PostgresServer) -> list[str]:
    rows = postgres.query("SELECT datname FROM pg_database WHERE datname LIKE 'kennel\\_%' ORDER BY 1")
    return [str(name) for (name,) in rows]


def roles(postgres: PostgresServer) -> list[str]:
    asked = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'kennel\\_%' AND rolname <> 'kennel_itself'"
    return [str(name) for (name,) in postgres.query(f"{asked} ORDER BY 1")]


def test_a_database_that_is_gone_is_missed_and_made_anew(
    with_postgres: World, postgres: PostgresServer
) -> None:
    deploy(with_postgres, PROD)
    (database,) = databases(postgres)
    postgres.query(f"DROP DATABASE {database} WITH (FORCE)")

    assert ("postgres", "missing", f"database {database}") in found(with_postgres)
    put_right(with_postgres)
    assert found(with_postgres) == []
    assert databases(postgres) == [database]


def test_a_database_of_a_branch_that_is_gone_goes_and_that_of_prod_is_kept(
    with_postgres: World, postgres: PostgresServer
) -> None:
    deploy(with_postgres, PROD, PREVIEW)
    Deployment.delete().execute()
    kept, going = sorted(databases(postgres), key=lambda name: "pr_7" in name)

    assert ("postgres", "leftover", going) in found(with_postgres)
    put_right(with_postgres)

    assert found(with_postgres) == []
    assert databases(postgres) == [kept]
    (one,) = look(with_postgres).findings
    assert (one.verdict, one.what) == (Verdict.KEPT, kept)


@pytest.mark.parametrize("project_is_gone", [False, True])
def test_a_database_that_the_table_forgot_is_known_by_its_mark(
    with_postgres: World, postgres: PostgresServer, *, project_is_gone: bool
) -> None:
    deploy(with_postgres, PROD, PREVIEW)
    kept, going = sorted(databases(postgres), key=lambda name: "pr_7" in name)
    Deployment.delete().execute()
    forget_rows("postgres")
    if project_is_gone:
        projects.remove(with_postgres.project)

    left = {what for _, verdict, what in found(with_postgres) if verdict == "leftover"}

    assert {f"database {kept}", f"database {going}", f"role {kept}_owner"} <= left
    assert put_right(with_postgres) == {}
    assert found(with_postgres) == []
    assert databases(postgres) == [kept]
    assert not [role for role in roles(postgres) if role.startswith(going)]


def test_a_login_of_a_service_that_is_gone_is_dropped(with_postgres: World, postgres: PostgresServer) -> None:
    deploy(with_postgres, PROD)
    old = naming.login(1, PROD, "old")
    postgres.query(f"CREATE ROLE {old}")
    postgres.query(f"COMMENT ON ROLE {old} IS 'kennel: 1 main'")
    postgres.query(f"GRANT {databases(postgres)[0]}_owner TO {old}")
    postgres.query(f"GRANT {old} TO kennel_itself WITH ADMIN OPTION")

    assert found(with_postgres) == [("postgres", "leftover", f"role {old}")]
    assert put_right(with_postgres) == {}
    assert found(with_postgres) == []
    assert old not in roles(postgres)


def test_a_database_and_roles_that_only_have_such_names_are_never_touched(
    with_postgres: World, postgres: PostgresServer
) -> None:
    owner, login, base = (
        "kennel_shop_main_0123abcd_owner",
        "kennel_0123456789abcdef",
        "kennel_shop_main_0123abcd",
    )
    postgres.query(f"CREATE ROLE {owner}")
    postgres.query(f"CREATE ROLE {login}")
    postgres.query(f"CREATE DATABASE {base} OWNER {owner}")
    other = (
        "kennel_shop_pr_1_89abcdef_owner"  # marked by another Kennel, which made it with a role of its own
    )
    postgres.query(f"CREATE ROLE {other}")
    postgres.query(f"COMMENT ON ROLE {other} IS 'kennel: 1 pr-1'")

    names = {f"database {base}", f"role {owner}", f"role {login}", f"role {other}"}
    assert {what for _, verdict, what in found(with_postgres) if verdict == "unknown"} == names
    put_right(with_postgres)
    assert {what for _, _, what in found(with_postgres)} == names


# --- Garage ---


@pytest.fixture
def with_garage(world: World, own_garage: GarageServer) -> World:
    own_garage.start()
    return dataclasses.replace(at(world, **_garage(own_garage)))


def _garage(server: GarageServer) -> dict[str, Any]:
    return {"garage_admin": server.admin, "garage_s3": server.s3, "garage_token_file": server.token_file}


def aliases(world: World) -> list[str]:
    admin = Admin(world.settings.garage_admin, world.settings.garage_token_file)
    return sorted(alias for row in admin.buckets() for alias in row["globalAliases"])


def test_a_bucket_that_the_table_forgot_is_known_by_the_secret_of_its_key(with_garage: World) -> None:
    deploy(with_garage, PROD, PREVIEW)
    kept, going = aliases(with_garage)
    Deployment.delete().execute()
    forget_rows("garage")

    left = [what.rpartition(" ")[0] for _, verdict, what in found(with_garage) if verdict == "leftover"]

    assert {f"bucket {kept}", f"bucket {going}", f"key {kept}", f"key {going}"} <= set(left)
    assert put_right(with_garage) == {}
    assert found(with_garage) == []
    assert aliases(with_garage) == [kept]


def test_a_bucket_in_use_that_the_table_forgot_is_noted_again(with_garage: World) -> None:
    deploy(with_garage, PREVIEW)
    before = aliases(with_garage)
    forget_rows("garage")

    assert {verdict for _, verdict, _ in found(with_garage)} == {"missing", "leftover"}
    assert put_right(with_garage) == {}
    assert found(with_garage) == []
    assert aliases(with_garage) == before


def test_a_bucket_and_a_key_that_only_have_such_names_are_never_touched(
    with_garage: World, own_garage: GarageServer
) -> None:
    own_garage.root("CreateBucket", {"globalAlias": "kennel-shop-main-0123abcd"})
    own_garage.root("CreateKey", {"name": "kennel-shop-main-0123abcd"})

    before = found(with_garage)
    assert [verdict for _, verdict, _ in before] == ["unknown", "unknown"]
    put_right(with_garage)
    assert found(with_garage) == before


# --- Valkey ---


@pytest.fixture
def valkey_server(tmp_path: Path) -> Iterator[ValkeyServer]:
    home = tmp_path / "valkey"
    home.mkdir()
    server = ValkeyServer(home, programs()[0])
    server.start()
    yield server
    server.kill()


def test_a_user_that_the_table_forgot_is_known_by_its_password_and_others_are_left(
    world: World, valkey_server: ValkeyServer
) -> None:
    there = at(world, valkey="acl", valkey_url=valkey_server.unix)
    deploy(there, PREVIEW)
    delete_branch(PREVIEW)
    forget_rows("valkey")
    (name,) = [name for name in users(valkey_server) if name.startswith("shop-pr-7")]
    with valkey_server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop-main-0123abcd", "on", ">x")
        client.execute_command("ACL", "SETUSER", "somebody", "on", ">x")

    assert set(found(there)) >= {
        ("valkey", "leftover", f"user {name}"),
        ("valkey", "unknown", "user shop-main-0123abcd"),
    }
    put_right(there)
    assert found(there) == [("valkey", "unknown", "user shop-main-0123abcd")]
    assert users(valkey_server) == ["default", "shop-main-0123abcd", "somebody"]


def users(server: ValkeyServer) -> list[str]:
    with server.client() as client:
        return sorted(client.acl_users())


def test_a_numbered_database_with_keys_that_is_nobodys_is_only_mentioned(
    world: World, valkey_server: ValkeyServer
) -> None:
    there = at(world, valkey="db", valkey_url=valkey_server.unix)
    deploy(there, PREVIEW)
    with valkey_server.client(5) as client:
        client.set("a", "b")

    assert [(one.verdict, one.what) for one in look(there).findings] == [(Verdict.INFO, "database 5")]
    assert look(there).status == 0


# --- Keycloak and OpenBao ---


@pytest.fixture
def with_login(
    world: World, keycloak: KeycloakServer, openbao: OpenBaoServer, tmp_path: Path
) -> Iterator[World]:
    secret = tmp_path / "keycloak-secret"
    secret.write_text("kennel-secret\n")
    there = at(world, keycloak=keycloak.url, keycloak_realm="acme", keycloak_secret_file=secret)
    settings = openbao.settings(there.settings, policy="write-secrets")
    yield dataclasses.replace(there, settings=settings, host=LocalHost(settings))
    for profile in Environment:
        for name in logins.STORED:
            openbao.call("DELETE", f"secret/metadata/secretspec/shop/{profile}/{name}")


def log_people_in(world: World, ref: str = PROD) -> None:
    service: ServiceOutput = world.service("one")
    world.build(service.model_copy(update={"oidc": ["/auth/callback"]}), ref=ref)
    world.converge()
    assert found(world) == []


def test_a_client_that_is_gone_or_was_edited_is_missed_and_put_right(
    with_login: World, keycloak: KeycloakServer
) -> None:
    log_people_in(with_login)
    keycloak.change("shop", redirectUris=["https://evil.example/*"])
    keycloak.admin("DELETE", f"/clients/{keycloak.client('shop-staging')['id']}")

    assert found(with_login) == [
        ("keycloak", "missing", "client shop"),
        ("keycloak", "missing", "client shop-staging"),
    ]
    put_right(with_login)
    assert found(with_login) == []


def test_a_client_that_the_table_forgot_is_known_by_its_mark_and_where_it_leads(
    with_login: World, keycloak: KeycloakServer
) -> None:
    log_people_in(with_login)
    Deployment.delete().execute()
    forget_rows(resources.OIDC)
    mark = {"kennel.project": "1"}
    keycloak.admin(
        "POST", "/clients", {"clientId": "theirs", "attributes": mark, "redirectUris": ["https://x.org/"]}
    )
    keycloak.admin("POST", "/clients", {"clientId": "plain"})

    clients = [one for one in found(with_login) if one[0] == "keycloak"]

    assert clients == [
        ("keycloak", "leftover", "client shop"),
        ("keycloak", "leftover", "client shop-staging"),
        ("keycloak", "unknown", "client theirs"),
    ]
    put_right(with_login)
    assert keycloak.client_ids() == {"theirs", "plain"}


def test_a_login_goes_from_openbao_with_its_client_and_nobody_elses_does(
    with_login: World, keycloak: KeycloakServer, openbao: OpenBaoServer
) -> None:
    log_people_in(with_login)
    openbao.put("secretspec/shop/dev/OIDC_CLIENT_ID", "set-by-hand")
    Deployment.delete().execute()
    with_login.converge()

    assert found(with_login) == []
    assert keycloak.client_ids() == frozenset()
    assert stored_logins(openbao, "prod") == set()
    assert stored_logins(openbao, "dev") == {"OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"}


def stored_logins(openbao: OpenBaoServer, profile: str) -> set[str]:
    paths = {name: f"secret/data/secretspec/shop/{profile}/{name}" for name in logins.STORED}
    return {name for name, path in paths.items() if openbao.request("GET", path).ok}


def test_a_login_that_was_taken_out_of_openbao_is_stored_again(
    with_login: World, openbao: OpenBaoServer
) -> None:
    log_people_in(with_login)
    openbao.call("DELETE", "secret/metadata/secretspec/shop/prod/OIDC_CLIENT_ID")

    assert found(with_login) == [("openbao", "missing", "secretspec/shop/prod/OIDC_CLIENT_ID")]
    put_right(with_login)
    assert found(with_login) == []


# --- the command ---


def test_kept_data_is_listed_and_goes_when_somebody_says_so(
    with_postgres: World, postgres: PostgresServer
) -> None:
    deploy(with_postgres, PROD)
    run = runner(with_postgres.settings)
    (database,) = databases(postgres)
    (row,) = data(run("resource", "list", "--json"))
    assert (row["kind"], row["name"], row["project"], row["ref"]) == ("postgres", database, "shop", "main")
    assert (row["status"], row["unwanted_since"]) == ("wanted", None)
    assert "is deployed and wants it" in run("resource", "remove", database, "--yes", status=4).stderr
    run("resource", "remove", "nothing", "--yes", status=3)

    Deployment.delete().execute()
    with_postgres.converge()
    (row,) = data(run("resource", "list", "--json"))
    assert row["status"] == "kept"
    assert row["unwanted_since"]
    assert data(run("audit", "--json"))["findings"][0]["finding"] == "kept"
    assert "add --yes" in run("resource", "remove", database, status=2).stderr
    assert data(run("resource", "remove", f"postgres/{database}", "--yes", "--json"))["status"] == "going"
    with_postgres.converge()

    assert data(run("resource", "list", "--json")) == []
    assert databases(postgres) == []


def test_a_confirmation_is_worth_nothing_once_the_data_is_wanted_again(
    with_postgres: World, postgres: PostgresServer
) -> None:
    deploy(with_postgres, PROD)
    (database,) = databases(postgres)
    Deployment.delete().execute()
    runner(with_postgres.settings)("resource", "remove", database, "--yes")
    deploy(with_postgres, PROD)
    Deployment.delete().execute()

    with_postgres.converge()

    assert databases(postgres) == [database]


def test_a_login_of_another_client_is_only_mentioned(
    with_login: World, openbao: OpenBaoServer, project: Project
) -> None:
    path = f"secretspec/{project.name}/dev/OIDC_CLIENT_ID"
    openbao.put(path, f"{project.name}-staging")

    assert found(with_login) == [("openbao", "unknown", path)]
    assert put_right(with_login) == {}
    assert found(with_login) == [("openbao", "unknown", path)]
