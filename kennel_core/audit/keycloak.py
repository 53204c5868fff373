"""Keycloak: clients with Kennel's mark.

The mark says which project a client is for, not which Kennel made it. That follows from where it leads to: to
a host below this Kennel's base domain; or its other half does.
"""

import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from kennel_core import db, oidc, resources
from kennel_core.audit import table
from kennel_core.audit.findings import LOOK_YOURSELF, Finding, Fix, Verdict
from kennel_core.audit.scope import Scope
from kennel_core.errors import Rejected
from kennel_core.provision.oidc import Found

SYSTEM = "keycloak"
STAGING = "-staging"


def look(scope: Scope) -> list[Finding]:
    """Compare the realm's clients with what the rows want."""
    server = scope.servers.oidc
    noted = {row.name: row for row in scope.of(resources.OIDC)}
    if server is None:
        detail = f"it is not configured, and {len(noted)} of its clients are noted: set KENNEL_KEYCLOAK again"
        raise Rejected(SYSTEM, "list", detail)
    present = server.present()
    wanted = {client.client_id: client for client in scope.clients}
    found = []
    for name, client in sorted(wanted.items()):
        there = present.get(name)
        if there is None or there.project_id != client.project_id:
            found.append(_missing(scope, client, f"{client.project} wants it"))
        elif fields := there.differs(client):
            found.append(
                _missing(scope, client, f"it is not as {client.project} wants it: {', '.join(fields)}")
            )
    for name in sorted(noted.keys() - wanted.keys()):
        why = f"no deployment of {noted[name].project} logs anybody in: a pass removes it"
        found.append(Finding(SYSTEM, Verdict.LEFTOVER, f"client {name}", why))
    for name in sorted(present.keys() - wanted.keys() - noted.keys()):
        fix = _adopt(scope, present[name]) if _is_ours(name, present, scope.settings.base_domain) else None
        why = "Kennel made it, and no deployment logs anybody in with it" if fix else LOOK_YOURSELF
        verdict = Verdict.LEFTOVER if fix else Verdict.UNKNOWN
        found.append(Finding(SYSTEM, verdict, f"client {name}", why, fix))
    return found


def _adopt(scope: Scope, client: Found) -> Fix:
    project = scope.projects.get(client.project_id)
    name = project.name if project else client.client_id.removesuffix(STAGING)

    def fix() -> None:
        with db.write():
            resources.note_clients([oidc.Client(client.client_id, client.project_id, name, ())], time.time())

    return fix


def _is_ours(name: str, present: Mapping[str, Found], base: str) -> bool:
    """Tell whether the client, or the other one of its pair, leads to a host of this Kennel."""
    other = name.removesuffix(STAGING) if name.endswith(STAGING) else f"{name}{STAGING}"
    pair = [present[name]]
    if other in present and present[other].project_id == present[name].project_id:
        pair.append(present[other])
    uris = [uri for one in pair for uri in one.representation.get("redirectUris") or ()]
    return any((urlsplit(uri).hostname or "").endswith(f".{base}") for uri in uris)


def _missing(scope: Scope, client: oidc.Client, why: str) -> Finding:
    return Finding(SYSTEM, Verdict.MISSING, f"client {client.client_id}", why, again(scope, client))


def again(scope: Scope, client: oidc.Client) -> Fix | None:
    """Let the next pass compare the client with Keycloak's, and store its login, once more."""
    row = scope.owned.get((resources.OIDC, client.project_id, client.client_id))
    return table.amend(row, client=None) if row is not None else None
