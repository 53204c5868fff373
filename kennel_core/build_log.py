"""The text of a build's log: chunks while it runs, one text at its end."""

from collections.abc import Iterable, Sequence

from peewee import fn

from kennel_core.models import LogChunk


def append(build_id: int, chunks: Sequence[tuple[str, str]]) -> None:
    """Store (phase, text) pairs behind what is there: inside the caller's `db.write()`."""
    last = LogChunk.select(fn.MAX(LogChunk.seq)).where(LogChunk.build == build_id).scalar()
    first = 0 if last is None else last + 1
    rows = [(build_id, seq, phase, text) for seq, (phase, text) in enumerate(chunks, first)]
    if rows:
        LogChunk.insert_many(
            rows, fields=[LogChunk.build, LogChunk.seq, LogChunk.phase, LogChunk.data]
        ).execute()


def chunks(build_id: int, seq: int = 0) -> list[LogChunk]:
    """Return the chunks from `seq` on, in order."""
    return list(
        LogChunk.select().where(LogChunk.build == build_id, LogChunk.seq >= seq).order_by(LogChunk.seq)
    )


def compose(found: Iterable[LogChunk], phase: str = "", *, grouped: bool = False) -> str:
    """Join chunks, with a line ``=== phase: <name> ===`` wherever the phase changes.

    `phase` is the one that an earlier part ended with. `grouped` puts together what ran side by side.
    """
    rows = list(found)
    if grouped:
        order = {name: place for place, name in enumerate(dict.fromkeys(row.phase for row in rows))}
        rows.sort(key=lambda row: order[row.phase])
    parts = []
    for row in rows:
        if row.phase != phase:
            phase = row.phase
            parts.append(f"=== phase: {phase} ===\n")
        parts.append(row.data)
    return "".join(parts)
