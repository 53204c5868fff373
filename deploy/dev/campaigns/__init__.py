"""What `make campaign` tries, on the real parts, with all state in temporary directories.

Every module named in MODULES has `rows(campaign: Campaign) -> Iterator[Row]`. Its own options, such as those
that repeat one failure, are in `Campaign.options`.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # the servers and scenarios that tests use

MODULES = ("crashes", "pipeline", "histories", "kills", "hostile")


@dataclass(frozen=True)
class Campaign:
    """What a module gets: a directory of its own, its randomness, and where to say what it is doing."""

    home: Path
    seed: int
    options: tuple[str, ...]
    say: Callable[[str], None]

    @property
    def random(self) -> random.Random:
        """The same numbers for the same seed."""
        return random.Random(self.seed)  # noqa: S311  # what is wanted is repeatable


@dataclass(frozen=True)
class Row:
    """A figure with its target. `found` says what went wrong, and how to repeat it."""

    name: str
    figure: str
    target: str
    met: bool
    found: tuple[str, ...] = ()
