"""The state of Kennel and of its neighbours, in words that do not change from one lap to the next."""

import json
import re
from typing import Any

from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.db import database
from kennel_core.reconcile.host import Host
from kennel_core.settings import Settings

Seen = dict[str, list[str]]

# Times, and what tells one attempt from another.
UNSTEADY = {
    "created_at", "updated_at", "received_at", "started_at", "built_at", "finished_at", "enqueued_at",
    "made_at", "unwanted_at", "confirmed_at", "attempt", "at", "log", "woken_at",
}  # fmt: skip
TABLES = (
    "projects",
    "builds",
    "deployments",
    "deliveries",
    "resources",
    "refs",
    "pull_requests",
    "log_chunks",
)


def seen(settings: Settings, host: Host, *, exact: bool = False) -> Seen:
    """Look at everything; `exact` leaves nothing out, to see whether something was written at all."""
    units = _units()
    found = rows(exact=exact)
    found["logs"] = [] if exact else [_log(row["log"] or "") for row in _rows("builds")]
    found["units"] = [f"{name} {state}" for name, state in host.units().items()]
    routes = [json.dumps(route, sort_keys=True) for route in host.routes()]
    found["routes"] = [_ports(route, units) for route in routes]
    found["targets"] = [f"{name} {_ports(said, units)}" for name, said in (host.targets() or {}).items()]
    found["unit files"] = UnitFiles(settings.inputs_dir).units()
    for name in ("gcroots_dir", "work_dir", "runtime_dir"):
        directory = getattr(settings, name)
        found[name] = [str(path.relative_to(directory)) for path in directory.rglob("*")]
    for kind, provisioner in host.servers.provisioners.items():
        found[kind] = list(provisioner.present())
    return {name: sorted(lines) for name, lines in found.items()}


def rows(*, exact: bool) -> Seen:
    """Read the tables."""
    units = _units()
    return {table: [_line(row, units, exact=exact) for row in _rows(table)] for table in TABLES}


def differences(expected: Seen, found: Seen) -> list[str]:
    """Say what is there and should not be, and the other way round."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        before, after = list(expected.get(name, ())), list(found.get(name, ()))
        for line in expected.get(name, ()):
            if line in after:
                before.remove(line)
                after.remove(line)
        lines += [f"{name}: missing: {line}" for line in before] + [
            f"{name}: too much: {line}" for line in after
        ]
    return lines


def _units() -> dict[int, str]:
    return {row["port"]: row["name"] for row in _rows("resources") if row["kind"] == "unit"}


def _rows(table: str) -> list[dict[str, Any]]:
    cursor = database.execute_sql(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _line(row: dict[str, Any], units: dict[int, str], *, exact: bool) -> str:
    if exact:
        return json.dumps(row, sort_keys=True)
    kept = {name: value for name, value in row.items() if name not in UNSTEADY}
    kept |= {f"{name}?": row[name] is not None for name in ("made_at", "unwanted_at") if name in row}
    if kept.get("live"):
        kept["live"] = json.loads(kept["live"])
        kept["live"]["port"] = units.get(kept["live"]["port"], "")
    if "port" in kept:
        kept["port"] = units.get(kept["port"], "")
    if kept.get("error"):
        kept["error"] = kept["error"].partition(": was not healthy")[0]
    return json.dumps(kept, sort_keys=True)


def _ports(text: str, units: dict[int, str]) -> str:
    return re.sub(r"\b(\d{5})\b", lambda found: units.get(int(found[1]), found[1]), text)


def _log(text: str) -> str:
    """What a log says, once each: an attempt that was killed may have begun to say it."""
    lines = {re.sub(r"port \d+", "port", line) for line in text.splitlines()}
    # The journal's last lines, what a probe saw, and what a pass that was killed then had no time to say.
    unsteady = r"(started )?kennel-\S+\.service|.*was not healthy"
    return json.dumps(sorted(line for line in lines if line and not re.match(unsteady, line)))
