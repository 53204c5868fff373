"""The log of a build over HTTP: finished, running, and followed."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from flask.testing import FlaskClient

from kennel_core import builds, db, lease, projects
from kennel_core.follow import build_log_text
from kennel_core.models import Build
from kennel_core.settings import Settings
from kennel_web import create_app
from kennel_web.context import FOLLOWERS_MAX
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.web import Gunicorn
from tests.waiting import until

COMMIT = "c" * 40


class Builder:
    """What a worker does to the log of one build."""

    def __init__(self) -> None:
        with db.connection():
            project = projects.add("acme/shop", "https://forge.example.org/acme/shop.git", "main")
            with db.write():
                builds.enqueue(project, "main", COMMIT, time.time())
            self.build = self._claimed()

    @staticmethod
    def _claimed() -> Build:
        build = lease.claim(time.time())
        assert build is not None
        return build

    def write(self, *chunks: tuple[str, str]) -> None:
        with db.connection():
            lease.append_log(self.build, chunks)

    def end(self) -> None:
        with db.connection():
            lease.fail(self.build, "build:api: it broke", time.time())

    def lose_worker(self) -> None:
        """Let the lease run out, so that another worker begins anew."""
        with db.connection():
            builds.forgotten(time.time() + 3600, 1)
            self.build = self._claimed()


@pytest.fixture
def builder(settings: Settings, database_file) -> Builder:
    return Builder()


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    return create_app(settings, RecordingDoorbell()).test_client()


WHOLE = "=== phase: clone ===\ncloning\n=== phase: build:api ===\ncompiling\n"


def test_the_log_is_shown_while_the_build_runs_and_after_it(builder: Builder, client: FlaskClient) -> None:
    url = f"/builds/{builder.build.id}/log"
    assert client.get(url).text == ""
    builder.write(("clone", "cloning\n"), ("build:api", "compiling\n"))
    assert client.get(url).text == WHOLE
    builder.end()
    assert client.get(url).text == WHOLE


def test_a_browser_cannot_take_a_log_for_a_page(builder: Builder, client: FlaskClient) -> None:
    builder.write(("clone", "<script>alert(1)</script>\n"))
    answer = client.get(f"/builds/{builder.build.id}/log")
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("sandbox;")


@pytest.mark.parametrize("build_id", ["2", "0", "-1", "x", "1x", "9" * 30, "%00", "1.0"])
def test_what_is_no_build_is_not_found(builder: Builder, settings: Settings, build_id: str) -> None:
    for follow in (False, True):
        client = create_app(settings, None if follow else RecordingDoorbell()).test_client()
        answer = client.get(f"/builds/{build_id}/log", query_string={"follow": str(follow).lower()})
        assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
        assert json.loads(answer.data)["status"] == 404


def test_the_web_process_sends_a_follower_on(
    builder: Builder, client: FlaskClient, settings: Settings
) -> None:
    answer = client.get(f"/builds/{builder.build.id}/log?follow=true")
    assert answer.status_code == 307
    assert answer.headers["Location"] == f"http://{settings.follow_bind}/builds/1/log?follow=true"


def test_followed_text_is_the_whole_log_in_each_phase(builder: Builder) -> None:
    text = build_log_text(builder.build.id)
    builder.write(("clone", "cloning\n"), ("build:a", "a1\n"))
    seen = next(text)
    builder.write(("build:b", "b1\n"), ("build:a", "a2\n"))
    seen += next(text)
    builder.write(("build:b", "b2\n"), ("build:a", "a3\n"))
    builder.end()
    seen += "".join(text)
    assert seen == (
        "=== phase: clone ===\ncloning\n=== phase: build:a ===\na1\n"
        "=== phase: build:b ===\nb1\n=== phase: build:a ===\na2\n"
        "a3\n=== phase: build:b ===\nb2\n"
    )


def test_a_follower_of_a_build_that_has_ended_gets_the_log_and_the_end(builder: Builder) -> None:
    builder.write(("clone", "cloning\n"), ("build:api", "compiling\n"))
    builder.end()
    assert "".join(build_log_text(builder.build.id)) == WHOLE


def test_a_follower_sees_the_log_begin_anew_when_the_worker_was_lost(builder: Builder) -> None:
    text = build_log_text(builder.build.id)
    builder.write(("clone", "first\n"), ("build:api", "half\n"))
    assert "half" in next(text)
    builder.lose_worker()
    builder.write(("clone", "second\n"))
    assert next(text) == "=== phase: clone ===\nsecond\n"
    builder.end()
    assert "".join(text) == ""


def test_a_follower_holds_no_connection_while_it_waits(builder: Builder) -> None:
    text = build_log_text(builder.build.id)
    assert next(text) == ""
    assert db.database.is_closed()


# ---- through the real gunicorn ----


@contextlib.contextmanager
def followed(server: Gunicorn, build_id: int) -> Iterator[requests.Response]:
    url = f"{server.url}/builds/{build_id}/log?follow=true"
    with requests.get(url, stream=True, timeout=20) as answer:
        yield answer


def test_lines_arrive_while_they_are_written_and_the_answer_ends_with_the_build(follow: Gunicorn) -> None:
    builder = Builder()
    with followed(follow, builder.build.id) as answer:
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        lines = answer.iter_lines(chunk_size=1, decode_unicode=True)
        builder.write(("clone", "cloning\n"))
        assert [next(lines), next(lines)] == ["=== phase: clone ===", "cloning"]
        builder.write(("clone", "more\n"))
        assert next(lines) == "more"
        builder.end()
        assert list(lines) == []


def test_stalled_followers_do_not_hold_up_a_webhook(
    web: Gunicorn, follow: Gunicorn, web_settings: Settings
) -> None:
    builder = Builder()
    with contextlib.ExitStack() as stack:
        for _ in range(8):  # they ask and never read
            for server in (web, follow):
                stalled = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                stalled.sendall(b"GET /builds/1/log?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
        builder.write(("clone", "x" * 5_000_000))
        with db.connection():
            secret = projects.webhook_secret(projects.find("acme/shop"), web_settings.secret_key_file)
        body = deliveries.encoded(deliveries.push())
        answer = requests.post(
            f"{web.url}/webhook", data=body, headers=deliveries.headers(secret, body), timeout=10
        )
        assert answer.status_code == 202
        assert requests.get(f"{follow.url}/builds/1/log", timeout=10).ok


def test_followers_beyond_the_limit_are_asked_to_come_again_and_places_become_free(follow: Gunicorn) -> None:
    builder = Builder()
    with contextlib.ExitStack() as stack:
        for _ in range(FOLLOWERS_MAX):
            assert stack.enter_context(followed(follow, builder.build.id)).status_code == 200
        with followed(follow, builder.build.id) as late:
            assert late.status_code == 503
            assert int(late.headers["Retry-After"]) > 0
            assert late.headers["Content-Type"] == "application/problem+json"

    # All have gone away from a build that writes nothing.
    def has_place() -> bool:
        with followed(follow, builder.build.id) as answer:
            return answer.status_code == 200

    until(has_place)


def test_a_follower_of_a_build_that_ends_meanwhile_misses_nothing(follow: Gunicorn) -> None:
    builder = Builder()
    texts: list[str] = []
    with followed(follow, builder.build.id) as answer:
        reader = threading.Thread(target=lambda: texts.append(answer.text))
        reader.start()
        for number in range(300):
            builder.write(("build:api", f"line {number}\n"))
        builder.end()
        reader.join(20)
    assert texts == ["=== phase: build:api ===\n" + "".join(f"line {number}\n" for number in range(300))]
