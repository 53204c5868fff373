"""The SQLite handle, its pragmas, and the two ways to use it.

`connection()` opens one connection for a request or a task and closes it again: none may exist when
a process forks, because a connection inherited through a fork loses commits without an error. Only a process
that forks no more may keep it for the next request.
`write()` groups writes and takes the write lock at once.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peewee

from kennel_core.effects import Effect
from kennel_core.errors import ConfigError, Unavailable
from kennel_core.settings import refuse

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


class _Kept(threading.local):
    """The file that this thread's connection belongs to, between two uses."""

    file: tuple[int, int] | None = None


_kept = _Kept()
_keeper = 0  # the process that keeps connections open; 0: none, each is closed after its use


def configure(path: Path) -> None:
    """Point the handle at a file; opens nothing, so it is safe before a fork."""
    database.init(str(path))


def keep_connections() -> None:
    """Let `connection()` leave its connection open from now on, for the next caller in the same thread.

    For a process that answers many short requests and forks no more: opening costs more than a request, and
    whoever closes the last connection to the file also copies the whole write-ahead log into it.
    """
    global _keeper  # noqa: PLW0603  # one process, one decision
    _keeper = os.getpid()


@contextmanager
def connection() -> Iterator[None]:
    """Hold one connection to an existing file of the right version.

    Raises:
        ConfigError: the file is missing, foreign, or of another version; says what to do.
        Unavailable: the database is locked for longer than BUSY_TIMEOUT_MS, read-only or full.
    """
    keep = _keeper == os.getpid()
    file = _identity(Path(database.database))
    with translated_errors("connect"):
        if keep and _kept.file != file:
            database.close()  # the file was replaced: what is written to the old one is lost
        if not keep or database.is_closed():
            database.connect()
    _kept.file = None
    try:
        with translated_errors("access"):
            check_version()
            yield
        _kept.file = file if keep else None
    finally:
        if _kept.file is None:
            database.close()


def require_or_exit() -> None:
    """Open the file once and close it again, before a fork; exit status 2 when it cannot be used."""
    try:
        with connection():
            pass
    except (ConfigError, Unavailable) as exc:
        refuse(ConfigError(str(exc)))


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no database; create it with `kennel migrate`") from None
    return found.st_dev, found.st_ino


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
        raise Unavailable("database", operation, f"{_first(exc)} ({database.database})") from exc


def _first(error: BaseException) -> BaseException:
    """Return what went wrong first: on a full disk SQLite ends the transaction, and ROLLBACK fails then."""
    while isinstance(error.__context__, peewee.PeeweeException | sqlite3.Error):
        error = error.__context__
    return error


@contextmanager
def write() -> Iterator[None]:
    """Group writes; takes the write lock at once.

    A transaction that reads first and asks for the lock later is refused with SQLITE_BUSY when another
    process wrote in between, and busy_timeout does not help it (https://www.sqlite.org/isolation.html).
    """
    with Effect("commit"), database.atomic("IMMEDIATE"):
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
