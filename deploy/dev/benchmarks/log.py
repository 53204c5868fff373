"""The log pipeline: the output of a command, redacted, as JSON records, in chunk rows, and in builds.log."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import ROOT, servers, web
from benchmarks.rows import Bench, Row, Unmeasurable, at_least, at_most, row
from kennel_core import builds, db, projects
from kennel_core.settings import Settings

LINE = "0123456789" * 7
LINES = 1_000_000
RATE, GROWTH_MIB = 30_000, 50

# What a program does at least that reads lines and writes each as a record.
BARE = """
import json, subprocess, sys, time
with open(sys.argv[1], "w") as out:
    child = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        record = {"event": line.rstrip(), "build_id": 1, "phase": "build", "timestamp": time.time()}
        out.write(json.dumps(record) + "\\n")
print(time.process_time())
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Measure lines per second, then memory without a newline."""
    printing = ("/bin/sh", "-c", f"yes {LINE} | head -n {LINES}")
    bench.say(f"{LINES:,} lines through the pipeline")
    found = _pipeline(bench.home / "lines", printing)
    records = _count(bench.home / "lines/shop.records")
    if records < LINES:
        raise Unmeasurable(f"of {LINES} lines, {records} were recorded")
    bench.say(f"{LINES:,} lines through a bare loop")
    argv = [sys.executable, "-c", BARE, str(bench.home / "bare.records"), *printing]
    bare = LINES / float(subprocess.run(argv, check=True, capture_output=True, text=True, timeout=300).stdout)
    rate = LINES / found["cpu"]
    yield row(
        "log lines per second and core",
        f"{rate:,.0f}/s ({LINES / found['seconds']:,.0f}/s by the clock)",
        f"≥ {RATE:,}/s",
        rate >= RATE,
        ratio=f"{rate / bare:.2f} of a bare loop that writes JSON ({bare:,.0f}/s)",
        by=at_least(rate, RATE, "/s"),
        why=f"{LINES:,} lines of {len(LINE)} characters by processor time: read, cut, cleaned, "
        f"redacted, written as a "
        "structured record, and stored in chunk rows.",
    )
    bench.say("100 MB without a newline")
    endless = _pipeline(bench.home / "endless", ("/bin/sh", "-c", "head -c 100000000 /dev/zero | tr '\\0' x"))
    grown = max(found["grown_with_log"], endless["grown_with_log"])
    yield row(
        "memory of the log pipeline",
        f"+{found['grown']:.0f} MiB for {LINES:,} lines, +{endless['grown']:.0f} MiB for 100 MB without "
        f"a newline",
        f"≤ {GROWTH_MIB} MiB",
        grown <= GROWTH_MIB,
        by=at_most(grown, GROWTH_MIB, "MiB"),
        why=f"growth of the peak of resident memory; with the text of builds.log put together at the end "
        f"+{found['grown_with_log']:.0f} and +{endless['grown_with_log']:.0f} MiB.",
    )


def _pipeline(home: Path, argv: tuple[str, ...]) -> dict[str, float]:
    settings = Settings(state_dir=home)
    servers.new_database(settings)
    with db.connection():
        project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
        with db.write():
            builds.enqueue(project, "main", "0" * 40, time.time())
    command = [sys.executable, "-m", "benchmarks.one_build", str(home), "shop", *argv]
    done = subprocess.run(
        command,
        cwd=ROOT / "deploy/dev",
        env=web.without_settings(),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise Unmeasurable(done.stderr[-1000:])
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for _ in lines)
