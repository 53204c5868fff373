"""Webhooks: how many, how fast beside running builds, and with a Redis that is gone or frozen.

Kennel and a bare WSGI application get the same pushes, each signed and with a commit and a delivery id of its
own, commit to SQLite with synchronous=FULL, and ring over Celery and Redis before they answer. Both are
gunicorn with two sync workers.
"""

import http.client
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from benchmarks import ROOT, servers, web
from benchmarks.rows import Bench, Row, Unmeasurable, at_least, at_most, median, percentile, row
from kennel_core import builds, db, projects
from kennel_core.settings import Settings
from tests.servers.redis import RedisServer

CONNECTIONS = 16
ROUNDS = 5
SECONDS = 4
RATE, RATIO = 300, 0.45
PACED_PER_S, PACED_S, PACED_P99_MS = 50, 12, 100
BUILDS, LINES_PER_S = 4, 1000
REFUSED_MS, FROZEN_MS = 50, 700

WRK = """
local file = io.open(os.getenv("BENCH_BODIES"), "rb")
local bodies, n = {}, 0
for line in file:lines() do bodies[#bodies + 1] = { line:sub(1, 64), line:sub(65) } end
wrk.method = "POST"
request = function()
  local one = bodies[n % #bodies + 1]
  n = n + 1
  return wrk.format(nil, "/webhook", {
    ["Content-Type"] = "application/json", ["X-Forgejo-Event"] = "push",
    ["X-Forgejo-Delivery"] = os.getenv("BENCH_RUN") .. "-" .. n, ["X-Forgejo-Signature"] = one[1] }, one[2])
end
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Measure throughput, then latency."""
    if shutil.which("wrk") is None:
        raise Unmeasurable("wrk is not installed: run `make setup`")
    with servers.redis(bench.home / "redis") as redis:
        yield from _throughput(bench, redis)
        redis.client().flushall()
        yield _beside_builds(bench, redis)
        redis.client().flushall()
        yield from _without_redis(bench, redis)


# --- as many as possible ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """What wrk and the kernel saw of one run."""

    per_second: float
    p99: float  # milliseconds
    cpu: float  # milliseconds of each webhook; says more than `per_second` on a busy machine


def _throughput(bench: Bench, redis: RedisServer) -> Iterator[Row]:
    prepared = {side: web.prepare(bench.home / side) for side in ("bare", "kennel")}
    for side, (_settings, secret) in prepared.items():
        with (bench.home / f"{side}.bodies").open("w") as file:
            file.writelines(f"{signature}{body}\n" for signature, body in web.pushes(secret, 6000))
    seen: dict[str, list[Rate]] = {side: [] for side in prepared}
    for number in range(ROUNDS):
        for side, (settings, secret) in prepared.items():  # in turn, so that a busy machine is busy for both
            bench.say(f"webhooks per second: {side}, {number + 1} of {ROUNDS}")
            with web.gunicorn(settings, redis.url, secret if side == "bare" else "") as (url, process):
                seen[side].append(_wrk(bench.home, side, url, process.pid, f"{side}{number}"))
    bare, kennel = (median([one.per_second for one in seen[side]]) for side in ("bare", "kennel"))
    ratio = median([k.per_second / b.per_second for k, b in zip(seen["kennel"], seen["bare"], strict=True)])
    cpu, bare_cpu = (median([one.cpu for one in seen[side]]) for side in ("kennel", "bare"))
    yield row(
        "webhooks of 10 KB per second",
        f"{kennel:.0f}/s, p99 {median([one.p99 for one in seen['kennel']]):.0f} ms at full load",
        f"≥ {RATE}/s",
        kennel >= RATE,
        by=at_least(kennel, RATE, "/s"),
        why=f"wrk with {CONNECTIONS} connections on the same cores; {cpu:.2f} ms of processor time "
        f"each, on one core.",
    )
    yield row(
        "webhooks against a bare WSGI application that does the same",
        f"{ratio:.2f} of its {bare:.0f}/s",
        f"≥ {RATIO}",
        ratio >= RATIO,
        ratio=f"{ratio:.2f}",
        by=at_least(ratio, RATIO),
        why=f"median of {ROUNDS} interleaved pairs of {SECONDS} s; processor time {cpu:.2f} ms against "
        f"{bare_cpu:.2f} "
        "ms: Flask, its metrics, Peewee, a log line and the checks of the payload.",
    )


