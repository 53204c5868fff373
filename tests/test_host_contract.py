"""What a pass may expect of the machine: of the real one, and of the model that histories are played on."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kennel_core.adapters.caddy import Caddy
from kennel_core.adapters.systemd import Systemd
from kennel_core.environment import Environment
from kennel_core.errors import Rejected, Unavailable
from kennel_core.inputs import Inputs
from kennel_core.provision import Owner
from kennel_core.reconcile import routes
from kennel_core.reconcile.host import Host, LocalHost
from kennel_core.reconcile.plan import Desired, Health
from kennel_core.settings import Settings
from tests.campaigns.versions import PROGRAM
from tests.model_host import Machine, ModelHost
from tests.servers.caddy import CaddyServer, programs
from tests.servers.ports import free_port
from tests.servers.systemd import PrivateSystemd
from tests.waiting import until

NUMBERS = itertools.count(1)
STRANGER: dict[str, Any] = {
    "match": [{"host": ["other.localhost"]}],
    "handle": [{"handler": "static_response", "status_code": 418}],
}


class Model:
    """The model, and what happens to it without Kennel."""

    def __init__(self, settings: Settings) -> None:
        self.machine = Machine()
        self.host: Host = ModelHost(settings, self.machine, lambda _seconds: None)
        self.broken: Host = ModelHost(
            settings, Machine(has_systemd=False, has_caddy=False), lambda _seconds: None
        )

    def program(self, kind: str) -> str:
        command = f"/store/{next(NUMBERS)}"
        self.machine.programs[command] = kind
        return command

    def vanish(self, unit: str) -> None:
        self.machine.end(unit)

    def restart_caddy(self) -> None:
        self.machine.lose_routes()

    def stranger_writes(self, *found: dict[str, Any]) -> None:
        self.machine.table = list(found)
        self.machine.written += 1

    def answers(self, host: str) -> bool:
        return self.machine.answer(host) is not None


@dataclass
class Real:
    """A real systemd and a real Caddy."""

    settings: Settings
    caddy: CaddyServer
    systemd: PrivateSystemd
    store: Path

    def __post_init__(self) -> None:
        self.host: Host = LocalHost(self.settings)
        nowhere = {"bus": f"unix:path={self.store}/no-bus", "caddy_admin": f"unix://{self.store}/no-caddy"}
        self.broken: Host = LocalHost(self.settings.model_copy(update=nowhere))

    def program(self, kind: str) -> str:
        path = self.store / str(next(NUMBERS))
        text = PROGRAM.replace("VERSION", "1").replace("STATUS", "200 OK" if kind == "ok" else "503 No")
        path.write_text("#!/no/such/interpreter\n" if kind == "broken" else text)
        path.chmod(0o755)
        return str(path)

    def vanish(self, unit: str) -> None:
        with Systemd(self.settings.bus) as systemd:
            systemd.stop(unit, 30)

    def restart_caddy(self) -> None:
        self.caddy.restart_empty()

    def stranger_writes(self, *found: dict[str, Any]) -> None:
        Caddy(self.settings.caddy_admin).replace_routes(found)

    def answers(self, host: str) -> bool:
        return self.caddy.request(host).status == 200


Place = Model | Real


@pytest.fixture(params=["model", "real"])
def place(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    """A machine with nothing on it."""
    if request.param == "model":
        yield Model(settings)
    else:
        yield request.getfixturevalue("real")


@pytest.fixture
def real(settings: Settings, own_systemd: PrivateSystemd, newest_caddy: CaddyServer, tmp_path: Path) -> Real:
    changes = {
        "bus": own_systemd.bus,
        "journal_dir": own_systemd.journal,
        "caddy_admin": newest_caddy.admin,
        "health_timeout": 5.0,
    }
    store = tmp_path / "store"
    store.mkdir()
    return Real(settings.model_copy(update=changes), newest_caddy, own_systemd, store)


@pytest.fixture
def newest_caddy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaddyServer]:
    server = CaddyServer(programs()[-1], tmp_path_factory.mktemp("caddy"))
    server.ask.allowed.update({"a.localhost", "b.localhost", "other.localhost"})
    server.start()
    yield server
    server.kill()
    server.ask.close()


def service(place: Place, kind: str = "ok") -> Desired:
    number, program = next(NUMBERS), place.program(kind)
    return Desired(
        id=number,
        name="api",
        owner=Owner(1, "shop", "main", Environment.PROD, ("api",)),
        build_id=1,
        rollout=True,
        hosts=("a.localhost",),
        store_path=program,
        unit=f"kennel-shop-main-api-{number:08x}.service",
        port=free_port(),
        command=(program,),
        environment={"KENNEL_SERVICE": "api", "KENNEL_BRANCH": "main", "HOST": "127.0.0.1"},
        health=Health("/", 5.0),
        project="acme/shop",
    )


def told_its_port(row: Desired) -> Desired:
    row.environment["PORT"] = str(row.port)  # type: ignore[index]
    return row


def started(place: Place, kind: str = "ok") -> Desired:
    row = told_its_port(service(place, kind))
    assert place.host.each_tell([(str(row.unit), Inputs())]) == [None]
    assert place.host.each_start([row]) == [None]
    return row


def led(place: Place, *entries: routes.Entry) -> None:
    """Lead hosts there, as a pass does."""
    found = place.host.routes()
    assert place.host.targets() is not None
    directory = getattr(place, "settings", Settings()).targets_dir
    for name, target in routes.targets(entries).items():
        place.host.write_target(name, target)
    wanted = routes.merged(found, routes.table(entries, None, directory))
    if wanted is not None:
        place.host.replace_routes(wanted)


def test_a_unit_that_was_started_runs_listens_and_is_healthy(place: Place) -> None:
    row = started(place)

    assert place.host.units() == {row.unit: "active"}
    assert place.host.each_probe([row], 20) == [None]
    assert not place.host.is_free(row.port)
    assert place.host.told(str(row.unit)) == []


def test_starting_what_runs_is_quiet_and_changes_nothing(place: Place) -> None:
    row = started(place)
    place.host.each_probe([row], 20)

    assert place.host.each_start([row, told_its_port(other := service(place))]) == [None, None]

    assert place.host.units() == {row.unit: "active", other.unit: "active"}
    assert place.host.each_probe([row], 0.01) == [None]


def test_a_unit_that_is_not_healthy_runs_and_says_what_was_seen(place: Place) -> None:
    row = started(place, "sick")

    [seen] = place.host.each_probe([row], 2)

    assert "503" in str(seen)
    assert place.host.units() == {row.unit: "active"}


def test_what_cannot_be_run_is_rejected_and_leaves_nothing(place: Place) -> None:
    row = told_its_port(service(place, "broken"))

    [error] = place.host.each_start([row])

    assert isinstance(error, Rejected)
    assert place.host.units() == {}


def test_stopping_leaves_nothing_and_is_quiet_where_there_is_nothing(place: Place) -> None:
    row = started(place)
    place.host.each_probe([row], 20)

    assert place.host.each_stop([str(row.unit)]) == [None]
    assert place.host.units() == {}
    assert place.host.is_free(row.port)
    assert place.host.each_stop([str(row.unit)]) == [None]


def test_a_unit_that_vanished_is_started_anew(place: Place) -> None:
    row = started(place)
    place.vanish(str(row.unit))
    assert place.host.units() == {}

    assert place.host.each_start([row]) == [None]
    assert place.host.each_probe([row], 20) == [None]


def test_a_host_leads_to_what_its_file_says(place: Place) -> None:
    row = started(place)
    place.host.each_probe([row], 20)
    led(place, routes.Proxy(row.hosts, row.port, row.id))
    assert place.answers("a.localhost")

    second = started(place)
    place.host.each_probe([second], 20)
    place.host.write_target(f"{row.id}.port", str(second.port))
    place.host.each_stop([str(row.unit)])

    assert place.answers("a.localhost")
    assert place.host.targets() == {f"{row.id}.port": str(second.port)}
    place.host.remove_target(f"{row.id}.port")
    place.host.remove_target(f"{row.id}.port")
    assert place.host.targets() == {}


def test_routes_are_read_back_as_they_were_written_behind_those_of_others(place: Place) -> None:
    place.stranger_writes(STRANGER)
    led(place, routes.Files(("b.localhost",), "/usr", spa=False, id=7))

    found = place.host.routes()

    assert found[0] == STRANGER
    assert routes.entries(found, place.host.targets()) == {
        7: routes.Files(("b.localhost",), "/usr", spa=False, id=7)
    }
    assert routes.merged(found, [route for route in found if routes.is_ours(route)]) is None


def test_a_write_is_refused_when_somebody_else_wrote_meanwhile(place: Place) -> None:
    found = place.host.routes()
    place.stranger_writes(STRANGER, *found)

    with pytest.raises(Unavailable):
        place.host.replace_routes(found)

    assert place.host.routes()[0] == STRANGER
    place.host.replace_routes(found)
    assert place.host.routes() == found


def test_a_caddy_that_starts_again_has_none_of_the_routes(place: Place) -> None:
    led(place, routes.Files(("b.localhost",), "/usr", spa=False, id=7))

    place.restart_caddy()

    assert routes.entries(place.host.routes(), place.host.targets()) == {}


def test_what_is_down_is_unavailable(place: Place) -> None:
    row = told_its_port(service(place))
    with pytest.raises(Unavailable):
        place.broken.units()
    with pytest.raises(Unavailable):
        place.broken.routes()

    for errors in (place.broken.each_start([row]), place.broken.each_stop([str(row.unit)])):
        assert [type(error) for error in errors] == [Unavailable]


def test_a_unit_that_systemd_gave_up_is_listed_as_failed_until_it_is_started_or_stopped(place: Place) -> None:
    row = started(place)
    place.host.each_probe([row], 20)
    give_up(place, str(row.unit))

    assert place.host.units() == {row.unit: "failed"}
    assert place.host.each_start([row]) == [None]
    assert place.host.units() == {row.unit: "active"}
    give_up(place, str(row.unit))
    assert place.host.each_stop([str(row.unit)]) == [None]
    assert place.host.units() == {}


def give_up(place: Place, unit: str) -> None:
    """Let a unit's program end until systemd starts it no more."""
    if isinstance(place, Model):
        place.machine.crash(unit)
        return

    def ended() -> bool:
        place.systemd.run("systemctl", "kill", "--signal=KILL", unit)
        return place.host.units().get(unit) == "failed"

    until(ended, timeout=60, interval=0.2, what="systemd gives up")
