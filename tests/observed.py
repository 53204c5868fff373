"""What a program and everything below it has run and written, as strace saw it."""

import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

STARTS = ("execve", "execveat", "fork", "vfork", "clone", "clone3")
PLACES = ("chdir", "fchdir")
OPENS = ("open", "openat", "openat2", "creat")
WRITES = (
    *("mkdir", "mkdirat", "mknod", "mknodat", "rename", "renameat", "renameat2", "link", "linkat"),
    *("symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "truncate", "chmod", "fchmodat", "mount"),
)
SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "busybox", "ksh"})

_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)")
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_CWD = re.compile(r"AT_FDCWD<([^>]*)>")


@dataclass
class Start:
    """One program that was run. `by_root`: the observed program itself has started it."""

    argv: list[str]
    by_root: bool

    @property
    def name(self) -> str:
        """The program's file name."""
        return self.argv[0].rpartition("/")[2] if self.argv else ""

    @property
    def is_shell(self) -> bool:
        """Whether it is a shell."""
        return self.name.lstrip("-") in SHELLS


@dataclass
class Seen:
    """Programs in the order in which they began, and the paths that were made, changed or removed."""

    starts: list[Start] = field(default_factory=list)
    written: set[str] = field(default_factory=set)

    def outside(self, *allowed: Path) -> set[str]:
        """Paths that were written and are not below one of these."""
        below = tuple(str(path).rstrip("/") for path in allowed)
        return {
            path for path in self.written if not any(path == p or path.startswith(f"{p}/") for p in below)
        }


def observe(argv: Sequence[str], trace: Path, env: Mapping[str, str], cwd: Path) -> Seen:
    """Run a program to its end below strace; only the calls of interest stop it."""
    calls = ",".join((*STARTS, *PLACES, *OPENS, *WRITES))
    strace = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "-s",
        "65536",
        "--seccomp-bpf",
        "-e",
        f"trace=?{calls.replace(',', ',?')}",
    ]
    done = subprocess.run(
        [*strace, "-e", "signal=none", "-o", trace, *argv],
        env=dict(env), cwd=cwd, check=False, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-3000:]}"
    with trace.open(errors="surrogateescape") as lines:
        return read(lines, str(cwd))


def read(lines: Iterable[str], cwd: str) -> Seen:
    """Understand what strace wrote."""
    return _Reader(cwd).read(lines)


class _Reader:
    def __init__(self, cwd: str) -> None:
        self.seen = Seen()
        self.begun: dict[int, str] = {}  # calls that have not ended, by process
        self.images: defaultdict[int, int] = defaultdict(int)  # programs that a process has become
        self.root = 0
        self.is_root: dict[int, bool] = {}  # whether a process is a copy of the observed program
        self.cwd: dict[int, str] = {}
        self.first_cwd = cwd
        self.waiting: defaultdict[int, list[str]] = defaultdict(
            list
        )  # of processes whose parent is not known

    def read(self, lines: Iterable[str]) -> Seen:
        for line in lines:
            found = _LINE.match(line.rstrip("\n"))
            if not found:
                continue
            pid, resumed, text = int(found[1]), found[2], found[3]
            if not self.root:
                self.root, self.is_root[pid], self.cwd[pid] = pid, True, self.first_cwd
            if text.endswith("<unfinished ...>"):
                self.begun[pid] = text.removesuffix("<unfinished ...>")
            else:
                self.call(pid, self.begun.pop(pid, "") + text if resumed else text)
        for pid, texts in list(self.waiting.items()):
            for text in texts:
                self.known(pid, text)
        return self.seen

    def call(self, pid: int, text: str) -> None:
        if pid in self.is_root:
            self.known(pid, text)
        else:
            self.waiting[pid].append(text)

    def known(self, pid: int, text: str) -> None:
        call = _CALL.match(text)
        if call is None or call[3].startswith("-"):
            return
        name, arguments, answer = call[1], call[2], int(call[3])
        if name in ("execve", "execveat"):
            self.start(pid, arguments)
        elif name in STARTS:
            self.child(pid, answer, arguments)
        elif name == "chdir":
            self.cwd[pid] = self.path(pid, _texts(arguments)[0])
        elif name == "fchdir":
            self.cwd[pid] = arguments.partition("<")[2].removesuffix(">")
        else:
            self.write(pid, name, arguments)

    def start(self, pid: int, arguments: str) -> None:
        program, *argv = _texts(arguments.rpartition("], ")[0])
        is_first = pid == self.root and not self.images[pid]
        self.images[pid] += 1
        if not is_first:
            self.seen.starts.append(Start([program, *argv[1:]], by_root=self.is_root.get(pid, False)))
            self.is_root[pid] = False

    def child(self, pid: int, child: int, arguments: str) -> None:
        if "CLONE_THREAD" in arguments:
            self.cwd[child] = self.cwd.get(pid, self.first_cwd)
        self.is_root[child] = self.is_root.get(pid, False)
        self.cwd.setdefault(child, self.cwd.get(pid, self.first_cwd))
        for text in self.waiting.pop(child, []):
            self.known(child, text)

    def write(self, pid: int, name: str, arguments: str) -> None:
        if name in OPENS and name != "creat" and not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", arguments):
            return
        texts = _texts(arguments)
        if name.startswith(("symlink", "link", "mount")):
            texts = texts[1:]
        if found := _CWD.findall(arguments):
            self.cwd[pid] = found[-1]
        base = re.match(r"\d+<([^>]*)>, ", arguments)
        for path in texts[: 2 if name.startswith("rename") else 1]:
            self.seen.written.add(self.path(pid, path, base[1] if base else ""))

    def path(self, pid: int, text: str, base: str = "") -> str:
        return os.path.normpath(os.path.join(base or self.cwd.get(pid, self.first_cwd), text))  # noqa: PTH118


def _texts(arguments: str) -> list[str]:
    return [text.encode("latin-1", "replace").decode("unicode_escape") for text in _TEXT.findall(arguments)]
