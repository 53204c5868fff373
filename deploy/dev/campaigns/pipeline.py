"""A build by git, devenv and nix, killed before and after every one of its effects, and taken again.

usage: deploy/dev/campaign pipeline [MOMENT...]
"""

from collections.abc import Iterator

from campaigns import Campaign, Row
from tests.campaigns.real_build import RealBuild


def rows(campaign: Campaign) -> Iterator[Row]:
    building = RealBuild(campaign.home)
    reference = building.play(None)
    moments = [int(option) for option in campaign.options] or list(range(len(reference.effects)))
    killed, found = 0, []
    for number, moment in enumerate(moments, 1):
        played = building.play(moment)
        killed += played.killed
        differing = sorted(set(reference.left) ^ set(played.left))
        if differing:
            at = played.effects[-1]
            found.append(f"killed {at}: {differing}; repeat it with: deploy/dev/campaign pipeline {moment}")
            campaign.say(found[-1])
        campaign.say(f"kill {number} of {len(moments)}")
    yield Row(
        "kills at the effects of a build by nix that is taken again and ends as if it had not been killed",
        f"{killed - len(found)} of {killed}",
        "all",
        met=not found and killed > 0,
        found=tuple(found),
    )
