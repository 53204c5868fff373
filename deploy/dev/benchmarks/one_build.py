"""A build in a process of its own, with one command: its output goes where the output of builds goes.

usage: python -m benchmarks.one_build STATE_DIR PROJECT ARGV...     the last line of its output is a JSON
object
"""

import json
import re
import sys
import time
from pathlib import Path

from benchmarks.rows import Unmeasurable
from kennel_core import db, lease, logs
from kennel_core.models import Build, BuildStatus, Project
from kennel_core.pipeline.job import Job
from kennel_core.settings import Settings


def peak() -> float:
    """Peak resident memory of this process in MiB (getrusage(2) would count what it was before execve)."""
    [kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


def main(state_dir: str, project: str, *argv: str) -> None:
    """Claim the project's build and run the command as its only one."""
    home = Path(state_dir)
    settings = Settings(state_dir=home, gcroots_dir=home / "gcroots", log_format="json")
    db.configure(settings.database)
    with (home / f"{project}.records").open("w") as records, db.connection():
        logs.configure(settings, records)
        build = _claim(project)
        job = Job(build, settings)
        with job.working():
            before, began = peak(), time.monotonic()
            used = time.process_time()
            job.run(job.command("build:api", argv, 600))
            job.log.close()
            seconds, used, grown = time.monotonic() - began, time.process_time() - used, peak() - before
        lease.fail(build, "measured", time.time())
    print(json.dumps({"seconds": seconds, "cpu": used, "grown": grown, "grown_with_log": peak() - before}))


def _claim(project: str) -> Build:
    """Take the build of this project: `lease.claim` takes the fairest."""
    now = time.time()
    row = Build.select().join(Project).where(Project.name == project).first()
    if row is None:
        raise Unmeasurable(f"{project} has no build")
    with db.write():
        row.status, row.token, row.lease_until = (
            BuildStatus.BUILDING,
            f"token of {project}",
            now + lease.LEASE_S,
        )
        row.started_at = now
        row.save()
    return row  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(*sys.argv[1:])
