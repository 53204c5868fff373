"""Memory of all of Kennel's processes while nothing happens.

Proportional set size: a page that n processes share counts 1/n for each.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import servers, stack
from benchmarks.rows import Bench, Row, at_most, row
from kennel_core import db, delivery, projects

TARGET_MIB = 250
QUIET_S = 8


def measure(bench: Bench) -> Iterator[Row]:
    """Start everything, let every process do its work once, and look after a while."""
    bench.say("starting all of Kennel, flower too")
    with stack.running(bench.home, (*stack.KENNEL, "flower")) as running:
        with db.connection():
            project = servers.add_project(url=f"file://{bench.home}/nothing.git")
            secret = projects.webhook_secret(project, running.settings.secret_key_file)
        for number in range(1, 5):
            event = delivery.event(project, "main", f"{number:040x}")
            delivery.deliver(f"http://{running.settings.bind}/webhook", event, secret)
        bench.say("waiting until nothing happens")
        time.sleep(QUIET_S)
        used = {
            name: [_pss(pid) for pid in stack.tree(process.pid)]
            for name, process in running.processes.items()
        }
    flower = sum(used.pop("flower"))
    total = sum(map(sum, used.values()))
    parts = ", ".join(f"{name} {sum(pss):.0f} ({len(pss)})" for name, pss in used.items())
    yield row(
        "memory of all of Kennel, idle",
        f"{total:.0f} MiB PSS",
        f"≤ {TARGET_MIB} MiB",
        total <= TARGET_MIB,
        ratio=f"{total / TARGET_MIB:.2f}",
        by=at_most(total, TARGET_MIB, "MiB"),
        why=f"MiB by line of the Procfile, and how many processes it is: {parts}. Five interpreters are "
        f"started; each has "
        "about 9 MiB of its own, 26 of Celery, kombu and redis, 9 of pydantic, 13 of structlog, Peewee, "
        "requests and "
        "Prometheus' client. What is forked shares about two thirds of that.",
    )
    yield row(
        "memory of all of Kennel with flower, idle",
        f"{total + flower:.0f} MiB PSS",
        "",
        None,
        why="flower is optional.",
    )


def _pss(pid: int) -> float:
    try:
        [kib] = re.findall(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return 0.0
    return int(kib) / 1024
