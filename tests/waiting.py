"""Wait for a condition instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(predicate: Callable[[], T], *, timeout: float = 20, interval: float = 0.02, what: str = "") -> T:
    """Ask `predicate` every `interval` seconds until its answer is true; returns that answer.

    Raises:
        AssertionError: no true answer in `timeout` seconds; the message has `what` and the last answer.
    """
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            name = what or getattr(predicate, "__name__", "the condition")
            raise AssertionError(f"{name}: not within {timeout:g} s; the last answer was {answer!r}")
        time.sleep(interval)
    return answer
