"""Random histories on a model of the machine, in as many processes as there are cores.

usage: deploy/dev/campaign histories [COUNT]
"""

import os
import subprocess
import sys
from collections.abc import Iterator

from campaigns import ROOT, Campaign, Row
from tests.campaigns import stage

TARGET = 10_000
BATCH = 250  # histories of one seed, so that one that fails is found again soon
SECONDS = 1800.0  # of one batch, shrinking included
PROGRAM = """
import sys
from tests.campaigns import histories
print(histories.play(int(sys.argv[1]), int(sys.argv[2])), histories.Histories.kills)
"""


def rows(campaign: Campaign) -> Iterator[Row]:
    count = int(campaign.options[0]) if campaign.options else TARGET
    seeds = [campaign.seed + number for number in range(-(-count // BATCH))]
    played = kills = 0
    found: list[str] = []
    running: list[tuple[int, subprocess.Popen[str]]] = []
    try:
        while seeds or running:
            while seeds and len(running) < (os.cpu_count() or 1):
                running.append((seeds[0], _started(seeds.pop(0), min(BATCH, count))))
            seed, process = running[0]  # it stays in the list: an interruption must find it
            said, wrong = process.communicate(timeout=SECONDS)
            running.pop(0)
            if process.returncode == 0:
                played += int(said.split()[0])
                kills += int(said.split()[1])
                campaign.say(f"{played} histories, {kills} kills")
            else:
                repeat = f"deploy/dev/campaign --seed {seed} histories {BATCH}"
                found.append(f"{_shrunk(wrong)}\nrepeat it with: {repeat}")
                campaign.say(found[-1])
    finally:
        for _, process in running:
            process.kill()
            process.wait()
            stage.remove_left_by(process.pid)
    yield Row(
        f"random histories with {kills} kills that converge in two passes, the third writing nothing",
        f"{played}, {len(found)} batches failed" if found else f"all of {played}",
        f"all of ≥ {TARGET}",
        met=not found and played >= TARGET,
        found=tuple(found),
    )


def _started(seed: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(count), str(seed)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _shrunk(said: str) -> str:
    """Keep the error and the steps that lead to it."""
    lines = said.splitlines()
    errors = [line for line in lines if "Error: " in line]
    steps = [line for line in lines if line.startswith("state.") and "holds()" not in line]
    return "\n".join([*errors[-1:], *steps[-60:]]) or said[-2000:]
