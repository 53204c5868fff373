"""What a build prints: to the structured log at once, to the database in batches."""

import re
import time
from collections import deque

import structlog

from kennel_core import lease
from kennel_core.adapters.lines import Piece
from kennel_core.logs import redact, redactor
from kennel_core.models import Build
from kennel_core.redaction import Redactor

FLUSH_S = 0.25
BATCH_MAX = 64 * 1024  # characters
LOG_MAX = 6 * 1024**2  # characters kept of one build (it is put together in memory); then the last lines
LAST_LINES = 200
LAST_LINE_MAX = 1000  # characters

_SEPARATOR = re.compile(r"=== phase:")

_logger = structlog.get_logger("kennel.build")


class BuildLog:
    """The lines of one build. Secrets that `logs.register_secret` knows are left out."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._logger = _logger.bind(build_id=build.id)
        self._pending: dict[str, list[str]] = {}
        self._pending_size = 0
        self._long: dict[str, Redactor] = {}  # of phases whose line goes on
        self._flushed_at = time.monotonic()
        self._room = LOG_MAX
        self._left_out = 0
        self._last: deque[tuple[str, str]] = deque(maxlen=LAST_LINES)

    def line(self, phase: str, text: str) -> None:
        """Record one line, without its newline.

        Raises:
            Fenced: the lease was lost.
        """
        text = self._redacted(phase, text)
        if _SEPARATOR.match(text):
            text = f" {text}"  # only the phase's own name makes a separator
        self._logger.info(text, phase=phase)
        if self._room < len(text):
            self._left_out += 1
            self._last.append((phase, text[:LAST_LINE_MAX]))
            return
        self._room -= len(text)
        self._keep(phase, text)

    def _redacted(self, phase: str, text: str) -> str:
        """Leave out secrets, also one that a line of several pieces has where it was cut."""
        if isinstance(text, Piece):
            return self._long.setdefault(phase, redactor()).feed(text)
        if phase not in self._long:
            return redact(text)
        rest = self._long.pop(phase)
        return rest.feed(text) + rest.end()

    def flush(self) -> None:
        """Store what is pending.

        Raises:
            Fenced: the lease was lost.
        """
        chunks = [(phase, "".join(lines)) for phase, lines in self._pending.items()]
        self._pending = {}
        self._pending_size = 0
        self._flushed_at = time.monotonic()
        if chunks:
            lease.append_log(self._build, chunks)

    def flush_when_due(self) -> None:
        """Store what is pending, when it has waited for FLUSH_S."""
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def close(self) -> None:
        """Store the rest; when the log became too long, say so and add the last lines.

        Raises:
            Fenced: the lease was lost.
        """
        if self._left_out > len(self._last):
            phase = self._last[0][0]
            self._keep(
                phase, f"… {self._left_out - len(self._last)} lines are left out: the log became too long …"
            )
        for phase, text in self._last:
            self._keep(phase, text)
        self._last.clear()
        self._left_out = 0
        self.flush()

    def _keep(self, phase: str, text: str) -> None:
        self._pending.setdefault(phase, []).append(f"{text}\n")
        self._pending_size += len(text) + 1
        if self._pending_size >= BATCH_MAX:
            self.flush()
