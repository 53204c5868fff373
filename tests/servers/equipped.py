"""`equipped`: a world with every server that services can need; `with_logins`: and Keycloak."""

from collections.abc import Iterator

import pytest

from kennel_core import db, refs, resources
from kennel_core.reconcile.host import LocalHost
from kennel_core.settings import Settings
from tests.servers.garage import GarageServer
from tests.servers.openbao import OpenBaoServer
from tests.servers.postgres import KENNEL_ROLE, PostgresServer
from tests.servers.world import World

LOGIN_SETTINGS = ("keycloak", "keycloak_realm", "keycloak_secret_file")


@pytest.fixture
def equipped(
    world: World, postgres: PostgresServer, garage_server: GarageServer, openbao: OpenBaoServer
) -> Iterator[World]:
    """A world with every server but Keycloak; OpenBao has the secrets of the project's prod."""
    shared = {
        **postgres.settings,
        "postgres": f"host=127.0.0.1 port={postgres.port} user={KENNEL_ROLE}",
        "postgres_auth": "password",
        "valkey": "instance",
    }
    world.settings = openbao.settings(garage_server.settings(world.settings.model_copy(update=shared)))
    world.host = LocalHost(world.settings)
    for profile in ("prod", "preview"):
        openbao.put(f"secretspec/shop/{profile}/TOKEN", f"token of {profile}")
        openbao.put(f"secretspec/shop/{profile}/CERTIFICATE", "-----BEGIN\nline two\n")
    yield world
    with db.write():
        for ref in ("main", "pr-1"):
            refs.remove(world.project, ref, "the test ends", 0.0)
    world.converge()
    resources.confirm((row.id for row in resources.owned().values()), 0.0)
    world.converge()
    assert resources.owned() == {}


@pytest.fixture
def with_logins(equipped: World, keycloak_settings: Settings, openbao: OpenBaoServer) -> World:
    """A world whose projects can log people in."""
    theirs = {name: getattr(keycloak_settings, name) for name in LOGIN_SETTINGS}
    equipped.settings = openbao.settings(equipped.settings.model_copy(update=theirs), policy="write-secrets")
    equipped.host = LocalHost(equipped.settings)
    return equipped
