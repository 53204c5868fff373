"""All of Kennel while its parts are killed, frozen, emptied and broken: nothing is lost or taken down."""

import contextlib
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import requests

from kennel_core import builds, db
from kennel_core.adapters import process_tree
from kennel_core.migrations import LATEST
from kennel_core.models import Build, BuildStatus
from tests import deliveries
from tests.servers.git import GitRepository
from tests.servers.stack import KENNEL, Remote, SmallStack, Stack, files, registered
from tests.waiting import until

WORKERS = ("web", "follow", "builder", "reconciler")


def waits(gate: Path) -> str:
    """Make a build wait for a file, in a process that left its session."""
    return f"echo at the gate; setsid sh -c 'while ! [ -e {gate} ]; do sleep 0.05; done' {gate}"


def alive(word: str) -> set[int]:
    """The processes that have a word in their command line or their environment."""
    found = set()
    for process in process_tree.table().values():
        with contextlib.suppress(OSError):
            place = Path("/proc", str(process.pid))
            if process.state != "Z" and word.encode() in b"".join(
                (place / name).read_bytes() for name in ("cmdline", "environ")
            ):
                found.add(process.pid)
    return found


def works_on(stack: Stack, number: int) -> set[int]:
    """The processes of a build."""
    return alive(f"{stack.settings.work_dir}/{number}-")


def lose_lease(number: int) -> None:
    """Let the lease of a build run out now."""
    with db.connection():
        Build.update(lease_until=time.time() - 1).where(Build.id == number).execute()


def lose_message(number: int) -> None:
    """Let the time pass after which a message counts as lost."""
    with db.connection():
        Build.update(enqueued_at=time.time() - builds.RING_AGAIN_S - 1).where(Build.id == number).execute()


def pass_errors(stack: Stack) -> str:
    """Run a pass and give what went wrong."""
    return stack.run("kennel", "reconcile").stderr + stack.run("kennel", "reconcile").stdout


# --- processes


def test_a_build_is_taken_again_when_its_builder_was_killed(remote: Remote, tmp_path: Path) -> None:
    stack, gate = remote.stack, tmp_path / "gate"
    number = remote.pushed(remote.push(files("one", before=waits(gate))))
    until(lambda: alive(str(gate)), what="the build waits")
    before = works_on(stack, number) | alive(str(gate))

    stack.kill("builder", "beat")
    stack.start("builder", "beat")

    until(lambda: stack.build(number).attempt == 2, timeout=90, what="the first tick after the lease")
    until(lambda: alive(str(gate)) - before, what="the second attempt waits")
    assert not before & (works_on(stack, number) | alive(str(gate)))
    gate.touch()
    stack.wait_for(number)
    assert stack.says(remote.host("api")) == "one"
    assert [name for name in stack.units() if remote.name in name and "api" in name][1:] == []
    assert stack.build_log(number).count("live: ") == 2  # service and site, once each
    assert stack.build_log(number).count("at the gate") == 1  # of the attempt that counts


def test_nothing_runs_on_of_a_dead_builder_whose_build_is_not_wanted_any_more(
    remote: Remote, tmp_path: Path
) -> None:
    stack, gate = remote.stack, tmp_path / "gate"
    number = remote.pushed(remote.push(files("one", before=waits(gate))))
    until(lambda: alive(str(gate)), what="the build waits")
    stack.kill("builder")
    stack.kennel("build", "cancel", str(number))
    lose_lease(number)

    stack.kennel("reconcile")

    assert stack.build(number).status == BuildStatus.CANCELLED
    assert works_on(stack, number) | alive(str(gate)) == set()
    assert list(stack.settings.work_dir.glob(f"{number}-*")) == []


def test_nothing_runs_on_of_a_dead_builder_though_no_other_takes_its_build(
    remote: Remote, tmp_path: Path
) -> None:
    stack, gate = remote.stack, tmp_path / "gate"
    number = remote.pushed(remote.push(files("one", before=waits(gate))))
    until(lambda: alive(str(gate)), what="the build waits")
    stack.kill("builder")
    lose_lease(number)

    stack.kennel("reconcile")

    assert stack.build(number).status == BuildStatus.QUEUED
    assert works_on(stack, number) | alive(str(gate)) == set()
    gate.touch()
    stack.start("builder")
    stack.wait_for(number)


