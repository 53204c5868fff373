"""Decide how a rollout goes: all rows of a build come up together, or none does. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from kennel_core.reconcile.plan import RUNNING, Desired

SETTLED_S = 1.0  # a service without a health check counts as up when it has run for this long


class Verdict(Enum):
    """What to do with a build that is being rolled out."""

    PROMOTE = auto()
    WAIT = auto()
    ROLL_BACK = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a service. `error` is final; `unhealthy` is what the last probe saw, None: healthy."""

    state: str | None  # systemd's ActiveState
    since: float | None  # Unix seconds at which it was started, None: not yet
    error: str | None = None
    unhealthy: str | None = None


def needs_probe(row: Desired, since: float | None, now: float) -> bool:
    """Tell whether asking a service can say more than how long it has been running."""
    has_path = row.health is not None and row.health.path is not None
    return has_path or since is None or now < since + SETTLED_S


def judge(
    rows: Iterable[Desired], seen: Mapping[int, Seen], built_at: float, now: float, limit: float
) -> tuple[Verdict, str]:
    """Return the verdict on one build, and for ROLL_BACK one sentence that says why.

    `seen` is by deployment id and has every service of `rows`; sites are always ready. The time a service has
    to become healthy begins with its start or the end of the build, whichever is later. A build that is not
    live `limit` seconds after it was built is rolled back, whatever it waits for.
    """
    verdict, waits_for = Verdict.PROMOTE, ""
    for row in rows:
        if row.unit is None:
            continue
        service = seen[row.id]
        name = row.environment["KENNEL_SERVICE"]
        if service.error:
            return Verdict.ROLL_BACK, f"{name}: {service.error}"
        reason = _not_ready(row, service, now)
        if reason is None:
            continue
        timeout = row.health.timeout if row.health else SETTLED_S
        if service.since is not None and now > max(service.since, built_at) + timeout:
            return Verdict.ROLL_BACK, f"{name}: was not healthy within {timeout:g} s: {reason}"
        verdict, waits_for = Verdict.WAIT, f"{name}: {reason}"
    if verdict is Verdict.WAIT and now > built_at + limit:
        return Verdict.ROLL_BACK, f"did not come up within {limit:g} s: {waits_for}"
    return verdict, waits_for


def _not_ready(row: Desired, service: Seen, now: float) -> str | None:
    if service.since is None or service.state not in RUNNING:
        return "it is not running"
    if row.health is None or row.health.path is None:
        return None if now >= service.since + SETTLED_S else "it has only just started"
    return service.unhealthy
