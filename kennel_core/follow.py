"""The log of a build, line after line while it runs."""

import re
import time
from collections import Counter
from collections.abc import Iterator

from kennel_core import build_log, builds, db

INTERVAL_S = 0.25  # as often as a builder writes

_SEPARATOR = re.compile(r"^=== phase: (.*) ===\n", re.MULTILINE)


def build_log_text(build_id: int) -> Iterator[str]:
    """Yield the log from its start, then what is added, until the build has ended.

    Yields "" whenever there is nothing new, so that the caller can stop. Opens a connection of its own for
    each short read, so the caller holds none.

    Raises:
        NotFound: there is no such build.
    """
    attempt, seq, phase = 0, 0, ""
    sent: Counter[str] = Counter()  # characters, by phase
    while True:
        with db.connection(), db.database.atomic():  # one snapshot
            build = builds.get(build_id)
            if attempt and build.attempt != attempt:  # its worker was lost, and the log began anew
                seq, phase, sent = 0, "", Counter()
            attempt = build.attempt
            chunks, seq, final = builds.log_since(build_id, seq)
            whole = builds.full_log(build_id) if final else ""
        yield build_log.compose(chunks, phase)
        for chunk in chunks:
            phase = chunk.phase
            sent[phase] += len(chunk.data)
        if final:
            yield _rest(whole, sent, phase)
            return
        if not chunks:
            time.sleep(INTERVAL_S)


def _rest(whole: str, sent: Counter[str], phase: str) -> str:
    """Return what of the final log was not sent; it has its phases in order, one part each."""
    parts = []
    pieces = _SEPARATOR.split(whole)
    for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
        if rest := text[sent[name] :]:
            parts.append(rest if name == phase else f"=== phase: {name} ===\n{rest}")
            phase = name
    return "".join(parts)
