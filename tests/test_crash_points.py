"""The golden scenario, killed with SIGKILL before or after some of its effects; `make campaign` takes all."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kennel_core.settings import Settings
from tests.campaigns import golden
from tests.servers.caddy import CaddyServer, programs
from tests.servers.postgres import PostgresServer
from tests.servers.systemd import PrivateSystemd

pytestmark = pytest.mark.parametrize("caddy_server", programs()[-1:], indirect=True, ids=["one-caddy"])
SECONDS = 60.0


@pytest.fixture
def scenario(
    settings: Settings, systemd: PrivateSystemd, caddy: CaddyServer, postgres: PostgresServer, tmp_path: Path
) -> Iterator[golden.Golden]:
    found = golden.Golden(golden.settings(settings, systemd, caddy, postgres), caddy, postgres, tmp_path)
    yield found
    found.reset()


def test_whatever_is_killed_at_an_effect_two_passes_put_right(scenario: golden.Golden) -> None:
    reference = scenario.lap({})
    assert reference.problems == []
    assert all(reference.effects.values())
    chosen = golden.moments(reference)
    random.shuffle(chosen)
    began = time.monotonic()

    for kill_at in golden.laps(chosen):
        lap = scenario.lap(kill_at, reference)
        assert lap.problems == [], f"repeat it with: deploy/dev/campaign crashes --kill {kill_at}"
        if time.monotonic() - began > SECONDS:
            break
