"""A copy of Kennel's state in one file, made while everything runs, and its way back.

The file is a tar with ``kennel.db``, a checked copy of the database, and ``secret.key``. Everything else
follows from these two: what runs is asked of systemd, what is routed of Caddy, what was built of git.
"""

import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kennel_core import db, migrations
from kennel_core.effects import Effect
from kennel_core.errors import ConfigError, Conflict, NotFound, Unavailable
from kennel_core.settings import Settings

DATABASE, KEY = "kennel.db", "secret.key"
KEY_MAX = 1024**2
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Copy:
    """What a database holds. `last` is when its newest build was queued, in Unix seconds; None: no build."""

    version: int
    projects: int
    builds: int
    last: float | None


def backup(settings: Settings, file: Path) -> Copy:
    """Write a new file with a consistent copy of the state, which only its owner can read.

    Raises:
        Conflict: the file is already there.
        NotFound: there is no database or no key yet.
        Unavailable: the copy is not whole, or the disk is full.
    """
    if file.exists():
        raise Conflict(f"{file}: is already there; name another file")
    for needed in (settings.database, settings.secret_key_file):
        if not needed.is_file():
            raise NotFound(f"{needed}: is not there; is KENNEL_STATE_DIR right?")
    with (
        _translated(file),
        tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as directory,
    ):
        copy, packed = Path(directory, DATABASE), Path(directory, "packed")
        with closing(_open(settings.database)) as source, closing(_open(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode = delete")  # one file, without a log beside it
        found = _checked(copy)
        packed.touch(0o600)
        with tarfile.open(packed, "w") as tar:
            for path, name in ((copy, DATABASE), (settings.secret_key_file, KEY)):
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = path.stat().st_size, 0o600, int(time.time())
                with path.open("rb") as content:
                    tar.addfile(info, content)
        _to_disk(packed)
        with Effect("write backup"):
            os.link(packed, file)  # whole or not at all, and never over another file
        _to_disk(file.parent)
    return found


def restore(settings: Settings, file: Path, *, replace: bool = False) -> Copy:
    """Put a backup in the place of the state, and bring it up to date.

    What was there is kept beside it, with the time in its name.

    Raises:
        NotFound: there is no such file.
        ConfigError: it is no backup, is damaged, or of a newer Kennel.
        Conflict: there is a database already and `replace` is not set, or a process uses it.
        Unavailable: the disk is full or cannot be written.
    """
    if not file.is_file():
        raise NotFound(f"{file}: there is no such file")
    state = settings.state_dir
    with _translated(state):
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=state) as directory:
            copy, key = _unpacked(file, Path(directory))
            try:
                found = _checked(copy)
            except Unavailable as exc:
                raise ConfigError(f"{file}: is damaged: {exc}") from exc
            if settings.database.exists():
                _make_room(settings, found, replace=replace)
            for path in (copy, key):
                _as_owner_of(state, path)
                _to_disk(path)
            with Effect("restore key"):
                key.replace(settings.secret_key_file)
            with Effect("restore database"):
                copy.replace(settings.database)
            _to_disk(state)
        db.configure(settings.database)
        migrations.migrate(settings.database)
        for path in state.glob(f"{DATABASE}-*"):
            _as_owner_of(state, path)
    return found


def _make_room(settings: Settings, found: Copy, *, replace: bool) -> None:
    there = _content(settings.database)
    if not replace:
        raise Conflict(
            f"{settings.database}: is there, with {there.builds} builds up to {_moment(there.last)}; "
            f"the backup has {found.builds} up to {_moment(found.last)}. Add --replace to put it in its place"
        )
    with closing(_open(settings.database, timeout=1.0)) as connection:
        try:
            connection.execute("PRAGMA locking_mode = exclusive")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as exc:
            raise Conflict(f"{settings.database}: is in use; stop kennel.target first") from exc
        connection.rollback()
        connection.execute("PRAGMA journal_mode = delete")  # what is in the log belongs to the file
    kept = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for path in (settings.database, settings.secret_key_file):
        if path.exists():
            with Effect("put state aside"):
                path.replace(path.with_name(f"{path.name}.{kept}"))


def _unpacked(file: Path, directory: Path) -> tuple[Path, Path]:
    """Take out the two files, whatever else a tar may hold."""
    found = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if member.name not in (DATABASE, KEY) or not member.isreg() or member.name in found:
                    raise ConfigError(f"{file}: is no backup of Kennel: it has {member.name[:80]!a}")
                if member.name == KEY and member.size > KEY_MAX:
                    raise ConfigError(f"{file}: is no backup of Kennel: its key is too long")
                content = tar.extractfile(member)
                assert content is not None  # noqa: S101  # it is a regular file
                path = directory / member.name
                path.touch(0o600)
                with content, path.open("wb") as target:
                    shutil.copyfileobj(content, target)
                found[member.name] = path
    except (tarfile.TarError, EOFError) as exc:
        raise ConfigError(f"{file}: is no backup of Kennel: {exc}") from exc
    if found.keys() != {DATABASE, KEY}:
        raise ConfigError(f"{file}: is no whole backup: it has to have {DATABASE} and {KEY}")
    return found[DATABASE], found[KEY]


def _checked(path: Path) -> Copy:
    """Read the whole copy and see whether it hangs together.

    Raises:
        Unavailable: it does not.
        ConfigError: it is of another program, or a newer Kennel.
    """
    with closing(_open(path)) as connection:
        try:
            owner = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        except sqlite3.DatabaseError as exc:
            raise Unavailable("database", "check the copy", str(exc)) from exc
    if problems != ["ok"]:
        raise Unavailable("database", "check the copy", "; ".join(problems)[:300])
    if owner != db.APPLICATION_ID:
        raise ConfigError("the database in it is another program's")
    if version > migrations.LATEST:
        raise ConfigError(
            f"the database in it has version {version}, this Kennel knows {migrations.LATEST}; "
            "install the newer one"
        )
    return _content(path)


def _content(path: Path) -> Copy:
    with closing(_open(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        try:
            (projects,) = connection.execute("SELECT count(*) FROM projects").fetchone()
            builds, last = connection.execute("SELECT count(*), max(created_at) FROM builds").fetchone()
        except sqlite3.OperationalError:  # an empty file, which `kennel migrate` did not fill
            return Copy(version, 0, 0, None)
    return Copy(version, projects, builds, last)


def _open(path: Path, timeout: float = TIMEOUT_S) -> sqlite3.Connection:
    if not path.exists():
        db.create_private(path)
    return sqlite3.connect(path, timeout=timeout, isolation_level=None)


def _moment(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _as_owner_of(directory: Path, path: Path) -> None:
    """Give a file to whom the directory belongs: root restores what another user runs."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(where: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise Unavailable("disk", f"write {where}", reason) from exc
