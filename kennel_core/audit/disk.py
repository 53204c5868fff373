"""The disk: store paths that rows name, GC roots, directories of builds, dumps of databases."""

import time
from pathlib import Path

from kennel_core.audit.findings import LOOK_YOURSELF, Finding, Verdict
from kennel_core.audit.scope import Scope
from kennel_core.reconcile import leftovers
from kennel_core.settings import Settings

SYSTEM = "disk"


def look(scope: Scope) -> list[Finding]:
    """Compare directories with the rows; needs a database connection."""
    settings = scope.settings
    return [
        *_gone(scope),
        *(
            Finding(
                SYSTEM,
                Verdict.LEFTOVER,
                str(root),
                "GC root of a build that no row and no rollback needs",
                lambda: leftovers.sweep(settings, time.time()),
            )
            for root in leftovers.unneeded_roots(settings)
        ),
        *(
            Finding(
                SYSTEM,
                Verdict.LEFTOVER,
                str(directory),
                "directory of a build that has ended",
                lambda: leftovers.end_lost_work(settings),
            )
            for directory in leftovers.lost_work(settings)
        ),
        *(
            Finding(SYSTEM, Verdict.UNKNOWN, str(path), LOOK_YOURSELF)
            for directory in (settings.gcroots_dir, settings.work_dir)
            for path in _nameless(directory)
        ),
        *_dumps(settings),
    ]


def _gone(scope: Scope) -> list[Finding]:
    """Name the store paths that are served and not there. No pass can build them again."""
    return [
        Finding(
            SYSTEM,
            Verdict.MISSING,
            row.store_path,
            f"{row.project}, {row.owner.ref} is served from it: `kennel build retry {row.build_id}`",
        )
        for row in scope.rows.live
        if not Path(row.store_path).exists()
    ]


def _nameless(directory: Path) -> list[Path]:
    """Name the entries that are of no build."""
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    return [entry for entry in entries if not entry.name.partition("-")[0].isdecimal()]


def _dumps(settings: Settings) -> list[Finding]:
    """Mention the last copies of databases that were dropped."""
    directory = settings.state_dir / "dumps"
    why = "last copy of a database; `pg_restore` reads it, and nothing removes it"
    files = sorted(directory.glob("*.dump")) if directory.is_dir() else []
    return [Finding(SYSTEM, Verdict.INFO, str(path), why) for path in files]
