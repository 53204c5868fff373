"""One pass of the reconciler: observe, plan, act.

A pass is short. It never waits for one slow service: what is not healthy yet is looked at again by the next
pass, which `Report.again` asks for at once. What a pass must know of earlier ones stands in the tables.
"""

import time

import structlog

from kennel_core import builds, clock, custom_domains, expiry, metrics, resources
from kennel_core.doorbell import Doorbell
from kennel_core.errors import AdapterError
from kennel_core.reconcile import (
    configuration,
    leftovers,
    logins,
    promotion,
    provisioning,
    roots,
    rotation,
    routes,
    services,
)
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.desired import wanted
from kennel_core.reconcile.host import Host, only_one
from kennel_core.reconcile.lead import lead
from kennel_core.reconcile.plan import Desired
from kennel_core.reconcile.state import Report, State
from kennel_core.settings import Settings

__all__ = ["Report", "converge", "run_pass"]

log = structlog.get_logger(__name__)

SETTLE_S = 20.0  # how long `converge` goes on before others get their turn


def converge(
    settings: Settings, doorbell: Doorbell, host: Host, backoff: Backoff, limit: float = SETTLE_S
) -> Report:
    """Run passes until nothing is on its way any more, or for about `limit` seconds; returns what they did.

    Rings for a pass when something is still on its way then.

    Raises:
        AdapterError: the host could not be observed, or another pass holds the lock; nothing was changed.
    """
    report = Report(again=True)
    with only_one(settings.reconcile_lock) as lock:
        swept = leftovers.begin(lock)
        deadline = time.monotonic() + limit
        expiry.expire(settings, time.time())
        while report.again and time.monotonic() < deadline:
            report.add(run_pass(settings, doorbell, host, backoff))
        leftovers.end_lost_work(settings)
        if leftovers.is_due(settings, time.time()) or report.result != "unchanged" or not swept:
            leftovers.sweep(settings, time.time())
        roots.repair(settings, doorbell, time.time())
        leftovers.end(lock)
    if report.again:
        doorbell.reconcile()
    return report


def run_pass(settings: Settings, doorbell: Doorbell, host: Host, backoff: Backoff) -> Report:
    """Run one pass. A step that fails is logged and left for the next pass; it stops nobody else's.

    Raises:
        AdapterError: the host could not be observed; nothing was changed.
    """
    began = time.monotonic()
    if moved := clock.catch_up(time.time()):
        log.warning("the clock was put back", rows=moved)
    rung = builds.forgotten(time.time(), settings.max_builds)
    for build_id in rung:
        doorbell.build(build_id)
    owned = resources.owned()
    present = host.servers.present({kind for kind, *_ in owned})  # the slowest answers, so asked for first
    try:
        state = State(settings, host, wanted(settings), host.units(), resources.units(), owned, present)
    except AdapterError:
        metrics.pass_ended("error", time.monotonic() - began)
        raise
    state.report.rung = rung
    provided = provisioning.ensure(state)
    logins.settle(state)
    unready = configuration.settle(state, provided)
    ended = services.start(state, backoff, unready)
    promoted = promotion.settle(state, ended)
    if _lead(state, promoted):
        promotion.go_live(state, promoted)
        services.stop(state)
        provisioning.remove(state)
    _list_domains(state)
    _redeploy(state, provided)
    metrics.pass_ended(state.report.result, time.monotonic() - began)
    return state.report


def _list_domains(state: State) -> None:
    """Tell others which custom domains are live."""
    if path := state.settings.custom_domains_file:
        try:
            custom_domains.write(path, (row.custom_domain for row in state.rows.live if row.custom_domain))
        except AdapterError as exc:
            state.report.error("custom domains", exc)


def _redeploy(state: State, provided: provisioning.Provided) -> None:
    """Roll out again what was repaired, or can now be told what it started without."""
    repaired = [row for row in state.rows.live if (row.owner.project_id, row.owner.ref) in provided.changed]
    incomplete = [row for row in state.rows.live if (row.inputs or {}).get("missing")]
    rotation.redeploy_changed(state, [row for row in repaired if row.unit], "a resource was made anew")
    rotation.redeploy_changed(state, incomplete, "its logins can be had now")
    state.report.again = state.report.again or bool(state.report.redeployed)


def _lead(state: State, promoted: promotion.Promoted) -> bool:
    """Lead the hosts to what is live; False when that failed."""
    settings = state.settings
    versions = {row.id: row for row in state.rows.live}
    versions |= {row.id: row for group in promoted.values() for row in group}
    own = routes.Own(settings.domain, settings.bind, settings.follow_bind) if settings.domain else None
    try:
        state.report.routed = lead(
            state.host, [_entry(row) for row in versions.values()], own, settings.targets_dir
        )
    except AdapterError as exc:
        state.report.error("route", exc)
        return False
    return True


def _entry(row: Desired) -> routes.Entry:
    if row.asleep:
        return routes.Asleep(hosts=row.hosts, id=row.id)
    if row.port is not None:
        return routes.Proxy(hosts=row.hosts, port=row.port, id=row.id)
    return routes.Files(hosts=row.hosts, root=row.store_path, spa=row.spa, id=row.id)
