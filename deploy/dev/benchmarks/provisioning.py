"""What services need, from real servers: how long a first deployment waits, and a pass that finds all there.

1,000 deployments of 250 refs, each ref with a PostgreSQL database, a Garage bucket and a Valkey of its own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.passes import SIZES, TARGET_S, World, counted_calls
from benchmarks.rows import Bench, Row, Unmeasurable, at_most, median, row
from kennel_core import db, resources
from kennel_core.outputs import Outputs, ServiceOutput
from kennel_core.reconcile import Report, configuration, logins, provisioning
from kennel_core.reconcile.desired import wanted
from kennel_core.reconcile.state import State
from kennel_core.settings import Settings
from tests.servers.garage import GarageServer
from tests.servers.keycloak import REALM, SERVICE_CLIENT, KeycloakServer
from tests.servers.openbao import OpenBaoServer
from tests.servers.postgres import KENNEL_ROLE, PostgresServer, postgres_server
from tests.servers.systemd import private_systemd

ALL = ["garage", "postgres", "valkey"]
FIRST_S = 0.3  # beyond the servers' own time
ROUNDS = 9
SPECIFICATION = """
[project]
name = "{project}"
revision = "1.0"
[profiles.default]
TOKEN = {{ description = "one" }}
KEY = {{ description = "another" }}
[profiles.dev]
"""


@dataclass(frozen=True)
class Neighbours:
    """Every server, running."""

    postgres: PostgresServer
    garage: GarageServer
    openbao: OpenBaoServer
    keycloak: KeycloakServer

    def settings(self, settings: Settings, home: Path) -> Settings:
        """Let Kennel use them."""
        secret = home / "keycloak-secret"
        secret.write_text(SERVICE_CLIENT[1])
        chosen = {
            **self.postgres.settings,
            "postgres": f"host=127.0.0.1 port={self.postgres.port} user={KENNEL_ROLE}",
            "postgres_auth": "password",
            "valkey": "instance",
            "keycloak": self.keycloak.url,
            "keycloak_realm": REALM,
            "keycloak_secret_file": secret,
        }
        return self.openbao.settings(
            self.garage.settings(settings.model_copy(update=chosen)), policy="write-secrets"
        )


class Needy(World):
    """A project whose services need everything."""

    oidc = False

    def outputs(self, services: list[ServiceOutput]) -> Outputs:
        """See `World`."""
        told = [s.model_copy(update={"oidc": ["/callback"]}) if self.oidc else s for s in services]
        return Outputs(config_path=str(self.store), services=told, resources=ALL)


def measure(bench: Bench) -> Iterator[Row]:
    """Measure the first deployments of refs, then a pass over many."""
    (bench.home / "store").mkdir(mode=0o755)
    bench.say("starting systemd, Caddy, PostgreSQL, Garage, OpenBao and Keycloak")
    with (
        private_systemd() as systemd,
        servers.caddy(bench.home / "caddy") as caddy,
        _neighbours(bench.home) as neighbours,
    ):
        settings = Settings(
            state_dir=bench.home / "state",
            runtime_dir=systemd.dir / "run/kennel",
            gcroots_dir=bench.home / "gcroots",
            bus=systemd.bus,
            journal_dir=systemd.journal,
            caddy_admin=caddy.admin,
        )
        settings = neighbours.settings(settings, bench.home)
        servers.new_database(settings)
        with db.connection():
            world = Needy(settings, bench.home, caddy)
            yield _first(world, neighbours, bench)
            bench.say(f"making what {SIZES[-1]:,} deployments need")
            world.grow(SIZES[-1])
            yield _no_op(world, bench)
            bench.say("stopping the units")


@contextmanager
def _neighbours(home: Path) -> Iterator[Neighbours]:
    for name in ("garage", "openbao"):
        (home / name).mkdir()
    garage, openbao = GarageServer(home / "garage"), OpenBaoServer(home / "openbao")
    keycloak = KeycloakServer(home / "keycloak")
    with postgres_server() as postgres:
        try:
            garage.start()
            openbao.start()
            openbao.initialise()
            keycloak.start()
            keycloak.give_roles("manage-clients")
            yield Neighbours(postgres, garage, openbao, keycloak)
        finally:
            for server in (garage, openbao, keycloak):
                server.kill()


def _first(world: Needy, neighbours: Neighbours, bench: Bench) -> Row:
    file = world.store / "secretspec.toml"
    file.write_text(SPECIFICATION.format(project=world.project.name))
    for name in ("TOKEN", "KEY"):
        neighbours.openbao.put(f"secretspec/{world.project.name}/dev/{name}", "a value")
    world.oidc = True
    walls, own = [], []
    for number in range(ROUNDS):
        bench.say(f"first deployment of a ref: {number + 1} of {ROUNDS}")
        world.built(f"first-{number}", [world.service("web", f"first{number}")])
        state = State(
            world.settings, world.host, wanted(world.settings), {}, resources.units(), resources.owned()
        )
        began, used = time.monotonic(), time.process_time()
        provided = provisioning.ensure(state)
        logins.settle(state)
        unready = configuration.settle(state, provided)
        walls.append(time.monotonic() - began)
        own.append(time.process_time() - used)
        if unready or state.report.errors:
            raise Unmeasurable(str(unready or state.report.errors))
        if (report := world.converge()).errors:
            raise Unmeasurable(report.errors[0])
    world.oidc = False
    file.unlink()
    took = median(own[1:])
    return row(
        "a new ref's database, bucket, cache, secrets and login",
        f"{median(walls[1:]) * 1000:.0f} ms, {took * 1000:.0f} ms of it Kennel's own",
        f"≤ {FIRST_S * 1000:.0f} ms beyond the servers' own time",
        took <= FIRST_S,
        by=at_most(took * 1000, FIRST_S * 1000, "ms"),
        why=f"median of {ROUNDS - 1}, slowest {max(walls[1:]) * 1000:.0f} ms; Kennel's own is its processor "
        "time. The first of a process also loads libraries and logs in everywhere: "
        f"{walls[0] * 1000:.0f} ms, {own[0] * 1000:.0f} ms of it Kennel's own.",
    )


def _no_op(world: Needy, bench: Bench) -> Row:
    while (report := world.converge()).provided or report.redeployed:
        if report.errors:
            raise Unmeasurable(report.errors[0])
    bench.say(f"passes over {SIZES[-1]:,} deployments with nothing to do")
    connection = db.database.connection()
    changes, writes = connection.total_changes, world.caddy.writes()
    with counted_calls() as calls:
        if (report := world.converge()) != Report():
            raise Unmeasurable(f"a pass over a settled host did something: {report}")
    writes = world.caddy.writes() - writes + connection.total_changes - changes
    walls, processor = [], []
    for _ in range(15):
        began, used = time.monotonic(), time.process_time()
        world.converge()
        walls.append(time.monotonic() - began)
        processor.append(time.process_time() - used)
    took = median(walls)
    owned = len(resources.owned())
    return row(
        f"no-op pass over {SIZES[-1]:,} deployments with {owned} resources",
        f"{took * 1000:.0f} ms, {writes} writes",
        f"≤ {TARGET_S * 1000:.0f} ms, 0 writes",
        took <= TARGET_S and writes == 0,
        by=at_most(took * 1000, TARGET_S * 1000, "ms"),
        why=f"median of 15 passes, slowest {max(walls) * 1000:.0f} ms, processor time "
        f"{median(processor) * 1000:.0f} ms; requests and D-Bus calls: "
        + ", ".join(f"{name} {count}" for name, count in sorted(calls.items())),
    )
