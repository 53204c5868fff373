"""A build's log as it comes: with running times on a terminal, else as it is."""

import re
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from kennel_core import logs

SEPARATOR = re.compile(r"=== phase: (.*) ===")


class Progress:
    """Prints lines; on a terminal, the last line says how long the present phase has been going on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("waiting for a builder", console=console) if console.is_terminal else None
        self._partial = ""
        self._phase = ""
        self._seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._partial:
            self._line(self._partial)
        self._count()
        if self._status:
            self._status.stop()
            total = " · ".join(f"{name} {seconds:.1f} s" for name, seconds in self._seconds.items())
            self._console.print(Text(total, style="bold"))

    def feed(self, text: str) -> None:
        """Take text as it comes, "" when nothing did."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(line)
        self._count()
        if self._status and self._phase:
            self._status.update(Text(f"{self._phase} {self._seconds[self._phase]:.0f} s"))

    def _line(self, line: str) -> None:
        separator = SEPARATOR.fullmatch(line)
        if separator:
            self._count()
            self._phase = separator[1]
            self._seconds.setdefault(self._phase, 0.0)
        if not self._status:
            self._console.out(logs.escape(line), highlight=False)
        elif separator:
            self._console.print(Text(f"── {self._phase} ", style="bold cyan"))
        else:
            self._console.print(Text(logs.escape(line)), soft_wrap=True)

    def _count(self) -> None:
        now = time.monotonic()
        if self._phase:
            self._seconds[self._phase] += now - self._since
        self._since = now
