"""A server for each ref, on a real systemd."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from kennel_core.adapters import journal
from kennel_core.adapters.stateful_units import StatefulSystemd
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.environment import Environment
from kennel_core.errors import Rejected, Unavailable
from kennel_core.provision import Owner
from kennel_core.provision.valkey import instance, valkey
from kennel_core.provision.valkey.instance import Instances
from kennel_core.settings import Settings
from tests.remembered import Remembered
from tests.servers.systemd import PrivateSystemd
from tests.servers.valkey import programs
from tests.waiting import until

MAIN = Owner(7, "shop", "main", Environment.PROD, ("api",))
PREVIEW = Owner(7, "shop", "pr-3", Environment.PREVIEW, ("api",))
TIMEOUT = 30.0

# A service that looks at its own socket, at a neighbour's, and at what is around.
VISITOR = """
import json, os, socket, sys
def attempt(action):
    try:
        return action()
    except OSError as exc:
        return exc.strerror
def ping(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"PING\\r\\n")
        return client.recv(100).decode().strip()
own, other = sys.argv[1:]
home = os.path.dirname(os.path.dirname(own))
print("report " + json.dumps({
    "own": attempt(lambda: ping(own)),
    "other": attempt(lambda: ping(other)),
    "seen": attempt(lambda: os.listdir(home)),
    "above": attempt(lambda: os.listdir(os.path.dirname(home))),
    "replace": attempt(lambda: os.unlink(own)),
    "data": attempt(lambda: os.listdir("/var/lib/private")),
}), flush=True)
__import__("time").sleep(1000)
"""


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory at a path that leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="kennel-run.", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(params=programs(), ids=lambda path: path.name)
def program(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Each server there is, where services may run it."""
    found: Path = request.param
    if not found.is_relative_to(Path.home()):
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="kennel-valkey.", dir="/opt") as place:  # a sandbox hides homes
        Path(place).chmod(0o755)
        yield Path(shutil.copy(found, place))


@pytest.fixture
def configured(settings: Settings, systemd: PrivateSystemd, runtime: Path) -> Settings:
    changes = {
        "bus": systemd.bus, "runtime_dir": runtime, "valkey": "instance",
        "valkey_program": "redis-server", "valkey_memory": 8 * 1024**2,
    }  # fmt: skip
    return settings.model_copy(update=changes)


@pytest.fixture
def instances(configured: Settings, systemd: PrivateSystemd) -> Iterator[Instances]:
    """The provisioner; what a test leaves of it is gone afterwards."""
    made = valkey(configured, set)
    assert isinstance(made, Instances)
    yield made
    with Systemd(systemd.bus) as client:
        for name in client.units():
            client.stop(name, TIMEOUT)
    systemd.run("sh", "-c", "rm -rf /var/lib/kennel-valkey-* /var/lib/private/kennel-valkey-*")


def unit(instances: Instances, owner: Owner = MAIN) -> str:
    return f"kennel-valkey-{instances.name(owner)}.service"


def connected(instances: Instances, owner: Owner = MAIN) -> redis.Redis:
    address = instances.variables(owner, Remembered(), "api")["REDIS_URL"]
    return redis.Redis.from_url(address, decode_responses=True, socket_timeout=5)


def made(instances: Instances, owner: Owner = MAIN) -> Remembered:
    memory = Remembered()
    instances.ensure(owner, memory)
    return memory


def main_pid(systemd: PrivateSystemd, name: str) -> str:
    return systemd.run("systemctl", "show", "--property=MainPID", "--value", name).strip()


def state_directories(systemd: PrivateSystemd) -> list[str]:
    listed = systemd.run("sh", "-c", "ls /var/lib /var/lib/private 2>/dev/null || true")
    return [name for name in listed.split() if name.startswith("kennel-valkey-")]


def directories(settings: Settings) -> list[str]:
    return [path.name for path in (settings.runtime_dir / "valkey").iterdir()]


