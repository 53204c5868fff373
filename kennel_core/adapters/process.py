"""Run commands side by side, hand over their output line by line, and leave none of their processes behind.

One thread, no locks: the callbacks run in the caller's thread, between two reads. Memory stays bounded
whatever the commands write.
"""

import os
import secrets
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kennel_core.adapters import process_tree
from kennel_core.adapters.lines import Splitter
from kennel_core.errors import Unavailable

TICK_S = 0.25
LINGER_S = 2.0  # how long a pipe is read that a background process holds open after the command ended
READ_SIZE = 64 * 1024
TAIL_LINES = 20
STDOUT_MAX = 16 * 1024**2
MARKER = "SUPERVISED_TREE"  # variable in the environment of every process of a tree


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


OnLine = Callable[[str, str], None]
OnTick = Callable[[], None]
Processes = dict[int, process_tree.Process]


@dataclass(slots=True, eq=False)
class _Stream:
    running: "_Running"
    descriptor: int
    captured: bool
    splitter: Splitter = field(default_factory=Splitter)


@dataclass(slots=True, eq=False)
class _Running:
    command: Command
    place: int
    process: subprocess.Popen[bytes]
    marker: bytes
    began: float
    deadline: float
    pidfd: int
    streams: list[_Stream] = field(default_factory=list)
    stdout: bytearray = field(default_factory=bytearray)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    @property
    def ended(self) -> bool:
        """Whether the command itself, not all of its tree, has ended."""
        return self.process.returncode is not None


def run(
    commands: Sequence[Command], *, limit: int = 1, on_line: OnLine, on_tick: OnTick = lambda: None
) -> list[Finished]:
    """Run the commands, at most `limit` at once; the results come in the order of the commands.

    `on_line(label, text)` gets each line of standard error and, unless captured, of standard output.
    `on_tick` is called every TICK_S at least. When a callback raises, every process of every tree is ended
    and the exception goes on. The same happens to one tree when its time is over, and to what a command
    left running in the background when it ended.

    The process becomes a subreaper. Its other threads must not start sessions of their own meanwhile.

    Raises:
        Unavailable: a program is not installed or cannot be started.
    """
    return _Supervisor(limit, on_line, on_tick).run(commands)


