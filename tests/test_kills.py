"""A minute of pushes and kills; `make campaign` takes a thousand pushes and sixty kills."""

import random
from pathlib import Path

from tests.campaigns import kills
from tests.servers.systemd import PrivateSystemd


def test_no_push_is_lost_and_none_goes_live_twice_while_kennel_is_killed(
    own_systemd: PrivateSystemd, tmp_path: Path
) -> None:
    number = random.randrange(2**32)

    with kills.quick_stack(tmp_path, own_systemd) as stack:
        outcome = kills.play(stack, pushes=60, kills=6, rate=4, number=number)

    assert outcome.lost == [], f"repeat it with: deploy/dev/campaign --seed {number} kills 60 6 4"
    assert outcome.twice == []
    assert sum(outcome.killed.values()) == 6
