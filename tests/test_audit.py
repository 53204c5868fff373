"""What carries a mark of Kennel and belongs to no row, on the real servers: found, named, and put right."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kennel_core import naming, projects, resources
from kennel_core.adapters.caddy import Caddy
from kennel_core.adapters.garage import Admin
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.targets import Targets
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.audit import Audit, Verdict, audit, fix
from kennel_core.environment import Environment
from kennel_core.models import Deployment, Project, Resource
from kennel_core.outputs import ServiceOutput
from kennel_core.reconcile.host import LocalHost
from tests.servers.garage import GarageServer
from tests.servers.keycloak import KeycloakServer
from tests.servers.openbao import OpenBaoServer
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import ValkeyServer, programs
from tests.servers.world import World
from tests.test_cli import Cli, data, runner

PREVIEW, PROD = "pr-7", "main"


def at(world: World, **changes: Any) -> World:
    """Give the same world with other settings."""
    settings = world.settings.model_copy(update=changes)
    return dataclasses.replace(world, settings=settings, host=LocalHost(settings))


def look(world: World) -> Audit:
    return audit(world.settings, world.host)


def found(world: World) -> list[tuple[str, str, str]]:
    """Give what should not be: system, finding, what."""
    seen = look(world)
    assert seen.silent == {}
    return [(one.system, str(one.verdict), one.what) for one in seen.counted()]


def put_right(world: World) -> dict[str, str]:
    return fix(world.settings, world.host, world.doorbell, look(world))


def deploy(world: World, *refs: str) -> None:
    needs = tuple(kind for kind, configured in world.settings.resources.items() if configured)
    for ref in refs:
        world.build(world.service("one"), ref=ref, needs=needs)
        world.converge()
    assert found(world) == []


def forget_rows(kind: str) -> None:
    """Do what putting an older database back does: the table does not know what was made since."""
    Resource.delete().where(Resource.kind == kind).execute()


def delete_branch(ref: str) -> None:
    Deployment.delete().where(Deployment.ref == ref).execute()


# --- this host ---


def test_a_host_without_anything_has_nothing_to_find(world: World) -> None:
    assert look(world) == Audit((), {})


def test_what_rows_want_is_missed_and_a_pass_brings_it_back(world: World) -> None:
    deploy(world, PROD)
    (unit,) = world.units()
    with Systemd(world.settings.bus) as systemd:
        systemd.stop(unit, 30)
    Caddy(world.caddy.admin).replace_routes([])

    route = "route shop-api-main.localhost shop-main.localhost"
    assert found(world) == [("caddy", "missing", route), ("systemd", "missing", unit)]
    assert put_right(world) == {}
    assert found(world) == []


def test_what_no_row_names_is_a_leftover_until_a_pass_has_been(world: World) -> None:
    deploy(world, PROD, PREVIEW)
    (unit,) = [name for name in world.units() if "pr-7" in name]
    number = Deployment.get(Deployment.ref == PREVIEW).id
    delete_branch(PREVIEW)

    left = found(world)

    assert ("systemd", "leftover", unit) in left
    assert ("caddy", "leftover", f"route kennel-{number}") in left
    put_right(world)
    assert found(world) == []
    assert len(world.units()) == 1


def test_what_lies_in_kennels_own_directories_and_is_nobodys_is_removed(world: World) -> None:
    deploy(world, PROD)
    settings = world.settings
    UnitFiles(settings.inputs_dir).write("kennel-gone.service", "A=1\n", {})
    Targets(settings.targets_dir).write("4711.port", "1")
    settings.gcroots_dir.mkdir(parents=True, exist_ok=True)
    (settings.gcroots_dir / "4711-api").symlink_to("/nix/store/x")
    (settings.gcroots_dir / "mine").symlink_to("/nix/store/x")
    (settings.work_dir / "4711").mkdir(parents=True)
    dumps = settings.state_dir / "dumps"
    dumps.mkdir()
    (dumps / "kennel_x.dump").touch()
    paths = [
        settings.inputs_dir / "kennel-gone.service",
        settings.targets_dir / "4711.port",
        settings.gcroots_dir / "4711-api",
        settings.work_dir / "4711",
    ]

    assert {what for _, verdict, what in found(world) if verdict == "leftover"} == {str(p) for p in paths}
    put_right(world)
    assert not any(path.exists() or path.is_symlink() for path in paths)
    assert found(world) == [("disk", "unknown", str(settings.gcroots_dir / "mine"))]
    assert (Verdict.INFO, str(dumps / "kennel_x.dump")) in {
        (one.verdict, one.what) for one in look(world).findings
    }


def test_a_unit_that_only_has_such_a_name_is_listed_and_never_stopped(world: World) -> None:
    name = "kennel-shop-main-api-0123abcd.service"
    spec = UnitSpec(
        name=name,
        argv=("/bin/sleep", "600"),
        environment={},
        working_directory="/",
        description="somebody else's",
        user=dynamic_user(name),
        log_fields={},
        memory_max=2**24,
        tasks_max=4,
    )
    with Systemd(world.settings.bus) as systemd:
        systemd.start(spec, 30)

    assert found(world) == [("systemd", "unknown", name)]
    put_right(world)
    assert world.units() == {name: "active"}


def test_a_store_path_that_is_gone_is_missed(world: World) -> None:
    deploy(world, PROD)
    path = world.store / "one-api"
    path.rename(world.store / "away")

    assert found(world) == [("disk", "missing", str(path))]


def test_a_system_that_does_not_answer_is_named_and_the_rest_is_compared(world: World) -> None:
    deploy(world, PROD)
    (world.settings.work_dir / "4711").mkdir(parents=True)
    lost = at(
        world,
        caddy_admin=f"unix://{world.store}/no.sock",
        postgres=f"host=127.0.0.1 port={free_port()}",
        valkey="acl",
        valkey_url=f"redis://127.0.0.1:{free_port()}",
        garage_admin=f"http://127.0.0.1:{free_port()}",
        garage_token_file=world.settings.secret_key_file,
        keycloak=f"http://127.0.0.1:{free_port()}",
        keycloak_realm="acme",
        keycloak_secret_file=world.settings.secret_key_file,
        secrets=f"openbao://127.0.0.1:{free_port()}?tls=false",
        secrets_token_file=world.settings.secret_key_file,
    )

    seen = look(lost)

    assert set(seen.silent) == {"caddy", "postgres", "valkey", "garage", "keycloak", "openbao"}
    assert seen.status == 2
    assert [one.what for one in seen.counted()] == [str(world.settings.work_dir / "4711")]


def test_what_is_wanted_again_by_the_time_somebody_confirms_is_left_alone(world: World) -> None:
    deploy(world, PROD)
    (unit,) = world.units()
    files = UnitFiles(world.settings.inputs_dir)
    files.write(unit, "A=1\n", {})
    Deployment.update(unit="kennel-other.service", live=None).execute()
    forget_rows(resources.UNIT)
    before = look(world)
    assert str(world.settings.inputs_dir / unit) in {one.what for one in before.fixable()}

    Deployment.update(unit=unit).execute()
    fix(world.settings, world.host, world.doorbell, before)

    assert files.units() == [unit]


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
        openbao.call("DELETE", f"secret/metadata/secretspec/shop/{profile}/OIDC_CLIENT_ID")


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


def test_a_login_that_was_taken_out_of_openbao_is_stored_again(
    with_login: World, openbao: OpenBaoServer
) -> None:
    log_people_in(with_login)
    openbao.call("DELETE", "secret/metadata/secretspec/shop/prod/OIDC_CLIENT_ID")

    assert found(with_login) == [("openbao", "missing", "secretspec/shop/prod/OIDC_CLIENT_ID")]
    put_right(with_login)
    assert found(with_login) == []


# --- the command ---


@pytest.fixture
def cli(world: World) -> Cli:
    return runner(world.settings)


def test_the_exit_status_says_what_was_found(world: World, cli: Cli) -> None:
    deploy(world, PROD)
    assert data(cli("audit", "--json")) == {"findings": [], "silent": {}, "failed": {}, "status": 0}
    (world.settings.work_dir / "4711").mkdir(parents=True)

    assert "directory of a build that has ended" in cli("audit", status=1).stdout
    assert "add --yes" in cli("audit", "--fix", status=2).stderr
    assert (world.settings.work_dir / "4711").exists()
    assert cli("audit", "--fix", "--yes").stderr.endswith("nothing is left over, and nothing is missing\n")
    assert not (world.settings.work_dir / "4711").exists()
    lost = runner(at(world, caddy_admin=f"unix://{world.store}/no.sock").settings)
    assert "caddy" in lost("audit", status=2).stderr


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


def test_data_in_a_directory_that_is_not_in_the_table_is_never_removed(world: World) -> None:
    there = at(world, valkey="instance")
    data_directory = there.settings.state_dir / "valkey" / "shop-main-0123abcd"
    data_directory.mkdir(parents=True)

    assert found(there) == [("valkey", "unknown", str(data_directory))]
    put_right(there)
    assert data_directory.exists()


def test_a_login_of_another_client_is_only_mentioned(
    with_login: World, openbao: OpenBaoServer, project: Project
) -> None:
    path = f"secretspec/{project.name}/dev/OIDC_CLIENT_ID"
    openbao.put(path, f"{project.name}-staging")

    assert found(with_login) == [("openbao", "unknown", path)]
    assert put_right(with_login) == {}
    assert found(with_login) == [("openbao", "unknown", path)]
