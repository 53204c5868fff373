"""Neighbours that are meddled with, and a database that is held, closed or left in the middle of a write."""

import contextlib
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kennel_core import build_log, builds, db, lease, migrations, pipeline, projects
from kennel_core.adapters.caddy import Caddy
from kennel_core.models import Build, BuildStatus, LogChunk, Project
from kennel_core.settings import Settings
from kennel_web import create_app
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.caddy import programs
from tests.servers.git import GitRepository
from tests.servers.stack import Remote, files
from tests.servers.world import World
from tests.test_faults import alive, small_disk, waits
from tests.waiting import until

newest_caddy = pytest.mark.parametrize("caddy_server", programs()[-1:], indirect=True, ids=["newest"])


# --- Caddy and systemd


@newest_caddy
def test_routes_that_somebody_edited_are_put_right_and_strange_ones_stay(world: World) -> None:
    world.build(world.service("one"), world.site("one"))
    world.converge()
    caddy = Caddy(world.settings.caddy_admin)
    strange = {"match": [{"path": ["/strange"]}], "handle": [{"handler": "static_response", "body": "mine"}]}
    edited = [{**route, "handle": []} if "@id" in route else route for route in caddy.routes()]
    caddy.replace_routes([strange, *edited])
    assert world.get("api") == (200, "")  # what people see meanwhile

    world.converge()

    assert world.get("api") == (200, "one main")
    assert world.get("docs") == (200, "<h1>one</h1>")
    assert world.get("api", path="/strange") == (200, "mine")
    assert world.is_settled()


@newest_caddy
def test_services_run_on_while_systemd_executes_itself_anew(world: World) -> None:
    world.build(world.service("one"))
    world.converge()
    before = world.units()

    world.systemd.run("systemctl", "daemon-reexec")

    assert world.get("api") == (200, "one main")
    until(lambda: world.units() == before, what="systemd tells of the same units")
    assert world.is_settled()
    build = world.build(world.service("two"))
    world.converge()
    assert world.status(build) == BuildStatus.DONE
    assert world.get("api") == (200, "two main")


@newest_caddy
@pytest.mark.parametrize("verb", ["stop", "kill --signal=KILL", "reset-failed", "restart"])
def test_a_unit_that_somebody_meddles_with_is_there_again(world: World, verb: str) -> None:
    world.build(world.service("one"))
    world.converge()
    [unit] = world.units()

    world.systemd.run("systemctl", *verb.split(), unit)

    def serves() -> bool:  # an empty 502 is what people see meanwhile
        world.converge()
        return world.get("api") == (200, "one main")

    until(serves, what="it serves again")
    assert world.units() == {unit: "active"}
    assert world.is_settled()


# --- the database


