"""Many at once on the real web processes: everybody is answered, and nothing that was accepted is lost."""

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import requests

from kennel_core import db, lease, projects
from kennel_core.models import Build, BuildStatus
from kennel_core.settings import Settings
from tests import deliveries
from tests.servers.caddy import CaddyServer
from tests.servers.redis import RedisServer
from tests.servers.stack import Remote
from tests.servers.web import Gunicorn
from tests.waiting import until

MANY = 50
HOST = "kennel.localhost"
PROJECTS, PUSHES = 100, 500


def registered(settings: Settings, count: int) -> list[tuple[str, str]]:
    """Register projects; returns their full names and webhook secrets."""
    found = []
    with db.connection():
        for number in range(count):
            name = f"acme/shop{number}"
            project = projects.add(name, f"https://forge.example.org/{name}.git", "main")
            found.append((name, projects.webhook_secret(project, settings.secret_key_file)))
    return found


def push(web: Gunicorn, name: str, secret: str, commit: str, branch: str = "main") -> requests.Response:
    body = deliveries.encoded(deliveries.push(f"refs/heads/{branch}", commit, name))
    return requests.post(
        f"{web.url}/webhook", data=body, headers=deliveries.headers(secret, body), timeout=60
    )


@contextmanager
def stalled_uploads(caddy: CaddyServer, count: int) -> Iterator[None]:
    """Begin deliveries whose bodies never come."""
    with ExitStack() as cleaning:
        for _ in range(count):
            connection = caddy.connect(HOST)
            cleaning.callback(connection.close)
            connection.putrequest("POST", "/webhook")
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(10**6))
            connection.endheaders(b"{")
        yield


class Follower(threading.Thread):
    """Reads a build's log until it ends."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.text = ""
        self.is_in = threading.Event()

    def run(self) -> None:
        with requests.get(self.url, stream=True, timeout=60) as answer:
            for part in answer.iter_content(None):
                self.text += part.decode()
                self.is_in.set()


def test_followers_of_a_log_do_not_hold_up_webhooks_and_all_see_its_end(
    web: Gunicorn, follow: Gunicorn, web_settings: Settings
) -> None:
    [(name, secret)] = registered(web_settings, 1)
    assert push(web, name, secret, "a" * 40).status_code == 202
    with db.connection():
        build = lease.claim(time.time())
        assert build is not None
        lease.append_log(build, [("clone", "the beginning\n")])
    followers = [Follower(f"{follow.url}/builds/{build.id}/log?follow=true") for _ in range(MANY)]
    for follower in followers:
        follower.start()
    until(lambda: all(follower.is_in.is_set() for follower in followers), timeout=60, what="all read")

    answers = [push(web, name, secret, f"{number:040x}", f"branch{number}") for number in range(1, 21)]

    assert {answer.status_code for answer in answers} == {202}
    with db.connection():
        lease.append_log(build, [("clone", "the end\n")])
        lease.fail(build, "it failed", time.time())
    for follower in followers:
        follower.join(60)
    assert {follower.text for follower in followers} == {"=== phase: clone ===\nthe beginning\nthe end\n"}
    assert requests.get(f"{follow.url}/healthz", timeout=20).status_code == 200


def test_uploads_that_stall_do_not_shut_out_webhooks(remote: Remote) -> None:
    caddy, commits = remote.stack.caddy, [f"{number:040x}" for number in range(1, 11)]
    with stalled_uploads(caddy, MANY):
        for number, commit in enumerate(commits):
            document = deliveries.push(f"refs/heads/branch{number}", commit, remote.full_name)
            body = deliveries.encoded(document)
            headers = deliveries.headers(remote.secret, body)
            answer = caddy.request(HOST, "/webhook", method="POST", headers=headers, body=body)
            assert answer.status == 202
        assert remote.stack.ready() == {}

    with db.connection():
        project = projects.find(remote.full_name)
        queued = [build.commit for build in Build.select().where(Build.project == project)]
    assert sorted(queued) == commits


def test_of_a_burst_of_pushes_each_is_accepted_and_each_refs_newest_commit_waits(
    web: Gunicorn, web_settings: Settings, broker: RedisServer
) -> None:
    known = registered(web_settings, PROJECTS)
    chance = random.Random(7)
    pushes = [
        (*known[number % PROJECTS], f"{number + 1:040x}", chance.choice(["main", "dev"]))
        for number in range(PUSHES)
    ]
    queues = [
        [entry for entry in pushes if entry[0] == name] for name, _ in known
    ]  # in order within a project

    def push_all(queue: Sequence[tuple[str, str, str, str]]) -> list[int]:
        return [push(web, *entry).status_code for entry in queue]

    with ThreadPoolExecutor(16) as pool:
        statuses = [status for some in pool.map(push_all, queues) for status in some]

    assert statuses == [202] * PUSHES
    newest = {(name, branch): commit for name, _, commit, branch in pushes}
    with db.connection():
        waiting = {
            (build.project.full_name, build.ref): build.commit
            for build in Build.select().where(Build.status == BuildStatus.QUEUED)
        }
        assert waiting == newest
        assert Build.select().count() == PUSHES
        others = Build.select().where(Build.status != BuildStatus.QUEUED)
        assert all(str(build.error).startswith("superseded by build") for build in others)
    with broker.client() as client:
        messages = [json.loads(text) for text in client.lrange("builds", 0, -1)]
    assert len(messages) >= len(newest)
    assert not [secret for _, secret in known if secret in json.dumps(messages)]
