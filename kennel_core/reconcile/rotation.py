"""Find services that would be told something else now, and roll their refs out again."""

import time
from collections.abc import Sequence

import structlog

from kennel_core import redeploy, resources
from kennel_core.doorbell import Doorbell
from kennel_core.errors import AdapterError, ProjectError
from kennel_core.inputs import Inputs
from kennel_core.reconcile import configuration, logins
from kennel_core.reconcile.desired import wanted
from kennel_core.reconcile.host import Host, only_one
from kennel_core.reconcile.plan import Desired
from kennel_core.reconcile.state import Report, State
from kennel_core.settings import Settings

log = structlog.get_logger(__name__)


def look(settings: Settings, doorbell: Doorbell, host: Host) -> Report:
    """Look for secrets that changed and logins that were edited; rings for a pass where something did.

    Secrets that did not change cost one read of their metadata each, however many services use them.

    Raises:
        AdapterError: another pass holds the lock.
    """
    with only_one(settings.reconcile_lock):
        state = State(settings, host, wanted(settings), {}, {}, resources.owned())
        logins.settle(state, again=True)
        versions = {
            path: version
            for row in state.rows.live
            for path, version in (row.inputs or {}).get("versions", {}).items()
        }
        changed: frozenset[str] = frozenset()
        try:
            changed = host.servers.secrets.changed_paths(versions) if versions else changed
        except AdapterError as exc:
            state.report.error("secrets", exc)
        rows = [row for row in state.rows.live if changed & (row.inputs or {}).get("versions", {}).keys()]
        redeploy_changed(state, rows, "a secret was changed")
    if state.report.redeployed:
        doorbell.reconcile()
    return state.report


def redeploy_changed(state: State, rows: Sequence[Desired], reason: str) -> None:
    """Gather what services are told; a ref where one is told something else now is rolled out again."""
    refs: set[tuple[int, str]] = set()
    for row, found in zip(rows, configuration.gather(state, rows), strict=True):
        if not isinstance(found, Inputs):
            state.report.error("gather", found)
        elif _differs(row, found.noted(state.settings.secret_key_file)["digest"]):
            refs.add((row.owner.project_id, row.owner.ref))
    for project_id, ref in sorted(refs):
        try:
            build = redeploy.redeploy(project_id, ref, reason, state.settings, time.time())
        except ProjectError as exc:
            state.report.error("redeploy", exc)
            continue
        if build is not None:
            state.report.redeployed.append(build.id)
            log.info("redeploying", build_id=build.id, ref=ref, reason=reason)


def _differs(row: Desired, digest: str) -> bool:
    noted = row.inputs or {}
    return digest not in (noted.get("digest"), noted.get("refused"))
