"""The SQLite handle, its pragmas, and the two ways to use it.

`connection()` opens one connection for a request or a task and closes it again: none may exist when
a process forks, because a connection inherited through a fork loses commits without an error.
`write()` groups writes and takes the write lock at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peewee

from kennel_core.errors import ConfigError, Unavailable

APPLICATION_ID = 0x4B4E4C31  # "KNL1": tells our file from somebody else's (sqlite.org/fileformat.html)
BUSY_TIMEOUT_MS = 5000

database = peewee.SqliteDatabase(
    None,  # the path comes from Settings, through `configure`
    pragmas={
        "foreign_keys": 1,
        "busy_timeout": BUSY_TIMEOUT_MS,
        "synchronous": "full",  # a push that was answered survives a power cut
    },
)


def configure(path: Path) -> None:
    """Point the handle at a file; opens nothing, so it is safe before a fork."""
    database.init(str(path))


@contextmanager
def connection() -> Iterator[None]:
    """Hold one connection to an existing file of the right version.

    Raises:
        ConfigError: the file is missing, foreign, or of another version; says what to do.
        Unavailable: the database is locked for longer than BUSY_TIMEOUT_MS, read-only or full.
    """
    path = Path(database.database)
    if not path.exists():
        raise ConfigError(f"{path}: there is no database; create it with `kennel migrate`")
    with translated_errors("connect"):
        database.connect()
    try:
        with translated_errors("access"):
            check_version()
            yield
    finally:
        database.close()


def check_version() -> None:
    """Refuse a file that this version of Kennel must not write to."""
    from kennel_core import migrations  # noqa: PLC0415  # migrations need the handle

    migrations.require_current()


@contextmanager
def translated_errors(operation: str) -> Iterator[None]:
    """Turn what an operator can mend (locked, full, read-only) into `Unavailable`; let bugs pass."""
    try:
        yield
    except (peewee.OperationalError, peewee.DatabaseError) as exc:
        if isinstance(exc, peewee.IntegrityError | peewee.ProgrammingError):
            raise
        raise Unavailable("database", operation, f"{exc} ({database.database})") from exc


@contextmanager
def write() -> Iterator[None]:
    """Group writes; takes the write lock at once.

    A transaction that reads first and asks for the lock later is refused with SQLITE_BUSY when another
    process wrote in between, and busy_timeout does not help it (https://www.sqlite.org/isolation.html).
    """
    with database.atomic("IMMEDIATE"):
        yield


def create_private(path: Path, content: bytes = b"") -> None:
    """Create a file that only its owner can read; its directory, too, when it does not exist.

    Raises:
        FileExistsError: the file is already there; it is left as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
