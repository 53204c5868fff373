"""Find and end everything that a command started, also what left its process group and its session.

Three ways to know a member, because each has holes: descent from the command's process, a variable in its
environment (a nix builder has an empty one), and adoption: a subreaper becomes the parent of every orphan
among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER), whatever the orphan did.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 1.0
KILL_S = 5.0  # after SIGKILL a process goes at once, unless it hangs in the kernel
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc: what proc(5) calls pid, state, ppid and session."""

    pid: int
    state: str
    parent: int
    session: int


def become_subreaper() -> None:
    """Adopt the orphans of this process's descendants from now on."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Get SIGTERM when the parent dies, be it by kill -9: called in the child, between fork and exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def table() -> dict[int, Process]:
    """Return every process that can be seen, by pid."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  # names are what is wanted
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
            pid = int(name)
            found[pid] = Process(pid, fields[0].decode(), int(fields[1]), int(fields[3]))
    return found


def marked(entries: Collection[bytes], processes: Collection[int]) -> set[int]:
    """Return those of `processes` whose environment holds one of the entries (``NAME=value``)."""
    return {pid for pid in processes if not set(entries).isdisjoint(_environment(pid).split(b"\0"))}


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it ended, or is another user's
        return b""


def _works_in(directory: Path, pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(directory)
    except OSError:  # it ended, or is another user's
        return False


def descendants(roots: Collection[int], processes: dict[int, Process]) -> set[int]:
    """Return `roots` and everything below them."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    queue = list(roots)
    while queue:
        pid = queue.pop()
        if pid not in found:
            found.add(pid)
            queue += children.get(pid, ())
    return found


def adopted(processes: dict[int, Process], known: Collection[int]) -> set[int]:
    """Return children of this process that it did not start itself.

    Those `known` and those of this process's own session are left out: whoever started them waits for them.
    """
    me, session = os.getpid(), os.getsid(0)
    return {
        process.pid
        for process in processes.values()
        if process.parent == me and process.session != session and process.pid not in known
    }


def alive(pids: Collection[int], processes: dict[int, Process], started: Collection[int]) -> set[int]:
    """Return those that still run. An orphan that has ended is reaped: nobody waits for it.

    `started` are this process's own children, whose exit status somebody will ask for.
    """
    me = os.getpid()
    found = set()
    for process in (processes[pid] for pid in pids if pid in processes):
        if process.state != "Z":
            found.add(process.pid)
        elif process.parent == me and process.pid not in started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    return found


def end(members: Callable[[], set[int]], on_wait: Callable[[float], None]) -> None:
    """End a tree: SIGTERM to all, GRACE_S to go, then SIGKILL until nothing is left of it.

    `members` is asked again and again, because a tree can grow while it is ended. `on_wait(seconds)` is
    called in between, to read what is still written and to reap. SIGTERM comes first because `nix` ends its
    builders on SIGTERM, and cannot on SIGKILL.
    """
    _signal(members(), signal.SIGTERM)
    _until_gone(members, GRACE_S, on_wait)
    deadline = time.monotonic() + KILL_S
    while left := members():
        _signal(left, signal.SIGKILL)
        on_wait(0.01)
        if time.monotonic() > deadline:
            return


def _until_gone(members: Callable[[], set[int]], seconds: float, on_wait: Callable[[float], None]) -> None:
    deadline = time.monotonic() + seconds
    while members() and time.monotonic() < deadline:
        on_wait(0.02)


def end_left_by(directory: Path) -> None:
    """End what an earlier run left: every process whose environment names something in its directory.

    A variable of any name does: nix gives its builders no other variables than its own. So does the working
    directory: a process may have been started with an empty environment.
    """
    named = f"={directory}/".encode()

    def members() -> set[int]:
        processes = table()
        roots = {pid for pid in processes if named in _environment(pid) or _works_in(directory, pid)}
        roots.discard(os.getpid())
        return {pid for pid in descendants(roots, processes) if processes[pid].state != "Z"}

    if members():
        end(members, time.sleep)


def _signal(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
