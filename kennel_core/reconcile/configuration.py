"""What services are told: gathered before a unit has its name, and written to files before it starts.

The values are part of the revision: when one changes, another unit takes the service over.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from kennel_core import builds, db, deployments, oidc, projects
from kennel_core.errors import AdapterError, BuildFailed, KennelError, ProjectError, Rejected, Unavailable
from kennel_core.inputs import Inputs
from kennel_core.provision.servers import SPECIFICATION, each
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.desired import wanted
from kennel_core.reconcile.plan import Desired
from kennel_core.reconcile.provisioning import Provided
from kennel_core.reconcile.state import State
from kennel_core.resources import Remembered

NO_LOGINS = "it starts without its logins: this host offers none; its operator can set KENNEL_KEYCLOAK"

log = structlog.get_logger(__name__)


def settle(state: State, provided: Provided) -> dict[str, str | None]:
    """Gather the inputs of what is rolled out and give its units their names.

    Returns the units that cannot be started, with the reason where it is final.
    """
    open_ = [row for row in state.rows.rollouts if row.unit and row.inputs is None]
    if not open_:
        return {}
    unready: dict[str, str | None] = {}
    able = []
    for row in open_:
        problem = _problem(row, provided)
        if problem is None:
            able.append(row)
        else:
            unready[str(row.unit)] = str(problem) if isinstance(problem, Rejected) else None
    named = False
    for row, found in zip(able, gather(state, able), strict=True):
        if isinstance(found, Inputs):
            named = _name(state, row, found) or named
        elif isinstance(found, Unavailable):
            unready[str(row.unit)] = None
            state.report.error("gather", found)
        else:
            unready[str(row.unit)] = str(found)
    if named:
        state.rows = wanted(state.settings)
    return unready


def told(state: State, rows: Sequence[Desired], backoff: Backoff) -> list[Desired]:
    """Tell units that are about to start what they need; leaves out those whose inputs cannot be had now."""
    unknown = [row for row in rows if row.unit not in state.inputs]
    for row, found in zip(unknown, gather(state, unknown), strict=True):
        if isinstance(found, Inputs):
            state.inputs[str(row.unit)] = found
        else:
            backoff.tried(str(row.unit), time.time())
            state.report.error("gather", found)
    ready = [row for row in rows if row.unit in state.inputs]
    files = [(str(row.unit), state.inputs[str(row.unit)]) for row in ready]
    written = []
    for row, error in zip(ready, state.host.each_tell(files), strict=True):
        if error is None:
            plain = state.inputs[str(row.unit)].plain
            written.append(replace(row, environment={**row.environment, **plain}))
        else:
            state.report.error("tell", error)
    return written


def _problem(row: Desired, provided: Provided) -> AdapterError | None:
    if not row.resources:
        return None
    whose = row.owner.project_id, row.owner.ref
    return provided.refused.get(whose) or provided.unavailable.get(whose)


def gather(state: State, rows: Sequence[Desired]) -> list[Inputs | KennelError]:
    """Ask the servers for several services side by side; each gets its inputs, or what is wrong."""
    shared = projects.namesakes() if state.settings.secrets else {}

    def ask(row: Desired) -> Inputs | KennelError:
        owner = row.owner
        keys = {kind: (kind, owner.project_id, owner.ref) for kind in row.resources}
        memories = {kind: Remembered(state.owned[key]) for kind, key in keys.items() if key in state.owned}
        if absent := sorted(keys.keys() - memories.keys()):
            return Unavailable(absent[0], "provide", "it is not configured any more")
        first = shared.get(owner.project_id)
        if first and (row.oidc or (Path(row.working_directory) / SPECIFICATION).is_file()):
            return BuildFailed(
                deployments.PHASE,
                f"{first} has the same name, and secrets are kept by it: rename one of the repositories",
            )
        client = oidc.serving(state.clients, owner.project_id, owner.environment) if row.oidc else None
        try:
            found = state.host.servers.inputs(row.name, owner, row.working_directory, memories, client)
        except ProjectError as exc:
            return exc
        return replace(found, warnings=(*found.warnings, NO_LOGINS)) if row.oidc and not client else found

    return each(ask, rows)


def _name(state: State, row: Desired, found: Inputs) -> bool:
    """Note the inputs and name the unit by them; False when a newer build has the row meanwhile."""
    noted = found.noted(state.settings.secret_key_file)
    with db.write():
        fresh = deployments.get(row.id)
        if fresh.build_id != row.build_id or fresh.inputs is not None:
            return False
        deployments.configured(fresh, noted, state.settings)
    state.inputs[str(fresh.unit)] = found
    if found.warnings:
        builds.note(row.build_id, deployments.PHASE, "".join(f"warning: {line}\n" for line in found.warnings))
    return True