def visit(
    systemd: PrivateSystemd, manager: Systemd, instances: Instances, owner: Owner, other: Owner
) -> dict:
    """Run a service of `owner` as a deployment's is run, and give what it saw."""
    name = f"kennel-visitor-{instances.name(owner)}.service"
    own, others = (str(instances.directory(each) / "valkey.sock") for each in (owner, other))
    spec = UnitSpec(
        name=name,
        argv=("/usr/bin/python3", "-c", VISITOR, own, others),
        environment={},
        working_directory="/",
        description="a visitor",
        user=dynamic_user(name),
        log_fields={},
        memory_max=512 * 1024**2,
        tasks_max=64,
        hidden=(str(instances.directory(owner).parents[1]),),
        readable=(str(instances.directory(owner)),),
    )
    manager.start(spec, TIMEOUT)

    def seen() -> str | None:
        lines = journal.tail(name, 50, systemd.journal)
        return next((line for line in lines if line.startswith("report ")), None)

    report: dict = json.loads(until(seen).removeprefix("report "))
    return report


def test_an_instance_answers_on_its_socket_alone_and_is_named_as_before(
    instances: Instances, configured: Settings, program: Path
) -> None:
    instances = Instances(configured.model_copy(update={"valkey_program": str(program)}))
    memory = made(instances)

    socket = configured.runtime_dir / "valkey" / instances.name(MAIN) / "valkey.sock"
    assert instances.variables(MAIN, memory, "api") == {
        "VALKEY_URL": f"redis+unix://{socket}?db=0",
        "REDIS_URL": f"unix://{socket}?db=0",
    }
    assert instances.parts(MAIN, memory) <= instances.present()
    assert not instances.parts(PREVIEW, Remembered()) & instances.present()
    with connected(instances) as client:
        client.set("a", "1")
        client.select(3)
        assert client.config_get("port", "maxmemory", "maxmemory-policy") == {
            "port": "0",
            "maxmemory": str(8 * 1024**2),
            "maxmemory-policy": "volatile-lru",
        }


def test_a_service_reaches_its_own_instance_and_no_neighbours(
    systemd: PrivateSystemd, manager: Systemd, instances: Instances
) -> None:
    for owner in (MAIN, PREVIEW):
        made(instances, owner)

    for owner, other in ((MAIN, PREVIEW), (PREVIEW, MAIN)):
        assert visit(systemd, manager, instances, owner, other) == {
            "own": "+PONG",
            "other": "No such file or directory",
            "seen": [instances.name(owner)],
            "above": ["valkey"],
            "replace": "Read-only file system",
            "data": "Permission denied",
        }


@pytest.mark.parametrize("place", ["/root", "/var/tmp", "/run"])
def test_services_reach_their_instance_wherever_the_runtime_directory_lies(
    systemd: PrivateSystemd, manager: Systemd, instances: Instances, configured: Settings, place: str
) -> None:
    below = (
        f"{systemd.dir}/run" if place == "/run" else place
    )  # what is /run inside, as it is seen from outside
    with tempfile.TemporaryDirectory(prefix="kennel-run.", dir=below) as name:
        Path(name).chmod(0o755)
        elsewhere = Instances(configured.model_copy(update={"runtime_dir": Path(name)}))
        memory = made(elsewhere)

        seen = visit(systemd, manager, elsewhere, MAIN, PREVIEW)

        assert (seen["own"], seen["seen"]) == ("+PONG", [elsewhere.name(MAIN)])
        elsewhere.remove(MAIN, memory)


def test_an_instance_is_sandboxed_as_services_are(systemd: PrivateSystemd, instances: Instances) -> None:
    made(instances)

    exposure = systemd.run("systemd-analyze", "security", "--no-pager", unit(instances)).splitlines()[-1]

    assert float(exposure.split(":")[1].split()[0]) < 2.0
    user = systemd.run("systemctl", "show", "--property=User", "--value", unit(instances)).strip()
    assert user == dynamic_user(unit(instances))