def test_a_reconciler_that_is_killed_while_it_deploys_is_followed_by_one_that_ends_it(remote: Remote) -> None:
    stack = remote.stack
    remote.deploy("one")
    seen = set(stack.units())
    number = remote.pushed(remote.push(files("two")))
    until(lambda: set(stack.units()) - seen, interval=0.005, what="the new unit")

    stack.kill("reconciler")
    stack.start("reconciler")

    stack.wait_for(number)
    assert stack.says(remote.host("api")) == "two"
    until(lambda: len([name for name in stack.units() if remote.name in name]) == 1, what="one unit")


def test_every_answered_push_is_built_or_superseded_though_the_web_process_is_killed(remote: Remote) -> None:
    stack = remote.stack
    commits = [remote.push(files(f"v{number}")) for number in range(8)]
    accepted: list[tuple[int, int]] = []

    def push_all() -> None:
        for place, commit in enumerate(commits):
            document = deliveries.push("refs/heads/main", commit, remote.full_name)

            def sent(document: dict = document) -> requests.Response | None:
                with contextlib.suppress(requests.RequestException):
                    return remote.deliver(document)
                return None

            answer = until(sent, what="an answer")
            assert answer.status_code == 202
            accepted.append((place, answer.json()["build"]))

    sender = threading.Thread(target=push_all)
    sender.start()
    until(lambda: len(accepted) >= 3, interval=0.002, what="some are answered")
    stack.kill("web")
    stack.start("web")
    sender.join()

    assert [place for place, _ in accepted] == list(range(8))
    stack.wait_for(accepted[-1][1])
    for _, number in accepted[:-1]:
        assert stack.build(number).status in {BuildStatus.CANCELLED, BuildStatus.DONE}
    assert stack.says(remote.host("api")) == "v7"


# --- Redis


@contextmanager
def refused(stack: Stack) -> Iterator[None]:
    stack.redis.kill()
    try:
        yield
    finally:
        stack.redis.start()


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    stack.redis.freeze()
    try:
        yield
    finally:
        stack.redis.thaw()


@pytest.mark.parametrize("broken", [refused, frozen])
def test_a_push_is_accepted_without_redis_and_built_when_it_is_back(
    remote: Remote, broken: Callable[[Stack], AbstractContextManager[None]]
) -> None:
    stack = remote.stack
    commit = remote.push(files("one"))

    with broken(stack):
        number = remote.pushed(commit)
        assert stack.ready().keys() == {"redis"}
        assert stack.build(number).status == BuildStatus.QUEUED
        lost = [line for line in stack.lines("web") if line.get("args") == [number]]
        assert lost[0]["event"] == "the message is lost, the next pass repairs it"

    lose_message(number)
    stack.kennel("reconcile")
    stack.wait_for(number)
    assert stack.says(remote.host("api")) == "one"
    assert stack.ready() == {}


def test_an_emptied_redis_is_as_good_as_before(remote: Remote) -> None:
    with remote.stack.redis.client() as client:
        client.flushall()

    remote.deploy("one")

    assert remote.stack.says(remote.host("api")) == "one"


# --- Caddy and systemd


def test_a_caddy_that_is_killed_gets_its_routes_back_from_the_next_pass(remote: Remote) -> None:
    stack = remote.stack
    remote.deploy("one")
    stack.caddy.kill()
    try:
        assert "caddy" in pass_errors(stack)
        assert stack.ready().keys() == {"caddy"}
    finally:
        stack.caddy.start()

    stack.kennel("reconcile")

    assert stack.says(remote.host("api")) == "one"
    assert stack.get("kennel.localhost", "/healthz").status == 200
    assert stack.kennel("plan") == []


def test_a_frozen_caddy_holds_up_a_rollout_and_nothing_else(remote: Remote) -> None:
    stack = remote.stack
    remote.deploy("one")
    seen = len(stack.log("reconciler"))
    stack.caddy.freeze()
    try:
        number = remote.pushed(remote.push(files("two")))
        stack.wait_for(number, "built")
        assert stack.ready().keys() == {"caddy"}
        until(
            lambda: "caddy: " in stack.log("reconciler")[seen:],
            timeout=40,
            what="the pass says what is wrong",
        )
    finally:
        stack.caddy.thaw()

    stack.kennel("reconcile")
    stack.wait_for(number)
    assert stack.says(remote.host("api")) == "two"


