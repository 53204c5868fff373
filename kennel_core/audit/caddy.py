"""Caddy: the route table, and the files it reads. What has an ``@id`` of Kennel's is Kennel's."""

import re
from functools import partial

from kennel_core.adapters.targets import Targets
from kennel_core.audit.findings import Finding, Verdict
from kennel_core.audit.scope import Scope
from kennel_core.reconcile import routes
from kennel_core.reconcile.preview import entry_of

SYSTEM = "caddy"


def look(scope: Scope) -> list[Finding]:
    """Compare routes and files with the rows."""
    current, files = scope.host.routes(), scope.host.targets()
    wanted = {row.id: entry_of(row) for row in scope.rows.live}
    leads = routes.entries(current, files)
    found = []
    for number, entry in sorted(wanted.items()):
        hosts = " ".join(entry.hosts)
        if number not in leads:
            found.append(Finding(SYSTEM, Verdict.MISSING, f"route {hosts}", "Caddy leads it nowhere"))
        elif leads[number] != entry:
            found.append(Finding(SYSTEM, Verdict.MISSING, f"route {hosts}", "Caddy leads it elsewhere"))
    shared = {route["@id"] for route in routes.table(wanted.values()) if route.get("@id")}
    if scope.settings.domain:
        shared.add(f"{routes.PREFIX}own")
    why = "no deployment has this route any more: a pass writes the table without it"
    ids = [str(route["@id"]) for route in current if routes.is_ours(route)]
    found += [Finding(SYSTEM, Verdict.LEFTOVER, f"route {name}", why) for name in ids if name not in shared]
    return found + _files(scope, None if files is None else set(routes.targets(wanted.values())))


def _files(scope: Scope, wanted: set[str] | None) -> list[Finding]:
    """Find files that nothing names. The directory is Kennel's alone."""
    directory = Targets(scope.settings.targets_dir)
    there = directory.read()
    why = "no deployment is served by it"
    return [
        Finding(
            "disk",
            Verdict.LEFTOVER,
            str(scope.settings.targets_dir / name),
            why,
            partial(directory.remove, name),
        )
        for name in sorted(there.keys() - (wanted or set()))
        if re.fullmatch(r"\d+\.[a-z]+(\.new)?", name)
    ]
