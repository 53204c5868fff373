"""What Kennel made outside, noted before it is made, so that nothing else is ever removed."""

from collections.abc import Iterable

import peewee

from kennel_core.models import Resource

UNIT = "unit"


def units() -> dict[str, Resource]:
    """Return the units that Kennel made, by name."""
    return {row.name: row for row in Resource.select().where(Resource.kind == UNIT)}


def note_units(ports: dict[str, int | None], now: float) -> None:
    """Note units that are about to be started, with their ports: inside the caller's `db.write()`.

    A unit that is noted already counts as made now: its time to become healthy begins again.
    """
    rows = [{"kind": UNIT, "name": name, "port": port, "created_at": now} for name, port in ports.items()]
    if rows:
        Resource.insert_many(rows).on_conflict(
            conflict_target=[Resource.kind, Resource.name],
            update={
                Resource.port: peewee.EXCLUDED.port,
                Resource.created_at: now,
                Resource.unwanted_at: None,
            },
        ).execute()


def unwanted(names: Iterable[str], now: float) -> None:
    """Note since when no row names these units."""
    Resource.update(unwanted_at=now).where(Resource.kind == UNIT, Resource.name << list(names)).execute()


def wanted_again(names: Iterable[str]) -> None:
    """Forget since when no row named these units: one does again."""
    if again := list(names):
        Resource.update(unwanted_at=None).where(Resource.kind == UNIT, Resource.name << again).execute()


def forget_units(names: Iterable[str]) -> None:
    """Forget units that are gone."""
    Resource.delete().where(Resource.kind == UNIT, Resource.name << list(names)).execute()
