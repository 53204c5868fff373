"""Lead hosts to what is live: the files that Caddy reads at every request, and its route table."""

from collections.abc import Collection
from pathlib import Path

import structlog

from kennel_core.reconcile import routes
from kennel_core.reconcile.host import Host

log = structlog.get_logger(__name__)


def lead(host: Host, entries: Collection[routes.Entry], own: routes.Own | None, directory: Path) -> bool:
    """Write what differs, and nothing else; returns whether anything did.

    A new version is a file in `directory` that says something else, which cuts no connection. The table is
    written, and Caddy reloads, when hosts come, change or go; and always where Caddy reads no files. Files
    are written before the table and removed after it, so no route names one that is missing.

    Raises:
        AdapterError: not all was written; calling it again does the rest.
    """
    current, found = host.routes(), host.targets()
    targets = {} if found is None else routes.targets(entries)
    moved = sorted(targets.items() - (found or {}).items())
    for name, target in moved:
        host.write_target(name, target)
    if moved:
        log.info("targets written", targets=len(moved))
    changed = routes.merged(current, routes.table(entries, own, None if found is None else directory))
    if changed is not None:
        host.replace_routes(changed)
        log.info("routes written", routes=len(changed))
    for name in sorted((found or {}).keys() - targets.keys()):
        host.remove_target(name)
    return bool(moved) or changed is not None
