"""What a deployment does now, as systemd, its journal and the service itself tell."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from kennel_core import deployments
from kennel_core.adapters import health, journal
from kennel_core.adapters.lines import Piece
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.errors import Conflict, NotFound, RequestError
from kennel_core.models import Deployment, Kind
from kennel_core.redaction import Redactor
from kennel_core.settings import Settings

PROBE_TIMEOUT_S = 2.0
LINES_MAX = 10_000


def deployment_health(deployment_id: int, settings: Settings) -> dict[str, Any]:
    """Describe the unit that serves a deployment; needs a database connection.

    Keys: `active` (bool), `active_state`, `sub_state`, `active_enter_usec` (microseconds since the epoch),
    `n_restarts`, `result`; and `app_healthy` (bool, asked just now) when it is active and declares a check.
    While a successor comes up, it is the old unit that serves. A unit that systemd does not know is inactive.

    Raises:
        NotFound: there is no such deployment.
        Conflict: it is a site, which has no unit.
        Unavailable: systemd does not answer.
    """
    row = _service(deployment_id)
    serving = row.live or {"unit": row.unit, "port": row.port, "health": row.health}
    try:
        with Systemd(settings.bus) as systemd:
            status = systemd.status(serving["unit"])
    except NotFound:
        return {
            "active": False,
            "active_state": "inactive",
            "sub_state": "dead",
            "active_enter_usec": 0,
            "n_restarts": 0,
            "result": "success",
        }
    found = {
        "active": status.active_state == "active",
        "active_state": status.active_state,
        "sub_state": status.sub_state,
        "active_enter_usec": status.active_enter_usec,
        "n_restarts": status.n_restarts,
        "result": status.result,
    }
    path = (serving["health"] or {}).get("path")
    if found["active"] and path:
        found["app_healthy"] = health.wait(serving["port"], path, PROBE_TIMEOUT_S, lambda: True) is None
    return found


def deployment_logs(
    deployment_id: int, settings: Settings, *, lines: int, since: str | None, follow: bool
) -> Iterator[str]:
    """Return the last `lines` log lines of a deployment, without line ends; needs a database connection.

    Reading the result needs none. Secrets that its units were told are replaced. `since` is a time or an age
    (see `journal.parse_since`). With `follow` it goes on for ever and yields "" about every second, so that
    the caller can stop.

    Raises:
        NotFound: there is no such deployment.
        Conflict: it is a site, which has no process and so no log.
        RequestError: `lines` is not within 1..LINES_MAX, or `since` is not a time.
    """
    if not 1 <= lines <= LINES_MAX:
        raise RequestError(f"lines: must be 1 to {LINES_MAX}")
    try:
        if since is not None:
            journal.parse_since(since)
    except ValueError as exc:
        raise RequestError(f"since: {exc}") from exc
    row = _service(deployment_id)
    told = UnitFiles(settings.inputs_dir)
    redactor = Redactor(value for unit in _units(row) for value in told.values(unit))
    found = journal.read(
        row.id, row.unit, lines=lines, since=since, follow=follow, directory=settings.journal_dir
    )
    return _shown(found, redactor)


def _shown(lines: Generator[str, None, None], redactor: Redactor) -> Iterator[str]:
    """Leave out secrets, also where a long line was cut. Closed, it ends what it reads from at once."""
    goes_on = False
    with contextlib.closing(lines):
        for line in lines:
            if line and (goes_on or isinstance(line, Piece)):
                stamp, _, message = line.partition(" ")
                goes_on = isinstance(line, Piece)
                yield f"{stamp} {redactor.feed(message)}{'' if goes_on else redactor.end()}"
            else:
                yield redactor.redact(line)


def may_show_logs(settings: Settings) -> bool:
    """Tell whether this process can read what units were told, and so what must not be shown."""
    return UnitFiles(settings.inputs_dir).is_readable()


def _units(row: Deployment) -> set[str]:
    """Name the units of a service: the one that serves, and the one that is to."""
    return {unit for unit in (row.unit, (row.live or {}).get("unit")) if unit}


def _service(deployment_id: int) -> Deployment:
    row = deployments.get(deployment_id)
    if row.kind != Kind.SERVICE:
        raise Conflict(f"deployment {deployment_id}: {row.name} is a site, which has no process of its own")
    return row
