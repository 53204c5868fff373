"""What the next pass would do, and why; changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from kennel_core import resources
from kennel_core.reconcile import provisioning, routes
from kennel_core.reconcile.desired import Wanted, wanted
from kennel_core.reconcile.host import Host
from kennel_core.reconcile.plan import Actual, Desired, diff
from kennel_core.settings import Settings


@dataclass(frozen=True, slots=True)
class Step:
    """One change. `action` is provide, start, route, unroute, stop or remove; `why` is a sentence."""

    action: str
    what: str
    why: str


def preview(settings: Settings, host: Host) -> list[Step]:
    """Observe and plan, as a pass does; needs a database connection.

    Raises:
        AdapterError: the host could not be observed.
    """
    rows = wanted(settings)
    units = host.units()
    made = resources.units()
    plan = diff((*rows.live, *rows.rollouts), Actual(units, frozenset(made)))
    table = host.routes()
    current = routes.entries(table, host.targets())
    wanted_resources = provisioning.wanted((*rows.live, *rows.rollouts))
    owned = resources.owned()
    return [
        *(
            Step("provide", f"{kind} of {owner.project}, {owner.ref}", "its services need it")
            for (kind, project_id, ref), owner in sorted(wanted_resources.items())
            if (kind, project_id, ref) not in owned
        ),
        *(Step("start", str(row.unit), _why_start(row, units)) for row in plan.start),
        *_route(rows, current),
        *(Step("stop", name, "no deployment names it any more") for name in plan.stop),
        *(
            Step("remove", f"{row.kind} {row.name}", "its ref is gone")
            for row in provisioning.removable(owned, wanted_resources)
        ),
    ]


def _why_start(row: Desired, units: Mapping[str, str]) -> str:
    state = units.get(str(row.unit), "not there")
    return f"build {row.build_id} wants it" if row.rollout else f"it is {state}, and should run"


def entry_of(row: Desired) -> routes.Entry:
    """Say where a row's hosts must lead, as `routes.entries` gives it."""
    hosts = tuple(sorted(row.hosts))
    if row.asleep:
        return routes.Asleep(hosts=hosts, id=row.id)
    if row.port is not None:
        return routes.Proxy(hosts=hosts, port=row.port, id=row.id)
    return routes.Files(hosts=hosts, root=row.store_path, spa=row.spa, id=row.id)


def _route(rows: Wanted, current: Mapping[int, routes.Entry]) -> list[Step]:
    live = {row.id: entry_of(row) for row in rows.live}
    steps = []
    for number, entry in sorted(live.items()):
        found = current.get(number)
        if found is None:
            steps.append(Step("route", " ".join(entry.hosts), "Caddy has no route for it"))
        elif found != entry:
            steps.append(Step("route", " ".join(entry.hosts), "Caddy sends it elsewhere"))
    for row in rows.rollouts:
        why = f"once all of build {row.build_id} is healthy"
        steps.append(Step("route", " ".join(row.hosts), why))
    return steps + [
        Step("unroute", " ".join(found.hosts), "no deployment has this host name any more")
        for number, found in sorted(current.items())
        if number not in live
    ]
