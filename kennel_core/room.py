"""Whether there is room for another build. What runs needs none, and goes on."""

import os
from pathlib import Path

from kennel_core.settings import Settings

STORE = "/nix/store"
GIB = 1024**3


def lack(settings: Settings) -> str | None:
    """Say what lacks room, in a sentence; None when a build may begin."""
    for path in (settings.state_dir, Path(os.environ.get("NIX_STORE_DIR") or STORE)):
        free = _free(path)
        if free is not None and free < settings.min_free_bytes:
            return (
                f"{path} has {free / GIB:.1f} GiB free, and KENNEL_MIN_FREE_BYTES wants "
                f"{settings.min_free_bytes / GIB:.1f}; make room, with `nix store gc` perhaps"
            )
    return None


def _free(path: Path) -> int | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
