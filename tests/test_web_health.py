"""Whether Kennel says that it lives, and names what it misses."""

import json

import pytest
from flask.testing import FlaskClient

from kennel_core.settings import Settings
from kennel_web import create_app
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.caddy import CaddyServer
from tests.servers.redis import RedisServer
from tests.servers.systemd import PrivateSystemd


@pytest.fixture
def all_there(
    settings: Settings, database_file, own_redis: RedisServer, caddy: CaddyServer, systemd: PrivateSystemd
) -> Settings:
    return settings.model_copy(
        update={"broker_url": own_redis.url, "caddy_admin": caddy.admin, "bus": systemd.bus}
    )


def client_of(settings: Settings) -> FlaskClient:
    return create_app(settings, RecordingDoorbell()).test_client()


def missing(settings: Settings) -> set[str]:
    answer = client_of(settings).get("/readyz")
    bad = {name for name, check in answer.json["checks"].items() if not check["ok"]}
    assert answer.status_code == (503 if bad else 200)
    assert all(answer.json["checks"][name]["detail"] for name in bad)
    assert all(name in answer.json["status"] for name in bad)
    return bad


def test_it_lives_without_anything(settings: Settings) -> None:
    answer = client_of(settings).get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_it_is_ready_when_all_neighbours_answer(all_there: Settings) -> None:
    assert missing(all_there) == set()


def test_without_its_forge_it_is_degraded_and_not_down(all_there: Settings) -> None:
    silent = all_there.model_copy(update={"forge_url": "http://127.0.0.1:1"})

    answer = client_of(silent).get("/readyz")

    assert (answer.status_code, answer.json["status"]) == (200, "degraded: forge")
    assert not answer.json["checks"]["forge"]["ok"]


def test_it_names_everything_that_is_not_there(settings: Settings, tmp_path) -> None:
    from kennel_core import db  # noqa: PLC0415

    db.configure(tmp_path / "nothing.db")
    assert missing(settings) == {"database", "redis", "caddy", "systemd"}


def test_it_names_a_redis_that_is_frozen_and_forgets_it_when_it_is_back(
    all_there: Settings, own_redis: RedisServer
) -> None:
    own_redis.freeze()
    try:
        assert missing(all_there) == {"redis"}
    finally:
        own_redis.thaw()
    assert missing(all_there) == set()
    own_redis.kill()
    assert missing(all_there) == {"redis"}


def test_it_names_a_caddy_without_kennels_server(all_there: Settings) -> None:
    settings = all_there.model_copy(update={"caddy_server": "nobody"})
    assert missing(settings) == {"caddy"}
    assert "deploy/caddy.json" in client_of(settings).get("/readyz").json["checks"]["caddy"]["detail"]


def test_errors_of_the_framework_are_problems_too(settings: Settings) -> None:
    answer = client_of(settings).get("/nowhere")
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    assert json.loads(answer.data)["title"] == "Not Found"


def test_a_bug_is_a_problem_without_its_details(settings: Settings) -> None:
    app = create_app(settings, RecordingDoorbell())
    app.add_url_rule("/bug", view_func=lambda: {}["s3cret"])
    answer = app.test_client().get("/bug")
    assert (answer.status_code, answer.content_type) == (500, "application/problem+json")
    assert "s3cret" not in answer.text
