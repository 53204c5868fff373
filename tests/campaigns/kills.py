"""Pushes to all of Kennel while its processes and Redis are killed at random: none is lost."""

import json
import random
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from kennel_core import db, projects
from tests import deliveries
from tests.servers.caddy import CaddyServer, programs
from tests.servers.redis import RedisServer
from tests.servers.stack import Stack, running
from tests.servers.systemd import PrivateSystemd
from tests.waiting import until

PROJECTS = ("service0", *(f"site{number}" for number in range(7)))
BRANCHES = ("main", "dev", "feature", "fix")
VICTIMS = ("builder", "builder", "builder", "reconciler", "reconciler", "web", "beat", "redis", "redis")
NEEDED = ("web", "builder", "reconciler", "beat")
UNFINISHED = ("queued", "building", "built")


@dataclass
class Outcome:
    """What came of it. `lost` and `twice` say which builds, and how."""

    pushes: int = 0
    seconds: float = 0.0
    drained: float = 0.0  # seconds from the last kill or push to the last build's end
    killed: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    again: int = 0  # builds that needed more than one attempt
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)


@contextmanager
def quick_stack(home: Path, systemd: PrivateSystemd) -> Iterator[Stack]:
    """A stack of its own whose builds take a fifth of a second."""
    for name in ("redis", "caddy", "store"):
        (home / name).mkdir()
    with ExitStack() as cleaning:
        redis = RedisServer(home / "redis")
        cleaning.callback(redis.kill)
        redis.start()
        caddy = CaddyServer(programs()[-1], home / "caddy")
        cleaning.callback(caddy.kill)
        caddy.ask.close()
        stack = cleaning.enter_context(running(home, home / "state", redis, caddy, systemd))
        stack.commands["builder"] = "exec python -m tests.campaigns.quick_builder"
        asked = f"{stack.url}/internal/caddy/check-domain"
        caddy.config = json.loads(json.dumps(caddy.config).replace(caddy.ask.url, asked))
        caddy.start()
        stack.start(*NEEDED)
        until(lambda: _answers(stack), timeout=60, what="web answers")
        yield stack


class Pusher:
    """Pushes at a steady rate. What is not answered with 2xx is sent again, as it was."""

    def __init__(self, stack: Stack, pushes: int, rate: float, dice: random.Random) -> None:
        self.builds: dict[int, tuple[str, str, str]] = {}  # repository, branch and commit of each build
        self._stack, self._pushes, self._rate, self._dice = stack, pushes, rate, dice
        with db.connection():
            made = [
                projects.add(f"acme/{name}", "https://forge.example.org/x.git", "main") for name in PROJECTS
            ]
            key = stack.settings.secret_key_file
            self._secrets = {row.full_name: projects.webhook_secret(row, key) for row in made}
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for number in range(self._pushes):
            began = time.monotonic()
            repository = f"acme/{self._dice.choice(PROJECTS)}"
            branch, commit = self._dice.choice(BRANCHES), f"{number + 1:040x}"
            body = deliveries.encoded(deliveries.push(f"refs/heads/{branch}", commit, repository))
            headers = deliveries.headers(self._secrets[repository], body)
            while (build := self._sent(headers, body)) is None:
                time.sleep(0.1)
            self.builds[build] = (repository, branch, commit)
            time.sleep(max(0.0, began + 1 / self._rate - time.monotonic()))

    def _sent(self, headers: dict[str, str], body: bytes) -> int | None:
        try:
            answer = requests.post(f"{self._stack.url}/webhook", data=body, headers=headers, timeout=20)
        except requests.RequestException:
            return None
        if answer.status_code != 202:
            return None
        said = answer.json()
        return int(said["build"] if "build" in said else re.findall(r"build (\d+)", said["reason"])[0])


def play(  # the size of a campaign
    stack: Stack,
    pushes: int,
    kills: int,
    rate: float,
    number: int,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Push and kill side by side, wait until nothing is on its way, and look at every build."""
    dice = random.Random(number)
    outcome = Outcome(pushes=pushes)
    pusher = Pusher(stack, pushes, rate, random.Random(dice.random()))
    began = time.monotonic()
    pusher.thread.start()
    for done in range(kills):
        due = (done + dice.uniform(0.5, 1.5)) * pushes / (kills + 1)
        until(lambda due=due: len(pusher.builds) >= due, timeout=300, what="web answers pushes")
        victim = dice.choice(VICTIMS)
        _kill(stack, victim)
        outcome.killed[victim] += 1
        if done % 10 == 9:
            say(f"{done + 1} kills, {len(pusher.builds)} pushes, {time.monotonic() - began:.0f} s")
    pusher.thread.join()
    last = time.monotonic()
    until(lambda: not _unfinished(stack), timeout=300, interval=0.2, what="all builds have ended")
    outcome.drained = time.monotonic() - last
    outcome.seconds = time.monotonic() - began
    stack.kennel("reconcile")
    _look(stack, pusher, outcome)
    return outcome


def _kill(stack: Stack, victim: str) -> None:
    if victim == "redis":
        stack.redis.kill()
        stack.redis.start()
    else:
        stack.kill(victim)
        stack.start(victim)


def _look(stack: Stack, pusher: Pusher, outcome: Outcome) -> None:
    newest: dict[tuple[str, str], int] = {}
    rows = _select(stack, "SELECT id, status, error, attempt, log FROM builds")
    for number, status, error, attempt, log in rows:
        outcome.statuses[status] += 1
        outcome.again += attempt > 1
        if number not in pusher.builds:
            outcome.twice.append(f"build {number} is of no push")
            continue
        repository, branch, _ = pusher.builds[number]
        newest[repository, branch] = max(number, newest.get((repository, branch), 0))
        if status == "done":
            lines = Counter(line for line in log.splitlines() if line.startswith("live: "))
            outcome.twice += [f"build {number}: {line}" for line, count in lines.items() if count > 1]
        if not (status == "done" or (status == "cancelled" and str(error).startswith("superseded by"))):
            outcome.lost.append(f"build {number} is {status}: {error}")
    found = {row[0] for row in rows}
    outcome.lost += [f"build {number} is not there" for number in pusher.builds.keys() - found]
    for (repository, branch), number in newest.items():
        host = f"{repository.removeprefix('acme/')}-docs-{branch}.localhost"
        if stack.says(host) != pusher.builds[number][2]:
            outcome.lost.append(f"{host} does not show build {number}")
    lives = Counter(line["build_id"] for line in stack.lines("reconciler") if line.get("event") == "live")
    outcome.twice += [
        f"build {number} went live {count} times" for number, count in lives.items() if count > 1
    ]


def _unfinished(stack: Stack) -> int:
    marks = ", ".join("?" for _ in UNFINISHED)
    query = f"SELECT count(*) FROM builds WHERE status IN ({marks})"  # question marks only
    return int(_select(stack, query, UNFINISHED)[0][0])


def _select(stack: Stack, query: str, values: tuple[str, ...] = ()) -> list[tuple]:
    connection = sqlite3.connect(f"file:{stack.settings.database}?mode=ro", uri=True, timeout=20)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def _answers(stack: Stack) -> bool:
    try:
        return requests.get(f"{stack.url}/healthz", timeout=5).ok
    except requests.RequestException:
        return False
