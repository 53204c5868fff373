"""GC roots of what is deployed: repaired where they are missing; what is gone all the same is built again."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from kennel_core import builds, db, naming
from kennel_core.doorbell import Doorbell
from kennel_core.effects import Effect
from kennel_core.models import Build, Deployment
from kennel_core.pipeline.discover import CONFIG, is_store_path
from kennel_core.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Needed:
    """A store path that a row needs, in its live version or in the one that is rolled out."""

    row: Deployment
    build_id: int
    commit: str
    name: str  # of its root, after the build
    path: str


def repair(settings: Settings, doorbell: Doorbell, now: float) -> None:
    """Make roots anew that are missing or lead elsewhere, and queue builds of what is not in the store.

    A root is a symbolic link in a directory below nix's own. Of what is not a store path nothing is made.
    """
    needed = list(_needed())
    rooted = _rooted(settings.gcroots_dir)
    gone = []
    for one in needed:
        if not Path(one.path).exists():
            gone.append(one)
        elif one.path not in rooted:
            _root(settings.gcroots_dir / naming.gc_root(one.build_id, one.name), one.path)
            rooted.add(one.path)
    for one in gone:
        build = _build_again(one, now)
        if build is not None:
            doorbell.build(build.id)


def _needed() -> Iterator[Needed]:
    for row in Deployment.select():
        versions = [row.__data__, *([row.live] if row.live else [])]
        for version in versions:
            for name, path in ((row.name, version["store_path"]), (CONFIG, version["config_path"])):
                if is_store_path(path):
                    yield Needed(row, version["build"], version["commit"], name, path)


def _rooted(directory: Path) -> set[str]:
    found = set()
    for entry in directory.iterdir() if directory.is_dir() else ():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return found


def _root(root: Path, path: str) -> None:
    """Lead a root to a path, at once: the directory never lacks it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = root.with_name(f".{root.name}.new")
    with Effect("repair gc root"):
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path)
        fresh.rename(root)
    log.warning("gc root repaired", root=str(root), path=path)


def _build_again(one: Needed, now: float) -> Build | None:
    """Queue the commit once: a build of it that came later and failed is for an operator to repeat."""
    row = one.row
    of_ref = (Build.project == row.project_id) & (Build.ref == row.ref)
    with db.write():
        working = Build.select(Build.id).where(of_ref, Build.status << list(builds.UNFINISHED)).exists()
        tried = Build.select(Build.id).where(of_ref, Build.commit == one.commit, Build.id > one.build_id)
        if working or tried.exists():
            return None
        build: Build = Build.create(
            project=row.project_id,
            ref=row.ref,
            commit=one.commit,
            error=builds.GONE_FROM_STORE,
            created_at=now,
            enqueued_at=now,
        )
    log.warning("gone from the store", path=one.path, ref=row.ref, build_id=build.id)
    return build
