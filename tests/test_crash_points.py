"""The golden scenario, killed with SIGKILL before or after some of its effects; `make campaign` takes all."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kennel_core.settings import Settings
from tests.campaigns import golden
from tests.campaigns.real_build import RealBuild
from tests.servers.caddy import CaddyServer, programs
from tests.servers.postgres import PostgresServer
from tests.servers.systemd import PrivateSystemd

one_caddy = pytest.mark.parametrize("caddy_server", programs()[-1:], indirect=True, ids=["one-caddy"])
SECONDS = 60.0


@pytest.fixture
def scenario(
    settings: Settings, systemd: PrivateSystemd, caddy: CaddyServer, postgres: PostgresServer, tmp_path: Path
) -> Iterator[golden.Golden]:
    found = golden.Golden(golden.settings(settings, systemd, caddy, postgres), caddy, postgres, tmp_path)
    yield found
    found.reset()


@one_caddy
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


def test_a_build_by_the_real_tools_that_is_killed_is_taken_again(tmp_path: Path) -> None:
    building = RealBuild(tmp_path)
    reference = building.play(None)
    moment = random.randrange(len(reference.effects))

    played = building.play(moment)

    assert played.killed
    assert played.left == reference.left, f"repeat it with: deploy/dev/campaign pipeline {moment}"
