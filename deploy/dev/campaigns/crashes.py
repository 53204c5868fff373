"""The golden scenario, killed before and after every one of its effects.

usage: deploy/dev/campaign crashes [STEP=MOMENT...]    repeats one lap
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

from campaigns import Campaign, Row
from kennel_core.settings import Settings
from tests.campaigns import golden
from tests.servers.caddy import CaddyServer, programs
from tests.servers.postgres import postgres_server
from tests.servers.systemd import private_systemd

TARGET = 500


def rows(campaign: Campaign) -> Iterator[Row]:
    with ExitStack() as cleaning:
        systemd = cleaning.enter_context(private_systemd())
        postgres = cleaning.enter_context(postgres_server())
        (campaign.home / "caddy").mkdir()
        caddy = CaddyServer(programs()[-1], campaign.home / "caddy")
        cleaning.callback(caddy.ask.close)
        cleaning.callback(caddy.kill)
        caddy.start()
        plain = Settings(
            state_dir=campaign.home / "state",
            runtime_dir=campaign.home / "run",
            gcroots_dir=campaign.home / "gcroots",
            ports="18500-19499",  # those of no test
        )
        scenario = golden.Golden(
            golden.settings(plain, systemd, caddy, postgres), caddy, postgres, campaign.home
        )
        cleaning.callback(scenario.reset)
        yield from _laps(campaign, scenario)


def _laps(campaign: Campaign, scenario: golden.Golden) -> Iterator[Row]:
    reference = scenario.lap({})
    if reference.problems:
        yield Row("the golden scenario", "not whole", "whole", met=False, found=tuple(reference.problems))
        return
    moments = golden.moments(reference)
    campaign.random.shuffle(moments)
    laps = [_asked(campaign.options)] if campaign.options else golden.laps(moments)
    killed, converged, found = 0, 0, []
    began = time.monotonic()
    for number, kill_at in enumerate(laps, 1):
        lap = scenario.lap(kill_at, reference)
        killed += len(lap.killed)
        converged += len(lap.killed) - bool(lap.problems)
        if lap.problems:
            repeat = " ".join(f"'{step}={moment}'" for step, moment in kill_at.items())
            found += [*lap.problems, f"repeat it with: deploy/dev/campaign crashes {repeat}"]
            campaign.say("; ".join(found[-3:]))
        campaign.say(f"lap {number} of {len(laps)}, {killed} kills, {time.monotonic() - began:.0f} s")
    yield Row(
        f"kills at the effects of {len(scenario.steps)} steps that converge in two passes",
        f"{converged} of {killed}",
        f"all of ≥ {TARGET}",
        met=converged == killed >= TARGET,
        found=tuple(found),
    )


def _asked(options: tuple[str, ...]) -> dict[str, int]:
    pairs = (option.rpartition("=") for option in options)
    return {step: int(moment) for step, _, moment in pairs}
