"""Start the units that rows name, and stop those that none does."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from kennel_core import builds, db, deployments, resources
from kennel_core.errors import ProjectError, Rejected
from kennel_core.models import Resource
from kennel_core.reconcile import configuration
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.plan import RUNNING, Actual, Desired, diff
from kennel_core.reconcile.state import WINDOW_S, State

log = structlog.get_logger(__name__)

POLL_S = 0.02
DRAIN_MIN_S = 1.0  # a connection that Caddy accepted before the routes changed may still ask the old unit


def start(state: State, backoff: Backoff, unready: Mapping[str, str | None]) -> dict[str, str]:
    """Start what is missing; returns why a rollout cannot come up, by unit.

    `unready` are units that cannot be started now, with the reason where it is final.
    """
    rows = (*state.rows.live, *state.rows.rollouts)
    running = {name for name, is_now in state.units.items() if is_now in RUNNING}
    ended = {
        row.unit: "the process ended, and systemd gave up restarting it"
        for row in state.rows.rollouts
        if row.unit and _was_started(state, row) and state.units.get(row.unit) == "failed"
    }
    ended |= {unit: reason for unit, reason in unready.items() if reason is not None}
    fresh = {row.unit for row in state.rows.rollouts if not _was_started(state, row)}
    waiting = {*ended, *unready, *(backoff.waiting(running, time.time()) - fresh)}
    plan = diff(rows, Actual(state.units, frozenset(state.made)), waiting)
    able = [row for row in plan.start if _is_there(row) and _has_its_port(state, row)]
    missing = configuration.told(state, able, backoff)
    # A unit that runs and is not noted was made before the database was put back from a backup.
    adopted = [row for row in rows if row.unit in running and row.unit not in state.made]
    deaf = _stop_deaf(state, adopted)
    _note(state, [*missing, *(row for row in adopted if row.unit not in deaf)])
    for row, error in zip(missing, state.host.each_start(missing), strict=True):
        unit = str(row.unit)
        if not row.rollout:
            backoff.tried(unit, time.time())
        if error is None:
            state.report.started.append(unit)
            builds.note(row.build_id, deployments.PHASE, f"started {unit} on port {row.port}\n")
            log.info("started", unit=unit, deployment=row.id, build_id=row.build_id)
        elif row.rollout and isinstance(error, Rejected):
            ended[unit] = str(error)
        else:
            state.report.error("start", error)
    return ended


def _was_started(state: State, row: Desired) -> bool:
    """Tell whether a rollout has started its unit; what became of the same revision before is past."""
    unit = state.made.get(str(row.unit))
    built_at = next((build.built_at for build in state.rows.builds if build.id == row.build_id), None)
    return unit is not None and unit.created_at >= (built_at or 0.0)


def _is_there(row: Desired) -> bool:
    """Tell whether there is something to start: what is gone from the store is being built again."""
    if row.rollout or Path(row.store_path).exists():
        return True
    log.warning("not started, for it is gone from the store", unit=row.unit, path=row.store_path)
    return False


def _stop_deaf(state: State, adopted: Sequence[Desired]) -> set[str]:
    """Stop those that do not listen where they should; the next pass starts them anew.

    A unit that was made after the backup has another port than its row has got since.
    """
    deaf = sorted({str(row.unit) for row in adopted if row.port and state.host.is_free(row.port)})
    for name, error in zip(deaf, state.host.each_stop(deaf), strict=True):
        if error is None:
            state.report.stopped.append(name)
            log.info("stopped, for it listens elsewhere", unit=name)
        else:
            state.report.error("stop", error)
    state.report.again = state.report.again or bool(deaf)
    return set(deaf)


def _has_its_port(state: State, row: Desired) -> bool:
    """Tell whether nobody else listens where a service is to listen; else give it another port.

    Else the other program would be asked for the service's health, and be shown to its users.
    """
    if row.port is None or state.host.is_free(row.port):
        return True
    try:
        with db.write():
            deployments.give_another_port(row.id, row.port, state.settings)
    except ProjectError as exc:
        state.report.error("port", exc)
    else:
        log.warning("port taken by another program", unit=row.unit, port=row.port)
        state.report.again = True
    return False


def _note(state: State, rows: Sequence[Desired]) -> None:
    """Note units before they are started, so that whatever happens then they are known."""
    if rows:
        with db.write():
            resources.note_units({str(row.unit): (row.port, row.owner) for row in rows}, time.time())
        state.made.update(resources.units())


def stop(state: State) -> None:
    """Stop the units that no row names, each when its connections have ended or `drain_timeout` is over."""
    named, made = deployments.units(), state.made
    resources.wanted_again(unit.id for name, unit in made.items() if unit.unwanted_at and name in named)
    unwanted = {name: unit for name, unit in made.items() if name not in named}
    if not unwanted:
        return
    now = time.time()
    resources.unwanted((unit.id for unit in unwanted.values() if unit.unwanted_at is None), now)
    since = {name: unit.unwanted_at or now for name, unit in unwanted.items()}
    deadline = time.monotonic() + WINDOW_S
    while busy := _draining(state, unwanted, since):
        if time.monotonic() > deadline:
            state.report.again = True
            break
        time.sleep(POLL_S)
    ready = sorted(unwanted.keys() - busy)
    for name, error in zip(ready, state.host.each_stop(ready), strict=True):
        if error is None:
            resources.forget([unwanted[name].id])
            state.report.stopped.append(name)
            log.info("stopped", unit=name)
        else:
            state.report.error("stop", error)


def _draining(state: State, units: Mapping[str, Resource], since: Mapping[str, float]) -> set[str]:
    """Name those that may still be asked for something."""
    now, limit = time.time(), state.settings.drain_timeout
    ports = {name: unit.port for name, unit in units.items() if unit.port}
    young = {name for name in ports if now < since[name] + min(DRAIN_MIN_S, limit)}
    return young | {
        name
        for name, port in ports.items()
        if name not in young and now < since[name] + limit and state.host.connections(port)
    }
