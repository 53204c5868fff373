"""Bring builds live as a whole, or take them back as a whole."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import structlog

from kennel_core import builds, db, deployments
from kennel_core.errors import AdapterError
from kennel_core.models import Build
from kennel_core.reconcile.plan import Desired
from kennel_core.reconcile.rollout import Seen, Verdict, judge, needs_probe
from kennel_core.reconcile.state import WINDOW_S, State
from kennel_core.redaction import Redactor

log = structlog.get_logger(__name__)

Promoted = Mapping[int, Sequence[Desired]]  # the rows of builds that are up, by build


def settle(state: State, ended: Mapping[str, str]) -> Promoted:
    """Judge every build that is being rolled out, and take back what failed; returns what is up.

    `ended` says why a service cannot come up, by unit.
    """
    if not state.rows.builds:
        return {}
    by_build: dict[int, list[Desired]] = defaultdict(list)
    for row in state.rows.rollouts:
        by_build[row.build_id].append(row)
    seen = _look(state, ended)
    promoted: dict[int, Sequence[Desired]] = {}
    now = time.time()
    for build in state.rows.builds:
        own = by_build[build.id]
        verdict, reason = judge(own, seen, build.built_at or now, now, builds.ROLLOUT_MAX_S)
        if verdict is Verdict.PROMOTE:
            promoted[build.id] = own
        elif verdict is Verdict.ROLL_BACK:
            _roll_back(state, build, own, reason)
        elif not state.report.errors:
            state.report.again = True
    return promoted


def _look(state: State, ended: Mapping[str, str]) -> dict[int, Seen]:
    """Say what is known of each service that is rolled out, by deployment."""
    now = time.time()
    services = [row for row in state.rows.rollouts if row.unit]
    since = {name: unit.created_at for name, unit in state.made.items()}
    asked = [
        row for row in services if row.unit not in ended and needs_probe(row, since.get(str(row.unit)), now)
    ]
    probes = state.host.each_probe(asked, WINDOW_S)
    unhealthy = dict(zip((row.unit for row in asked), probes, strict=True))
    seen = {}
    for row in services:
        unit = str(row.unit)
        is_now = "active" if unit in state.report.started else state.units.get(unit)
        seen[row.id] = Seen(
            state=is_now,
            since=since.get(unit) if is_now else None,
            error=ended.get(unit),
            unhealthy=unhealthy.get(unit),
        )
    return seen


def _roll_back(state: State, build: Build, rows: Sequence[Desired], reason: str) -> None:
    lines = [f"{row.unit}: {line}\n" for row in rows if row.unit for line in _tail(state, row.unit)]
    lines.append(f"{reason}\nrolled back: what ran before goes on running\n")
    with db.write():
        builds.note(build.id, deployments.PHASE, "".join(lines))
        deployments.roll_back(build)
        builds.rollout_failed(build.id, f"{deployments.PHASE}: {reason}", time.time())
    log.warning("rolled back", build_id=build.id, reason=reason)
    state.report.failed[build.id] = reason
    state.report.again = True


def _tail(state: State, unit: str) -> list[str]:
    """Return its last lines, without the secrets that it was told: a build's log is not secret."""
    try:
        redactor = Redactor(state.host.told(unit))
        return [redactor.redact(line) for line in state.host.tail(unit)]
    except AdapterError as exc:
        return [f"its last lines cannot be read: {exc}"]


def go_live(state: State, promoted: Promoted) -> None:
    """Write down what hosts lead to now; a build that was superseded meanwhile is left out."""
    for build_id, rows in promoted.items():
        hosts = sorted(host for row in rows for host in row.hosts)
        lines = [f"live: {host}\n" for host in hosts] or ["nothing is deployed for this ref\n"]
        with db.write():  # all of it, so that nobody reads twice that it is live
            builds.note(build_id, deployments.PHASE, "".join(lines))
            build = builds.get(build_id)
            if builds.went_live(build_id, time.time()):
                deployments.went_live(build)
                state.report.live.append(build_id)
                log.info("live", build_id=build_id, hosts=hosts)
        state.report.again = True
