"""What a Valkey of its own for each of many refs costs: start, memory, and the processor while idle.

Proportional set size: a page that n processes share counts 1/n for each.
"""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.memory import _pss
from benchmarks.rows import Bench, Row, Unmeasurable, median, percentile, row
from kennel_core.environment import Environment
from kennel_core.provision import Owner, Provisioner
from kennel_core.provision.valkey import valkey
from kennel_core.settings import Settings
from tests.servers.systemd import private_systemd

OWNERS = 200
AT_ONCE = 4
QUIET_S = 20
TICKS = os.sysconf("SC_CLK_TCK")


class Remembered:
    """What is remembered of one of them."""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}

    def note(self, **changes: Any) -> None:
        """See `kennel_core.provision.Memory`."""
        self.state = {**self.state, **changes}


def measure(bench: Bench) -> Iterator[Row]:
    """Start them on a systemd of their own, look, and remove them."""
    runtime = bench.home / "run"
    runtime.mkdir()
    owners = [Owner(number, "shop", f"feature-{number}", Environment.PREVIEW) for number in range(OWNERS)]
    memories = [Remembered() for _ in owners]
    with private_systemd() as systemd:
        settings = Settings(
            state_dir=bench.home / "state", runtime_dir=runtime, bus=systemd.bus, valkey="instance"
        )
        instances = valkey(settings, frozenset)
        bench.say("one after the other: 10")
        single = [_seconds(instances, "ensure", *pair) for pair in zip(owners[:10], memories, strict=False)]
        bench.say(f"{AT_ONCE} at once: {OWNERS}")
        began = time.monotonic()
        each = _all(instances, "ensure", owners, memories)
        started = time.monotonic() - began
        began = time.monotonic()
        there = instances.present()
        listed = time.monotonic() - began
        pids = _servers(runtime)
        if len(pids) != OWNERS or not all(
            instances.parts(*pair) <= there for pair in zip(owners, memories, strict=True)
        ):
            raise Unmeasurable(f"{len(pids)} of {OWNERS} run")
        bench.say("waiting while nothing happens")
        before = sum(map(_cpu_seconds, pids))
        time.sleep(QUIET_S)
        used = 100 * (sum(map(_cpu_seconds, pids)) - before) / QUIET_S
        sizes = [_pss(pid) for pid in pids]
        bench.say("removing them")
        began = time.monotonic()
        _all(instances, "remove", owners, memories)
        removed = time.monotonic() - began
    yield row(
        f"memory of {OWNERS} Valkey instances, idle and empty",
        f"{sum(sizes):.0f} MiB PSS",
        "",
        None,
        why=f"median {median(sizes):.2f} MiB each, the largest {max(sizes):.2f}; the code is shared. "
        f"All together use {used:.1f} % of one core.",
    )
    yield row(
        "start of a Valkey instance until it answers",
        f"{1000 * median(single):.0f} ms",
        "",
        None,
        why=f"median of 10, one after the other. {OWNERS} of them, {AT_ONCE} at once: {started:.1f} s, "
        f"median {1000 * median(each):.0f} ms, 99 % within {1000 * percentile(each, 0.99):.0f} ms. One "
        f"listing of all takes {1000 * listed:.1f} ms, and to remove them with their data {removed:.1f} s.",
    )


def _all(instances: Provisioner, action: str, owners: list[Owner], memories: list[Remembered]) -> list[float]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(
            pool.map(lambda pair: _seconds(instances, action, *pair), zip(owners, memories, strict=True))
        )


def _seconds(instances: Provisioner, action: str, owner: Owner, memory: Remembered) -> float:
    began = time.monotonic()
    getattr(instances, action)(owner, memory)
    return time.monotonic() - began


def _servers(runtime: Path) -> list[int]:
    """Find the servers that listen below a directory: each calls itself by its socket."""
    marked = b"-server unixsocket:" + bytes(runtime)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marked in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
