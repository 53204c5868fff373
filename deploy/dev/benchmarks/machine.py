"""Where the figures were measured, and docs/benchmarks.md."""

import os
import platform
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.rows import Row
from tests.servers import nix
from tests.servers.caddy import programs, version_of

PREFACE = """# How fast, and how much memory

Written by `make bench`; do not edit. Load generator, servers and Kennel share one machine, so a ratio says
more than a figure. Everything is real: gunicorn, Celery, Redis, SQLite, git, nix, systemd and Caddy.
"""


def document(rows: Iterable[Row], seconds: float) -> str:
    """Write the page."""
    lines = [PREFACE, *(f"- {line}" for line in described(seconds)), ""]
    lines += ["| what | figure | target | ratio | verdict |", "|---|---|---|---|---|"]
    notes = []
    for row in rows:
        lines.append(f"| {row.name} | {row.figure} | {row.target} | {row.ratio} | {row.verdict} |")
        if row.why:
            notes.append(f"- **{row.name}**: {row.why}")
    return "\n".join([*lines, "", "## How it is measured, and why a target is missed", "", *notes, ""])


def described(seconds: float) -> list[str]:
    """Say what machine this is, and what ran."""
    info = Path("/proc/meminfo").read_text()
    memory = int(re.findall(r"MemTotal:\s+(\d+)", info)[0]) / 1024**2
    model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    versions = {
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "systemd": _first(r"systemd (\d+)", "systemctl", "--version"),
        "Caddy": "{}.{}".format(*version_of(caddy())),
        "Redis": _first(r"v=(\S+)", "redis-server", "--version"),
        "nix": _first(r"([\d.]+)$", f"{nix.programs()[-1]}/nix", "--version"),
    }
    load = os.getloadavg()
    return [
        f"machine: {os.cpu_count()} cores of {model[0]}, {memory:.0f} GiB, Linux {platform.release()}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"command: `make bench`, {time.strftime('%Y-%m-%d %H:%M %Z')}, {seconds / 60:.1f} minutes",
        f"load average of the last 15 minutes at its end: {load[2]:.1f}",
    ]


def caddy() -> Path:
    """Give the Caddy that the local stack runs: the newest one there is."""
    return programs()[-1]


def _first(pattern: str, *argv: str) -> str:
    try:
        said = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30).stdout
    except OSError:
        return "?"
    found = re.search(pattern, said)
    return found[1] if found else "?"
