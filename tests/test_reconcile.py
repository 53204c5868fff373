"""The pass, on a real systemd and a real Caddy."""

import operator
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kennel_core import builds, db, deployments, lease, projects, reconcile, refs, resources
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.errors import Unavailable
from kennel_core.models import Build, BuildStatus, Deployment, Project
from kennel_core.outputs import Outputs, ServiceOutput, SiteOutput
from kennel_core.reconcile import Report, converge, run_pass
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.host import LocalHost
from kennel_core.reconcile.preview import preview
from kennel_core.settings import Settings
from tests.servers.caddy import CaddyServer
from tests.servers.systemd import PrivateSystemd

SERVER = """#!/usr/bin/python3
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1)
        code = {health} if self.path == "/api/health" else 200
        body = "{version} {{KENNEL_BRANCH}}".format(**os.environ).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        print("asked for", self.path, flush=True)

server = ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
print("version {version} listens", flush=True)
server.serve_forever()
"""
CRASHES = "#!/bin/sh\necho cannot find my configuration\nexit 3\n"


class SilentDoorbell:
    """Nobody listens: the passes of a test are called by the test."""

    def __init__(self) -> None:
        self.rung: list[int] = []

    def build(self, build_id: int) -> None:
        self.rung.append(build_id)

    def reconcile(self) -> None:
        pass


@dataclass
class World:
    """A project on a host whose systemd and Caddy are real."""

    project: Project
    settings: Settings
    caddy: CaddyServer
    store: Path
    host: LocalHost
    doorbell: SilentDoorbell
    backoff: Backoff
    commits: int = 0

    def service(
        self, version: str, name: str = "api", health: int = 200, timeout: float = 5, script: str = SERVER
    ) -> ServiceOutput:
        path = self.store / f"{version}-{name}"
        program = path / "bin" / name
        if not program.exists():
            program.parent.mkdir(parents=True)
            text = script.format(version=version, health=health) if script is SERVER else script
            program.write_text(text)
            program.chmod(0o755)
        return ServiceOutput(
            name=name,
            store_path=str(path),
            command=[str(program)],
            health_path="/api/health",
            health_timeout=timeout,
        )

    def site(self, version: str, name: str = "docs") -> SiteOutput:
        path = self.store / f"{version}-{name}"
        path.mkdir(exist_ok=True)
        (path / "index.html").write_text(f"<h1>{version}</h1>")
        return SiteOutput(name=name, store_path=str(path))

    def build(self, *items: ServiceOutput | SiteOutput, ref: str = "main") -> Build:
        self.commits += 1
        with db.write():
            builds.enqueue(self.project, ref, f"{self.commits:040x}", time.time())
        build = lease.claim(time.time())
        assert build is not None
        outputs = Outputs(
            config_path=str(self.store),
            services=[item for item in items if isinstance(item, ServiceOutput)],
            sites=[item for item in items if isinstance(item, SiteOutput)],
        )
        lease.succeed(build, outputs, self.settings, time.time())
        for item in items:
            host = f"shop-{item.name}-{ref}.localhost"
            self.caddy.ask.allowed.add(host)
        return build

    def converge(self) -> Report:
        return converge(self.settings, self.doorbell, self.host, self.backoff)

    def one_pass(self) -> Report:
        return run_pass(self.settings, self.doorbell, self.host, self.backoff)

    def get(self, name: str, ref: str = "main", path: str = "/") -> tuple[int, str]:
        """Ask once; an older Caddy once more, when the connection ends before there is an answer.

        It reloads for a new version, and closes a connection that it accepted just before (RFC 9112 section
        9.3.1 has clients repeat such a request).
        """
        host = f"shop-{name}-{ref}.localhost"
        try:
            answer = self.caddy.request(host, path)
        except ConnectionError:
            if self.caddy.reads_files:
                raise
            answer = self.caddy.request(host, path)
        return answer.status, answer.body.decode()

    def units(self) -> dict[str, str]:
        with Systemd(self.settings.bus) as systemd:
            return systemd.units()

    def status(self, build: Build) -> str:
        return builds.get(build.id).status

    def is_settled(self) -> bool:
        """The next pass does nothing and writes nothing."""
        before = self.written()
        return self.one_pass() == Report() and self.written() == before

    def written(self) -> tuple[int, list[tuple[str, int]]]:
        """What changes when anything is written for Caddy: how many writes it got, the files as they are."""
        found = self.settings.targets_dir.glob("*")
        return self.caddy.writes(), sorted((path.name, path.stat().st_ino) for path in found)


@pytest.fixture
def world(
    settings: Settings,
    database: Path,
    project: Project,
    systemd: PrivateSystemd,
    caddy: CaddyServer,
    tmp_path: Path,
) -> Iterator[World]:
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    host = settings.model_copy(
        update={
            "bus": systemd.bus,
            "journal_dir": systemd.journal,
            "caddy_admin": caddy.admin,
            "drain_timeout": 10.0,
        }
    )
    yield World(project, host, caddy, store, LocalHost(host), SilentDoorbell(), Backoff())
    with Systemd(systemd.bus) as client:
        for name in client.units():
            client.stop(name, 30)


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
