"""Measure the log pipeline: a command's output, redacted, as JSON records, in chunk rows, and in builds.log.

    .venv/bin/python deploy/dev/bench_log.py

Each case runs in a process of its own. Lines per second are per core (processor time of the worker); memory
is how much its peak grew, first until the command ended, then with the log put together.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kennel_core import builds, db, logs, migrations, projects
from kennel_core.pipeline.job import Job
from kennel_core.settings import Settings

LINE = "0123456789" * 7
CASES = {
    "300,000 lines": f"yes {LINE} | head -n 300000",
    "1,000,000 lines": f"yes {LINE} | head -n 1000000",
    "100 MB without a newline": "head -c 100000000 /dev/zero | tr '\\0' x",
    "1,000,000 progress updates": "yes | head -n 1000000 | tr '\\n' '\\r'",
}


def main() -> None:
    """Run every case, or with an argument this one."""
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    print(f"{'':28}{'lines':>10}{'lines/s per core':>18}{'peak +MiB':>11}{'with log +MiB':>15}")
    for name in CASES:
        subprocess.run([sys.executable, __file__, name], check=True, env=os.environ | {"PYTHONPATH": "."})


def measure(name: str) -> None:
    """Run one case and print its row."""
    with tempfile.TemporaryDirectory() as place, (Path(place) / "records").open("w") as records:
        settings = Settings(
            state_dir=Path(place, "state"),
            gcroots_dir=Path(place, "gcroots"),
            log_format="json",
            log_level="info",
        )
        logs.configure(settings, records)
        db.configure(settings.database)
        projects.create_secret_key(settings.secret_key_file)
        migrations.migrate(settings.database)
        with db.connection():
            project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
            with db.write():
                builds.enqueue(project, "main", "0" * 40, time.time())
            build = builds.claim(time.time())
            assert build is not None  # noqa: S101
            job = Job(build, settings)
            with job.working():
                memory, began = peak(), time.process_time()
                job.run(job.command("build:api", ["/bin/sh", "-c", CASES[name]], 600))
                job.log.close()
                seconds, while_running = time.process_time() - began, peak() - memory
                builds.fail(build, "measured", time.time())
        records.flush()
        with Path(records.name).open("rb") as lines:
            count = sum(1 for _ in lines)
    print(f"{name:28}{count:>10,}{count / seconds:>18,.0f}{while_running:>11.0f}{peak() - memory:>15.0f}")


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


main()
