"""What builds and deliveries leave behind: GC roots of outputs, build directories, ids of deliveries."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from peewee import fn

from kennel_core import db, deployments, naming, resources
from kennel_core.adapters import process_tree
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.effects import Effect
from kennel_core.models import FINAL, Build, BuildStatus, Delivery, Deployment
from kennel_core.settings import Settings

DAY_S = 86_400.0
PRUNE_EVERY_S = 3600.0
DELIVERIES_KEPT_S = 30 * 86_400.0  # a delivery that comes again later than this counts as new


def begin(lock: int) -> bool:
    """Note in the file of the lock that a pass has begun; False when the one before was killed.

    It may have left something to sweep though nothing else has to change.
    """
    ended = os.fstat(lock).st_size > 0
    os.ftruncate(lock, 0)
    return ended


def end(lock: int) -> None:
    """Note that the pass has come to its end."""
    os.pwrite(lock, b"ended\n", 0)


def is_due(settings: Settings, now: float) -> bool:
    """Tell whether to sweep because of the time that went by."""
    return _is_due(settings.runtime_dir / "swept", now)


def sweep(settings: Settings, now: float) -> None:
    """Drop GC roots and units' files that nothing needs, old deliveries and old logs."""
    files = UnitFiles(settings.inputs_dir)
    for unit in set(files.units()) - resources.units().keys():
        files.remove(unit)
    old = Delivery.received_at < now - DELIVERIES_KEPT_S
    if Delivery.select(Delivery.id).where(old).exists():
        with db.write():
            Delivery.delete().where(old).execute()
    if settings.log_days and _is_due(settings.runtime_dir / "logs-pruned", now):
        with db.write():
            prune_logs(now - settings.log_days * DAY_S)
    for root in unneeded_roots(settings):
        with Effect("remove gc root"):
            root.unlink(missing_ok=True)


def _is_due(stamp: Path, now: float) -> bool:
    """Tell whether something that reads much was done more than PRUNE_EVERY_S ago, and note it as done."""
    if stamp.is_file() and now - PRUNE_EVERY_S < stamp.stat().st_mtime <= now:
        return False
    stamp.touch()
    return True


def prune_logs(before: float) -> None:
    """Forget the logs of builds that ended before then, inside the caller's `db.write()`; the builds stay."""
    Build.update(log=None).where(
        Build.status << list(FINAL), Build.finished_at < before, Build.log.is_null(is_null=False)
    ).execute()


def unneeded_roots(settings: Settings) -> list[Path]:
    """Name the GC roots that may go.

    Kept are the builds that rows name, those that still run, and the last `keep_builds` of each ref that is
    deployed. Other names are left alone.
    """
    roots = _by_build(settings.gcroots_dir)  # first: a build that begins later is none of these
    unfinished = {
        row.id
        for row in Build.select(Build.id).where(Build.status << [BuildStatus.BUILDING, BuildStatus.BUILT])
    }
    if not roots.keys() - unfinished:
        return []
    keep = unfinished | deployments.builds_named() | _kept(roots.keys(), settings.keep_builds)
    keep |= _origins(keep)
    return [root for build_id in sorted(roots.keys() - keep) for root in roots[build_id]]


def end_lost_work(settings: Settings) -> None:
    """End the processes of attempts that no worker is at any more, and remove their directories.

    The workers were killed. Cheap when there is no directory.
    """
    for directory in lost_work(settings):
        process_tree.end_left_by(directory)
        with Effect("remove build directory"):
            shutil.rmtree(directory, ignore_errors=True)


def lost_work(settings: Settings) -> list[Path]:
    """Name the directories of attempts that have ended or whose lease is lost."""
    directories = _by_build(settings.work_dir)  # first, as above
    if not directories:
        return []
    running = Build.select(Build.id, Build.attempt).where(Build.status == BuildStatus.BUILDING)
    kept = {naming.build_directory(row.id, row.attempt) for row in running}
    found = [path for build_id in sorted(directories) for path in directories[build_id]]
    return [path for path in found if path.name not in kept]


def _by_build(directory: Path) -> dict[int, list[Path]]:
    """Group a directory's entries by the build id that their names begin with."""
    found: dict[int, list[Path]] = {}
    for entry in directory.iterdir() if directory.is_dir() else ():
        number = entry.name.partition("-")[0]
        if number.isdecimal():
            found.setdefault(int(number), []).append(entry)
    return found


def _origins(build_ids: set[int]) -> set[int]:
    """Name the builds whose outputs these took over."""
    origin = fn.json_extract(Build.outputs, "$.origin")
    rows: Any = (
        Build.select(origin).where(Build.id << list(build_ids), origin.is_null(is_null=False)).tuples()
    )
    return {build_id for (build_id,) in rows}


def _kept(among: Collection[int], count: int) -> set[int]:
    """Name the last builds of each deployed ref, `count` of each, among those that have roots."""
    place = fn.ROW_NUMBER().over(partition_by=[Build.project, Build.ref], order_by=[Build.id.desc()])
    deployed = Deployment.select(Deployment.id).where(
        Deployment.project == Build.project, Deployment.ref == Build.ref
    )
    ranked = Build.select(Build.id, place.alias("place")).where(
        Build.id << list(among), Build.outputs.is_null(is_null=False), fn.EXISTS(deployed)
    )
    rows: Any = Build.select(ranked.c.id).from_(ranked).where(ranked.c.place <= count).tuples()
    return {build_id for (build_id,) in rows}
