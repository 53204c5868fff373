"""One build while it is worked on: its directory, its log, its lease, and how its commands are run."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kennel_core import lease, metrics, naming
from kennel_core.adapters import process, process_tree
from kennel_core.adapters.lines import Piece
from kennel_core.adapters.process import Command, Finished
from kennel_core.errors import BuildFailed, Cancelled, Fenced, Unavailable
from kennel_core.logs import redact
from kennel_core.models import Build
from kennel_core.pipeline import commands
from kennel_core.pipeline.log import BuildLog
from kennel_core.settings import Settings

HEARTBEAT_S = 10.0
CANCEL_POLL_S = 0.5


class Job:
    """A claimed build. Within `directory`: src is the clone, home and tmp are for its commands."""

    def __init__(self, build: Build, settings: Settings) -> None:
        self.build = build
        self.settings = settings
        self.log = BuildLog(build)
        self.directory = settings.work_dir / naming.build_directory(build.id, build.attempt)
        self.source = self.directory / "src"
        self._home = self.directory / "home"
        self._temporary = self.directory / "tmp"
        self._renewed_at = self._checked_at = time.monotonic()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the directory; what an earlier attempt left, processes included, is removed first.

        Raises:
            Unavailable: the directory cannot be made.
        """
        for left in self.settings.work_dir.glob(f"{self.build.id}-*"):
            process_tree.end_left_by(left)
            remove(left)
        try:
            self._make_directories()
            yield
        finally:
            remove(self.directory)

    def _make_directories(self) -> None:
        try:
            for directory in (self.source, self._home, self._temporary):
                directory.mkdir(parents=True, mode=0o700)
            self.settings.gcroots_dir.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise Unavailable("disk", f"make {exc.filename}", exc.strerror or str(exc)) from exc

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase."""
        began = time.monotonic()
        result = "failed"
        try:
            yield
            result = "ok"
        except (Cancelled, Fenced):
            result = "cancelled"
            raise
        finally:
            metrics.phase_ended(name, result, time.monotonic() - began)

    def root(self, package: str) -> Path:
        """Give the path of the GC root of a package of this build."""
        return self.settings.gcroots_dir / naming.gc_root(self.build.id, package)

    def command(  # noqa: PLR0913  # what a command differs in
        self,
        phase: str,
        argv: Sequence[str],
        timeout: float,
        *,
        protocol: str = "https",
        secrets: dict[str, str] | None = None,
        stdin: bytes | None = None,
        capture: bool = False,
    ) -> Command:
        """Make a command that runs in the clone. `secrets` are variables for it alone."""
        environment = commands.environment(os.environ, self._home, self._temporary, protocol)
        return Command(phase, argv, self.source, environment | (secrets or {}), timeout, stdin, capture)

    def run(self, command: Command) -> Finished:
        """Run one command; its lines go to the log of the phase that it is labelled with."""
        return self.run_all([command])[0]

    def run_all(
        self, wanted: Sequence[Command], limit: int | None = None, strip: Mapping[str, tuple[str, ...]] = {}
    ) -> list[Finished]:
        """Run commands side by side, at most `limit` at once.

        `strip` names, by phase, beginnings of lines that only repeat which phase it is.

        Raises:
            Cancelled: somebody asked for the build to stop.
            Fenced: another worker owns the build now.
            Unavailable: a program is not installed.
        """

        def on_line(phase: str, text: str) -> None:
            if not isinstance(text, Piece):
                for prefix in strip.get(phase, ()):
                    text = text.removeprefix(prefix)
            self.log.line(phase, text)

        return process.run(wanted, limit=limit or len(wanted), on_line=on_line, on_tick=self.tick)

    def tick(self) -> None:
        """Do what is due: write log lines, keep the lease, look whether the build shall stop."""
        self.log.flush_when_due()
        now = time.monotonic()
        if now - self._renewed_at >= HEARTBEAT_S:
            self._renewed_at = self._checked_at = now
            lease.renew(self.build, time.time())
        elif now - self._checked_at >= CANCEL_POLL_S:
            self._checked_at = now
            lease.check(self.build)


def failed(done: Finished, what: str, advice: str, timeout_setting: str) -> BuildFailed:
    """Make one sentence of a command that did not end well: what was tried, what it said, what to do."""
    if done.timed_out:
        return BuildFailed(
            done.label,
            f"{what} took too long and was stopped; make it quicker, or raise {timeout_setting}",
        )
    return BuildFailed(done.label, f"{what} failed: {reason(done)}; {advice}")


def reason(done: Finished) -> str:
    """Pick the line that says best why a command failed: the last error, else the last line."""
    lines = [line.strip() for line in done.tail if line.strip()]
    errors = [line for line in lines if line.startswith(("error: ", "fatal: ", "remote: error: "))]
    if errors or lines:
        said = redact((errors or lines)[-1])  # before it is cut: half a secret is not known as one
        return said[:300].rstrip(".;:")
    return f"exit status {done.exit_code} and no output"


def remove(directory: Path) -> None:
    """Remove a build's directory, write-protected folders within it included."""
    for folder, _folders, _files in os.walk(
        directory
    ):  # from the top: a folder is opened before it is entered
        with contextlib.suppress(OSError):
            Path(folder).chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
