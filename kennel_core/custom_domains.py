"""The file that lists the custom domains that are live, for whoever must know them (an OAuth relay, say).

One domain a line, sorted, each once.
"""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kennel_core.effects import Effect
from kennel_core.errors import Unavailable

MODE = 0o644  # whoever reads it is another user


def content(domains: Iterable[str]) -> str:
    """Give the file's text."""
    return "".join(f"{domain}\n" for domain in sorted(set(domains)))


def write(path: Path, domains: Iterable[str]) -> bool:
    """Make the file list exactly `domains`; False where it does already.

    A reader sees the old file or the new one, whole.

    Raises:
        Unavailable: the directory is missing, not writable or full.
    """
    data = content(domains).encode()
    try:
        if _is(path, data):
            return False
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, MODE)
                os.fsync(descriptor)
            with Effect("custom domains"):
                Path(name).replace(path)
        except OSError:
            Path(name).unlink()
            raise
    except OSError as exc:
        remedy = f"{exc.strerror}; Kennel must be able to make files in {path.parent}"
        raise Unavailable("disk", f"write {path}", remedy) from exc
    return True


def _is(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data and path.stat().st_mode & 0o777 == MODE
    except FileNotFoundError:
        return False
