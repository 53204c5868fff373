"""Hostile refs, repositories, declarations and builds on the real pipeline, below strace.

usage: deploy/dev/campaign hostile [SHARE]    of the inputs; 1, the default, is all
"""

import os
from collections.abc import Iterator

from campaigns import Campaign, Row
from kennel_core import db, migrations, projects
from kennel_core.settings import Settings
from tests import hostile
from tests.campaigns import hostility
from tests.servers import nix as nix_server

INPUTS = 200


def rows(campaign: Campaign) -> Iterator[Row]:
    share = float(campaign.options[0]) if campaign.options else 1.0
    home = campaign.home
    settings = Settings(
        state_dir=home / "state", runtime_dir=home / "run", gcroots_dir=home / "gcroots", git_allow_file=True
    )
    nix = nix_server.Nix(nix_server.programs()[-1], home / "nix", home / "tools")
    (home / "nix/etc").mkdir(parents=True)
    (home / "nix/etc/nix.conf").write_text(nix_server.CONFIG)
    db.configure(settings.database)
    projects.create_secret_key(settings.secret_key_file)
    migrations.migrate(settings.database)
    os.environ |= nix.variables
    campaign.say(f"{hostile.COUNT} inputs in all")
    with db.connection():
        outcome = hostility.play(home, settings, nix, share, campaign.seed)
    inputs = f"{outcome.inputs} hostile refs, paths, declarations and builds in {outcome.seconds:.0f} s"
    enough = outcome.inputs >= INPUTS
    shells = [*outcome.shells, *outcome.strange]
    yield Row(
        f"shells that Kennel started for {inputs}",
        str(len(shells)),
        f"0 for ≥ {INPUTS}",
        met=not shells and enough,
        found=tuple(ascii(argv)[:500] for argv in shells[:20]),
    )
    yield Row(
        "files that were written outside of build, store and database",
        str(len(outcome.outside)),
        "0",
        met=not outcome.outside,
        found=tuple(map(ascii, sorted(outcome.outside)[:20])),
    )
    yield Row(
        "inputs that did not end as they should",
        str(len(outcome.wrong)),
        "0",
        met=not outcome.wrong,
        found=tuple(outcome.wrong[:20]),
    )
