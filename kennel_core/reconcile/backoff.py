"""How long to leave alone a service that does not stay up."""

from collections.abc import Collection
from dataclasses import dataclass, field

FIRST_S = 30.0
LONGEST_S = 600.0
FORGIVEN_AFTER_S = 600.0


@dataclass(slots=True)
class Backoff:
    """Remembers starts by unit, for as long as its process lives: forgetting costs one early start."""

    _tries: dict[str, tuple[int, float]] = field(default_factory=dict)  # how often, and when last

    def tried(self, unit: str, now: float) -> None:
        """Note that a unit was started."""
        count, _last = self._tries.get(unit, (0, 0.0))
        self._tries[unit] = (count + 1, now)

    def waiting(self, running: Collection[str], now: float) -> frozenset[str]:
        """Name the units whose time has not come; the wait doubles from FIRST_S to LONGEST_S.

        A unit that has been running for FORGIVEN_AFTER_S starts afresh.
        """
        self._tries = {
            unit: (count, last)
            for unit, (count, last) in self._tries.items()
            if unit not in running or now - last < FORGIVEN_AFTER_S
        }
        return frozenset(
            unit for unit, (count, last) in self._tries.items() if last <= now < last + _wait(count)
        )  # not last <= now: the clock was put back


def _wait(count: int) -> float:
    return min(FIRST_S * 2.0 ** (count - 1), LONGEST_S)
