"""The one seam through which every effect on the outside passes, so that a test can end the process there.

An effect is what another process could see afterwards: a commit, a message, a call that changes a unit, a
write to Caddy or over HTTP, SQL elsewhere, a file put in its place or removed, a program started.
"""

from collections.abc import Callable

Watcher = Callable[[str, str], None]  # gets the name of the effect, and "before" or "after"

_watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Have `watcher` called around every effect of this process, in the thread that has it."""
    global _watcher  # noqa: PLW0603  # one process, one watcher
    _watcher = watcher


class Effect:
    """``with Effect("caddy write"):`` encloses one effect. `acts` is False where the call only reads."""

    __slots__ = ("_name",)

    def __init__(self, name: str, *, acts: bool = True) -> None:
        self._name = name if acts else ""

    def __enter__(self) -> None:
        if _watcher is not None and self._name:
            _watcher(self._name, "before")

    def __exit__(self, *_: object) -> None:
        if _watcher is not None and self._name:
            _watcher(self._name, "after")
