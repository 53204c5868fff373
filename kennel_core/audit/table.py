"""What rows and the table of resources say of one kind; what is proved to be Kennel's is noted there."""

import time
from collections.abc import Collection, Mapping
from typing import Any

from kennel_core import db, resources
from kennel_core.audit.findings import LOOK_YOURSELF, Finding, Fix, Verdict
from kennel_core.audit.scope import Scope
from kennel_core.errors import Rejected
from kennel_core.models import Resource
from kennel_core.provision import Owner, Provisioner
from kennel_core.reconcile import provisioning
from kennel_core.resources import LASTING, Remembered


def provisioner(scope: Scope, kind: str) -> Provisioner:
    """Return who makes a kind.

    Raises:
        Rejected: nobody does, and the table has some of it.
    """
    try:
        return scope.servers.provisioners[kind]
    except KeyError:
        count = len(scope.of(kind))
        detail = (
            f"it is not configured, and {count} of its resources are noted: set KENNEL_{kind.upper()} again"
        )
        raise Rejected(kind, "list", detail) from None


def compare(scope: Scope, kind: str, present: Collection[str]) -> list[Finding]:
    """Say what is missing of what live rows want, and what no row wants any more."""
    maker = provisioner(scope, kind)
    found = []
    for key, owner in sorted(scope.due.items()):
        if key[0] != kind:
            continue
        whose = f"{owner.project}, {owner.ref}"
        row = scope.owned.get(key)
        if row is None:
            why = f"{whose} wants it, and it is not in Kennel's table"
            found.append(Finding(kind, Verdict.MISSING, maker.name(owner), why))
            continue
        absent = maker.parts(scope.needed[key], Remembered(row)) - frozenset(present)
        found += [Finding(kind, Verdict.MISSING, what, f"{whose} wants it") for what in sorted(absent)]
    idle = provisioning.idle(scope.owned, scope.needed)
    return found + [_unwanted(kind, row) for row in idle if row.kind == kind]


def accounted(scope: Scope, kind: str) -> set[str]:
    """Name the parts of everything that the table has of a kind, as far as its rows tell."""
    maker = provisioner(scope, kind)
    return {
        part
        for key, row in scope.owned.items()
        if key[0] == kind
        for part in maker.parts(scope.needed.get(key) or resources.owner(row), Remembered(row))
    }


def adopt(kind: str, name: str, owner: Owner, state: Mapping[str, Any] | None = None) -> Fix:
    """Give what notes a thing in the table: a pass then removes it as all that no row wants.

    What may be data of prod or staging is kept until an operator confirms.
    """

    def fix() -> None:
        with db.write():
            resources.note_owned([(kind, name, owner)], time.time())
            if state:
                mine = (Resource.kind == kind) & (Resource.name == name)
                Resource.update(state=dict(state)).where(mine).execute()

    return fix


def amend(row: Resource, **changes: Any) -> Fix:
    """Give what changes what is remembered of a thing, so that the next pass looks at it again."""

    def fix() -> None:
        with db.write():
            Resource.update(state={**row.state, **changes}).where(Resource.id == row.id).execute()

    return fix


def stray(scope: Scope, kind: str, what: str, owner: Owner | None, fix: Fix | None) -> Finding:
    """Speak of something that is not in the table; it is proved to be Kennel's when `owner` is known."""
    if owner is None or fix is None:
        return Finding(kind, Verdict.UNKNOWN, what, LOOK_YOURSELF)
    if (kind, owner.project_id, owner.ref) in scope.needed:
        why = f"it is {owner.project}, {owner.ref}'s, and is not in Kennel's table"
        return Finding(kind, Verdict.MISSING, what, why, fix)
    why = f"Kennel made it for {owner.project or 'a project'}, {owner.ref}, which has no deployment"
    if owner.environment in LASTING:
        why += "; once noted again it is kept until `kennel resource remove`"
    return Finding(kind, Verdict.LEFTOVER, what, why, fix)


def recovered(scope: Scope, kind: str) -> dict[str, Owner]:
    """Give the owners that refs of registered projects may have been, by name, but for those in the table."""
    maker = provisioner(scope, kind)
    known = {key[1:] for key in scope.owned if key[0] == kind}
    owners = [scope.owner(number, ref) for number, ref in scope.refs if (number, ref) not in known]
    return {maker.name(owner): owner for owner in owners}


def _unwanted(kind: str, row: Resource) -> Finding:
    whose = f"{row.project}, {row.ref}"
    if row.environment in LASTING and row.confirmed_at is None:
        why = f"data of {whose} ({row.environment}): `kennel resource remove {row.name}` lets it go"
        return Finding(kind, Verdict.KEPT, row.name, why)
    return Finding(kind, Verdict.LEFTOVER, row.name, f"{whose} has no deployment any more: a pass removes it")
