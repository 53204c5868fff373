"""Caddy: the server whose routes Kennel owns, and whether it can read Kennel's files."""

import stat
from pathlib import Path

from kennel_core.adapters.caddy import Caddy
from kennel_core.doctor.checks import Checks, failed, ok, warning
from kennel_core.settings import Settings

SYSTEM = "caddy"


def examine(settings: Settings) -> Checks:
    """Read the routes. Raises what a pass would get."""
    caddy = Caddy(settings.caddy_admin, settings.caddy_server)
    routes = caddy.routes()
    yield ok(SYSTEM, f"server '{settings.caddy_server}' of {settings.caddy_admin} has {len(routes)} routes")
    if not caddy.reads_files:
        remedy = "with 2.8 or newer a new version takes over without a reload"
        yield warning(SYSTEM, "it is older than 2.8, and reloads for each new version", remedy)
        return
    closed = [path for path in (settings.targets_dir, *settings.targets_dir.parents) if _is_closed(path)]
    if closed:
        yield failed(SYSTEM, f"it may not read {settings.targets_dir}", f"chmod o+x {closed[-1]}")
    else:
        yield ok(SYSTEM, f"it is 2.8 or newer, and everybody may read {settings.targets_dir}")


def _is_closed(path: Path) -> bool:
    try:
        return not stat.S_IMODE(path.stat().st_mode) & stat.S_IXOTH
    except OSError:
        return False  # it is not there yet: a pass makes it
