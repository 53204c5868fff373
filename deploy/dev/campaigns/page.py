"""docs/reliability.md."""

import os
import platform
import re
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from campaigns import ROOT, Row

PREFACE = """# What was tried to lose a push

Written by `make campaign`; do not edit. Everything but the model of the histories is real: systemd, Caddy,
PostgreSQL, Redis, Celery, gunicorn, nix and SQLite, on one machine, each with state of its own.
"""


def document(rows: Iterable[Row], seed: int, seconds: float) -> str:
    """Write the page: figures, and what was found on the way (deploy/dev/campaigns/found.md)."""
    lines = [PREFACE, *(f"- {line}" for line in _described(seed, seconds)), ""]
    lines += ["| what | figure | target | |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.name} | {row.figure} | {row.target} | {'met' if row.met else 'missed'} |")
    failures = [line for row in rows for line in row.found]
    if failures:
        lines += ["", "## What went wrong in this run", "", *(f"- {line}" for line in failures)]
    return "\n".join([*lines, "", (ROOT / "deploy/dev/campaigns/found.md").read_text()])


def _described(seed: int, seconds: float) -> list[str]:
    memory = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) / 1024**2
    model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    load = os.getloadavg()
    when, command = time.strftime("%Y-%m-%d %H:%M %Z"), f'make campaign ARGS="--seed {seed}"'
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    cores = f"{os.cpu_count()} cores of {model[0]}, {memory:.0f} GiB"
    return [
        f"machine: {cores}, Linux {platform.release()}, {versions}",
        f"command: `{command}`, {when}, {seconds / 60:.0f} minutes",
        f"load average of the last 15 minutes at its end: {load[2]:.1f}",
    ]
