"""Run something in a child process, and kill the child with SIGKILL at one of its effects."""

import itertools
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kennel_core import effects


@dataclass(frozen=True)
class Ended:
    """How a child ended: killed at an effect that was asked for or not, and its effects until then."""

    killed: bool
    value: Any
    effects: tuple[str, ...]


def run(action: Callable[[], Any], home: Path, kill_at: int | None = None) -> Ended:
    """Call `action` in a child; `kill_at` counts the moments before and after each effect, from 0.

    Raises:
        AssertionError: the child raised; the message has its traceback.
    """
    seen, answer, log = (home / f"child.{name}" for name in ("effects", "answer", "log"))
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(action, kill_at, seen, answer, log)
    _, status = os.waitpid(child, 0)
    noted = tuple(seen.read_text().splitlines())
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and kill_at is not None:
        return Ended(killed=True, value=None, effects=noted)
    assert status == 0, f"the child ended with status {status}:\n{log.read_text()[-4000:]}"
    return Ended(killed=False, value=pickle.loads(answer.read_bytes()), effects=noted)


def _child(action: Callable[[], Any], kill_at: int | None, seen: Path, answer: Path, log: Path) -> None:
    """Never returns: what belongs to the parent is not run at the child's end."""
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        moments = os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        numbers = itertools.count()

        def watch(name: str, when: str) -> None:
            os.write(moments, f"{when} {name}\n".encode())
            if next(numbers) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        effects.watch(watch)
        answer.write_bytes(pickle.dumps(action()))
        status = 0
    except BaseException:  # noqa: BLE001  # the parent tells it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
