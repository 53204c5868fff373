"""GC roots of what is deployed: repaired where they are missing; what is gone all the same is built again."""

import contextlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Who needs a store path: a version of a row, live or rolled out. `name` is that of its root."""

    project_id: int
    ref: str
    build_id: int
    commit: str
    name: str


def repair(settings: Settings, doorbell: Doorbell, now: float) -> None:
    """Make roots anew that are missing or lead elsewhere, and queue builds of what is not in the store.

    A root is a symbolic link in a directory below nix's own. Of what is not a store path nothing is made.
    """
    needed = _needed()
    gone = [path for path in needed if not os.path.exists(path)]  # noqa: PTH110  # of thousands, at each pass
    for path in sorted(needed.keys() - _rooted(settings.gcroots_dir) - set(gone)):
        one = needed[path][0]
        _root(settings.gcroots_dir / naming.gc_root(one.build_id, one.name), path)
    for path in sorted(gone):
        for one in needed[path]:
            build = _build_again(one, path, now)
            if build is not None:
                doorbell.build(build.id)


def _needed() -> dict[str, list[Needed]]:
    """Give each store path with those who need it."""
    found: dict[str, list[Needed]] = defaultdict(list)
    rows: Any = Deployment.select(
        Deployment.project,
        Deployment.ref,
        Deployment.name,
        Deployment.build,
        Deployment.commit,
        Deployment.store_path,
        Deployment.config_path,
        Deployment.live,
    ).tuples()
    for project_id, ref, name, build, commit, store_path, config_path, live in rows:
        versions = [(build, commit, store_path, config_path)]
        if live and live["build"] != build:
            versions.append((live["build"], live["commit"], live["store_path"], live["config_path"]))
        for number, of_commit, *paths in versions:
            for path, called in zip(paths, (name, CONFIG), strict=True):
                if path in found or is_store_path(path):
                    found[path].append(Needed(project_id, ref, number, of_commit, called))
    return found


def _rooted(directory: Path) -> set[str]:
    found = set()
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry.path))  # noqa: PTH115  # as above
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


def _build_again(one: Needed, path: str, now: float) -> Build | None:
    """Queue the commit once: a build of it that came later and failed is for an operator to repeat."""
    of_ref = (Build.project == one.project_id) & (Build.ref == one.ref)
    with db.write():
        working = Build.select(Build.id).where(of_ref, Build.status << list(builds.UNFINISHED)).exists()
        tried = Build.select(Build.id).where(of_ref, Build.commit == one.commit, Build.id > one.build_id)
        if working or tried.exists():
            return None
        build: Build = Build.create(
            project=one.project_id,
            ref=one.ref,
            commit=one.commit,
            error=builds.GONE_FROM_STORE,
            created_at=now,
            enqueued_at=now,
        )
    log.warning("gone from the store", path=path, ref=one.ref, build_id=build.id)
    return build
