"""Everything a hostile person can name, write, declare and build: no shell, nothing outside."""

import random
from pathlib import Path

from kennel_core.settings import Settings
from tests import hostile
from tests.campaigns import hostility
from tests.servers.nix import Nix

SHARE = 0.12  # of the inputs, in tests that take seconds; `make campaign` takes all


def test_there_are_at_least_two_hundred_hostile_inputs() -> None:
    assert hostile.COUNT >= 200


def test_no_build_of_a_hostile_repository_starts_a_shell_or_writes_elsewhere(
    settings: Settings, database: Path, nix: Nix, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)

    outcome = hostility.play(tmp_path, settings, nix, SHARE, seed)

    repeat = f"deploy/dev/campaign --seed {seed} hostile {SHARE}"
    assert outcome.wrong == [], repeat
    assert outcome.shells == [], repeat
    assert outcome.strange == [], repeat
    assert outcome.outside == set(), repeat
    assert not list(Path.cwd().glob(f"*{hostile.MARK}*"))