def test_nobody_else_on_the_host_gets_to_the_sockets(instances: Instances, configured: Settings) -> None:
    made(instances)

    home = configured.runtime_dir / "valkey"

    assert (home.stat().st_mode & 0o777, home.stat().st_uid) == (0o700, os.geteuid())


def test_ensuring_again_leaves_a_running_instance_alone(
    systemd: PrivateSystemd, instances: Instances
) -> None:
    memory = made(instances)
    before = main_pid(systemd, unit(instances))

    instances.ensure(MAIN, memory)
    made(instances)  # also when the database came from a backup

    assert main_pid(systemd, unit(instances)) == before
    assert memory.state == {"unit": unit(instances)}


def test_data_is_there_again_after_a_stop_and_with_an_empty_runtime_directory(
    manager: Systemd, instances: Instances, configured: Settings
) -> None:
    memory = made(instances)
    with connected(instances) as client:
        client.set("a", "1")
    manager.stop(unit(instances), TIMEOUT)
    shutil.rmtree(configured.runtime_dir / "valkey")  # as after a reboot

    assert not instances.parts(MAIN, memory) & instances.present()
    instances.ensure(MAIN, memory)

    with connected(instances) as client:
        assert client.get("a") == "1"


def test_an_instance_that_is_killed_comes_back_for_services_that_run(
    systemd: PrivateSystemd, instances: Instances
) -> None:
    made(instances)
    directory = instances.directory(MAIN).stat().st_ino
    with connected(instances) as client:
        client.set("a", "1")
        client.save()
    before = main_pid(systemd, unit(instances))

    systemd.run("systemctl", "kill", "--signal=KILL", unit(instances))

    def back() -> str | None:
        with contextlib.suppress(redis.ConnectionError), connected(instances) as client:
            return client.get("a")
        return None

    assert until(back) == "1"
    assert main_pid(systemd, unit(instances)) != before
    assert instances.directory(MAIN).stat().st_ino == directory  # what a service sees is this directory


def test_an_instance_whose_socket_was_deleted_is_started_anew(instances: Instances) -> None:
    memory = made(instances)
    with connected(instances) as client:
        client.set("a", "1")
    shutil.rmtree(instances.directory(MAIN))

    assert not instances.parts(MAIN, memory) <= instances.present()
    instances.ensure(MAIN, memory)

    with connected(instances) as client:
        assert client.get("a") == "1"


def test_removing_an_instance_leaves_nothing_and_its_neighbour_alone(
    systemd: PrivateSystemd, manager: Systemd, instances: Instances, configured: Settings
) -> None:
    memory, _ = made(instances), made(instances, PREVIEW)
    for owner in (MAIN, PREVIEW):
        with connected(instances, owner) as client:
            client.set("a", "1")
            client.save()

    instances.remove(MAIN, memory)
    instances.remove(MAIN, memory)

    assert manager.units() == {unit(instances, PREVIEW): "active"}
    assert set(state_directories(systemd)) == {f"kennel-valkey-{instances.name(PREVIEW)}"}
    assert directories(configured) == [instances.name(PREVIEW)]
    with connected(instances, PREVIEW) as client:
        assert client.get("a") == "1"
    instances.remove(PREVIEW, Remembered(unit=unit(instances, PREVIEW)))
    assert state_directories(systemd) == []


def test_data_that_a_reboot_left_is_removed_though_no_unit_is_loaded(
    systemd: PrivateSystemd, manager: Systemd, instances: Instances
) -> None:
    memory = made(instances)
    manager.stop(unit(instances), TIMEOUT)
    assert state_directories(systemd)

    Instances(instances._settings.model_copy(update={"valkey_program": "gone"})).remove(MAIN, memory)

    assert state_directories(systemd) == []


