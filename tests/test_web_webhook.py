"""POST /webhook over HTTP: what is accepted, and that nothing else leaves a trace."""

import json
import sqlite3
from pathlib import Path

import pytest
import requests
from flask.testing import FlaskClient

from kennel_core import db, projects
from kennel_core.models import TABLES, Build
from kennel_core.settings import Settings
from kennel_web import create_app
from kennel_web.webhook import BODY_MAX
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.redis import RedisServer
from tests.servers.web import Gunicorn
from tests.waiting import until

GOOD_BODY = deliveries.encoded(deliveries.push())
REFUSAL = "the signature does not match"


class Forge:
    """One registered project and its secret, beside another project with its own."""

    def __init__(self, settings: Settings) -> None:
        with db.connection():
            own, other = (
                projects.add(f"acme/{name}", f"https://forge.example.org/acme/{name}.git", "main")
                for name in ("shop", "blog")
            )
            self.secret = projects.webhook_secret(own, settings.secret_key_file)
            self.other_secret = projects.webhook_secret(other, settings.secret_key_file)
        self.doorbell = RecordingDoorbell()


@pytest.fixture
def forge(settings: Settings, database_file: Path) -> Forge:
    return Forge(settings)


@pytest.fixture
def client(settings: Settings, forge: Forge) -> FlaskClient:
    return create_app(settings, forge.doorbell).test_client()


def world() -> dict[str, list]:
    with db.connection():
        return {table.__name__: list(table.select().dicts()) for table in TABLES}


def test_a_push_is_answered_with_its_build(client: FlaskClient, forge: Forge) -> None:
    answer = client.post("/webhook", data=GOOD_BODY, headers=deliveries.headers(forge.secret, GOOD_BODY))

    assert answer.status_code == 202
    assert answer.json == {"status": "queued", "build": 1, "ref": "main", "commit": deliveries.COMMIT}
    assert forge.doorbell.rung == [1]


@pytest.mark.parametrize("recording", deliveries.RECORDED, ids=lambda recording: recording.name)
def test_every_recorded_delivery_is_accepted_as_it_came(
    client: FlaskClient, settings: Settings, recording: deliveries.Recording
) -> None:
    with db.connection():
        project = projects.add("acme/app", "https://forge.example.org/acme/app.git", "main")
        secret = projects.webhook_secret(project, settings.secret_key_file)
    own = deliveries.signature(secret, recording.body)
    old = deliveries.signature(deliveries.RECORDED_SECRET, recording.body)
    headers = {name: value.replace(old, own) for name, value in recording.headers.items() if name != "Host"}

    answer = client.post("/webhook", data=recording.body, headers=headers)

    assert answer.status_code == 202
    assert answer.json["status"] in {"queued", "removed", "ignored"}


def signed(
    secret: str, body: object, event: str = "push", **changes: str | None
) -> tuple[bytes, dict[str, str]]:
    data = deliveries.encoded(body)
    headers = deliveries.headers(secret, data, event) | {
        name.replace("_", "-"): value for name, value in changes.items()
    }
    return data, {name: value for name, value in headers.items() if value is not None}


def sha1(secret: str) -> str:
    import hmac  # noqa: PLC0415

    return "sha1=" + hmac.digest(secret.encode(), GOOD_BODY, "sha1").hex()


FORGED = {
    "no signature": lambda f: signed(f.secret, GOOD_BODY, X_Forgejo_Signature=None),
    "an empty signature": lambda f: signed(f.secret, GOOD_BODY, X_Forgejo_Signature=""),
    "a signature that is not ASCII": lambda f: signed(f.secret, GOOD_BODY, X_Forgejo_Signature="é" * 64),
    "half a signature": lambda f: signed(
        f.secret, GOOD_BODY, X_Forgejo_Signature=deliveries.signature(f.secret, GOOD_BODY)[:32]
    ),
    "SHA-1 in its own header": lambda f: signed(
        f.secret, GOOD_BODY, X_Forgejo_Signature=None, X_Hub_Signature=sha1(f.secret)
    ),
    "SHA-1 for SHA-256": lambda f: signed(
        f.secret, GOOD_BODY, X_Forgejo_Signature=None, X_Hub_Signature_256=sha1(f.secret)
    ),
    "another project's secret": lambda f: signed(f.other_secret, GOOD_BODY),
    "the secret of the recordings": lambda f: signed(deliveries.RECORDED_SECRET, GOOD_BODY),
    "an empty secret": lambda f: signed("", GOOD_BODY),
    "a body changed after signing": lambda f: (
        deliveries.encoded(deliveries.push(commit="f" * 40)),
        signed(f.secret, GOOD_BODY)[1],
    ),
    "a good signature behind a bad one": lambda f: signed(
        f.secret,
        GOOD_BODY,
        X_Forgejo_Signature="0" * 64,
        X_Gitea_Signature=deliveries.signature(f.secret, GOOD_BODY),
    ),
    "an unknown project": lambda f: signed(f.secret, deliveries.push(repository="acme/nothing")),
    "an unknown owner": lambda f: signed(f.secret, deliveries.push(repository="nobody/shop")),
    "a project in another alphabet": lambda f: signed(f.secret, deliveries.push(repository="acme/shoр")),  # noqa: RUF001
    "a project that is a surrogate": lambda f: signed(f.secret, deliveries.push(repository="acme/\ud800")),
    "a project that is a path": lambda f: signed(f.secret, deliveries.push(repository="../etc/passwd")),
    "a project with a wildcard": lambda f: signed(f.secret, deliveries.push(repository="acme/%")),
    "a project with SQL": lambda f: signed(f.secret, deliveries.push(repository="acme/' OR 1=1 --")),
    "an unsigned unknown event": lambda f: signed("no", GOOD_BODY, "nonsense"),
    "an unsigned malformed event": lambda f: signed("no", deliveries.push() | {"ref": 1}),
}


