"""The example project keeps what it says: it runs in the sandbox, and ends without cutting anybody off."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from tests.servers.nix import Nix
from tests.servers.ports import accepts, free_port
from tests.waiting import until

HELLO = Path(__file__).parents[1] / "examples/hello"


@pytest.fixture
def project(nix: Nix, tmp_path: Path) -> Path:
    """A copy of the example, to be changed."""
    return Path(shutil.copytree(HELLO, tmp_path / "hello"))


def package(nix: Nix, project: Path, name: str) -> Path:
    """Build a package of it."""
    reference = f"path:{project}#packages.{os.uname().machine}-linux.{name}"
    nix.run("nix", "build", "--out-link", f"{project}.{name}", reference)
    return Path(f"{project}.{name}").readlink()


@contextmanager
def running(program: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a service the way a unit does; yields it and its port."""
    port = free_port()
    process = subprocess.Popen([program], env={"PORT": str(port), **environment}, stdout=subprocess.PIPE)
    try:
        until(lambda: accepts(port), what=f"{program.name} listens")
        yield process, port
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str) -> tuple[int, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_the_api_says_which_version_answers(nix, project):
    (project / "VERSION").write_text("42\n")

    with running(package(nix, project, "api") / "bin/api", COMMIT_HASH="abc") as (process, port):
        status, answer = get(port, "/anything")

    assert status == 200
    assert (answer["version"], answer["commit"], answer["pid"]) == ("42", "abc", process.pid)


def test_a_file_breaks_its_health(nix, project):
    with running(package(nix, project, "api") / "bin/api") as (_process, port):
        assert get(port, "/api/health")[0] == 200
    (project / "api/BROKEN").touch()

    with running(package(nix, project, "api") / "bin/api") as (_process, port):
        assert get(port, "/api/health")[0] == 503


def test_the_worker_knows_its_sibling_and_counts(nix, project):
    program = package(nix, project, "worker") / "bin/worker"

    with running(program, KENNEL_URL_API="https://api.example.org") as (_process, port):
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/")[1]["visits"] == 1
        assert get(port, "/")[1]["visits"] == 2
        assert get(port, "/")[1]["api"] == "https://api.example.org"


def test_what_the_api_is_answering_is_finished_when_it_is_told_to_end(nix, project):
    with running(package(nix, project, "api") / "bin/api") as (process, port):
        idle = HTTPConnection("127.0.0.1", port, timeout=10)
        idle.request("GET", "/")
        idle.getresponse().read()  # and the connection stays open
        stream = HTTPConnection("127.0.0.1", port, timeout=10)
        stream.request("GET", "/stream?seconds=2")
        answer = stream.getresponse()
        first = answer.readline()
        began = time.monotonic()

        process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(port), what="no new connections are taken")
        rest = answer.read()  # raises IncompleteRead when it is cut off

        assert first.split()[0] == str(process.pid).encode()
        assert rest.count(b"\n") > 10
        assert process.wait(timeout=5) == 0
        assert time.monotonic() - began < 8
        stream.close()
        idle.close()


def test_no_request_fails_while_the_api_ends(nix, project):
    """Each client sends until it finds the door closed; what was accepted is answered."""
    outcomes: list[str] = []

    def ask(port: int) -> None:
        while True:
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.connect()
            except OSError:
                return
            try:
                connection.request("GET", "/")
                outcomes.append(str(connection.getresponse().status))
            except OSError as exc:
                outcomes.append(repr(exc))
                return
            finally:
                connection.close()

    with running(package(nix, project, "api") / "bin/api") as (process, port):
        threads = [threading.Thread(target=ask, args=(port,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(outcomes) > 50)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()

    # A connection that the kernel took and the server did not is reset: a proxy tries those again.
    assert outcomes.count("200") >= len(outcomes) - len(threads)


def test_the_script_of_the_app_is_named_by_its_content(nix, project):
    before = package(nix, project, "app")
    (project / "app/app.js").write_text("// other\n")
    after = package(nix, project, "app")

    scripts = [next((root / "assets").iterdir()).name for root in (before, after)]
    assert scripts[0] != scripts[1]
    assert scripts[1] in (after / "index.html").read_text()


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_service_runs_in_the_sandbox(nix, project, manager: Systemd, name):
    root = package(nix, project, name)
    unit = f"kennel-hello-main-{name}-00000000.service"
    port = free_port()

    manager.start(
        UnitSpec(
            name=unit,
            argv=(str(root / "bin" / name),),
            environment={"PORT": str(port), "HOST": "127.0.0.1"},
            working_directory="/",
            description="hello",
            user=dynamic_user(unit),
            log_fields={},
            memory_max=256 * 1024**2,
            tasks_max=64,
            readable=(str(nix.store),),
        ),
        30,
    )

    until(lambda: accepts(port), what="the service listens")
    assert get(port, "/")[1]["service"] == name


def test_a_nix_that_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "nix").write_text("#!/bin/sh\necho 'nix (Nix) 2.26.3'\n")
    (tmp_path / "nix").chmod(0o755)
    script = Path(__file__).parents[1] / "deploy/dev/get-nix"

    done = subprocess.run(
        [script, tmp_path], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "nix (Nix) 2.26.3\n"
    assert [path.name for path in tmp_path.iterdir()] == ["nix"]
