"""Kennel's own files, and the broker."""

import stat
from pathlib import Path

from kennel_core import db
from kennel_core.adapters import broker
from kennel_core.doctor.checks import Check, Checks, failed, ok, warning
from kennel_core.settings import Settings

MOUNTS = Path("/proc/self/mounts")
IN_MEMORY = {"tmpfs", "ramfs"}


def examine(settings: Settings) -> Checks:
    """Look at database, key and runtime directory. Raises what a process would get at its start."""
    yield _private("secret key", settings.secret_key_file, "`kennel migrate` creates it")
    yield _in_memory(settings.runtime_dir)
    yield _private("database", settings.database, "`kennel migrate` creates it")
    with db.connection():
        yield ok("database", f"{settings.database} has the version of this program")


def examine_broker(settings: Settings) -> Checks:
    """Ask the broker for an answer. Raises what a process would get."""
    broker.ping(settings.broker_url)
    yield ok("broker", "answers")


def _private(system: str, path: Path, remedy: str) -> Check:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as exc:
        return failed(system, f"{path}: {exc.strerror}", remedy)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return failed(system, f"others than its owner may use {path} (mode {mode:o})", f"chmod 600 {path}")
    return ok(system, f"{path} is its owner's alone")


def _in_memory(directory: Path) -> Check:
    """See that the secrets of services do not outlive a power cut."""
    mount, kind = _mount(directory)
    if kind in IN_MEMORY:
        return ok("runtime directory", f"{directory} is in memory ({kind})")
    remedy = "let KENNEL_RUNTIME_DIR be below /run: services read their secrets from files in it"
    return warning("runtime directory", f"{directory} is on disk ({kind} at {mount})", remedy)


def _mount(directory: Path) -> tuple[str, str]:
    """Find the file system that a directory is, or would be, on."""
    real = str(directory.resolve())
    mounts = [line.split(" ")[1:3] for line in MOUNTS.read_text().splitlines()]
    above = [(point, kind) for point, kind in mounts if f"{real}/".startswith(f"{point.rstrip('/')}/")]
    return max(above, key=lambda mount: len(mount[0]), default=("/", "unknown"))
