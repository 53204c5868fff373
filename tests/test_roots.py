"""GC roots, room on the disk, and what is pruned by age."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kennel_core import builds, db, deployments, lease, metrics, room
from kennel_core.adapters.systemd import Systemd
from kennel_core.models import Build, BuildStatus, Deployment, Project
from kennel_core.outputs import Outputs, SiteOutput
from kennel_core.reconcile import leftovers, roots
from kennel_core.settings import Settings
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.world import World

HASH = "0123456789abcdfghijklmnpqrsvwxyz"
Deploy = Callable[[], Build]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for nix's store."""
    path = tmp_path / "store"
    path.mkdir()
    monkeypatch.setenv("NIX_STORE_DIR", str(path))
    return path


def made(store: Path, name: str) -> str:
    path = store / f"{HASH}-{name}"
    path.mkdir(exist_ok=True)
    return str(path)


@pytest.fixture
def deploy(project: Project, settings: Settings, store: Path) -> Deploy:
    """Take a queued build live, with a site in the store."""

    def go() -> Build:
        build = lease.claim(time.time())
        assert build is not None
        outputs = Outputs(
            config_path=made(store, "config"), sites=[SiteOutput(name="docs", store_path=made(store, "docs"))]
        )
        lease.succeed(build, outputs, settings, time.time())
        with db.write():
            builds.went_live(build.id, time.time())
            deployments.went_live(builds.get(build.id))
        return build

    with db.write():
        builds.enqueue(project, "main", "a" * 40, time.time())
    return go


def repair(settings: Settings) -> list[object]:
    bell = RecordingDoorbell()
    roots.repair(settings, bell, time.time())
    return bell.rung


def links(settings: Settings) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in settings.gcroots_dir.iterdir()}


def test_roots_that_are_missing_are_made_and_those_that_lead_elsewhere_put_right(
    deploy: Deploy, settings: Settings, store: Path
) -> None:
    build = deploy()
    assert repair(settings) == []
    whole = links(settings)
    assert sorted(whole.values()) == [f"{store}/{HASH}-config", f"{store}/{HASH}-docs"]

    (settings.gcroots_dir / f"{build.id}-docs").unlink()
    (settings.gcroots_dir / f"{build.id}-docs").symlink_to(made(store, "other"))
    repair(settings)
    assert links(settings) == whole

    before = settings.gcroots_dir.stat().st_mtime_ns
    repair(settings)
    assert settings.gcroots_dir.stat().st_mtime_ns == before
    assert leftovers.unneeded_roots(settings) == []


def test_a_root_of_another_name_will_do(deploy: Deploy, settings: Settings, store: Path) -> None:
    build = deploy()
    settings.gcroots_dir.mkdir()
    for name in ("package", "config"):
        target = made(store, "docs" if name == "package" else name)
        (settings.gcroots_dir / f"{build.id}-{name}").symlink_to(target)
    before = links(settings)

    repair(settings)

    assert links(settings) == before


def test_what_is_gone_from_the_store_is_built_again_once_with_the_reason(
    deploy: Deploy, settings: Settings, store: Path, project: Project
) -> None:
    first = deploy()
    with db.write():  # a newer push, which failed
        builds.enqueue(project, "main", "b" * 40, time.time())
    failed = lease.claim(time.time())
    assert failed is not None
    lease.fail(failed, "build:docs: no", time.time())
    Path(store / f"{HASH}-docs").rmdir()

    (number,) = repair(settings)

    build = builds.get(int(str(number)))
    assert (build.ref, build.commit, build.error) == ("main", first.commit, builds.GONE_FROM_STORE)
    assert "gone from the store" in str(build.error)
    assert repair(settings) == []
    deploy()
    assert builds.get(build.id).status == BuildStatus.DONE
    assert builds.get(build.id).error is None
    assert repair(settings) == []


def test_a_second_failure_to_build_again_is_left_to_an_operator(
    deploy: Deploy, settings: Settings, store: Path
) -> None:
    deploy()
    Path(store / f"{HASH}-docs").rmdir()
    repair(settings)
    build = lease.claim(time.time())
    assert build is not None
    lease.fail(build, "clone: no", time.time())

    assert repair(settings) == []
    assert Deployment.select().count() == 1


def test_what_is_no_store_path_gets_no_root(settings: Settings, project: Project, tmp_path: Path) -> None:
    with db.write():
        builds.enqueue(project, "main", "a" * 40, time.time())
    build = lease.claim(time.time())
    assert build is not None
    site = SiteOutput(name="docs", store_path=str(tmp_path))
    lease.succeed(build, Outputs(config_path=str(tmp_path), sites=[site]), settings, time.time())

    assert repair(settings) == []
    assert not settings.gcroots_dir.exists()


