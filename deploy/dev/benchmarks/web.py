"""The web process, a bare WSGI application that does the same work, and pushes to send to both."""

import hmac
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ROOT, servers
from benchmarks.rows import Unmeasurable
from kennel_core import db, projects
from kennel_core.settings import Settings
from tests.servers.ports import free_port

BODY_SIZE = 10 * 1024

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
    build_id = connection.execute('INSERT INTO builds (project_id, ref, "commit", status, '
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
"""


@contextmanager
def gunicorn(
    settings: Settings, broker: str, secret: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the web process, or with `secret` the bare application, with two sync workers; yields its URL."""
    port = free_port()
    common = [sys.executable, "-m", "gunicorn"]
    if secret:
        (settings.state_dir / "bare.py").write_text(BARE)
        argv = [*common, "--no-control-socket", "-w2", "-ksync", f"-b127.0.0.1:{port}"]
        argv += [f"--chdir={settings.state_dir}", "bare:app"]
        given = {
            "BENCH_BROKER": broker,
            "BENCH_SECRET": secret,
            "BENCH_DATABASE": str(settings.database),
        }
    else:
        argv = [*common, "-c", "deploy/gunicorn.conf.py", "kennel_web.wsgi:app"]
        given = {
            "KENNEL_STATE_DIR": str(settings.state_dir),
            "KENNEL_RUNTIME_DIR": str(settings.state_dir / "run"),
            "KENNEL_BIND": f"127.0.0.1:{port}",
            "KENNEL_BROKER_URL": broker,
            "KENNEL_LOG_FORMAT": "json",
        }
    log = settings.state_dir / "gunicorn.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *argv],
            cwd=ROOT,
            env=without_settings() | given,
            stdout=output,
            stderr=output,
        )
    try:
        wait(port, process, log)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(30)


def without_settings() -> dict[str, str]:
    """Give the environment without a person's own Kennel."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KENNEL_")}


def wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until both workers have answered, most likely."""
    deadline = time.monotonic() + 30
    answered = 0
    while answered < 20:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            answered += 1
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unmeasurable(f"gunicorn does not answer: {log.read_text()[-1000:]}") from None
            time.sleep(0.1)
        finally:
            connection.close()


def prepare(home: Path) -> tuple[Settings, str]:
    """Make a database with a project; returns its settings and the project's secret."""
    settings = Settings(state_dir=home)
    servers.new_database(settings)
    with db.connection():
        secret = projects.webhook_secret(servers.add_project(), settings.secret_key_file)
    return settings, secret


def pushes(secret: str, count: int) -> Iterator[tuple[str, str]]:
    """Give pushes of BODY_SIZE bytes, each of a commit of its own, as (signature, body)."""
    recorded = ROOT / "tests/fixtures/webhooks/forgejo/push.00.repo.push.body.json"
    document = json.loads(recorded.read_text())
    document["repository"] |= {"name": "shop", "full_name": "acme/shop"}
    document["repository"]["owner"]["login"] = "acme"
    document["commits"][0]["message"] = "x"
    missing = BODY_SIZE - len(json.dumps(document))
    document["commits"][0]["message"] = "x" * (missing + 1)
    for number in range(count):
        document["after"] = f"{number + 1:040x}"
        body = json.dumps(document)
        yield hmac.digest(secret.encode(), body.encode(), "sha256").hex(), body
