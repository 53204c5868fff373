"""How the core asks for work to be done soon. A message is a hint: losing one costs at most a tick."""

from typing import Protocol


class Doorbell(Protocol):
    """The calls return quickly and never raise, also when the broker is gone or frozen."""

    def build(self, build_id: int) -> None:
        """Ask a builder to look at the queue."""

    def reconcile(self) -> None:
        """Ask for a pass."""

    def report(self) -> None:
        """Ask for the forge to be told what it does not know yet."""
