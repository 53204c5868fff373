"""What an examination says, line by line. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"  # it works, and will hurt some day
    FAILED = "failed"


MARKS = {Verdict.OK: "✓", Verdict.WARNING: "!", Verdict.FAILED: "✗"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line: whom it is about, how that is, what was looked at, and what to do where it is not well."""

    system: str
    verdict: Verdict
    what: str
    remedy: str = ""

    def record(self) -> dict[str, str]:
        """Give the fields that are shown."""
        return {
            "system": self.system,
            "verdict": str(self.verdict),
            "what": self.what,
            "remedy": self.remedy,
        }


Checks = Iterator[Check]


def ok(system: str, what: str) -> Check:
    """Say that something is well."""
    return Check(system, Verdict.OK, what)


def warning(system: str, what: str, remedy: str) -> Check:
    """Say that something will hurt some day."""
    return Check(system, Verdict.WARNING, what, remedy)


def failed(system: str, what: str, remedy: str) -> Check:
    """Say that something does not work."""
    return Check(system, Verdict.FAILED, what, remedy)
