"""Pushes to all of Kennel while its processes and a Redis without persistence are killed with kill -9.

usage: deploy/dev/campaign kills [PUSHES KILLS RATE]
"""

from collections.abc import Iterator

from campaigns import Campaign, Row
from tests.campaigns import kills
from tests.servers.systemd import private_systemd

PUSHES, KILLS, RATE = 1000, 60, 4.0
DRAINED_S = 60.0


def rows(campaign: Campaign) -> Iterator[Row]:
    asked = [float(option) for option in campaign.options] or [PUSHES, KILLS, RATE]
    with private_systemd() as systemd, kills.quick_stack(campaign.home, systemd) as stack:
        found = kills.play(stack, int(asked[0]), int(asked[1]), asked[2], campaign.seed, campaign.say)
    killed = ", ".join(f"{name} {count}" for name, count in sorted(found.killed.items()))
    ended = ", ".join(f"{count} {status}" for status, count in sorted(found.statuses.items()))
    count = sum(found.killed.values())
    enough = found.pushes >= PUSHES and count >= KILLS
    yield Row(
        f"pushes over {count} kills ({killed}) in {found.seconds:.0f} s that were lost",
        f"{len(found.lost)} of {found.pushes} ({ended})",
        f"0 of ≥ {PUSHES} over ≥ {KILLS} kills",
        met=not found.lost and enough,
        found=tuple(found.lost[:20]),
    )
    yield Row(
        f"builds deployed more than once, {found.again} having needed more than one attempt",
        f"{len(found.twice)}",
        "0",
        met=not found.twice,
        found=tuple(found.twice[:20]),
    )
    yield Row(
        "from the last push to the end of the last build",
        f"{found.drained:.1f} s",
        f"≤ {DRAINED_S:.0f} s",
        met=found.drained <= DRAINED_S,
    )
