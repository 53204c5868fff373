"""What is remembered of a resource, in a test without a database."""

from collections.abc import Mapping
from typing import Any


class Remembered:
    """A `Memory` that keeps what was noted in the order of its noting."""

    def __init__(self, **state: Any) -> None:
        self.state: Mapping[str, Any] = state

    def note(self, **changes: Any) -> None:
        self.state = {**self.state, **changes}
