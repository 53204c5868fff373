"""Run commands side by side, hand over their output line by line, and leave none of their processes behind.

One thread, no locks: the callbacks run in the caller's thread, between two reads. Memory stays bounded
whatever the commands write.
"""

import os
import secrets
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from kennel_core.adapters import process_tree
from kennel_core.adapters.command import Command, Finished, Running, Stream

__all__ = ["MARKER", "Command", "Finished", "run"]

TICK_S = 0.25
MARKER = "SUPERVISED_TREE"  # variable in the environment of every process of a tree

OnLine = Callable[[str, str], None]
OnTick = Callable[[], None]
Processes = dict[int, process_tree.Process]


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
        self._running: dict[int, Running] = {}  # by place among the commands
        self._children: set[int] = set()  # of this process, orphans that it adopts left out
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
                for place in [place for place, running in self._running.items() if running.is_over]:
                    done[place] = self._finish(place)
        finally:
            self._end_all()
            self._selector.close()
        return [done[place] for place in range(len(commands))]

    def _start(self, place: int, command: Command) -> None:
        running = Running(command, f"{MARKER}={self._token}-{place}")
        self._running[place] = running
        self._children.add(running.process.pid)
        self._selector.register(running.pidfd, selectors.EVENT_READ, running)
        for stream in running.streams:
            self._selector.register(stream.descriptor, selectors.EVENT_READ, stream)

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._on_tick()

    def _read(self, seconds: float) -> None:
        """Take what is there, waiting at most `seconds` for something."""
        for key, _events in self._selector.select(seconds):
            if isinstance(key.data, Stream):
                self._read_stream(key.data)
            elif key.data.note_exit():
                self._selector.unregister(key.data.pidfd)

    def _read_stream(self, stream: Stream) -> bool:
        """Read once; False when there is nothing more, now or ever."""
        try:
            lines = stream.read()
        except BlockingIOError:
            return False
        if lines is None:
            self._close(stream)
            return False
        self._pass_on(stream, lines)
        return True

    def _close(self, stream: Stream) -> None:
        self._selector.unregister(stream.descriptor)
        stream.running.streams.remove(stream)
        self._pass_on(stream, stream.splitter.end())

    def _pass_on(self, stream: Stream, lines: Iterable[str]) -> None:
        for line in lines:
            stream.running.tail.append(line)
            self._on_line(stream.running.command.label, line)

    def _finish(self, place: int) -> Finished:
        running = self._running[place]
        timed_out = not running.ended
        self._end([running])
        for stream in list(running.streams):
            while self._read_stream(stream):
                pass
        return self._release(place, timed_out=timed_out)

    def _end_all(self) -> None:
        """End every tree; nothing that it still writes is passed on."""
        self._on_line = lambda _label, _text: None
        self._end(list(self._running.values()))
        for place in list(self._running):
            self._release(place, timed_out=False)

    def _end(self, ending: Sequence[Running]) -> None:
        """End what is left of these trees, orphans included."""
        seen: set[int] = set()  # what was below a process that has ended meanwhile is still ours

        def members() -> set[int]:
            processes = process_tree.table()
            seen.update(self._members(ending, processes))
            return process_tree.alive(seen, processes, self._children)

        if members():
            process_tree.end(members, self._read)

    def _members(self, ending: Sequence[Running], processes: Processes) -> set[int]:
        """The trees' processes. An orphan without the variable belongs to the tree that ends last."""
        others = {running.process.pid for running in self._running.values() if running not in ending}
        leaders = {running.process.pid for running in ending}
        orphans = process_tree.adopted(processes, self._children)
        roots = process_tree.marked([running.marker for running in ending], orphans) if others else orphans
        roots |= {process.pid for process in processes.values() if process.session in leaders}
        return process_tree.descendants(roots, processes) - others

    def _release(self, place: int, *, timed_out: bool) -> Finished:
        running = self._running.pop(place)
        for stream in list(running.streams):
            self._close(stream)
        if running.pidfd in self._selector.get_map():
            self._selector.unregister(running.pidfd)
        return running.finished(timed_out=timed_out)
