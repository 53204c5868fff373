"""What Kennel made outside, noted before it is made, so that nothing else is ever removed.

Units are noted by name. What belongs to a ref (a database, a bucket) is noted with its owner, and has a
`state` in which its provisioner remembers ids.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import peewee

from kennel_core import db
from kennel_core.environment import Environment
from kennel_core.models import Resource
from kennel_core.oidc import Client
from kennel_core.provision import Owner

UNIT = "unit"
OIDC = "oidc"
LASTING = (Environment.PROD, Environment.STAGING)  # whose data stays until an operator confirms

Key = tuple[str, int, str]  # kind, project id, ref; of a client, its name instead of a ref


class Remembered:
    """The `Memory` of one resource, for any thread without a database connection."""

    def __init__(self, row: Resource) -> None:
        self._id: int = row.id
        self._state: dict[str, Any] = dict(row.state or {})

    @property
    def state(self) -> Mapping[str, Any]:
        """See `kennel_core.provision.Memory`."""
        return self._state

    def note(self, **changes: Any) -> None:
        """See `kennel_core.provision.Memory`."""
        self._state |= changes
        with db.connection(), db.write():
            Resource.update(state=self._state).where(Resource.id == self._id).execute()


def units() -> dict[str, Resource]:
    """Return the units that Kennel made, by name."""
    return {row.name: row for row in Resource.select().where(Resource.kind == UNIT)}


def owned() -> dict[Key, Resource]:
    """Return what belongs to refs."""
    rows = Resource.select().where(Resource.kind != UNIT)
    return {(row.kind, row.project_id, row.ref): row for row in rows}


def states(kind: str) -> list[dict[str, Any]]:
    """Return what is remembered of every resource of a kind."""
    return [row.state for row in Resource.select(Resource.state).where(Resource.kind == kind)]


def owner(row: Resource) -> Owner:
    """Give the owner of what is to be removed: its services are unknown, the project itself may be gone."""
    return Owner(row.project_id, row.project, row.ref, Environment(row.environment))


def note_units(rows: Mapping[str, tuple[int | None, Owner]], now: float) -> None:
    """Note units that are about to be started, with port and owner: inside the caller's `db.write()`.

    A unit that is noted already counts as made now: its time to become healthy begins again.
    """
    noted = [
        {
            "kind": UNIT,
            "name": name,
            "port": port,
            "created_at": now,
            "project_id": owner.project_id,
            "ref": owner.ref,
        }
        for name, (port, owner) in rows.items()
    ]
    if noted:
        Resource.insert_many(noted).on_conflict(
            conflict_target=[Resource.kind, Resource.name],
            update={
                Resource.port: peewee.EXCLUDED.port,
                Resource.created_at: now,
                Resource.unwanted_at: None,
            },
        ).execute()


def note_owned(wanted: Iterable[tuple[str, str, Owner]], now: float) -> None:
    """Note what is about to be made, as (kind, name, owner): inside the caller's `db.write()`."""
    for kind, name, owner in wanted:
        Resource.create(
            kind=kind,
            name=name,
            project_id=owner.project_id,
            project=owner.project,
            ref=owner.ref,
            environment=owner.environment,
            created_at=now,
        )


def note_clients(clients: Iterable[Client], now: float) -> None:
    """Note OIDC clients that are about to be made: inside the caller's `db.write()`."""
    for client in clients:
        Resource.create(
            kind=OIDC,
            name=client.client_id,
            project_id=client.project_id,
            project=client.project,
            ref=client.client_id,
            created_at=now,
        )


def made_client(row: Resource, digest: str, now: float) -> None:
    """Note what a client is now."""
    state = {**row.state, "client": digest}
    with db.write():
        Resource.update(state=state, made_at=row.made_at or now).where(Resource.id == row.id).execute()


def made(ids: Iterable[int], now: float) -> None:
    """Note what is whole now."""
    with db.write():
        Resource.update(made_at=now).where(Resource.id << list(ids), Resource.made_at.is_null()).execute()


def unwanted(ids: Iterable[int], now: float) -> None:
    """Note since when no row names these."""
    if idle := list(ids):
        with db.write():
            Resource.update(unwanted_at=now).where(Resource.id << idle).execute()


def wanted_again(ids: Iterable[int]) -> None:
    """Forget since when no row named these: one does again."""
    if again := list(ids):
        with db.write():
            Resource.update(unwanted_at=None, confirmed_at=None).where(Resource.id << again).execute()


def confirm(ids: Iterable[int], now: float) -> None:
    """Let the data of these go, though they lasted: an operator said so."""
    with db.write():
        Resource.update(confirmed_at=now).where(Resource.id << list(ids)).execute()


def forget(ids: Iterable[int]) -> None:
    """Forget what is gone."""
    with db.write():
        Resource.delete().where(Resource.id << list(ids)).execute()