def _wrk(home: Path, side: str, url: str, pid: int, run: str) -> Rate:
    (home / "push.lua").write_text(WRK)
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(home / "push.lua"), url]
    given = {**os.environ, "BENCH_BODIES": str(home / f"{side}.bodies"), "BENCH_RUN": run}
    before = _cpu_seconds(pid)
    said = subprocess.run(argv, env=given, check=True, capture_output=True, text=True, timeout=120).stdout
    used = _cpu_seconds(pid) - before
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    count = re.search(r"(\d+) requests in", said)
    if "Non-2xx" in said or rate is None or p99 is None or count is None:
        raise Unmeasurable(f"{side}: {said}")
    late = float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]
    return Rate(float(rate[1]), late, used / int(count[1]) * 1000)


def _cpu_seconds(pid: int) -> float:
    """Add up what the workers of a gunicorn have used so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stats = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split() for child in children]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


# --- steadily, beside builds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One webhook: seconds from when it was due, and the status."""

    seconds: float
    status: int


def _post(url: str, signature: str, body: str) -> int:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    try:
        headers = {
            "Content-Type": "application/json",
            "X-Forgejo-Event": "push",
            "X-Forgejo-Delivery": str(uuid.uuid4()),
            "X-Forgejo-Signature": signature,
        }
        connection.request("POST", "/webhook", body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def _paced(url: str, pushes: list[tuple[str, str]], per_second: float) -> list[Answer]:
    """Send at a steady pace, whether or not earlier ones are answered."""
    answers: list[Answer] = []
    began = time.monotonic() + 0.1
    todo = iter(enumerate(pushes))
    lock = threading.Lock()

    def send() -> None:
        while True:
            with lock:
                found = next(todo, None)
            if found is None:
                return
            number, push = found
            due = began + number / per_second
            time.sleep(max(0.0, due - time.monotonic()))
            status = _post(url, *push)
            answers.append(Answer(time.monotonic() - due, status))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _beside_builds(bench: Bench, redis: RedisServer) -> Row:
    settings, secret = web.prepare(bench.home / "paced")
    pushes = list(web.pushes(secret, PACED_PER_S * PACED_S))
    with web.gunicorn(settings, redis.url) as (url, _process):
        bench.say(f"{PACED_PER_S} webhooks/s with nothing beside them")
        alone = _paced(url, list(web.pushes(secret, PACED_PER_S * PACED_S // 2)), PACED_PER_S)
        bench.say(f"{PACED_PER_S} webhooks/s beside {BUILDS} builds of {LINES_PER_S:,} lines/s")
        with ExitStack() as stack:
            for number in range(BUILDS):
                stack.enter_context(_build(settings, number))
            servers.wait("all builds print", lambda: _printing(settings) == BUILDS)
            beside = _paced(url, pushes, PACED_PER_S)
            lines = _stored_lines(settings)
    wrong = [answer for answer in (*alone, *beside) if answer.status != 202]
    if wrong or lines < BUILDS * LINES_PER_S:
        raise Unmeasurable(f"{len(wrong)} webhooks were not accepted, {lines} log lines were stored")
    p50, p99 = (percentile([answer.seconds * 1000 for answer in beside], share) for share in (0.5, 0.99))
    quiet = percentile([answer.seconds * 1000 for answer in alone], 0.99)
    return row(
        f"webhook at {PACED_PER_S}/s beside {BUILDS} builds of {LINES_PER_S:,} lines/s",
        f"p99 {p99:.0f} ms, p50 {p50:.0f} ms",
        f"p99 ≤ {PACED_P99_MS} ms",
        p99 <= PACED_P99_MS,
        ratio=f"p99 without builds {quiet:.0f} ms",
        by=at_most(p99, PACED_P99_MS, "ms"),
        why=f"{len(beside)} webhooks in {PACED_S} s, each timed from the moment it was due; the builds "
        f"go through "
        "supervisor, structured log and chunk rows of the same database, as in a builder.",
    )


def _build(settings: Settings, number: int) -> subprocess.Popen[bytes]:
    """Run a build that prints at a steady pace, in a process of its own; ending the context ends it."""
    with db.connection():
        project = projects.add(f"acme/noisy{number}", "https://forge.example.org/acme/noisy.git", "main")
        with db.write():
            builds.enqueue(project, "main", f"{number:040x}", time.time())
    argv = [sys.executable, "-m", "benchmarks.one_build", str(settings.state_dir)]
    argv += [f"noisy{number}", sys.executable, "-c", PRINTING, str(LINES_PER_S), str(PACED_S + 5)]
    return _Ended(argv, cwd=ROOT / "deploy/dev", env=web.without_settings())


PRINTING = """
import sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
began = time.monotonic()
for tick in range(int(seconds * 50)):
    time.sleep(max(0, began + tick / 50 - time.monotonic()))
    sys.stdout.write(("x" * 90 + "\\n") * (rate // 50))
    sys.stdout.flush()
"""


class _Ended(subprocess.Popen[bytes]):
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()
        self.wait(30)


def _printing(settings: Settings) -> int:
    """Count the builds whose lines arrive."""
    with sqlite3.connect(settings.database) as reader:
        (count,) = reader.execute("SELECT count(DISTINCT build_id) FROM log_chunks").fetchone()
    reader.close()
    return int(count)


def _stored_lines(settings: Settings) -> int:
    with sqlite3.connect(settings.database) as reader:
        texts = reader.execute("SELECT data FROM log_chunks").fetchall()
    reader.close()
    return sum(text.count("\n") for (text,) in texts)


# --- without Redis ------------------------------------------------------------------------------------------


def _without_redis(bench: Bench, redis: RedisServer) -> Iterator[Row]:
    settings, secret = web.prepare(bench.home / "broker")
    pushes = web.pushes(secret, 1000)

    def batch(count: int) -> list[Answer]:
        answers = []
        for _ in range(count):
            began = time.monotonic()
            status = _post(url, *next(pushes))
            answers.append(Answer(time.monotonic() - began, status))
        return answers

    with web.gunicorn(settings, redis.url) as (url, _process):
        bench.say("webhooks with Redis, then frozen, then gone")
        batch(10)
        usual = batch(40)
        redis.freeze()
        frozen = batch(10)
        redis.thaw()
        batch(5)
        redis.kill()
        refused = batch(40)
        redis.start()
        back = batch(5)
    with sqlite3.connect(settings.database) as reader:
        (stored,) = reader.execute("SELECT count(*) FROM builds").fetchone()
    reader.close()
    normal = median([answer.seconds for answer in usual])
    sent = 10 + 40 + 10 + 5 + 40 + 5
    lost = sent - stored
    for what, answers, limit in (("refused", refused, REFUSED_MS), ("frozen", frozen, FROZEN_MS)):
        added = (max(answer.seconds for answer in answers) - normal) * 1000
        wrong = sum(answer.status != 202 for answer in (*answers, *back))
        yield row(
            f"webhook with Redis {what}",
            f"+{added:.0f} ms at worst, {wrong} not accepted, {lost} rows missing",
            f"≤ {limit} ms more, always 202, the row there",
            added <= limit and not wrong and not lost,
            ratio=f"usually {normal * 1000:.1f} ms",
            by=at_most(added, limit, "ms"),
            why=f"the slowest of {len(answers)}, median "
            f"+{(median([a.seconds for a in answers]) - normal) * 1000:.0f} "
            "ms; the next pass rings for the builds again.",
        )