def test_a_full_disk_holds_builds_back_with_the_reason_and_room_lets_them_go(
    settings: Settings, project: Project
) -> None:
    settings.state_dir.mkdir(exist_ok=True)
    full = settings.model_copy(update={"min_free_bytes": 1 << 62})
    with db.write():
        build = builds.enqueue(project, "main", "a" * 40, time.time())

    reason = room.lack(full)
    assert reason is not None
    assert "KENNEL_MIN_FREE_BYTES" in reason
    builds.hold(reason)

    assert str(builds.get(build.id).error).startswith(f"waits: {settings.state_dir} has ")
    assert builds.held() == 1
    samples = {one.name: one.samples[0].value for one in metrics.DatabaseCollector().collect() if one.samples}
    assert samples["kennel_builds_held"] == 1
    assert room.lack(settings.model_copy(update={"min_free_bytes": 0})) is None
    claimed = lease.claim(time.time())
    assert claimed is not None
    assert builds.get(claimed.id).error is None
    assert builds.held() == 0


def test_a_build_that_waited_a_day_says_what_for(project: Project) -> None:
    with db.write():
        build = builds.enqueue(project, "main", "a" * 40, time.time() - builds.QUEUED_MAX_S - 1)
    builds.hold("no room")
    builds.forgotten(time.time(), 1)
    assert builds.get(build.id).error == "waits: no room"


def test_old_logs_go_and_the_builds_stay(project: Project, settings: Settings) -> None:
    ids = []
    for age in (100, 10):
        with db.write():
            build = builds.enqueue(project, f"topic-{age}", "a" * 40, time.time())
        claimed = lease.claim(time.time())
        assert claimed is not None
        lease.append_log(claimed, [("clone", "hello\n")])
        lease.fail(claimed, "no", time.time() - age * leftovers.DAY_S)
        ids.append(build.id)
    settings.runtime_dir.mkdir()

    leftovers.sweep(settings, time.time())

    assert builds.full_log(ids[0]) == ""
    assert "hello" in builds.full_log(ids[1])
    assert builds.get(ids[0]).status == BuildStatus.FAILED
    leftovers.sweep(settings, time.time())


def test_the_directory_of_the_attempt_that_runs_stays_and_those_of_lost_ones_go(
    project: Project, settings: Settings
) -> None:
    with db.write():
        builds.enqueue(project, "main", "a" * 40, time.time())
    build = lease.claim(time.time())
    assert build is not None
    for name in (f"{build.id}-0", f"{build.id}-1", f"{build.id + 1}-1", "somebody-elses"):
        (settings.work_dir / name).mkdir(parents=True)
    leftovers.end_lost_work(settings)
    assert sorted(path.name for path in settings.work_dir.iterdir()) == [f"{build.id}-1", "somebody-elses"]

    builds.forgotten(time.time() + lease.LEASE_S + 1, 1)
    leftovers.end_lost_work(settings)
    assert [path.name for path in settings.work_dir.iterdir()] == ["somebody-elses"]


def test_a_service_that_is_gone_from_the_store_comes_back_with_its_build(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIX_STORE_DIR", str(world.store))
    made = world.service(HASH)
    world.build(made)
    world.converge()
    assert world.get("api")[0] == 200
    (unit,) = world.units()
    aside = world.store.with_name("aside")
    Path(made.store_path).rename(aside)
    with Systemd(world.settings.bus) as systemd:
        systemd.stop(unit, 30)

    world.converge()
    world.converge()

    assert unit not in world.units()
    build = lease.claim(time.time())
    assert build is not None
    assert builds.get(build.id).error == builds.GONE_FROM_STORE
    aside.rename(made.store_path)
    outputs = Outputs(config_path=str(world.store), resources=[], services=[made])
    lease.succeed(build, outputs, world.settings, time.time())
    world.converge()
    assert world.status(build) == BuildStatus.DONE
    assert world.get("api")[0] == 200
    assert world.is_settled()


def test_a_push_gives_a_service_that_does_not_stay_up_another_try(world: World) -> None:
    made = world.service("one")
    world.build(made)
    world.converge()
    (unit,) = world.units()
    for _ in range(2):
        with Systemd(world.settings.bus) as systemd:
            systemd.stop(unit, 30)
        world.one_pass()
    assert unit not in world.units()  # its time to be tried again has not come

    build = world.build(made)
    world.converge()

    assert world.status(build) == BuildStatus.DONE
    assert world.units() == {unit: "active"}
