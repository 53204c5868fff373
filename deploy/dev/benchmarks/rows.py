"""A row of the result: what was measured, against what it should be."""

import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """`met` is None for a figure that has no target. `why` explains a miss, or how the figure came about."""

    name: str
    figure: str
    target: str
    ratio: str
    met: bool | None
    verdict: str
    why: str = ""


def row(  # noqa: PLR0913  # the columns of a table
    name: str,
    figure: str,
    target: str,
    met: bool | None,  # noqa: FBT001
    *,
    ratio: str = "",
    by: str = "",
    why: str = "",
) -> Row:
    """Make a row; `by` says by how much a target was missed."""
    verdict = "" if met is None else "met" if met else f"missed {by}".strip()
    return Row(name, figure, target, ratio, met, verdict, why)


def at_most(value: float, limit: float, unit: str = "") -> str:
    """Say by how much `value` is above `limit`."""
    return f"by {value - limit:.{1 if limit >= 10 else 3}f}{' ' if unit else ''}{unit}"


def at_least(value: float, limit: float, unit: str = "") -> str:
    """Say by how much `value` is below `limit`."""
    return f"by {limit - value:.{1 if limit >= 10 else 3}f}{' ' if unit else ''}{unit}"


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


median = statistics.median


@dataclass(frozen=True)
class Bench:
    """What a module gets: a directory of its own, and where to say what it is doing."""

    home: Path
    say: Callable[[str], None]


class Unmeasurable(Exception):
    """Something that a row needs is missing or did not work."""


def run(*argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program; returns what it prints."""
    done = subprocess.run(argv, cwd=cwd, env=env, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Unmeasurable(f"{' '.join(map(str, argv))}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