class _Supervisor:
    def __init__(self, limit: int, on_line: OnLine, on_tick: OnTick) -> None:
        self._limit = limit
        self._on_line = on_line
        self._on_tick = on_tick
        self._next_tick = 0.0
        self._selector = selectors.DefaultSelector()
        self._running: list[_Running] = []
        self._children: set[int] = set()
        self._token = secrets.token_hex(8)

    def run(self, commands: Sequence[Command]) -> list[Finished]:
        process_tree.become_subreaper()
        me = os.getpid()
        self._children = {process.pid for process in process_tree.table().values() if process.parent == me}
        waiting = deque(enumerate(commands))
        done: dict[int, Finished] = {}
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._limit:
                    self._start(*waiting.popleft())
                self._read(TICK_S)
                self._tick()
                for running in [running for running in self._running if _is_over(running)]:
                    done[running.place] = self._finish(running)
        finally:
            self._end_all()
            self._selector.close()
        return [done[place] for place in range(len(commands))]

    def _start(self, place: int, command: Command) -> None:
        value = f"{self._token}-{place}"
        stdin = subprocess.DEVNULL if command.stdin is None else _file_of(command.stdin)
        try:
            process = subprocess.Popen(
                command.argv,
                cwd=command.cwd,
                env={**command.env, MARKER: value},
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
        self._children.add(process.pid)
        marker = f"{MARKER}={value}".encode()
        now = time.monotonic()
        pidfd = os.pidfd_open(process.pid)
        running = _Running(command, place, process, marker, now, now + command.timeout, pidfd)
        self._running.append(running)
        self._selector.register(running.pidfd, selectors.EVENT_READ, running)
        for pipe, captured in ((process.stdout, command.capture), (process.stderr, False)):
            assert pipe is not None  # noqa: S101  # PIPE above
            os.set_blocking(pipe.fileno(), False)
            stream = _Stream(running, pipe.fileno(), captured)
            running.streams.append(stream)
            self._selector.register(stream.descriptor, selectors.EVENT_READ, stream)

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._on_tick()

    def _read(self, seconds: float) -> None:
        """Take what is there, waiting at most `seconds` for something."""
        for key, _events in self._selector.select(seconds):
            if isinstance(key.data, _Stream):
                self._read_stream(key.data)
            else:
                self._note_exit(key.data)

    def _read_stream(self, stream: _Stream) -> bool:
        """Read once; False when there is nothing more, now or ever."""
        try:
            data = os.read(stream.descriptor, READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._close(stream)
        elif stream.captured:
            stdout = stream.running.stdout
            stdout += data[: max(STDOUT_MAX - len(stdout), 0)]
        else:
            self._pass_on(stream, stream.splitter.feed(data))
        return bool(data)

    def _close(self, stream: _Stream) -> None:
        self._selector.unregister(stream.descriptor)
        stream.running.streams.remove(stream)
        self._pass_on(stream, stream.splitter.end())

    def _pass_on(self, stream: _Stream, lines: Iterable[str]) -> None:
        for line in lines:
            stream.running.tail.append(line)
            self._on_line(stream.running.command.label, line)

    def _note_exit(self, running: _Running) -> None:
        if running.process.poll() is not None:
            running.deadline = min(running.deadline, time.monotonic() + LINGER_S)
            self._forget_pidfd(running)

    def _forget_pidfd(self, running: _Running) -> None:
        if running.pidfd >= 0:
            self._selector.unregister(running.pidfd)
            os.close(running.pidfd)
            running.pidfd = -1

    def _finish(self, running: _Running) -> Finished:
        timed_out = not running.ended
        self._end([running])
        for stream in list(running.streams):
            while self._read_stream(stream):
                pass
            if stream in running.streams:
                self._close(stream)
        self._release(running)
        return Finished(
            label=running.command.label,
            exit_code=running.process.returncode,
            stdout=running.stdout.decode(errors="replace"),
            timed_out=timed_out,
            tail=list(running.tail),
            seconds=time.monotonic() - running.began,
        )

    def _end_all(self) -> None:
        """End every tree; nothing that it still writes is passed on."""
        self._on_line = lambda _label, _text: None
        self._end(self._running)
        for running in list(self._running):
            self._release(running)

    def _end(self, ending: Sequence[_Running]) -> None:
        """End what is left of these trees, orphans included."""
        seen: set[int] = set()  # what was below a process that has ended meanwhile is still ours

        def members() -> set[int]:
            processes = process_tree.table()
            seen.update(self._members(ending, processes))
            return process_tree.alive(seen, processes, self._children)

        if members():
            process_tree.end(members, self._read)

    def _members(self, ending: Sequence[_Running], processes: Processes) -> set[int]:
        """The trees' processes. An orphan without the variable belongs to the tree that ends last."""
        others = {running.process.pid for running in self._running if running not in ending}
        leaders = {running.process.pid for running in ending}
        orphans = process_tree.adopted(processes, self._children)
        roots = process_tree.marked([running.marker for running in ending], orphans) if others else orphans
        roots |= {process.pid for process in processes.values() if process.session in leaders}
        return process_tree.descendants(roots, processes) - others

    def _release(self, running: _Running) -> None:
        self._forget_pidfd(running)
        for stream in list(running.streams):
            self._close(stream)
        with running.process:  # closes the pipes and waits
            self._running.remove(running)


def _is_over(running: _Running) -> bool:
    return (running.ended and not running.streams) or time.monotonic() >= running.deadline


def _file_of(content: bytes) -> int:
    """Open a file with this content: unlike a pipe, it can be written before anybody reads."""
    descriptor = os.memfd_create("stdin")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