def test_where_nothing_can_be_sandboxed_the_data_is_kennels_own(
    instances: Instances, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfAUser(StatefulSystemd):
        def __init__(self, bus: str) -> None:
            super().__init__(bus)
            self.sandboxed = False

    monkeypatch.setattr(instance, "StatefulSystemd", OfAUser)
    memory = made(instances)
    with connected(instances) as client:
        client.set("a", "1")
    with OfAUser(configured.bus) as systemd:
        systemd.stop(unit(instances), TIMEOUT)
    instances.ensure(MAIN, memory)
    with connected(instances) as client:
        assert client.get("a") == "1"

    instances.remove(MAIN, memory)

    assert list((configured.state_dir / "valkey").iterdir()) == []
    assert directories(configured) == []


def test_what_has_values_that_expire_is_dropped_when_memory_is_full_and_the_rest_kept(
    instances: Instances,
) -> None:
    made(instances)
    with connected(instances) as client:
        client.set("stored", "1")
        for number in range(200):
            client.set(f"cached:{number}", "x" * 100_000, ex=3600)

        assert client.get("stored") == "1"
        assert 0 < client.dbsize() < 100
        with pytest.raises(redis.OutOfMemoryError):
            for number in range(200):
                client.set(f"stored:{number}", "x" * 100_000)
        assert client.get("stored") == "1"


def test_a_unit_of_the_same_name_that_somebody_else_made_is_left_alone(
    systemd: PrivateSystemd, instances: Instances
) -> None:
    systemd.run("systemd-run", f"--unit={unit(instances)}", "/bin/sleep", "1000")
    try:
        before = main_pid(systemd, unit(instances))
        memory = Remembered()

        with pytest.raises(Rejected, match="Kennel did not make the unit"):
            instances.ensure(MAIN, memory)
        instances.remove(MAIN, memory)
        with pytest.raises(Rejected, match="Kennel did not make the unit"):
            instances.remove(MAIN, Remembered(unit=unit(instances)))

        assert main_pid(systemd, unit(instances)) == before
        assert memory.state == {}
    finally:
        systemd.run("systemctl", "stop", unit(instances))


def test_a_directory_that_is_not_kennels_own_is_left_alone(
    instances: Instances, configured: Settings, tmp_path: Path
) -> None:
    (configured.runtime_dir / "valkey").symlink_to(tmp_path)
    before = tmp_path.stat().st_mode

    with pytest.raises(Rejected, match="is not a directory of Kennel's own"):
        made(instances)

    assert tmp_path.stat().st_mode == before


# --- whatever happens


class Crash(BaseException):
    """The process ends here."""


STEPS = ("argv", "start", "stop", "clean", "is_alive")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("action", "step"), [
    ("ensure", "argv"), ("ensure", "note"), ("ensure", "start"),
    ("remove", "argv"), ("remove", "stop"), ("remove", "clean"), ("remove", "rmtree"),
])  # fmt: skip
def test_a_crash_at_any_step_is_made_good_by_the_next_attempt(
    systemd: PrivateSystemd, manager: Systemd, instances: Instances, configured: Settings,
    monkeypatch: pytest.MonkeyPatch, action: str, step: str, when: str,
) -> None:  # fmt: skip
    memory = made(instances) if action == "remove" else Remembered()
    place = {"note": Remembered, "rmtree": instance.shutil}.get(step, StatefulSystemd)
    real = getattr(place, step)

    def crash(*arguments: object, **named: object) -> None:
        if when == "after":
            real(*arguments, **named)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(place, step, crash)
        with pytest.raises(Crash):
            getattr(instances, action)(MAIN, memory)

    getattr(instances, action)(MAIN, memory)
    if action == "ensure":
        assert instances.parts(MAIN, memory) <= instances.present()
        with connected(instances) as client:
            assert client.ping()
        instances.remove(MAIN, memory)
    assert manager.units() == {}
    assert state_directories(systemd) == []
    assert directories(configured) == []


