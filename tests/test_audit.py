"""What carries a mark of Kennel and belongs to no row, on the real servers: found, named, and put right."""

import dataclasses
import time
from typing import Any

import pytest

from kennel_core import db, resources, sleeping
from kennel_core.adapters.caddy import Caddy
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.targets import Targets
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.audit import Audit, Verdict, audit, fix
from kennel_core.models import Deployment, Resource
from kennel_core.reconcile.host import LocalHost
from tests.servers.ports import free_port
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


def test_what_sleeps_is_not_missed(world: World) -> None:
    deploy(world, PREVIEW)
    with db.write():
        sleeping.stop(world.project, PREVIEW, "nobody pushes to it", time.time())
    world.converge()

    assert world.units() == {}
    assert found(world) == []


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


def test_data_in_a_directory_that_is_not_in_the_table_is_never_removed(world: World) -> None:
    there = at(world, valkey="instance")
    data_directory = there.settings.state_dir / "valkey" / "shop-main-0123abcd"
    data_directory.mkdir(parents=True)

    assert found(there) == [("valkey", "unknown", str(data_directory))]
    put_right(there)
    assert data_directory.exists()
