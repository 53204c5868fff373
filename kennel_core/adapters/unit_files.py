"""The files that units read their secrets from: a directory for each unit, for its owner alone.

One group may read them, too: that of the process that shows logs, and must know what not to show.
The directory belongs on a tmpfs, as ``/run`` is: no secret then outlives a power cut.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kennel_core import env_file
from kennel_core.effects import Effect
from kennel_core.errors import Unavailable

ENVIRONMENT = "environment"
CREDENTIALS = "credentials"


class UnitFiles:
    """The directories of all units below `root`."""

    def __init__(self, root: Path, group: str = "") -> None:
        self._root = root
        self._group = group

    def is_readable(self) -> bool:
        """Tell whether this process may read the files, if there are any."""
        try:
            self._root.stat()
        except FileNotFoundError:
            return True
        except PermissionError:
            return False
        return os.access(self._root, os.R_OK | os.X_OK, effective_ids=True)

    def of(self, unit: str) -> tuple[str, dict[str, str]]:
        """Name the file with a unit's variables, and those of its credentials by name; empty: none.

        Raises:
            Unavailable: the directory cannot be read.
        """
        directory = self._root / unit
        with _translated("look", directory):
            credentials = {file.name: str(file) for file in _entries(directory / CREDENTIALS)}
            return (str(directory / ENVIRONMENT) if directory.exists() else ""), credentials

    def write(self, unit: str, environment: str, credentials: Mapping[str, bytes]) -> None:
        """Put files in the place of those that a unit had.

        Raises:
            Unavailable: they cannot be written.
        """
        directory = self._root / unit
        new = self._root / f".{unit}.new"
        with _translated("write", directory):
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)
            (new / CREDENTIALS).mkdir(mode=0o700)
            _write(new / ENVIRONMENT, environment.encode())
            for name, content in credentials.items():
                _write(new / CREDENTIALS / name, content)
            if self._group:
                for path in (self._root, new, *new.rglob("*")):
                    _let_group_in(path, self._group)
            with Effect("remove unit files"):
                shutil.rmtree(directory, ignore_errors=True)
            with Effect("unit files"):
                new.rename(directory)

    def remove(self, unit: str) -> None:
        """Remove a unit's files; quiet when there are none.

        Raises:
            Unavailable: they cannot be removed.
        """
        directory = self._root / unit
        with _translated("remove", directory):
            if directory.exists():
                with Effect("remove unit files"):
                    shutil.rmtree(directory)

    def values(self, unit: str) -> list[bytes]:
        """Return every secret that a unit was given, for whoever must hide it.

        Raises:
            Unavailable: they cannot be read.
        """
        directory = self._root / unit
        with _translated("read", directory):
            files = [file.read_bytes() for file in _entries(directory / CREDENTIALS)]
            text = (directory / ENVIRONMENT).read_bytes().decode() if directory.exists() else ""
            return [*(value.encode() for value in env_file.values(text)), *files]

    def units(self) -> list[str]:
        """Name the units that have files.

        Raises:
            Unavailable: the directory cannot be read.
        """
        with _translated("list", self._root):
            return [entry.name for entry in _entries(self._root)]


def _let_group_in(path: Path, group: str) -> None:
    shutil.chown(path, group=group)
    path.chmod(0o750 if path.is_dir() else 0o640)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


@contextmanager
def _translated(operation: str, path: Path) -> Iterator[None]:
    try:
        yield
    except LookupError as exc:
        raise Unavailable("unit files", operation, f"KENNEL_INPUTS_GROUP: {exc.args[0]}") from exc
    except OSError as exc:
        raise Unavailable("unit files", operation, f"{path}: {exc.strerror}") from exc