def test_a_program_that_is_not_installed_is_told_of(configured: Settings) -> None:
    missing = Instances(configured.model_copy(update={"valkey_program": "valkey-nowhere"}))

    with pytest.raises(
        Rejected, match=r"valkey-nowhere is not installed: install it, or set KENNEL_VALKEY_PROGRAM"
    ):
        made(missing)


def test_without_a_program_both_names_are_told(configured: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(Rejected, match="valkey-server or redis-server is not installed"):
        made(Instances(configured.model_copy(update={"valkey_program": ""})))


def test_a_program_that_ends_at_once_is_told_of_and_leaves_nothing_running(
    configured: Settings, manager: Systemd
) -> None:
    broken = Instances(configured.model_copy(update={"valkey_program": "/bin/false"}))

    with pytest.raises(Rejected, match="ended at once"):
        made(broken)

    assert manager.units() == {}


def test_data_that_cannot_be_read_is_told_of_with_where_to_look(
    systemd: PrivateSystemd, manager: Systemd, instances: Instances
) -> None:
    memory = made(instances)
    with connected(instances) as client:
        client.set("a", "1")
    manager.stop(unit(instances), TIMEOUT)
    data = f"/var/lib/private/kennel-valkey-{instances.name(MAIN)}/dump.rdb"
    systemd.run("sh", "-c", f"echo broken > {data}")

    with pytest.raises(Rejected, match=r"ended at once"):
        instances.ensure(MAIN, memory)

    assert manager.units() == {}
    assert systemd.run("cat", data) == "broken\n"
    instances.remove(MAIN, memory)
    assert state_directories(systemd) == []


def test_a_frozen_instance_is_unavailable_and_can_be_removed(
    systemd: PrivateSystemd, instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = made(instances)
    monkeypatch.setattr(instance, "PING_TIMEOUT_S", 0.1)
    monkeypatch.setattr(instance, "START_TIMEOUT_S", 0.3)
    systemd.run("systemctl", "kill", f"--signal={signal.SIGSTOP.name}", unit(instances))

    with pytest.raises(Unavailable, match="no answer"):
        instances.ensure(MAIN, memory)
    instances.remove(MAIN, memory)

    assert state_directories(systemd) == []


def test_a_systemd_that_is_down_is_unavailable(configured: Settings, tmp_path: Path) -> None:
    lost = Instances(configured.model_copy(update={"bus": f"unix:path={tmp_path}/none"}))

    for action in (lost.present, lambda: made(lost), lambda: lost.remove(MAIN, Remembered(unit="x"))):
        with pytest.raises(Unavailable, match="systemd"):
            action()


def test_refs_whose_names_are_shortened_alike_have_instances_of_their_own(instances: Instances) -> None:
    long = [Owner(7, "shop", f"feature/{'a' * 70}{end}", Environment.DEV) for end in "ab"]

    for owner in long:
        made(instances, owner)
        with connected(instances, owner) as client:
            assert client.dbsize() == 0
            client.set("a", "1")

    assert len({instances.name(owner) for owner in long}) == 2


def test_a_runtime_directory_too_long_for_a_socket_is_told_of(configured: Settings) -> None:
    deep = Instances(configured.model_copy(update={"runtime_dir": Path("/run") / ("x" * 70)}))

    with pytest.raises(Rejected, match="choose a KENNEL_RUNTIME_DIR of at most 63 characters"):
        made(deep)


def test_the_longest_allowed_runtime_directory_works_for_every_name(configured: Settings) -> None:
    runtime = Path("/run") / ("x" * 58)
    instances = Instances(configured.model_copy(update={"runtime_dir": runtime}))
    owner = dataclasses.replace(MAIN, ref="a" * 200)

    assert len(str(runtime)) == 63
    assert len(str(instances.directory(owner) / "valkey.sock")) <= 107
