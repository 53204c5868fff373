#!/usr/bin/env python3
"""Webhooks per second: Kennel beside a bare WSGI application that does the same work, in one run.

Both get the same pushes of 10 KB, each signed and with a commit and a delivery id of its own, commit to
SQLite with synchronous=FULL, and ring over Celery and Redis before they answer. Both are gunicorn with two
sync workers.
The last line is a JSON object. Needs wrk and redis-server.

usage: deploy/dev/bench_webhook.py [--seconds 8] [--rounds 3] [--directory DIR]
"""

import argparse
import hmac
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from kennel_core import db, migrations, projects  # noqa: E402
from kennel_core.settings import Settings  # noqa: E402

BODY_SIZE = 10 * 1024
BODIES = 6000
CONNECTIONS = 16
TARGET_RATE = 300  # webhooks per second
TARGET_RATIO = 0.45

BARE = """
import hashlib, hmac, json, os, sqlite3, time
from celery import Celery
celery = Celery(broker=os.environ["BENCH_BROKER"])
celery.conf.update(task_ignore_result=True, task_default_queue="builds")
@celery.task
def build(build_id):
    pass
SECRET = os.environ["BENCH_SECRET"].encode()
connection = None
def app(environ, start_response):
    global connection
    if environ["PATH_INFO"] == "/healthz":
        start_response("200 OK", [])
        return [b""]
    if connection is None:
        connection = sqlite3.connect(os.environ["BENCH_DATABASE"], isolation_level=None, timeout=5)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = 1")
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    wanted = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted, environ["HTTP_X_FORGEJO_SIGNATURE"]):
        start_response("401 Unauthorized", [])
        return [b""]
    push = json.loads(body)
    now, ref = time.time(), push["ref"].removeprefix("refs/heads/")
    connection.execute("BEGIN IMMEDIATE")
    (project,) = connection.execute("SELECT id FROM projects WHERE owner = ? AND name = ?",
        (push["repository"]["owner"]["login"], push["repository"]["name"])).fetchone()
    build_id = connection.execute("INSERT INTO builds (project_id, ref, 'commit', status, "
        "cancel_requested, attempt, created_at) VALUES (?, ?, ?, 'queued', 0, 0, ?)",
        (project, ref, push["after"], now)).lastrowid
    connection.execute("UPDATE builds SET status = 'cancelled' WHERE project_id = ? AND ref = ? "
        "AND id < ? AND status = 'queued'", (project, ref, build_id))
    connection.execute("INSERT INTO deliveries (delivery_id, project_id, event, outcome, received_at) "
        "VALUES (?, ?, 'push', ?, ?)",
        (environ["HTTP_X_FORGEJO_DELIVERY"], project, f"build {build_id}", now))
    connection.execute("COMMIT")
    build.delay(build_id)
    answer = json.dumps({"build": build_id}).encode()
    size = str(len(answer))
    start_response("202 Accepted", [("Content-Type", "application/json"), ("Content-Length", size)])
    return [answer]
""".replace("'commit'", '\\"commit\\"')

WRK = """
local file = io.open(os.getenv("BENCH_BODIES"), "rb")
local bodies, n, accepted = {}, 0, 0
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


def main() -> int:
    """Measure, print, and tell by the exit status whether the targets are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", help="where the databases lie; default: a temporary directory")
    options = parser.parse_args()
    seen: dict[str, list[Measurement]] = {"bare": [], "kennel": []}
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        home = Path(name)
        secret = prepare(home)
        with redis(home):
            for number in range(options.rounds):
                for side, found in seen.items():  # in turn, so that a busy machine is busy for both
                    one = measure(side, home, secret, options.seconds, f"{side}{number}")
                    found.append(one)
                    print(
                        f"{side:7}{one.rate:7.0f} webhooks/s   p99 {one.p99:4.0f} ms CPU {one.cpu:.2f} ms",
                        flush=True,
                    )
    pairs = seen["kennel"], seen["bare"]
    bare, kennel = (statistics.median(one.rate for one in seen[side]) for side in ("bare", "kennel"))
    result = {
        "webhooks_per_second": round(kennel),
        "bare_per_second": round(bare),
        "ratio": round(statistics.median(k.rate / b.rate for k, b in zip(*pairs, strict=True)), 2),
        "p99_ms": round(statistics.median(one.p99 for one in seen["kennel"])),
        "cpu_ms": round(statistics.median(one.cpu for one in seen["kennel"]), 2),
        "bare_cpu_ms": round(statistics.median(one.cpu for one in seen["bare"]), 2),
        "target_ratio": TARGET_RATIO,
        "target_per_second": TARGET_RATE,
    }
    print(json.dumps(result))
    return 0 if result["ratio"] >= TARGET_RATIO and kennel >= TARGET_RATE else 1


