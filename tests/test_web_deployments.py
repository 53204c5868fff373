"""Health and logs of a deployment over HTTP, with its unit in a real systemd."""

import itertools
import json
import os
from collections.abc import Iterator

import pytest
import requests
from flask.testing import FlaskClient

from kennel_core import db, env_file, projects
from kennel_core.adapters.systemd import Systemd
from kennel_core.adapters.unit_files import UnitFiles
from kennel_core.adapters.unit_spec import UnitSpec, dynamic_user
from kennel_core.models import Build, Deployment
from kennel_core.settings import Settings
from kennel_web import create_app
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.ports import free_port
from tests.servers.systemd import PrivateSystemd
from tests.servers.web import Gunicorn
from tests.waiting import until

NUMBERS = itertools.count(1)

SERVICE = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked for", self.path, flush=True)
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
print("first line", flush=True)
print("\\x1b[31msecond\\x1b[0m line", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Service:
    """One deployment and its unit."""

    def __init__(self, manager: Systemd, health_path: str | None) -> None:
        self.manager = manager
        self.port = free_port()
        self.unit = f"kennel-shop-main-web{next(NUMBERS)}-0123abcd.service"
        self.health = {"path": health_path, "timeout": 10}
        with db.connection():
            project = projects.add(f"acme/shop{next(NUMBERS)}", "https://forge.example.org/x.git", "main")
            build = Build.create(project=project, ref="main", commit="a" * 40)
            self.row = Deployment.create(
                project=project,
                ref="main",
                name="api",
                kind="service",
                environment="prod",
                build=build,
                commit=build.commit,
                store_path="/nix/store/x",
                config_path="/nix/store/y",
                host=f"{self.unit}.example.org",
                health=self.health,
                unit=self.unit,
                port=self.port,
            )
        # Ids begin anew in each test's database, and the journal is the session's.
        self.id = 10_000 + next(NUMBERS)
        with db.connection():
            Deployment.update(id=self.id).where(Deployment.id == self.row.id).execute()

    @property
    def url(self) -> str:
        return f"/deployments/{self.id}"

    def update(self, **columns: object) -> None:
        with db.connection():
            Deployment.update(**columns).where(Deployment.id == self.id).execute()

    def start(self) -> None:
        spec = UnitSpec(
            name=self.unit,
            argv=("/usr/bin/python3", "-c", SERVICE, str(self.port)),
            environment={},
            working_directory="/",
            description="api",
            user=dynamic_user(self.unit),
            log_fields={"KENNEL_DEPLOYMENT": str(self.id)},
            memory_max=512 * 1024**2,
            tasks_max=64,
        )
        self.manager.start(spec, 30)


@pytest.fixture
def here(settings: Settings, database_file, systemd: PrivateSystemd) -> Settings:
    return settings.model_copy(update={"bus": systemd.bus, "journal_dir": systemd.journal})


@pytest.fixture
def client(here: Settings) -> FlaskClient:
    return create_app(here, RecordingDoorbell()).test_client()


@pytest.fixture
def service(here: Settings, manager: Systemd) -> Iterator[Service]:
    made = Service(manager, "/api/health")
    yield made
    manager.stop(made.unit, 30)


def healthy(client: FlaskClient, service: Service) -> dict:
    def found() -> dict | None:
        answer = client.get(f"{service.url}/health").json
        return answer if answer.get("app_healthy") else None

    return until(found)


def test_the_health_of_a_running_service_is_told(client: FlaskClient, service: Service) -> None:
    service.start()
    found = healthy(client, service)
    assert found.pop("active_enter_usec") > 1_600_000_000_000_000
    assert found == {
        "active": True,
        "active_state": "active",
        "sub_state": "running",
        "n_restarts": 0,
        "result": "success",
        "app_healthy": True,
    }


def test_a_service_that_runs_and_answers_wrongly_is_not_healthy(
    client: FlaskClient, service: Service
) -> None:
    service.update(health={"path": "/elsewhere", "timeout": 10})
    service.start()
    found = client.get(f"{service.url}/health").json
    assert (found["active"], found["app_healthy"]) == (True, False)


def test_a_service_without_a_check_is_not_asked(client: FlaskClient, service: Service) -> None:
    service.update(health={"path": None, "timeout": 10})
    service.start()
    found = client.get(f"{service.url}/health").json
    assert found["active"] is True
    assert "app_healthy" not in found


def test_a_service_that_is_not_there_is_inactive(client: FlaskClient, service: Service) -> None:
    answer = client.get(f"{service.url}/health")
    assert answer.status_code == 200
    assert (answer.json["active"], answer.json["active_state"]) == (False, "inactive")
    assert "app_healthy" not in answer.json


def test_while_a_successor_comes_up_the_health_is_that_of_the_one_that_serves(
    client: FlaskClient, service: Service
) -> None:
    service.start()
    live = {"unit": service.unit, "port": service.port, "health": service.health}
    service.update(unit="kennel-shop-main-api-ffffffff.service", port=free_port(), live=live)
    assert healthy(client, service)["active"] is True


@pytest.mark.parametrize("what", ["health", "logs", "logs?follow=true"])
def test_unknown_deployments_and_sites_have_neither_health_nor_logs(
    here: Settings, service: Service, what: str
) -> None:
    client = create_app(here, None if "follow" in what else RecordingDoorbell()).test_client()
    for unknown in ("1", "0", "x", "9" * 25):
        answer = client.get(f"/deployments/{unknown}/{what}")
        assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    service.update(kind="site", unit=None, port=None, health=None)
    answer = client.get(f"{service.url}/{what}")
    assert answer.status_code == 409
    assert "site" in json.loads(answer.data)["detail"]


def test_without_systemd_the_answer_names_it(here: Settings, service: Service) -> None:
    gone = here.model_copy(update={"bus": "unix:path=/nowhere/bus"})
    answer = create_app(gone, RecordingDoorbell()).test_client().get(f"{service.url}/health")
    assert answer.status_code == 503
    assert json.loads(answer.data)["detail"] == "systemd is not available at present"


def lines_of(client: FlaskClient, service: Service, query: str = "") -> list[str]:
    answer = client.get(f"{service.url}/logs{query}")
    assert (answer.status_code, answer.content_type) == (200, "text/plain; charset=utf-8")
    return [line.partition(" ")[2] for line in answer.text.splitlines()]


def test_the_log_of_a_service_is_shown_without_control_characters(
    client: FlaskClient, service: Service
) -> None:
    service.start()
    until(lambda: "second line" in lines_of(client, service))
    assert "first line" in lines_of(client, service)
    assert lines_of(client, service, "?lines=1") == ["second line"]
    assert lines_of(client, service, "?since=2099-01-01") == []
    assert "first line" in lines_of(client, service, "?since=1h&lines=10000")


@pytest.mark.parametrize(
    "query",
    [
        *(
            f"lines={value}"
            for value in ("0", "-1", "10001", "x", "", "1.5", "٣", "9" * 50, "1;2", "--follow")
        ),
        *(
            f"since={value}"
            for value in ("", "yesterday", "--file=/etc/passwd", "-1", "1h;ls", "@0", "9" * 99)
        ),
    ],
)
def test_a_wrong_range_is_refused(client: FlaskClient, service: Service, query: str) -> None:
    answer = client.get(f"{service.url}/logs?{query}")
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert json.loads(answer.data)["detail"].startswith(query.partition("=")[0])


def test_what_a_service_was_told_is_not_shown(client: FlaskClient, service: Service, here: Settings) -> None:
    UnitFiles(here.inputs_dir).write(service.unit, env_file.render({"TOKEN": "first line"}), {})
    service.start()
    healthy(client, service)

    text = client.get(f"{service.url}/logs").get_data(as_text=True)

    assert "[redacted]" in text
    assert "first line" not in text


def test_a_process_that_may_not_know_what_was_told_sends_on_to_the_one_that_may(
    client: FlaskClient, service: Service, here: Settings
) -> None:
    UnitFiles(here.inputs_dir).write(service.unit, env_file.render({"TOKEN": "secret"}), {})
    os.seteuid(65534)
    try:
        answer = client.get(f"{service.url}/logs?lines=5")
    finally:
        os.seteuid(0)

    assert answer.status_code == 307
    assert answer.headers["Location"] == f"http://{here.follow_bind}{service.url}/logs?lines=5"


def test_the_web_process_sends_a_follower_on(client: FlaskClient, service: Service, here: Settings) -> None:
    answer = client.get(f"{service.url}/logs?follow=true&lines=5")
    assert answer.status_code == 307
    assert answer.headers["Location"] == f"http://{here.follow_bind}{service.url}/logs?follow=true&lines=5"


def test_lines_of_a_service_arrive_while_it_writes_them(
    web_settings: Settings, here: Settings, service: Service
) -> None:
    both = web_settings.model_copy(update={"bus": here.bus, "journal_dir": here.journal_dir})
    server = Gunicorn(both, "follow_wsgi", int(both.follow_bind.rpartition(":")[2]))
    server.start()
    try:
        url = f"{server.url}{service.url}/logs?follow=true"
        with requests.get(url, stream=True, timeout=20) as answer:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
            service.start()
            assert any(line.endswith("second line") for line in lines)
            requests.get(f"http://127.0.0.1:{service.port}/hello", timeout=10)
            assert any(line.endswith("asked for /hello") for line in lines)
        until(lambda: not journalctls(server), what="journalctl ends when its reader has gone")
    finally:
        server.stop()


def journalctls(server: Gunicorn) -> list[str]:
    """The children of the workers."""
    from pathlib import Path  # noqa: PLC0415

    paths = [path for pid in server.workers() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [child for path in paths for child in path.read_text().split()]