def test_forged_deliveries_get_one_and_the_same_answer_and_leave_nothing(
    client: FlaskClient, forge: Forge
) -> None:
    before = world()
    answers = {}
    for name, make in FORGED.items():
        body, headers = make(forge)
        answer = client.post("/webhook", data=body, headers=headers)
        answers[name] = (answer.status_code, answer.content_type, answer.data)
    assert {status for status, _, _ in answers.values()} == {401}, answers
    assert len(set(answers.values())) == 1, answers
    assert json.loads(answers["no signature"][2])["detail"] == REFUSAL
    assert world() == before
    assert forge.doorbell.rung == []


FORM = "application/x-www-form-urlencoded"
MALFORMED = {
    "text": (400, "not JSON", lambda f: signed(f.secret, b"hello")),
    "a cut body": (400, "not JSON", lambda f: signed(f.secret, GOOD_BODY[:-2])),
    "wrong UTF-8": (400, "not JSON", lambda f: signed(f.secret, b'{"a": "\xff"}')),
    "UTF-16": (400, "not JSON", lambda f: signed(f.secret, "{}".encode("utf-16"))),
    "NaN": (400, "not JSON", lambda f: signed(f.secret, b'{"repository": NaN}')),
    "deep lists": (400, "nested", lambda f: signed(f.secret, b"[" * 1_000_000)),
    "deep objects": (400, "nested", lambda f: signed(f.secret, b'{"a":' * 200_000)),
    "a huge number": (400, "not JSON", lambda f: signed(f.secret, b'{"number": ' + b"9" * 100_000 + b"}")),
    "a list": (400, "JSON object", lambda f: signed(f.secret, [])),
    "no repository": (400, "repository.owner", lambda f: signed(f.secret, {})),
    "no owner": (400, "repository.owner", lambda f: signed(f.secret, {"repository": {"name": "shop"}})),
    "no name": (
        400,
        "repository.name",
        lambda f: signed(f.secret, {"repository": {"owner": {"login": "acme"}}}),
    ),
    "no event": (400, "X-Forgejo-Event", lambda f: signed(f.secret, GOOD_BODY, X_Forgejo_Event=None)),
    "an unknown event": (400, "no such event", lambda f: signed(f.secret, GOOD_BODY, "nonsense")),
    "no ref": (400, "ref", lambda f: signed(f.secret, deliveries.push() | {"ref": None})),
    "a short ref": (400, "refs/", lambda f: signed(f.secret, deliveries.push("main"))),
    "an option": (400, "ref", lambda f: signed(f.secret, deliveries.push("refs/heads/--upload-pack=x"))),
    "a path": (400, "ref", lambda f: signed(f.secret, deliveries.push("refs/heads/../../x"))),
    "300 characters": (400, "ref", lambda f: signed(f.secret, deliveries.push("refs/heads/" + "x" * 300))),
    "a control character": (400, "ref", lambda f: signed(f.secret, deliveries.push("refs/heads/\x1b[2J"))),
    "a shell": (400, "ref", lambda f: signed(f.secret, deliveries.push("refs/heads/a$(touch x)"))),
    "no commit": (400, "after", lambda f: signed(f.secret, deliveries.push(commit=""))),
    "a branch for a commit": (400, "after", lambda f: signed(f.secret, deliveries.push(commit="main"))),
    "a number for a commit": (400, "after", lambda f: signed(f.secret, deliveries.push() | {"after": 7})),
    "a huge pull request": (
        400,
        "number",
        lambda f: signed(f.secret, deliveries.pull_request("opened", 10**20), "pull_request"),
    ),
    "a negative pull request": (
        400,
        "number",
        lambda f: signed(f.secret, deliveries.pull_request("opened", -1), "pull_request"),
    ),
    "a pull request without a head": (
        400,
        "head.sha",
        lambda f: signed(
            f.secret, deliveries.pull_request("opened") | {"pull_request": None}, "pull_request"
        ),
    ),
    "a delivery id without an end": (
        400,
        "delivery id",
        lambda f: signed(f.secret, GOOD_BODY, X_Forgejo_Delivery="x" * 1000),
    ),
    "a delivery id that is not ASCII": (
        400,
        "delivery id",
        lambda f: signed(f.secret, GOOD_BODY, X_Forgejo_Delivery="é"),
    ),
    "a form": (415, "application/json", lambda f: signed(f.secret, b"payload=%7B%7D", Content_Type=FORM)),
    "no content type": (415, "application/json", lambda f: signed(f.secret, GOOD_BODY, Content_Type=None)),
    "text as content type": (
        415,
        "application/json",
        lambda f: signed(f.secret, GOOD_BODY, Content_Type="text/plain"),
    ),
    "a byte too many": (413, "bytes", lambda f: signed(f.secret, b" " * (BODY_MAX + 1))),
}


