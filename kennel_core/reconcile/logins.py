"""Keep the OIDC clients of projects as the rows want them. What fails is tried again by the next pass."""

import time
from typing import TYPE_CHECKING

import structlog

from kennel_core import db, naming, oidc, projects, resources
from kennel_core.environment import Environment
from kennel_core.errors import AdapterError, ConfigError, Rejected
from kennel_core.models import Resource
from kennel_core.provision.servers import each
from kennel_core.reconcile.plan import Desired
from kennel_core.reconcile.state import State

if TYPE_CHECKING:
    from kennel_core.provision.oidc import Oidc

log = structlog.get_logger(__name__)

STORED = ("OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET")


def settle(state: State, *, again: bool = False) -> None:
    """Make, change and remove clients. Keycloak is asked only where a row wants something else than before.

    With `again` every client is compared with what Keycloak has.
    """
    server = _server(state)
    noted = {row.name: row for (kind, *_), row in state.owned.items() if kind == resources.OIDC}
    rows = [row for row in (*state.rows.live, *state.rows.rollouts) if row.oidc]
    if server is None or not (rows or noted):
        return
    held = {name: row.project_id for name, row in noted.items() if row.made_at is not None}
    state.clients, warnings = oidc.clients([_login(state, row) for row in rows], held)
    for warning in warnings:
        log.warning("redirect URI left out", detail=warning)
    wanted = {client.client_id: client for client in state.clients}
    differing = [c for c in state.clients if again or _noted(noted.get(c.client_id)) != _digest(c)]
    if fresh := [client for client in differing if client.client_id not in noted]:
        with db.write():
            resources.note_clients(fresh, time.time())
        state.owned.update(resources.owned())
    for client, secret in zip(differing, each(server.ensure, differing), strict=True):
        row = state.owned[resources.OIDC, client.project_id, client.client_id]
        if isinstance(secret, AdapterError):
            log.warning("login not provided", client=client.client_id, error=str(secret))
        elif _is_stored(state, client, secret):
            resources.made_client(row, _digest(client), time.time())
            if _noted(row) != _digest(client):
                state.report.provided.append(client.client_id)
                log.info("login provided", client=client.client_id, uris=len(client.redirect_uris))
    gone = [row for name, row in noted.items() if name not in wanted]
    removals = each(lambda row: _remove(state, server, row), gone)
    for row, error in zip(gone, removals, strict=True):
        if isinstance(error, AdapterError):
            log.warning("login not removed", client=row.name, error=str(error))
        else:
            resources.forget([row.id])
            state.report.removed.append(row.name)
    state.owned = resources.owned()


def _server(state: State) -> "Oidc | None":
    try:
        return state.host.servers.oidc
    except ConfigError as exc:
        log.warning("no logins", error=str(exc))
        return None


def _remove(state: State, server: "Oidc", row: Resource) -> None:
    """Remove a client, and its login from where it was stored."""
    server.remove(row.name, row.project_id)
    if not state.settings.secrets:
        return
    try:
        for profile in Environment:
            state.host.servers.secrets.remove(row.project, profile, STORED, row.name)
    except Rejected as exc:  # a policy that lets nothing be deleted: what stays there is worth nothing
        log.warning("stored login not removed", client=row.name, error=str(exc))


def _is_stored(state: State, client: oidc.Client, secret: str) -> bool:
    """Put the login where the project's specification may name it."""
    if not state.settings.secrets or client.project_id in projects.namesakes():
        return True
    values = dict(zip(STORED, (client.client_id, secret), strict=True))
    try:
        for profile in client.environments:
            for name, value in values.items():
                state.host.servers.secrets.write(client.project, profile, name, value)
    except AdapterError as exc:
        log.warning("login not stored", client=client.client_id, error=str(exc))
        return False
    return True


def _login(state: State, row: Desired) -> oidc.Login:
    return oidc.Login(
        project_id=row.owner.project_id,
        project=row.owner.project,
        environment=row.owner.environment,
        host_urls=tuple(state.settings.url(host) for host in row.hosts),
        paths=row.oidc,
    )


def _digest(client: oidc.Client) -> str:
    uris = (client.redirect_uris, client.post_logout_uris, client.web_origins)
    return naming.digest(client.client_id, client.project_id, *(sorted(found) for found in uris))


def _noted(row: Resource | None) -> str | None:
    return row.state.get("client") if row is not None else None
