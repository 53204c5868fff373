"""Where Caddy finds what is live: a directory with one small file for each deployment.

Caddy 2.8 and newer reads such a file for every request (the placeholder ``{file.PATH}``). To lead a host
elsewhere is then a rename, and no reload. Everybody may read the directory: Caddy is another user.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kennel_core.effects import Effect
from kennel_core.errors import Unavailable

LENGTH = 4096  # of a path, at most
DIRECTORY_MODE, FILE_MODE = 0o755, 0o644
NAME = re.compile(r"\d+\.[a-z]+(\.new)?")  # what Kennel writes, and what a write that was cut short leaves


class Targets:
    """The files in `directory`, which is made when the first is written. Names are ``ID.KIND``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> dict[str, str]:
        """Return what each file says, by name; nothing for what Caddy may not read.

        Raises:
            Unavailable: the directory cannot be read.
        """
        try:
            with self._opened("read") as directory:
                closed = not _has(directory, DIRECTORY_MODE)
                with os.scandir(directory) as found:
                    names = [file.name for file in found if NAME.fullmatch(file.name)]
                return {name: "" if closed else _text(name, directory) for name in names}
        except FileNotFoundError:
            return {}

    def write(self, name: str, target: str) -> None:
        """Put `target` in the place of what the file says, at one instant.

        Raises:
            Unavailable: it cannot be written; the file is as it was.
        """
        new = f"{name}.new"
        with self._opened("write", make=True) as directory:
            os.fchmod(directory, DIRECTORY_MODE)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(new, flags, FILE_MODE, dir_fd=directory), "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), FILE_MODE)  # whatever the umask is
                file.write(target)
            with Effect("target"):
                os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)

    def remove(self, name: str) -> None:
        """Remove a file; quiet when it is gone.

        Raises:
            Unavailable: it cannot be removed.
        """
        try:
            with self._opened("remove") as directory, Effect("remove target"):
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass

    @contextmanager
    def _opened(self, operation: str, *, make: bool = False) -> Iterator[int]:
        """Open the directory itself, not what somebody may have linked in its place."""
        try:
            if make:
                self._directory.mkdir(parents=True, exist_ok=True)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                yield directory
            finally:
                os.close(directory)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) and not make:
                raise
            raise Unavailable("targets", operation, f"{self._directory}: {exc.strerror}") from exc


def _has(descriptor: int, mode: int) -> bool:
    return stat.S_IMODE(os.fstat(descriptor).st_mode) & mode == mode


def _text(name: str, directory: int) -> str:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        return ""
    try:
        return os.read(descriptor, LENGTH).decode(errors="replace") if _has(descriptor, FILE_MODE) else ""
    finally:
        os.close(descriptor)
