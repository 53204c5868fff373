"""The last copy of a database, before it is dropped."""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from kennel_core.adapters.postgres import SYSTEM, Server
from kennel_core.effects import Effect
from kennel_core.errors import Rejected, Unavailable

TIMEOUT_S = 1800.0


def dump(server: Server, database: str, directory: Path, timeout: float = TIMEOUT_S) -> Path:
    """Write the whole database to a file of pg_dump's custom format; returns its path.

    The file is complete or does not exist; only its owner can read it. ``pg_restore`` reads it.

    Raises:
        Unavailable: pg_dump failed or took too long, or the file could not be written.
        Rejected: pg_dump is not installed.
    """
    operation = f"dump database {database}"
    program = shutil.which("pg_dump")
    if program is None:
        raise Rejected(SYSTEM, operation, "pg_dump is not on PATH: install PostgreSQL's client programs")
    made_at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    final = directory / f"{database}-{made_at}.dump"
    partial = directory / f"{database}.partial"  # the same each time: what a crash leaves is overwritten
    argv = [program, "--format=custom", "--no-password", f"--dbname={server.conninfo(database)}"]
    password = server.password()
    env = {**os.environ, "PGPASSWORD": password} if password else None
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(partial, "wb", opener=_private) as file:
            with Effect("start program"):
                subprocess.run(
                    argv,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.PIPE,
                    timeout=timeout,
                    check=True,
                )
            os.fsync(file.fileno())
        with Effect("dump"):
            partial.rename(final)
        _sync(directory)
    except subprocess.TimeoutExpired:
        raise Unavailable(SYSTEM, operation, f"pg_dump did not end within {timeout:g} s") from None
    except subprocess.CalledProcessError as exc:
        words = " ".join(exc.stderr.decode(errors="replace").split())[:500]
        raise Unavailable(SYSTEM, operation, f"{words}; nothing was dropped") from None
    except OSError as exc:
        raise Unavailable(SYSTEM, operation, f"{directory}: {exc.strerror}; nothing was dropped") from exc
    finally:
        with suppress(OSError):
            partial.unlink()
    return final


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