def test_a_database_that_is_held_for_ten_seconds_loses_no_build(remote: Remote, tmp_path: Path) -> None:
    stack, gate = remote.stack, tmp_path / "gate"
    number = remote.pushed(remote.push(files("one", before=waits(gate))))
    until(lambda: alive(str(gate)), what="the build waits")
    until(lambda: "=== phase: " in stack.build_log(number), what="the log has its first lines")

    with contextlib.closing(sqlite3.connect(stack.settings.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        gate.touch()
        ends = time.monotonic() + 10
        assert "=== phase: " in stack.build_log(number)  # who reads is not held up
        assert stack.ready() == {}
        until(lambda: time.monotonic() > ends, what="ten seconds are over")
        other.execute("COMMIT")

    stack.wait_for(number, timeout=120)
    assert stack.says(remote.host("api")) == "one"
    _is_intact(stack.settings.database)


def test_a_disk_that_becomes_read_only_refuses_pushes_and_shows_what_there_is(
    settings: Settings, tmp_path: Path
) -> None:
    document = deliveries.encoded(deliveries.push())
    with small_disk(tmp_path / "disk", "8m") as disk:
        here = settings.model_copy(update={"state_dir": disk})
        db.configure(here.database)
        projects.create_secret_key(here.secret_key_file)
        migrations.migrate(here.database)
        with db.connection():
            project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
            secret = projects.webhook_secret(project, here.secret_key_file)
        client = create_app(here, RecordingDoorbell()).test_client()

        def push() -> int:
            return client.post(
                "/webhook", data=document, headers=deliveries.headers(secret, document)
            ).status_code

        assert push() == 202
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        answer = client.post("/webhook", data=document, headers=deliveries.headers(secret, document))
        assert answer.status_code == 503
        assert answer.get_json()["detail"] == "database is not available at present"
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert push() == 202
        with db.connection():
            assert [build.status for build in Build.select().order_by(Build.id)] == ["queued"]
        _is_intact(here.database)


ENDS = """
import sys, time
from pathlib import Path
from kennel_core import builds, db, lease
db.configure(Path(sys.argv[1]))
with db.connection():
    build = builds.get(int(sys.argv[2]))
    print("ready", flush=True)
    sys.stdin.readline()
    lease.fail(build, "it failed", time.time())
"""
MEGABYTES = 16


def test_a_worker_that_dies_while_it_ends_a_build_with_a_long_log_leaves_all_or_nothing(
    project: Project, settings: Settings
) -> None:
    now = time.time()
    with db.write():
        builds.enqueue(project, "main", "a" * 40, now)
    build = lease.claim(now)
    assert build is not None
    piece = "".join(f"line {number}\n" for number in range(8000))
    pieces = MEGABYTES * 1024**2 // len(piece)
    with db.write():
        build_log.append(build.id, [("build:api", piece)] * pieces)
    whole = build_log.compose(build_log.chunks(build.id))
    took = _time_of_one_that_is_not_killed(settings, build)

    seen = set()
    for _ in range(12):
        worker = _worker(settings, build)
        time.sleep(random.random() * took)  # anywhere within it
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        _is_intact(settings.database)
        row = builds.get(build.id)
        seen.add(row.status)
        if row.status == BuildStatus.FAILED:
            assert (builds.full_log(build.id), LogChunk.select().count()) == (whole, 0)
            _undo(build, piece, pieces)
        else:
            assert (row.status, LogChunk.select().count()) == (BuildStatus.BUILDING, pieces)
            assert builds.full_log(build.id) == whole

    assert BuildStatus.BUILDING in seen
    worker = _worker(settings, build)
    assert worker.wait(60) == 0
    assert builds.full_log(build.id) == whole


def _worker(settings: Settings, build: Build) -> subprocess.Popen[bytes]:
    """Start a process that is about to end a build; its time begins now."""
    worker = subprocess.Popen(
        [sys.executable, "-c", ENDS, settings.database, str(build.id)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    worker.stdin.write(b"\n")
    worker.stdin.close()
    worker.stdout.close()
    return worker


def _time_of_one_that_is_not_killed(settings: Settings, build: Build) -> float:
    chunks = [(chunk.phase, chunk.data) for chunk in build_log.chunks(build.id)]
    worker = _worker(settings, build)
    began = time.monotonic()
    assert worker.wait(60) == 0
    took = time.monotonic() - began
    _undo(build, chunks[0][1], len(chunks))
    return took


def _undo(build: Build, piece: str, pieces: int) -> None:
    """Let the build be held again, with its log in chunks."""
    with db.write():
        Build.update(
            status=BuildStatus.BUILDING, token=build.token, log=None, error=None, finished_at=None
        ).where(Build.id == build.id).execute()
        build_log.append(build.id, [("build:api", piece)] * pieces)


def _is_intact(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


# --- the forge


@pytest.fixture
def silent() -> Iterator[str]:
    """A forge that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/acme/shop.git"


@pytest.mark.parametrize("kind", ["never answers", "is not there"])
def test_a_push_to_a_forge_that_cannot_be_cloned_from_fails_with_what_to_do_and_can_be_tried_again(
    kind: str, silent: str, settings: Settings, database: Path, git_repo: GitRepository
) -> None:
    url, said = {
        "never answers": (silent, "KENNEL_CLONE_TIMEOUT"),
        "is not there": ("http://127.0.0.1:9/acme/shop.git", "is the forge up"),
    }[kind]
    project = projects.add("acme/shop", url, "main")
    commit = git_repo.commit({"README": "x"})
    git_repo.push("main")
    with db.write():
        builds.enqueue(project, "main", commit, time.time())
    build = lease.claim(time.time())
    assert build is not None

    pipeline.run(build, settings.model_copy(update={"clone_timeout": 1.0}))

    failed = builds.get(build.id)
    assert failed.status == BuildStatus.FAILED
    assert said in str(failed.error)
    assert list(settings.work_dir.iterdir()) == []
    project.clone_url = git_repo.url
    project.save()
    with db.write():
        builds.enqueue(project, "main", commit, time.time())
    again = lease.claim(time.time())
    assert again is not None
    pipeline.run(again, settings)
    assert "clone: " not in str(builds.get(again.id).error)  # it is cloned; nothing in it can be built
