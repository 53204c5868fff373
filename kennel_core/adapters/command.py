"""A command, how it ended, and one that runs: its process and its two streams."""

import os
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kennel_core.adapters import process_tree
from kennel_core.adapters.lines import Splitter
from kennel_core.effects import Effect
from kennel_core.errors import Unavailable

READ_SIZE = 64 * 1024
TAIL_LINES = 20
STDOUT_MAX = 16 * 1024**2
LINGER_S = 2.0  # how long a pipe is read that a background process holds open after the command ended


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `timeout` in seconds; `env` is the whole environment.

    With `capture` standard output is collected (up to STDOUT_MAX bytes) and not streamed: it is an answer
    for a program, such as JSON.
    """

    label: str
    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    timeout: float
    stdin: bytes | None = None
    capture: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended. `exit_code` is negative when a signal ended it; `tail` is its last lines."""

    label: str
    exit_code: int
    stdout: str
    timed_out: bool
    tail: list[str]
    seconds: float


class Running:
    """A command's process. `marker` is the variable (``NAME=value``) that its whole tree has."""

    def __init__(self, command: Command, marker: str) -> None:
        self.command = command
        self.marker = marker.encode()
        self.process = _start(command, marker)
        self.pidfd = os.pidfd_open(self.process.pid)  # readable when the process has ended
        self.began = time.monotonic()
        self.deadline = self.began + command.timeout
        self.stdout = bytearray()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        pipes = ((self.process.stdout, command.capture), (self.process.stderr, False))
        self.streams = [Stream(self, pipe.fileno(), captured) for pipe, captured in pipes if pipe is not None]

    @property
    def ended(self) -> bool:
        """Whether the command itself, not all of its tree, is known to have ended."""
        return self.process.returncode is not None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return (self.ended and not self.streams) or time.monotonic() >= self.deadline

    def note_exit(self) -> bool:
        """Look whether the command has ended; from then on its streams are read for LINGER_S at most."""
        if self.process.poll() is None:
            return False
        self.deadline = min(self.deadline, time.monotonic() + LINGER_S)
        return True

    def finished(self, *, timed_out: bool) -> Finished:
        """Close the pipes, wait for the process, and say how it ended."""
        os.close(self.pidfd)
        with self.process:
            pass
        return Finished(
            label=self.command.label,
            exit_code=self.process.returncode,
            stdout=self.stdout.decode(errors="replace"),
            timed_out=timed_out,
            tail=list(self.tail),
            seconds=time.monotonic() - self.began,
        )


@dataclass(slots=True, eq=False)
class Stream:
    """Standard output or standard error of a running command."""

    running: Running
    descriptor: int
    captured: bool
    splitter: Splitter = field(default_factory=Splitter)

    def read(self) -> Iterator[str] | None:
        """Read once without waiting: lines, or None at the end of the stream.

        Raises:
            BlockingIOError: there is nothing to read now.
        """
        data = os.read(self.descriptor, READ_SIZE)
        if not data:
            return None
        if not self.captured:
            return self.splitter.feed(data)
        stdout = self.running.stdout
        stdout += data[: max(STDOUT_MAX - len(stdout), 0)]
        return iter(())


def _start(command: Command, marker: str) -> subprocess.Popen[bytes]:
    name, _, value = marker.partition("=")
    stdin = subprocess.DEVNULL if command.stdin is None else _file_of(command.stdin)
    try:
        with Effect("start program"):
            process = subprocess.Popen(
                command.argv,
                cwd=command.cwd,
                env={**command.env, name: value},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509  # one prctl: nothing that locks
            )
    except OSError as exc:
        what = f"{exc.strerror or exc}; is it installed and on PATH?"
        raise Unavailable("process", f"start {command.argv[0]}", what) from exc
    finally:
        if stdin != subprocess.DEVNULL:
            os.close(stdin)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            os.set_blocking(pipe.fileno(), False)
    return process


def _file_of(content: bytes) -> int:
    """Open a file with this content: unlike a pipe, it can be written before anybody reads."""
    descriptor = os.memfd_create("stdin")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
