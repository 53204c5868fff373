"""What an audit says, and how what is wanted is compared with what is there. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

Fix = Callable[[], None]


class Verdict(StrEnum):
    """What is wrong with a thing; `KEPT` and `INFO` are no findings."""

    LEFTOVER = "leftover"  # Kennel made it, and nothing wants it
    MISSING = "missing"  # a row wants it, and it is not there
    UNKNOWN = "unknown"  # it looks like Kennel's, and nothing proves that it is
    KEPT = "kept"  # data of prod or staging, until an operator confirms
    INFO = "info"


COUNTED = (Verdict.LEFTOVER, Verdict.MISSING, Verdict.UNKNOWN)
LOOK_YOURSELF = "looks like Kennel's, is not in its table: look yourself"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: where it is, what it is, and a sentence about it.

    `fix` lets a pass take care of it, or does so itself, and may raise KennelError; without one a pass alone
    is enough. What is `UNKNOWN` is never touched.
    """

    system: str
    verdict: Verdict
    what: str
    why: str
    fix: Fix | None = field(default=None, compare=False, repr=False)

    def record(self) -> dict[str, str]:
        """Give the fields that are shown."""
        return {"system": self.system, "finding": str(self.verdict), "what": self.what, "why": self.why}


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found, and why a system could not be asked, by its name."""

    findings: tuple[Finding, ...]
    silent: dict[str, str]

    def counted(self) -> tuple[Finding, ...]:
        """Return what should not be."""
        return tuple(one for one in self.findings if one.verdict in COUNTED)

    def fixable(self) -> tuple[Finding, ...]:
        """Return what can be put right."""
        return tuple(one for one in self.findings if one.verdict in (Verdict.LEFTOVER, Verdict.MISSING))

    @property
    def status(self) -> int:
        """Give the exit status: 0 nothing, 1 something was found, 2 a system did not answer."""
        return 2 if self.silent else 1 if self.counted() else 0


def missing(system: str, wanted: Iterable[str], there: Iterable[str], why: str) -> list[Finding]:
    """Name what is wanted and not there."""
    return [Finding(system, Verdict.MISSING, what, why) for what in sorted(set(wanted) - set(there))]


def unknown(system: str, there: Iterable[str], known: Iterable[str], hint: str = "") -> list[Finding]:
    """Name what is there, has a name as Kennel gives them, and is nobody's that is known."""
    why = f"{LOOK_YOURSELF} ({hint})" if hint else LOOK_YOURSELF
    return [Finding(system, Verdict.UNKNOWN, what, why) for what in sorted(set(there) - set(known))]
