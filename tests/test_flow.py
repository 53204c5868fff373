"""All of Kennel as it runs: from a push to an answer over HTTPS, and back to nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from kennel_core import db, deployments, resources
from kennel_core.adapters import process_tree
from kennel_core.models import Build, Delivery, Deployment
from tests import deliveries
from tests.servers.stack import ROOT, Remote, Stack, files
from tests.waiting import until

HELLO = ROOT / "examples/hello"


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that a build waits for, when its first line is `waits(gate)`."""
    return tmp_path / "gate"


def waits(gate: Path) -> str:
    return f"echo at the gate; while ! [ -e {gate} ]; do sleep 0.05; done"


def gone_to(gate: Path) -> set[int]:
    """The processes that wait at the gate."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(gate).encode() in command:
                found.add(int(entry.name))
    return found & {process.pid for process in process_tree.table().values() if process.state != "Z"}


def left_of(remote: Remote, ref: str) -> dict[str, Any]:
    """All that is still there of a ref."""
    stack = remote.stack
    with db.connection():
        rows = Deployment.select().where(Deployment.ref == ref, Deployment.host.startswith(remote.name))
        numbers = [row.id for row in Build.select(Build.id).where(Build.ref == ref)]
        made = [name for name in resources.units() if f"kennel-{remote.name}-{ref}-" in name]
        found = {"rows": [row.host for row in rows], "resources": made}
    names = [
        path.name for path in (*stack.settings.gcroots_dir.iterdir(), *stack.settings.work_dir.iterdir())
    ]
    found["files"] = [name for name in names if int(name.partition("-")[0]) in numbers]
    found["units"] = [name for name in stack.units() if f"kennel-{remote.name}-{ref}-" in name]
    found["routes"] = [route for route in routes(stack) if f"{remote.name}-api-{ref}." in json.dumps(route)]
    return {name: value for name, value in found.items() if value}


def routes(stack: Stack) -> list[dict[str, Any]]:
    from kennel_core.adapters.caddy import Caddy  # noqa: PLC0415

    return Caddy(stack.caddy.admin).routes()


def metrics(stack: Stack) -> dict[str, float]:
    text = requests.get(f"{stack.url}/metrics", timeout=10).text
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_a_recorded_push_travels_to_an_answering_https_host(remote: Remote, gate: Path) -> None:
    stack = remote.stack
    before = metrics(stack)
    hello = {str(path.relative_to(HELLO)): path.read_bytes() for path in HELLO.rglob("*") if path.is_file()}
    script = hello["flake.nix"].replace(b"echo building", f"{waits(gate)}; echo building".encode())
    commit = remote.push({**hello, "flake.nix": script})

    number = remote.pushed(commit)
    with requests.get(f"{stack.url}/builds/{number}/log?follow=true", stream=True, timeout=60) as log:
        assert log.history[0].status_code == 307
        lines = log.iter_lines(chunk_size=1, decode_unicode=True)
        seen = []
        for line in lines:
            seen.append(line)
            if "at the gate" in line:
                break
        assert stack.build(number).status == "building"
        gate.touch()
        seen += list(lines)
    stack.wait_for(number)

    phases = {line for line in seen if line.startswith("=== phase: ")}
    assert {f"=== phase: {name} ===" for name in ("clone", "discover", "build:api", "build:docs")} <= phases
    assert json.loads(stack.says(remote.host("api")))["version"] == "1"
    assert "Version <b>1</b>" in stack.says(remote.host("docs"))
    assert stack.get(remote.host("app"), "/some/page").status == 200
    after = metrics(stack)
    assert after['kennel_builds{status="done"}'] == before['kennel_builds{status="done"}'] + 1
    assert after["kennel_deployments"] == before["kennel_deployments"] + 4
    for name in (
        'kennel_build_phase_duration_seconds_count{phase="clone",result="ok"}',
        'kennel_build_phase_duration_seconds_count{phase="build",result="ok"}',
        "kennel_queue_age_seconds_count",
        'kennel_pass_duration_seconds_count{result="changed"}',
    ):
        assert after[name] > before.get(name, 0)
    logged = [line for line in stack.lines("builder") if line.get("build_id") == number]
    assert {"clone", "discover", "build:api"} <= {line.get("phase") for line in logged}


def test_flower_shows_workers_queues_and_tasks_and_changes_nothing(remote: Remote) -> None:
    stack = remote.stack
    stack.stop("flower")  # one that lost its Redis in another test would look away for a while
    stack.start("flower")

    def workers() -> dict[str, dict[str, Any]]:
        try:
            answer = requests.get(f"{stack.flower}/workers?json=1&refresh=1", timeout=10).json()
        except requests.ConnectionError:
            return {}
        return {worker["hostname"].partition("@")[0]: worker for worker in answer["data"]}

    until(lambda: {"builder", "reconciler"} <= workers().keys(), what="flower knows both workers")
    query = {"draw": 1, "start": 0, "length": 100, "order[0][column]": 0, "columns[0][data]": "name"}

    def tasks() -> dict[str, dict[str, Any]]:
        answer = requests.get(f"{stack.flower}/tasks/datatable", params=query, timeout=10).json()
        return {task["uuid"]: task for task in answer["data"]}

    def rung() -> dict[str, dict[str, Any]]:
        assert remote.deliver(deliveries.deleted("nothing", remote.full_name), "delete").status_code == 202
        return tasks()

    until(rung, interval=0.2, what="flower hears of tasks")
    number = remote.deploy("one")
    uuid = until(
        lambda: next((u for u, t in tasks().items() if t["args"] == f"({number},)"), ""), what="the task"
    )
    assert {task["name"] for task in tasks().values()} >= {"kennel.build", "kennel.reconcile"}
    assert "kennel.build" in requests.get(f"{stack.flower}/task/{uuid}", timeout=10).text
    page = until(
        lambda: (
            (text := requests.get(f"{stack.flower}/broker", timeout=10).text) and "builds" in text and text
        ),
        what="flower knows the queues",
    )
    assert "reconcile" in page
    name = workers()["builder"]["hostname"]
    for path in (f"worker/shutdown/{name}", f"worker/pool/shrink/{name}", f"task/revoke/{uuid}"):
        assert requests.post(f"{stack.flower}/api/{path}", timeout=10).status_code in {401, 403}
    assert "builder" in requests.get(f"{stack.flower}/worker/{name}", timeout=10).text


def test_whoever_reaches_the_broker_can_look_but_not_stop_a_worker(stack: Stack) -> None:
    stack.run("celery", "-A", "kennel_tasks", "control", "--timeout", "1", "shutdown")

    pong = stack.run("celery", "-A", "kennel_tasks", "inspect", "--timeout", "5", "ping")
    assert pong.stdout.count("pong") == 2, pong.stdout + pong.stderr
    assert stack.is_whole()


def test_a_pull_request_has_a_preview_until_it_is_closed(remote: Remote) -> None:
    stack, host = remote.stack, remote.host("api", "pr-7")
    remote.deploy("main")
    first = remote.push(files("first"), "refs/pull/7/head")
    stack.wait_for(remote.pull_request("opened", 7, first)["build"])
    assert stack.says(host) == "first"
    second = remote.push(files("second"), "refs/pull/7/head")
    stack.wait_for(remote.pull_request("synchronized", 7, second)["build"])
    assert stack.says(host) == "second"
    assert {"rows", "resources", "files", "units", "routes"} == left_of(remote, "pr-7").keys()

    answer = remote.pull_request("closed", 7, second)

    assert answer == {"status": "removed", "ref": "pr-7", "deployments": ["api", "docs"]}
    until(lambda: left_of(remote, "pr-7") == {}, what="everything of the preview is gone")
    assert stack.says(remote.host("api")) == "main"


def test_a_deleted_branch_takes_everything_with_it(remote: Remote) -> None:
    remote.deploy("main")
    remote.deploy("topic", "topic")
    assert remote.stack.says(remote.host("docs", "topic")) == "topic"

    answer = remote.deliver(deliveries.deleted("topic", remote.full_name), "delete")

    assert answer.json()["status"] == "removed"
    until(lambda: left_of(remote, "topic") == {}, what="everything of the branch is gone")
    assert remote.stack.says(remote.host("api")) == "main"


def test_what_happened_while_kennel_was_down_is_found_at_start(remote: Remote) -> None:
    stack = remote.stack
    remote.deploy("main")
    remote.deploy("topic", "topic")
    stack.stop("web", "builder", "beat")
    remote.push(files("second"))
    remote.repository.delete("topic")

    stack.start("web", "builder", "beat")

    until(stack.is_whole, timeout=60, what="the stack is whole")
    until(lambda: stack.says(remote.host("api")) == "second", timeout=60, what="the push is live")
    until(lambda: left_of(remote, "topic") == {}, what="everything of the branch is gone")


def test_a_push_that_is_delivered_twice_is_built_once(remote: Remote) -> None:
    commit = remote.push(files("one"))
    document = deliveries.push("refs/heads/main", commit, remote.full_name)
    number = remote.pushed(commit, delivery=f"{remote.name}-1")

    assert remote.pushed(commit, delivery=f"{remote.name}-2") == number
    again = remote.deliver(document, delivery=f"{remote.name}-1")
    assert (again.status_code, again.json()["status"]) == (202, "ignored")
    remote.stack.wait_for(number)
    assert remote.pushed(commit) == number

    with db.connection():
        assert Build.select().where(Build.commit == commit).count() == 1
        assert Delivery.select().where(Delivery.delivery_id.startswith(f"{remote.name}-")).count() == 2
    assert remote.stack.build(number).attempt == 1


def test_a_newer_push_ends_the_running_build_and_all_its_processes(remote: Remote, gate: Path) -> None:
    stack = remote.stack
    old = remote.pushed(remote.push(files("old", before=waits(gate))))
    until(lambda: gone_to(gate), what="the build waits")

    new = remote.pushed(remote.push(files("new")))

    assert f"superseded by build {new}" in str(stack.wait_for(old, "cancelled").error)
    assert gone_to(gate) == set()
    stack.wait_for(new)
    assert stack.says(remote.host("api")) == "new"
    assert list(stack.settings.work_dir.glob(f"{old}-*")) == []


def test_a_deployment_is_a_row_and_its_unit_the_only_one(remote: Remote) -> None:
    remote.deploy("one")
    remote.deploy("two")

    with db.connection():
        wanted = {name for name in deployments.units() if remote.name in name}
    until(lambda: {name for name in remote.stack.units() if remote.name in name} == wanted, what="one unit")
    assert remote.stack.kennel("plan") == []