def prepare(home: Path) -> str:
    """Make two databases alike, the bodies and the programs; returns the project's secret."""
    kennel, bare = (Settings(state_dir=home / side) for side in ("kennel", "bare"))
    projects.create_secret_key(kennel.secret_key_file)
    for settings in (kennel, bare):
        db.configure(settings.database)
        migrations.migrate(settings.database)
        with db.connection():
            project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
            secret = projects.webhook_secret(project, kennel.secret_key_file)
    (home / "bare.py").write_text(BARE)
    (home / "push.lua").write_text(WRK)
    with (home / "bodies").open("w") as file:
        file.writelines(f"{signature}{body}\n" for signature, body in bodies(secret))
    return secret


def bodies(secret: str) -> Iterator[tuple[str, str]]:
    """Give pushes of BODY_SIZE bytes with their signatures."""
    recorded = ROOT / "tests/fixtures/webhooks/forgejo/push.00.repo.push.body.json"
    document = json.loads(recorded.read_text())
    document["repository"] |= {"name": "shop", "full_name": "acme/shop"}
    document["repository"]["owner"]["login"] = "acme"
    document["commits"][0]["message"] = "x"
    missing = BODY_SIZE - len(json.dumps(document))
    document["commits"][0]["message"] = "x" * (missing + 1)
    for number in range(BODIES):
        document["after"] = f"{number + 1:040x}"
        body = json.dumps(document)
        yield hmac.digest(secret.encode(), body.encode(), "sha256").hex(), body


@dataclass(frozen=True)
class Measurement:
    """What wrk and the kernel saw of one run."""

    rate: float  # webhooks per second
    p99: float  # milliseconds
    cpu: float  # milliseconds for each webhook; says more than `rate` on a busy machine


def measure(side: str, home: Path, secret: str, seconds: int, run: str) -> Measurement:
    """Let wrk push for a while."""
    with gunicorn(side, home, secret) as (url, process):
        argv = [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            str(home / "push.lua"),
            url,
        ]
        given = {**os.environ, "BENCH_BODIES": str(home / "bodies"), "BENCH_RUN": run}
        before = cpu_seconds(process.pid)
        said = subprocess.run(argv, env=given, check=True, capture_output=True, text=True).stdout
        used = cpu_seconds(process.pid) - before
    if "Non-2xx" in said:
        raise SystemExit(f"{side}: some answers were not 2xx\n{said}")
    rate, p99 = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    count = re.search(r"(\d+) requests in", said)
    if rate is None or p99 is None or count is None:
        raise SystemExit(said)
    late = float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]
    return Measurement(float(rate[1]), late, used / int(count[1]) * 1000)


def cpu_seconds(pid: int) -> float:
    """Add up what the workers of a gunicorn have used so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stats = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split() for child in children]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


@contextmanager
def gunicorn(side: str, home: Path, secret: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run one of the two applications."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    broker = f"redis+socket://{home}/redis.sock"
    common = [sys.executable, "-m", "gunicorn"]
    if side == "kennel":
        argv = [*common, "-c", "deploy/gunicorn.conf.py", "kennel_web.wsgi:app"]
        given = {
            "KENNEL_STATE_DIR": str(home / "kennel"),
            "KENNEL_RUNTIME_DIR": str(home / "run"),
            "KENNEL_BIND": f"127.0.0.1:{port}",
            "KENNEL_BROKER_URL": broker,
            "KENNEL_LOG_FORMAT": "json",
        }
    else:
        argv = [
            *common,
            "--no-control-socket",
            "-w2",
            "-ksync",
            f"-b127.0.0.1:{port}",
            f"--chdir={home}",
            "bare:app",
        ]
        given = {
            "BENCH_BROKER": broker,
            "BENCH_SECRET": secret,
            "BENCH_DATABASE": str(home / "bare" / "kennel.db"),
        }
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("KENNEL_")
    } | given
    with (home / f"{side}.log").open("ab") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait(url, process, home / f"{side}.log")
        yield url, process
    finally:
        process.terminate()
        process.wait()


def wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until both workers have answered, most likely."""
    deadline = time.monotonic() + 30
    answered = 0
    while answered < 20:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5):  # noqa: S310  # our own http
                answered += 1
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{url} does not answer\n{log.read_text()}") from None
            time.sleep(0.1)


@contextmanager
def redis(home: Path) -> Iterator[None]:
    """Run a Redis without files."""
    program = shutil.which("redis-server")
    if program is None or shutil.which("wrk") is None:
        raise SystemExit("needs redis-server and wrk: run `make setup`")
    argv = [
        program,
        "--port",
        "0",
        "--unixsocket",
        str(home / "redis.sock"),
        "--save",
        "",
        "--dir",
        str(home),
    ]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