def test_nothing_is_taken_down_while_systemd_does_not_answer(remote: Remote) -> None:
    stack = remote.stack
    remote.deploy("one")
    stack.systemd.run("systemctl", "stop", "dbus.socket", "dbus.service")
    try:
        assert stack.ready().keys() == {"systemd"}
        number = remote.pushed(remote.push(files("two")))
        stack.wait_for(number, "built")
        assert "systemd" in pass_errors(stack)
        assert stack.says(remote.host("api")) == "one"
    finally:
        stack.systemd.run("systemctl", "start", "dbus.socket", "dbus.service")

    until(stack.is_whole, what="systemd answers again")
    stack.kennel("reconcile")
    stack.wait_for(number)
    assert stack.says(remote.host("api")) == "two"


# --- the database


def test_a_push_waits_for_a_locked_database_and_is_told_when_that_takes_too_long(remote: Remote) -> None:
    commit = remote.push(files("one"))
    document = deliveries.push("refs/heads/main", commit, remote.full_name)
    with contextlib.closing(sqlite3.connect(remote.stack.settings.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refusal = remote.deliver(document)
        assert (refusal.status_code, refusal.headers["Retry-After"]) == (503, "5")
        assert refusal.json()["detail"] == "database is not available at present"

        answers: list[requests.Response] = []
        waiting = threading.Thread(target=lambda: answers.append(remote.deliver(document)))
        began = time.monotonic()
        waiting.start()
        until(lambda: time.monotonic() > began + 1.5, what="it is held up for a while")
        assert answers == []
        other.execute("COMMIT")
        waiting.join()

    assert answers[0].status_code == 202
    remote.stack.wait_for(answers[0].json()["build"])


@contextmanager
def missing(stack: Stack) -> Iterator[str]:
    path = stack.settings.database
    path.rename(path.with_suffix(".away"))
    try:
        yield "there is no database; create it with `kennel migrate`"
    finally:
        path.with_suffix(".away").rename(path)


@contextmanager
def changed(stack: Stack, pragma: str, value: int, said: str) -> Iterator[str]:
    with contextlib.closing(sqlite3.connect(stack.settings.database, isolation_level=None)) as other:
        [before] = other.execute(f"PRAGMA {pragma}").fetchone()
        other.execute(f"PRAGMA {pragma} = {value}")
        try:
            yield said
        finally:
            other.execute(f"PRAGMA {pragma} = {before}")


def newer(stack: Stack) -> AbstractContextManager[str]:
    return changed(stack, "user_version", LATEST + 1, "install the newer Kennel")


def foreign(stack: Stack) -> AbstractContextManager[str]:
    return changed(stack, "application_id", 1, "this is another program's database")


@pytest.mark.parametrize("broken", [missing, newer, foreign])
def test_without_its_own_database_kennel_refuses_and_takes_nothing_down(
    remote: Remote, broken: Callable[[Stack], AbstractContextManager[str]]
) -> None:
    stack = remote.stack
    remote.deploy("one")
    assert stack.says(remote.host("api")) == "one"
    units, routes = stack.units(), stack.caddy.writes()
    commit = remote.push(files("two"))
    document = deliveries.push("refs/heads/main", commit, remote.full_name)
    seen = {name: len(stack.log(name)) for name in WORKERS}

    with broken(stack) as sentence:
        answer = remote.deliver(document)
        assert answer.status_code == 503
        assert answer.json()["detail"] == "Kennel is not set up; its log says what to do"
        assert sentence in stack.ready()["database"]
        for name in ("reconcile", "build"):
            args = "[1]" if name == "build" else "[]"
            stack.run(
                "celery", "-A", "kennel_tasks", "call", f"kennel.{name}", "--args", args
            ).check_returncode()
        for name in ("web", "builder", "reconciler"):
            until(lambda name=name: sentence in stack.log(name)[seen[name] :], what=f"{name} says why")
            assert "Traceback" not in stack.log(name)[seen[name] :]
        starting = [stack.spawn(name, STACK_AGAIN="1") for name in WORKERS]
        assert [process.wait(30) for process in starting] == [2, 2, 2, 2]
        assert sentence in stack.run("kennel", "reconcile").stderr
        assert stack.units() == units
        assert stack.caddy.writes() == routes
        assert stack.says(remote.host("api")) == "one"

    stack.wait_for(remote.pushed(commit))
    assert stack.says(remote.host("api")) == "two"
    assert stack.is_whole()


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "kennel-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_disk_is_told_and_kennel_goes_on_when_there_is_room_again(
    small_stack: SmallStack, tmp_path: Path, git_repo: GitRepository
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk, small_stack(tmp_path, disk) as stack:
        stack.start("web", "builder", "reconciler")
        until(stack.is_whole, timeout=60, what="the stack is ready")
        remote = registered(stack, "full", git_repo)
        commit = remote.push(files("one"))
        document = deliveries.push("refs/heads/main", commit, remote.full_name)
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

        def refused_now() -> list[requests.Response]:
            return [answer] if (answer := remote.deliver(document)).status_code != 202 else []

        [refusal] = until(refused_now, what="a refusal")
        assert (refusal.status_code, refusal.json()["detail"]) == (
            503,
            "database is not available at present",
        )
        assert any("disk is full" in str(line.get("error")) for line in stack.lines("web"))
        assert requests.get(f"{stack.url}/healthz", timeout=5).status_code == 200
        filler.unlink()
        stack.wait_for(remote.pushed(commit))
        assert stack.processes["web"].poll() is None


def test_a_disk_that_cannot_be_written_is_told(
    small_stack: SmallStack, tmp_path: Path, git_repo: GitRepository
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk, small_stack(tmp_path, disk) as stack:
        registered(stack, "full", git_repo)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

        starting = {name: stack.spawn(name) for name in WORKERS}

        assert [process.wait(30) for process in starting.values()] == [2, 2, 2, 2]
        for name in starting:
            assert "database" in stack.log(name)
            assert "Traceback" not in stack.log(name)


# --- nix and what a project declares


def test_without_room_builds_wait_and_say_so_and_what_runs_goes_on(remote: Remote) -> None:
    stack = remote.stack
    remote.deploy("one")
    stack.stop("builder")
    stack.processes["builder"] = stack.spawn("builder", KENNEL_MIN_FREE_BYTES=str(1 << 60))
    number = remote.pushed(remote.push(files("two")))

    waits_for = until(lambda: stack.build(number).error, timeout=60, what="the reason")

    assert waits_for.startswith("waits: ")
    assert "KENNEL_MIN_FREE_BYTES" in waits_for
    listed = stack.kennel("build", "list", "--project", remote.full_name)
    assert (listed[0]["status"], listed[0]["error"]) == ("queued", waits_for)
    assert stack.says(remote.host("api")) == "one"
    stack.stop("builder")
    stack.start("builder")
    lose_message(number)
    stack.kennel("reconcile")
    stack.wait_for(number)
    assert stack.build(number).error is None
    assert stack.says(remote.host("api")) == "two"


def test_a_store_that_cannot_be_written_fails_the_build_with_one_sentence(remote: Remote) -> None:
    stack = remote.stack
    remote.deploy("one")
    subprocess.run(["chattr", "+i", stack.nix.store], check=True)
    try:
        number = remote.pushed(remote.push(files("not built yet")))
        error = str(stack.wait_for(number, "failed").error)
    finally:
        subprocess.run(["chattr", "-i", stack.nix.store], check=True)

    assert error.startswith("discover: ")
    assert "Operation not permitted" in error
    assert "\n" not in error
    assert stack.says(remote.host("api")) == "one"
    stack.wait_for(int(stack.kennel("build", "retry", str(number))["id"]))
    assert stack.says(remote.host("api")) == "not built yet"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (files("two", before="mkdir -p $out/bin; touch $out/bin/x $out/bin/y; chmod +x $out/bin/*"), "x, y"),
        (files("two", kennel_json='{"services": {"api": 3}}'), "kennel.json"),
    ],
    ids=["several executables", "malformed kennel.json"],
)
def test_what_a_project_gets_wrong_fails_its_build_and_leaves_the_old_one(
    remote: Remote, content: dict, said: str
) -> None:
    stack = remote.stack
    remote.deploy("one")
    content = dict(content)
    if said == "x, y":
        content["flake.nix"] = (
            str(content["flake.nix"])
            .replace("$out/bin/api;", "$out/bin/z;")
            .replace("755 $out/bin/api", "755 $out/bin/z")
        )

    error = str(stack.wait_for(remote.pushed(remote.push(content)), "failed").error)

    assert said in error
    assert "\n" not in error
    assert stack.says(remote.host("api")) == "one"


HOSTILE = [
    "a$(touch${IFS}PWNED)",
    "a`touch${IFS}PWNED`",
    "a|touch${IFS}PWNED",
    "a;touch${IFS}PWNED",
    "a'b\"c",
    "x" * 200,
    "ä/β",
]
REFUSED = ["-x", "--upload-pack=PWNED"]


def test_hostile_branch_names_are_made_safe_or_refused(remote: Remote, tmp_path: Path) -> None:
    stack = remote.stack
    trace = tmp_path / "trace"
    children = ",".join(map(str, sorted(stack.below("builder"))))
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-s", "400", "-e", "trace=execve", "-o", trace, "-p", children]
    )
    try:
        numbers = []
        for branch in (*HOSTILE, *REFUSED):
            commit = remote.push(files("one"), f"refs/heads/{branch}")
            document = deliveries.push(f"refs/heads/{branch}", commit, remote.full_name)
            answer = remote.deliver(document)
            assert answer.status_code == (202 if branch in HOSTILE else 400)
            numbers += [answer.json()["build"]] if branch in HOSTILE else []
        hosts = set()
        for number in numbers:
            stack.wait_for(number)
            hosts |= {
                line.removeprefix("live: ")
                for line in stack.build_log(number).splitlines()
                if "live: " in line
            }
    finally:
        tracer.terminate()
        tracer.wait(20)

    assert len(hosts) == 2 * len(HOSTILE)
    assert {stack.says(host) for host in hosts} == {"one"}
    assert not [
        path
        for top in (stack.home, tmp_path, Path.cwd())
        for path in top.rglob("*PWNED*")
        if "git" not in path.parts
    ]
    programs = {
        line.split('"')[1].rpartition("/")[2]
        for line in trace.read_text().splitlines()
        if "PWNED" in line and "execve" in line
    }
    assert programs <= {"git"}
    assert '"/usr/bin/git"' in trace.read_text()


