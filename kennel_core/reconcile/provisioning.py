"""Make what refs need before their services start, and remove it when they are gone."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from kennel_core import db, resources
from kennel_core.errors import AdapterError, Rejected
from kennel_core.models import Resource
from kennel_core.provision import Owner
from kennel_core.reconcile.plan import Desired
from kennel_core.reconcile.state import State
from kennel_core.resources import LASTING, Key, Remembered

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Provided:
    """What came of it. `refused` and `unavailable` say why a ref has not what it needs.

    `changed` are the refs whose resources were repaired: their values may be others now.
    """

    refused: dict[tuple[int, str], AdapterError] = field(default_factory=dict)
    unavailable: dict[tuple[int, str], AdapterError] = field(default_factory=dict)
    changed: set[tuple[int, str]] = field(default_factory=set)


def wanted(rows: Iterable[Desired]) -> dict[Key, Owner]:
    """Say which resources the rows want, with their owners. Pure."""
    return {(kind, row.owner.project_id, row.owner.ref): row.owner for row in rows for kind in row.resources}


def ensure(state: State) -> Provided:
    """Make what is missing. One listing of each server that is needed, and nothing where all is there."""
    provided = Provided()
    needed = wanted((*state.rows.live, *state.rows.rollouts))
    if not needed:
        return provided
    _note(state, needed)
    present = state.present()
    present |= state.host.servers.present({kind for kind, *_ in needed} - present.keys())()
    todo = []
    for key, owner in sorted(needed.items()):
        there = present.get(key[0])
        if isinstance(there, AdapterError):
            provided.unavailable[key[1:]] = there
        elif there is not None and not _is_whole(state, key, owner, there):
            todo.append((key, owner))
    _make(state, todo, provided)
    problems = (*provided.refused.values(), *provided.unavailable.values())
    for problem in {str(error): error for error in problems}.values():
        state.report.error("provide", problem)
    return provided


def _note(state: State, needed: Mapping[Key, Owner]) -> None:
    """Note what is about to be made, so that whatever happens then it is known."""
    provisioners = state.host.servers.provisioners
    fresh = [
        (key[0], provisioners[key[0]].name(owner), owner)
        for key, owner in needed.items()
        if key not in state.owned and key[0] in provisioners
    ]
    resources.wanted_again(
        state.owned[key].id for key in needed if key in state.owned and state.owned[key].unwanted_at
    )
    if fresh:
        with db.write():
            resources.note_owned(fresh, time.time())
        state.owned.update(resources.owned())


def _make(state: State, todo: Sequence[tuple[Key, Owner]], provided: Provided) -> None:
    tasks = [(key[0], owner, Remembered(state.owned[key])) for key, owner in todo]
    done = []
    for (key, owner), error in zip(todo, state.host.servers.each_ensure(tasks), strict=True):
        row = state.owned[key]
        if error is not None:
            (provided.refused if isinstance(error, Rejected) else provided.unavailable)[key[1:]] = error
            continue
        done.append(row.id)
        state.report.provided.append(row.name)
        if row.made_at is not None:
            provided.changed.add(key[1:])
        log.info("provided", kind=row.kind, name=row.name, project=owner.project, ref=owner.ref)
    if done:
        resources.made(done, time.time())
        state.owned.update(resources.owned())


def _is_whole(state: State, key: Key, owner: Owner, there: frozenset[str]) -> bool:
    row = state.owned[key]
    parts = state.host.servers.provisioners[key[0]].parts(owner, Remembered(row))
    return row.made_at is not None and parts <= there


def idle(owned: Mapping[Key, Resource], needed: Collection[Key]) -> list[Resource]:
    """Say what no row wants any more. Pure."""
    return [row for key, row in sorted(owned.items()) if key not in needed and row.kind != resources.OIDC]


def removable(owned: Mapping[Key, Resource], needed: Collection[Key]) -> list[Resource]:
    """Say which of it may go: data of prod and staging stays until an operator has confirmed. Pure."""
    return [
        row for row in idle(owned, needed) if row.environment not in LASTING or row.confirmed_at is not None
    ]


def remove(state: State) -> None:
    """Remove what no row wants any more, once nothing runs that may use it."""
    needed = wanted((*state.rows.live, *state.rows.rollouts))
    unused = idle(state.owned, needed)
    if not unused:
        return
    resources.unwanted((row.id for row in unused if row.unwanted_at is None), time.time())
    busy = {(unit.project_id, unit.ref) for unit in resources.units().values()}
    going = [row for row in removable(state.owned, needed) if (row.project_id, row.ref) not in busy]
    tasks = [(row.kind, resources.owner(row), Remembered(row)) for row in going]
    for row, error in zip(going, state.host.servers.each_remove(tasks), strict=True):
        if error is None:
            resources.forget([row.id])
            state.report.removed.append(row.name)
            log.info("removed", kind=row.kind, name=row.name, ref=row.ref)
        else:
            state.report.error("remove", error)
