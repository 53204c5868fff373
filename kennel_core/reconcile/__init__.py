"""One pass of the reconciler: observe, plan, act.

A pass is short. It never waits for one slow service: what is not healthy yet is looked at again by the next
pass, which `Report.again` asks for at once. What a pass must know of earlier ones stands in the tables.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from kennel_core import builds, db, deployments, metrics, resources
from kennel_core.doorbell import Doorbell
from kennel_core.errors import AdapterError, KennelError, ProjectError, Rejected
from kennel_core.models import Build
from kennel_core.reconcile import leftovers, routes
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.desired import Wanted, wanted
from kennel_core.reconcile.host import Host, only_one
from kennel_core.reconcile.lead import lead
from kennel_core.reconcile.plan import RUNNING, Actual, Desired, diff
from kennel_core.reconcile.rollout import Seen, Verdict, judge, needs_probe
from kennel_core.settings import Settings

log = structlog.get_logger(__name__)

WINDOW_S = 1.0  # how long a pass waits for services to become healthy, and for connections to end
POLL_S = 0.02
DRAIN_MIN_S = 1.0  # a connection that Caddy accepted before the routes changed may still ask the old unit
SETTLE_S = 20.0  # how long `converge` goes on before others get their turn


@dataclass(slots=True)
class Report:
    """What a pass did. `again` asks for another one at once: something is on its way."""

    rung: list[int] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    routed: bool = False
    again: bool = False

    @property
    def result(self) -> str:
        """One word for metrics: error, changed or unchanged."""
        changed = self.started or self.stopped or self.live or self.failed or self.routed
        return "error" if self.errors else "changed" if changed else "unchanged"

    def add(self, later: "Report") -> None:
        """Take in what the next pass did; errors and `again` are those of the last one."""
        self.rung += later.rung
        self.started += later.started
        self.stopped += later.stopped
        self.live += later.live
        self.failed |= later.failed
        self.routed = self.routed or later.routed
        self.errors, self.again = later.errors, later.again

    def error(self, step: str, error: KennelError) -> None:
        """Note a step that failed and is left for the next pass."""
        log.warning("step failed", step=step, error=str(error))
        self.errors.append(str(error))


def converge(
    settings: Settings, doorbell: Doorbell, host: Host, backoff: Backoff, limit: float = SETTLE_S
) -> Report:
    """Run passes until nothing is on its way any more, or for about `limit` seconds; returns what they did.

    Rings for a pass when something is still on its way then.

    Raises:
        AdapterError: the host could not be observed, or another pass holds the lock; nothing was changed.
    """
    report = Report(again=True)
    with only_one(settings.reconcile_lock):
        deadline = time.monotonic() + limit
        while report.again and time.monotonic() < deadline:
            report.add(run_pass(settings, doorbell, host, backoff))
        leftovers.end_lost_work(settings)
        if report.result != "unchanged":
            leftovers.sweep(settings, time.time())
    if report.again:
        doorbell.reconcile()
    return report


def run_pass(settings: Settings, doorbell: Doorbell, host: Host, backoff: Backoff) -> Report:
    """Run one pass. A step that fails is logged and left for the next pass; it stops nobody else's.

    Raises:
        AdapterError: the host could not be observed; nothing was changed.
    """
    report = Report()
    started = time.monotonic()
    report.rung = builds.forgotten(time.time(), settings.max_builds)
    for build_id in report.rung:
        doorbell.build(build_id)
    rows = wanted(settings)
    try:
        units = host.units()
    except AdapterError:
        metrics.pass_ended("error", time.monotonic() - started)
        raise
    ended = _start(rows, units, settings, host, backoff, report)
    promoted = _settle(rows, units, ended, host, report)
    if _route(rows, promoted, settings, host, report):
        _go_live(promoted, report)
        _stop(settings, host, report)
    metrics.pass_ended(report.result, time.monotonic() - started)
    return report


def _start(  # noqa: PLR0913, PLR0917  # all that a pass knows
    rows: Wanted,
    units: Mapping[str, str],
    settings: Settings,
    host: Host,
    backoff: Backoff,
    report: Report,
) -> dict[str, str]:
    """Start what is missing; returns why a rollout cannot come up, by unit."""
    now = time.time()
    made = resources.units()
    ended = {
        row.unit: "the process ended, and systemd gave up restarting it"
        for row in rows.rollouts
        if row.unit and row.unit in made and units.get(row.unit) == "failed"
    }
    running = {name for name, state in units.items() if state in RUNNING}
    plan = diff(
        (*rows.live, *rows.rollouts), Actual(units, frozenset(made)), {*ended, *backoff.waiting(running, now)}
    )
    # A unit that runs and is not noted was made before the database was put back from a backup.
    adopted = [row for row in (*rows.live, *rows.rollouts) if row.unit in running and row.unit not in made]
    start = [row for row in plan.start if _has_its_port(row, settings, host, report)]
    if start or adopted:
        with db.write():
            resources.note_units({str(row.unit): row.port for row in (*start, *adopted)}, now)
    for row, error in zip(start, host.each_start(start), strict=True):
        unit = str(row.unit)
        if not row.rollout:
            backoff.tried(unit, now)
        if error is None:
            report.started.append(unit)
            builds.note(row.build_id, deployments.PHASE, f"started {unit} on port {row.port}\n")
            log.info("started", unit=unit, deployment=row.id, build_id=row.build_id)
        elif row.rollout and isinstance(error, Rejected):
            ended[unit] = str(error)
        else:
            report.error("start", error)
    return ended


def _has_its_port(row: Desired, settings: Settings, host: Host, report: Report) -> bool:
    """Tell whether nobody else listens where a service is to listen; else give it another port.

    Else the other program would be asked for the service's health, and be shown to its users.
    """
    if row.port is None or host.is_free(row.port):
        return True
    try:
        with db.write():
            deployments.give_another_port(row.id, row.port, settings)
    except ProjectError as exc:
        report.error("port", exc)
    else:
        log.warning("port taken by another program", unit=row.unit, port=row.port)
        report.again = True
    return False


def _settle(
    rows: Wanted, units: Mapping[str, str], ended: Mapping[str, str], host: Host, report: Report
) -> dict[int, Sequence[Desired]]:
    """Judge every build that is being rolled out; returns the rows of those to promote, by build."""
    if not rows.builds:
        return {}
    by_build: dict[int, list[Desired]] = defaultdict(list)
    for row in rows.rollouts:
        by_build[row.build_id].append(row)
    seen = _look([row for row in rows.rollouts if row.unit], units, ended, host, report)
    promoted: dict[int, Sequence[Desired]] = {}
    now = time.time()
    for build in rows.builds:
        own = by_build[build.id]
        verdict, reason = judge(own, seen, build.built_at or now, now, builds.ROLLOUT_MAX_S)
        if verdict is Verdict.PROMOTE:
            promoted[build.id] = own
        elif verdict is Verdict.ROLL_BACK:
            _roll_back(build, own, reason, host, report)
        else:
            report.again = report.again or not report.errors
    return promoted


def _look(
    services: Sequence[Desired],
    units: Mapping[str, str],
    ended: Mapping[str, str],
    host: Host,
    report: Report,
) -> dict[int, Seen]:
    made = resources.units()
    since = {name: unit.created_at for name, unit in made.items()}
    now = time.time()
    asked = [
        row for row in services if row.unit not in ended and needs_probe(row, since.get(str(row.unit)), now)
    ]
    unhealthy = dict(zip((row.unit for row in asked), host.each_probe(asked, WINDOW_S), strict=True))
    seen = {}
    for row in services:
        unit = str(row.unit)
        started = unit in report.started
        seen[row.id] = Seen(
            state="active" if started else units.get(unit),
            since=since[unit] if started or unit in units else None,
            error=ended.get(unit),
            unhealthy=unhealthy.get(unit),
        )
    return seen


def _roll_back(build: Build, rows: Sequence[Desired], reason: str, host: Host, report: Report) -> None:
    lines = [f"{row.unit}: {line}\n" for row in rows if row.unit for line in _tail(host, row.unit)]
    lines.append(f"{reason}\nrolled back: what ran before goes on running\n")
    builds.note(build.id, deployments.PHASE, "".join(lines))
    with db.write():
        deployments.roll_back(build)
        builds.rollout_failed(build.id, f"{deployments.PHASE}: {reason}", time.time())
    log.warning("rolled back", build_id=build.id, reason=reason)
    report.failed[build.id] = reason
    report.again = True


def _tail(host: Host, unit: str) -> list[str]:
    try:
        return host.tail(unit)
    except AdapterError as exc:
        return [f"its last lines cannot be read: {exc}"]


def _route(
    rows: Wanted, promoted: Mapping[int, Sequence[Desired]], settings: Settings, host: Host, report: Report
) -> bool:
    """Lead the hosts to what is live; False when that failed."""
    versions = {row.id: row for row in rows.live}
    versions |= {row.id: row for group in promoted.values() for row in group}
    own = routes.Own(settings.domain, settings.bind, settings.follow_bind) if settings.domain else None
    try:
        report.routed = lead(host, [_entry(row) for row in versions.values()], own, settings.targets_dir)
    except AdapterError as exc:
        report.error("route", exc)
        return False
    return True


def _entry(row: Desired) -> routes.Proxy | routes.Files:
    if row.port is not None:
        return routes.Proxy(hosts=row.hosts, port=row.port, id=row.id)
    return routes.Files(hosts=row.hosts, root=row.store_path, spa=row.spa, id=row.id)


def _go_live(promoted: Mapping[int, Sequence[Desired]], report: Report) -> None:
    for build_id, rows in promoted.items():
        hosts = sorted(host for row in rows for host in row.hosts)
        lines = [f"live: {host}\n" for host in hosts] or ["nothing is deployed for this ref\n"]
        builds.note(build_id, deployments.PHASE, "".join(lines))
        with db.write():
            build = builds.get(build_id)
            if builds.went_live(build_id, time.time()):
                deployments.went_live(build)
                report.live.append(build_id)
                log.info("live", build_id=build_id, hosts=hosts)
        report.again = True


def _stop(settings: Settings, host: Host, report: Report) -> None:
    """Stop the units that no row names, each when its connections have ended or `drain_timeout` is over."""
    names = deployments.units()
    unwanted = {name: unit for name, unit in resources.units().items() if name not in names}
    if not unwanted:
        return
    now = time.time()
    resources.unwanted((name for name, unit in unwanted.items() if unit.unwanted_at is None), now)
    since = {name: unit.unwanted_at or now for name, unit in unwanted.items()}
    ports = {name: unit.port for name, unit in unwanted.items() if unit.port}
    deadline = time.monotonic() + WINDOW_S
    while busy := _draining(since, ports, settings.drain_timeout, host):
        if time.monotonic() > deadline:
            report.again = True
            break
        time.sleep(POLL_S)
    ready = sorted(unwanted.keys() - busy)
    for name, error in zip(ready, host.each_stop(ready), strict=True):
        if error is None:
            resources.forget_units([name])
            report.stopped.append(name)
            log.info("stopped", unit=name)
        else:
            report.error("stop", error)


def _draining(since: Mapping[str, float], ports: Mapping[str, int], limit: float, host: Host) -> set[str]:
    """Name the units, unwanted since then, that may still be asked for something."""
    now = time.time()
    young = {name for name in ports if now < since[name] + min(DRAIN_MIN_S, limit)}
    return young | {
        name
        for name, port in ports.items()
        if name not in young and now < since[name] + limit and host.connections(port)
    }
