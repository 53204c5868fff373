"""The pass, on a real systemd and a real Caddy."""

import operator
import shutil
import socket
import threading
import time
from collections.abc import Callable

import pytest

from kennel_core import builds, db, deployments, lease, projects, reconcile, refs, resources
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.errors import Unavailable
from kennel_core.models import Build, BuildStatus, Deployment
from kennel_core.outputs import Outputs
from kennel_core.reconcile import Report
from kennel_core.reconcile.host import LocalHost
from kennel_core.reconcile.preview import preview
from tests.servers.world import CRASHES, World


def test_a_build_goes_live_over_https(world: World) -> None:
    build = world.build(world.service("one"), world.site("one"))

    world.converge()

    assert world.status(build) == BuildStatus.DONE
    assert world.get("api") == (200, "one main")
    assert world.get("docs") == (200, "<h1>one</h1>")
    assert list(world.units().values()) == ["active"]
    assert "live: shop-api-main.localhost" in builds.full_log(build.id)
    assert world.is_settled()


def test_a_second_build_takes_over_without_a_failed_request(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.append(world.get("api"))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    reloads = world.caddy.reloads()
    try:
        build = world.build(world.service("two"))
        world.converge()
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert world.status(build) == BuildStatus.DONE
    assert {status for status, _ in seen} == {200}
    assert world.caddy.reloads() == reloads + (not world.caddy.reads_files)
    assert world.get("api") == (200, "two main")
    assert len(world.units()) == 1
    assert world.is_settled()


def test_a_request_under_way_ends_well_before_the_old_unit_stops(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    answers: list[tuple[int, str]] = []
    slow = threading.Thread(target=lambda: answers.append(world.get("api", path="/slow")))
    slow.start()
    world.build(world.service("two"))
    world.converge()
    slow.join()

    assert answers == [(200, "one main")]
    assert world.get("api") == (200, "two main")


def test_an_unhealthy_build_fails_and_the_old_one_goes_on_serving(world: World) -> None:
    good = world.build(world.service("one"), world.site("one"))
    world.converge()
    before = world.units()
    bad = world.build(world.service("two", health=503, timeout=1), world.site("two"))

    world.converge()

    assert (world.status(bad), world.status(good)) == (BuildStatus.FAILED, BuildStatus.DONE)
    error = builds.get(bad.id).error
    assert error.startswith("deploy: api: was not healthy within 1 s")
    assert "503" in error
    assert "version two listens" in builds.full_log(bad.id)
    assert world.get("api") == (200, "one main")
    assert world.get("docs") == (200, "<h1>one</h1>")
    assert world.units() == before
    assert world.is_settled()


def test_a_service_that_ends_at_once_says_what_it_wrote(world: World) -> None:
    bad = world.build(world.service("one", script=CRASHES, timeout=2))

    world.converge()

    assert world.status(bad) == BuildStatus.FAILED
    assert "cannot find my configuration" in builds.full_log(bad.id)
    assert world.units() == {}
    assert deployments.all_rows() == []
    assert world.is_settled()


def test_a_program_that_cannot_be_run_fails_at_once(world: World) -> None:
    bad = world.build(world.service("one", script="#!/no/such/interpreter\n", timeout=30))

    world.converge()

    assert world.status(bad) == BuildStatus.FAILED
    assert "cannot be executed" in builds.get(bad.id).error
    assert world.is_settled()


def test_a_slow_service_does_not_hold_up_another(world: World) -> None:
    slow = world.build(world.service("one", health=503, timeout=60))
    quick = world.build(world.service("two"), ref="dev")

    for _ in range(3):
        world.one_pass()

    assert world.status(slow) == BuildStatus.BUILT
    assert world.status(quick) == BuildStatus.DONE
    assert world.get("api", ref="dev") == (200, "two dev")


def test_a_build_that_ends_while_a_pass_looks_around_is_left_to_the_next(world: World) -> None:
    made: list[Build] = []

    class Busy(LocalHost):
        def units(self) -> dict[str, str]:
            if not made:
                made.append(world.build(world.service("one", health=503, timeout=1)))
            return super().units()

    world.host = Busy(world.settings)
    world.one_pass()
    assert world.status(made[0]) == BuildStatus.BUILT

    world.converge()
    assert world.status(made[0]) == BuildStatus.FAILED
    assert world.is_settled()


def test_the_same_revision_is_not_restarted(world: World) -> None:
    world.build(world.service("one"), world.site("one"))
    world.converge()
    with Systemd(world.settings.bus) as systemd:
        [unit] = systemd.units()
        since = systemd.status(unit).active_enter_usec
    world.build(world.service("one"), world.site("two"))
    world.converge()

    with Systemd(world.settings.bus) as systemd:
        assert systemd.status(unit).active_enter_usec == since
    assert world.get("docs") == (200, "<h1>two</h1>")


def test_a_removed_ref_takes_everything_with_it(world: World) -> None:
    world.build(world.service("one"))
    world.build(world.service("one"), world.site("one"), ref="pr-3")
    world.converge()
    with db.write():
        names = refs.remove(world.project, "pr-3", "closed", time.time())

    world.converge()

    assert names == ["api", "docs"]
    assert len(world.units()) == 1
    assert world.get("api", ref="pr-3")[0] == 404
    assert world.get("api") == (200, "one main")
    assert world.is_settled()


def test_a_removed_project_takes_everything_with_it(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    projects.remove(world.project)

    world.converge()

    assert world.units() == {}
    assert resources.units() == {}
    assert world.is_settled()


def test_what_kennel_did_not_make_is_left_alone(world: World) -> None:
    foreign = UnitSpec(
        name="kennel-shop-main-api-00000000.service",
        argv=("/bin/sleep", "1000"),
        environment={},
        working_directory="/",
        description="not Kennel's",
        user=dynamic_user("kennel-shop-main-api-00000000.service"),
        log_fields={},
        memory_max=2**30,
        tasks_max=10,
    )
    with Systemd(world.settings.bus) as systemd:
        systemd.start(foreign, 30)
    world.build(world.service("one"))
    world.converge()
    with db.write():
        refs.remove(world.project, "main", "gone", time.time())
    world.converge()

    assert world.units() == {foreign.name: "active"}


def test_a_unit_stopped_by_hand_comes_back(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    with Systemd(world.settings.bus) as systemd:
        [unit] = systemd.units()
        systemd.stop(unit, 30)

    world.converge()

    assert world.units() == {unit: "active"}
    assert world.get("api") == (200, "one main")


def test_a_caddy_that_lost_its_routes_gets_them_back_in_one_write(world: World) -> None:
    world.build(world.service("one"), world.site("one"))
    world.converge()
    world.caddy.restart_empty()
    writes = world.caddy.writes()

    report = world.one_pass()

    assert report == Report(routed=True)
    refused = world.caddy.version < (2, 7)  # fields that it does not know
    assert world.caddy.writes() == writes + 1 + refused
    assert world.get("api") == (200, "one main")


def test_an_emptied_runtime_directory_is_repaired_by_the_next_pass(world: World) -> None:
    world.build(world.service("one"), world.site("one"))
    world.converge()
    shutil.rmtree(world.settings.runtime_dir)
    writes = world.caddy.writes()

    report = world.one_pass()

    assert report == Report(routed=world.caddy.reads_files)
    assert world.caddy.writes() == writes
    assert world.get("api") == (200, "one main")
    assert world.get("docs") == (200, "<h1>one</h1>")
    assert world.is_settled()


def test_the_plan_says_where_hosts_lead_and_would_lead(world: World) -> None:
    world.build(world.service("one"), world.site("one"))
    world.converge()
    assert preview(world.settings, world.host) == []
    before = world.written()

    with db.write():
        Deployment.delete().where(Deployment.name == "api").execute()
        docs = Deployment.get(name="docs")
        docs.live = {**docs.live, "store_path": "/nowhere"}
        docs.save()
    steps = {(step.action, step.what, step.why) for step in preview(world.settings, world.host)}

    assert ("route", "shop-docs-main.localhost", "Caddy sends it elsewhere") in steps
    gone = "shop-api-main.localhost"
    assert ("unroute", gone, "no deployment has this host name any more") in steps
    assert world.written() == before


def test_a_rollout_waits_for_a_caddy_that_is_gone_and_the_old_unit_runs_on(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    world.caddy.kill()
    build = world.build(world.service("two"))
    report = world.converge()

    assert any("caddy" in error for error in report.errors)
    assert world.status(build) == BuildStatus.BUILT
    assert len(world.units()) == 2

    world.caddy.start()
    world.converge()

    assert world.status(build) == BuildStatus.DONE
    assert world.get("api") == (200, "two main")
    assert len(world.units()) == 1
    assert world.is_settled()


def test_a_systemd_that_cannot_be_asked_changes_nothing(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    before = world.caddy.writes()
    world.host = LocalHost(world.settings.model_copy(update={"bus": f"unix:path={world.store}/gone"}))

    with pytest.raises(Unavailable, match="systemd"):
        world.converge()

    assert world.caddy.writes() == before
    assert world.get("api") == (200, "one main")


def test_a_live_service_that_does_not_stay_up_is_retried_with_patience(world: World) -> None:
    build = world.build(world.service("one"))
    world.converge()
    with Systemd(world.settings.bus) as systemd:
        [unit] = systemd.units()
        systemd.stop(unit, 30)

    assert world.one_pass().started == [unit]
    with Systemd(world.settings.bus) as systemd:
        systemd.stop(unit, 30)
    assert world.one_pass().started == []
    assert world.status(build) == BuildStatus.DONE
    assert [row.unit for row in deployments.all_rows()] == [unit]


def test_gc_roots_are_kept_for_the_last_builds_only(world: World) -> None:
    settings = world.settings = world.settings.model_copy(update={"keep_builds": 2})
    settings.gcroots_dir.mkdir()
    ids = []
    for version in ("one", "two", "three", "four"):
        build = world.build(world.site(version))
        ids.append(build.id)
        (settings.gcroots_dir / f"{build.id}-docs").symlink_to(world.store)
        world.converge()
    (settings.gcroots_dir / "somebody-elses").symlink_to(world.store)

    assert {path.name for path in settings.gcroots_dir.iterdir()} == {
        f"{ids[2]}-docs",
        f"{ids[3]}-docs",
        "somebody-elses",
    }
    with db.write():
        refs.remove(world.project, "main", "gone", time.time())
    world.converge()
    assert [path.name for path in settings.gcroots_dir.iterdir()] == ["somebody-elses"]


def test_what_a_pass_that_was_killed_before_it_swept_left_is_swept_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings.gcroots_dir.mkdir()
    build = world.build(world.site("one"), ref="dev")
    root = world.settings.gcroots_dir / f"{build.id}-docs"
    root.symlink_to(world.store)
    world.converge()
    with db.write():
        refs.remove(world.project, "dev", "gone", time.time())

    with monkeypatch.context() as patch:
        patch.setattr("kennel_core.reconcile.leftovers.sweep", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.converge()
    assert root.is_symlink()
    world.converge()

    assert not root.is_symlink()


def test_lost_messages_are_rung_again_by_the_pass(world: World) -> None:
    with db.write():
        build = builds.enqueue(world.project, "main", "a" * 40, time.time() - builds.RING_AGAIN_S - 1)

    assert world.one_pass().rung == [build.id] == world.doorbell.rung


@pytest.mark.parametrize(
    "step", ["services.start", "promotion.settle", "lead", "promotion.go_live", "services.stop"]
)
def test_a_pass_killed_between_any_two_steps_is_finished_by_the_next(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build(world.service("one"))
    world.converge()
    build = world.build(world.service("two"))
    real: Callable[..., object] = operator.attrgetter(step)(reconcile)

    def then_die(*args: object) -> None:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"kennel_core.reconcile.{step}", then_die)
        with pytest.raises(KeyboardInterrupt):
            world.converge()
    world.converge()

    assert world.status(build) == BuildStatus.DONE
    assert world.get("api") == (200, "two main")
    assert len(world.units()) == 1
    assert world.is_settled()


@pytest.mark.parametrize("step", ["write_target", "replace_routes", "remove_target"])
def test_a_pass_killed_while_it_leads_hosts_is_finished_by_the_next(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build(world.service("one"), world.service("one", name="web"), world.site("one"))
    world.converge()
    build = world.build(world.service("two"), world.site("two"), world.site("two", name="blog"))
    real: Callable[..., object] = getattr(LocalHost, step)

    def then_die(*args: object) -> None:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalHost, step, then_die)
        if world.caddy.reads_files or step == "replace_routes":
            with pytest.raises(KeyboardInterrupt):
                world.converge()
    world.converge()

    assert world.status(build) == BuildStatus.DONE
    assert world.get("api") == (200, "two main")
    assert (world.get("docs"), world.get("blog")) == ((200, "<h1>two</h1>"), (200, "<h1>two</h1>"))
    assert world.get("web")[0] == 404
    assert len(world.written()[1]) == 3 * world.caddy.reads_files
    assert world.is_settled()


def test_a_unit_of_a_database_that_was_put_back_is_taken_over(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    resources.forget(unit.id for unit in resources.units().values())

    world.converge()
    assert resources.units().keys() == world.units().keys()

    with db.write():
        refs.remove(world.project, "main", "gone", time.time())
    world.converge()
    assert world.units() == {}


def test_a_rollout_fails_also_when_the_journal_cannot_be_read(world: World) -> None:
    class Mute(LocalHost):
        def tail(self, unit: str) -> list[str]:
            raise Unavailable("journal", "read", "it is gone")

    world.host = Mute(world.settings)
    bad = world.build(world.service("one", health=503, timeout=1))

    world.converge()

    assert world.status(bad) == BuildStatus.FAILED
    assert "its last lines cannot be read: journal: read: it is gone" in builds.full_log(bad.id)


def test_a_preview_that_is_declined_is_built_and_done(world: World) -> None:
    with db.write():
        builds.enqueue(world.project, "pr-9", "f" * 40, time.time())
    build = lease.claim(time.time())
    outputs = Outputs(
        config_path=str(world.store), preview_deployments=False, services=[world.service("one")]
    )
    lease.succeed(build, outputs, world.settings, time.time())

    world.converge()

    assert world.status(build) == BuildStatus.DONE
    assert "nothing is deployed for this ref" in builds.full_log(build.id)
    assert world.units() == {}


def test_a_port_that_another_program_took_meanwhile_is_given_up(world: World) -> None:
    build = world.build(world.service("one"))
    [taken] = [row.port for row in deployments.all_rows()]
    with socket.create_server(("127.0.0.1", taken)):
        world.converge()
        assert world.status(build) == BuildStatus.DONE
        assert [row.port for row in deployments.all_rows()] != [taken]
        assert world.get("api") == (200, "one main")
        assert world.is_settled()


def test_a_live_service_finds_another_port_too_when_it_comes_back(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    [row] = deployments.all_rows()
    with Systemd(world.settings.bus) as systemd:
        systemd.stop(row.unit, 30)
    with socket.create_server(("127.0.0.1", row.port)):
        world.converge()
        assert world.get("api") == (200, "one main")
        assert world.is_settled()


def test_a_unit_that_is_wanted_again_has_its_time_to_drain_again(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    resources.unwanted((unit.id for unit in resources.units().values()), 1.0)

    world.converge()

    assert [unit.unwanted_at for unit in resources.units().values()] == [None]
    assert list(world.units().values()) == ["active"]
