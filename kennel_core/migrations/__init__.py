"""Bring a database file up to date, one numbered script after the other.

``PRAGMA user_version`` holds the number of the last script that ran, ``PRAGMA application_id`` says that
the file is Kennel's. A script is a module ``vNNNN_<what>`` with ``SQL``, frozen once released.
"""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from kennel_core import db
from kennel_core.errors import ConfigError

SCRIPTS = tuple(sorted(module.name for module in iter_modules(__path__) if module.name.startswith("v")))
LATEST = len(SCRIPTS)


def version() -> int:
    """Return the version of the open file.

    Raises:
        ConfigError: the file is not Kennel's, or is newer than this program.
    """
    found = _pragma("user_version")
    owner = _pragma("application_id")
    path = db.database.database
    if owner not in (0, db.APPLICATION_ID):
        raise ConfigError(f"{path}: this is another program's database; point KENNEL_STATE_DIR elsewhere")
    if owner == 0 and (found or db.database.get_tables()):
        raise ConfigError(f"{path}: has tables but no version; it was not made by `kennel migrate`")
    if found > LATEST:
        raise ConfigError(f"{path}: version {found}, this Kennel knows {LATEST}; install the newer Kennel")
    return found


def require_current() -> None:
    """Refuse the open file unless it has exactly the version this program was written for."""
    found = version()
    if found < LATEST:
        raise ConfigError(
            f"{db.database.database}: has version {found}, this Kennel needs {LATEST}; run `kennel migrate`"
        )


def migrate(path: Path) -> tuple[int, int]:
    """Create or upgrade the file; returns the versions before and after.

    Each script is one transaction together with its version, so an interrupted run is continued by
    the next one.

    Raises:
        ConfigError: the file is foreign or newer.
        Unavailable: the file cannot be opened or written.
    """
    if not path.exists():
        db.create_private(path)
    with db.translated_errors("migrate"), db.database.connection_context():
        before = version()
        _execute("PRAGMA journal_mode = wal")  # kept in the file
        for number in range(before + 1, LATEST + 1):
            script = import_module(f"{__name__}.{SCRIPTS[number - 1]}")
            with db.write():
                for statement in script.SQL:
                    _execute(statement)
                _execute(f"PRAGMA application_id = {db.APPLICATION_ID}")
                _execute(f"PRAGMA user_version = {number}")
    return before, LATEST


def _pragma(name: str) -> int:
    return int(_execute(f"PRAGMA {name}").fetchone()[0])


def _execute(statement: str) -> Any:
    return db.database.execute_sql(statement)  # type: ignore[no-untyped-call]