# --- how processes begin


def test_no_worker_holds_the_database_while_it_waits(stack: Stack) -> None:
    name = str(stack.settings.database)
    stack.stop("builder")
    stack.start("builder")
    until(lambda: len(stack.below("builder")) == 1 + stack.settings.max_builds, what="its workers")

    def open_files() -> list[str]:
        found = []
        for pid in stack.below("builder"):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.append(str(entry.readlink()))
        return [path for path in found if path.startswith(name)]

    assert open_files() == []


def test_a_builder_whose_workers_would_inherit_the_database_does_not_work(
    small_stack: SmallStack, tmp_path: Path
) -> None:
    with small_stack(tmp_path, tmp_path / "small") as stack:
        process = stack.spawn("builder", PYTHONPATH=str(_with_a_module_that_opens_the_database(tmp_path)))

        until(lambda: process.poll() is not None, what="it gives up")

        assert process.returncode != 0
        assert "a database connection was open when the worker forked" in stack.log("builder")


def _with_a_module_that_opens_the_database(home: Path) -> Path:
    module = home / "python/sitecustomize.py"
    module.parent.mkdir()
    module.write_text(
        "import sys\n"
        "if 'kennel_tasks' in ' '.join(sys.orig_argv):\n"
        "    from celery import signals\n"
        "    @signals.worker_before_create_process.connect(weak=False)\n"
        "    def _open(**_):\n"
        "        from kennel_core import db\n"
        "        db.database.connect(reuse_if_open=True)\n"
    )
    return module.parent


@pytest.mark.parametrize("name", KENNEL)
def test_wrong_settings_stop_each_process_and_all_of_them_are_listed(stack: Stack, name: str) -> None:
    seen = len(stack.log(name))

    process = stack.spawn(name, KENNEL_MAX_BUILDS="0", KENNEL_BNID="x", KENNEL_BUS="")

    assert process.wait(30) == 2
    said = stack.log(name)[seen:]
    assert "KENNEL_MAX_BUILDS: " in said
    assert "KENNEL_BNID: there is no such setting; did you mean KENNEL_BIND?" in said
    assert "Traceback" not in said
