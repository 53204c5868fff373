"""docs/reliability.md: one section for each module, renewed when it was played at full length."""

import importlib
import os
import platform
import re
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from campaigns import MODULES, ROOT, Row

PATH = ROOT / "docs/reliability.md"
FOUND = ROOT / "deploy/dev/campaigns/found.md"
PREFACE = """# What was tried to lose a push

Written by `make campaign`; do not edit, but for deploy/dev/campaigns/found.md. Everything is real (systemd,
Caddy, PostgreSQL, Redis, Celery, gunicorn, git, nix and SQLite) but the machine of the random histories:
that is a model, which passes the same tests as the real one.
"""


def update(name: str, rows: Sequence[Row], seed: int, seconds: float) -> None:
    """Put a module's section in the place of the one that is there."""
    sections = _sections(PATH.read_text() if PATH.exists() else "")
    sections[_title(name)] = _section(name, rows, seed, seconds)
    titles = [title for title in map(_title, MODULES) if title in sections]
    ordered = [f"## {title}\n\n{sections[title]}\n" for title in titles]
    PATH.write_text("\n".join([PREFACE, *ordered, FOUND.read_text()]))


def _title(name: str) -> str:
    """Take the first line of what the module says of itself."""
    said = importlib.import_module(f"campaigns.{name}").__doc__ or name
    return said.partition("\n\n")[0].replace("\n", " ").rstrip(".")


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def _section(name: str, rows: Sequence[Row], seed: int, seconds: float) -> str:
    when, command = time.strftime("%Y-%m-%d %H:%M %Z"), f"deploy/dev/campaign --seed {seed} {name}"
    lines = [f"`{command}`, {when}, {seconds / 60:.0f} minutes, {_machine()}", ""]
    lines += ["| what | figure | target | |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.name} | {row.figure} | {row.target} | {'met' if row.met else 'missed'} |")
    failures = [line.replace("\n", "; ") for row in rows for line in row.found]
    return "\n".join([*lines, *(["", *(f"- {line}" for line in failures)] if failures else [])])


def _machine() -> str:
    memory = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0]) / 1024**2
    model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.machine()]
    systemd = subprocess.run(
        ["systemctl", "--version"], check=False, capture_output=True, text=True, timeout=30
    ).stdout.split()[1:2]
    return (
        f"on {os.cpu_count()} cores of {model[0]}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"systemd {''.join(systemd)}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"load average {os.getloadavg()[2]:.1f}"
    )