@pytest.mark.parametrize(("status", "word", "make"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_delivery_is_refused_with_one_sentence_and_leaves_nothing(
    client: FlaskClient, forge: Forge, status: int, word: str, make
) -> None:
    before = world()
    body, headers = make(forge)

    answer = client.post("/webhook", data=body, headers=headers)

    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    problem = json.loads(answer.data)
    assert problem["status"] == status
    assert word in problem["detail"]
    assert world() == before
    assert forge.doorbell.rung == []


def test_there_are_at_least_forty_kinds_of_bad_delivery() -> None:
    assert len(FORGED) + len(MALFORMED) >= 40


def test_the_largest_body_that_is_allowed_is_read(client: FlaskClient, forge: Forge) -> None:
    body = GOOD_BODY + b" " * (BODY_MAX - len(GOOD_BODY))
    answer = client.post("/webhook", data=body, headers=deliveries.headers(forge.secret, body))
    assert answer.status_code == 202


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_a_post_is_a_delivery(client: FlaskClient, method: str) -> None:
    answer = client.open("/webhook", method=method)
    assert answer.status_code == 405
    assert answer.content_type == "application/problem+json"
    assert "POST" in answer.headers["Allow"]


def test_secrets_and_bodies_do_not_reach_the_log(
    client: FlaskClient, forge: Forge, capsys: pytest.CaptureFixture[str]
) -> None:
    body, headers = signed(forge.secret, deliveries.push() | {"canary": "c4n4ry"})
    client.post("/webhook", data=body, headers=headers)
    client.post("/webhook", data=body, headers=headers | {"X-Forgejo-Signature": "5ignature" * 5})
    printed = "".join(capsys.readouterr())
    assert "delivery" in printed
    for secret in (forge.secret, headers["X-Forgejo-Signature"], "c4n4ry", "5ignature"):
        assert secret not in printed


def test_without_a_database_the_answer_is_a_problem_that_asks_to_come_again(
    client: FlaskClient, forge: Forge, database_file: Path
) -> None:
    database_file.unlink()
    answer = client.post("/webhook", data=GOOD_BODY, headers=deliveries.headers(forge.secret, GOOD_BODY))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert str(database_file) not in answer.text


# ---- through the real gunicorn ----


def _post(web: Gunicorn, body: bytes, headers: dict[str, str]) -> requests.Response:
    return requests.post(f"{web.url}/webhook", data=body, headers=headers, timeout=20)


def test_gunicorn_refuses_a_body_without_a_length(web: Gunicorn) -> None:
    head = "POST /webhook HTTP/1.1\nHost: x\nContent-Type: application/json\n"
    chunked, body = web.raw(f"{head}Transfer-Encoding: chunked\n\n", b"2\r\n{}\r\n0\r\n\r\n")
    assert (chunked, json.loads(body)["title"]) == (411, "Length Required")
    assert web.raw(f"{head}\n")[0] == 411
    assert web.raw(f"{head}Content-Length: x\n\n")[0] == 400
    assert web.raw(f"{head}Content-Length: 0\n\n")[0] == 400


def test_gunicorn_tells_the_sender_of_a_body_that_is_too_large(web: Gunicorn) -> None:
    body = b" " * (BODY_MAX * 2)
    answer = _post(web, body, {"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_push_is_in_the_database_and_in_the_queue_when_it_is_answered(
    web: Gunicorn, web_settings: Settings, broker: RedisServer
) -> None:
    forge = Forge(web_settings)
    answer = _post(web, GOOD_BODY, deliveries.headers(forge.secret, GOOD_BODY))

    assert answer.status_code == 202
    with db.connection():
        assert Build.get_by_id(answer.json()["build"]).commit == deliveries.COMMIT
    with broker.client() as client:
        assert client.llen("builds") == 1


def test_pushes_at_the_same_time_end_with_one_waiting_build(web: Gunicorn, web_settings: Settings) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    forge = Forge(web_settings)
    bodies = [deliveries.encoded(deliveries.push(commit=f"{number:040x}")) for number in range(1, 41)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda body: _post(web, body, deliveries.headers(forge.secret, body)), bodies)
        )

    assert {answer.status_code for answer in answers} == {202}
    with db.connection():
        waiting = list(Build.select().where(Build.status == "queued"))
        assert [build.id for build in waiting] == [max(answer.json()["build"] for answer in answers)]
        assert Build.select().count() == 40


def test_a_webhook_is_accepted_while_redis_is_gone_or_frozen(
    web: Gunicorn, web_settings: Settings, redis_server: RedisServer
) -> None:
    forge = Forge(web_settings)
    answers = []
    redis_server.freeze()
    try:
        for number in (1, 2):
            body = deliveries.encoded(deliveries.push(commit=f"{number:040x}"))
            answers.append(_post(web, body, deliveries.headers(forge.secret, body)))
    finally:
        redis_server.thaw()
    assert [answer.status_code for answer in answers] == [202, 202]
    assert all(answer.elapsed.total_seconds() < 5 for answer in answers)  # what a forge waits
    with db.connection():
        assert [build.commit for build in Build.select().order_by(Build.id)] == [f"{n:040x}" for n in (1, 2)]


def test_a_worker_that_is_killed_is_replaced_and_no_push_is_lost(
    web: Gunicorn, web_settings: Settings
) -> None:
    forge = Forge(web_settings)
    before = until(lambda: len(web.workers()) == 2 and web.workers())
    _post(web, GOOD_BODY, deliveries.headers(forge.secret, GOOD_BODY))
    for pid in before:
        web.kill_worker(pid)
    until(lambda: len(web.workers()) == 2 and not web.workers() & before)
    other = deliveries.encoded(deliveries.push(commit="e" * 40))
    assert _post(web, other, deliveries.headers(forge.secret, other)).status_code == 202
    with db.connection():
        assert Build.select().count() == 2


def test_no_database_handle_crosses_a_fork(web: Gunicorn, web_settings: Settings) -> None:
    forge = Forge(web_settings)

    def handles(pids: set[int]) -> list[str]:
        links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
        return [str(link.readlink()) for link in links if "kennel.db" in str(link.readlink())]

    def push(number: int) -> int:
        body = deliveries.encoded(deliveries.push(commit=f"{number:040x}"))
        return _post(web, body, deliveries.headers(forge.secret, body)).status_code

    assert web.process is not None
    first = until(lambda: len(web.workers()) == 2 and web.workers())
    assert handles({web.process.pid} | first) == []  # though preloaded, nothing was left open for them
    assert {push(number) for number in range(1, 11)} == {202}
    for pid in first:
        web.kill_worker(pid)
    second = until(lambda: len(web.workers()) == 2 and not web.workers() & first and web.workers())
    assert handles({web.process.pid} | second) == []
    assert {push(number) for number in range(11, 21)} == {202}
    web.stop()
    with db.connection():
        assert [build.commit for build in Build.select().order_by(Build.id)] == [
            f"{number:040x}" for number in range(1, 21)
        ]
        assert db.database.execute_sql("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_that_was_replaced_is_noticed_by_a_worker_that_kept_the_old_one(
    web: Gunicorn, web_settings: Settings, database_file: Path
) -> None:
    forge = Forge(web_settings)
    first, second = (deliveries.encoded(deliveries.push(commit=letter * 40)) for letter in "ab")
    for _ in range(8):  # both workers
        assert _post(web, first, deliveries.headers(forge.secret, first)).status_code == 202
    copy = database_file.with_suffix(".copy")
    with sqlite3.connect(database_file) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()

    database_file.unlink()
    assert _post(web, second, deliveries.headers(forge.secret, second)).status_code == 503
    for suffix in ("-wal", "-shm"):
        Path(f"{database_file}{suffix}").unlink(missing_ok=True)
    copy.rename(database_file)
    assert _post(web, second, deliveries.headers(forge.secret, second)).status_code == 202
    with db.connection():
        assert [build.commit[0] for build in Build.select().order_by(Build.id)] == ["a", "b"]
