"""Webhooks that Kennel makes, repairs and removes in a real Gitea, and the deliveries that they bring."""

import hmac
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from kennel_core import builds, db, hooks, lease, pipeline, projects, receive
from kennel_core.adapters.forge import Forge
from kennel_core.errors import BadPayload, BadSignature, Conflict, Rejected
from kennel_core.forge_records import Hook
from kennel_core.hook_drift import EVENTS, SHOWN, drift
from kennel_core.hooks import Found, State
from kennel_core.models import TABLES, Build, Project
from kennel_core.pipeline import clone
from kennel_core.pipeline.job import Job
from kennel_core.settings import Settings
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.gitea import BOT, GiteaServer
from tests.servers.ports import free_port
from tests.servers.web import Gunicorn
from tests.test_cli import Cli, data, runner
from tests.waiting import until

SHARED = "a-secret-that-all-repositories-share"


class Receiver:
    """Where a forge delivers: keeps what came."""

    def __init__(self) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.came.append((dict(self.headers), body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/webhook"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def events(self, secret: str) -> list[str]:
        """Name the events that came and that `secret` signed."""
        return [
            headers["X-Gitea-Event"]
            for headers, body in self.came
            if headers["X-Gitea-Signature"] == hmac.digest(secret.encode(), body, "sha256").hex()
        ]

    def kinds(self) -> list[str]:
        """Name what came more exactly."""
        return [headers["X-Gitea-Event-Type"] for headers, _body in self.came]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


class Counting(Forge):
    """A forge that is asked as ever, and counts what is written."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.requests: list[str] = []
        send = self._api._session.request  # the wire itself

        def counted(method: str, url: str, **rest: Any) -> requests.Response:
            self.requests.append(f"{method} {url.partition('/api/v1')[2]}")
            return send(method, url, **rest)

        self._api._session.request = counted  # type: ignore[method-assign,assignment]

    def writes(self) -> list[str]:
        """Name what was written since the last call, by method."""
        found = [entry.split()[0] for entry in self.requests if not entry.startswith("GET")]
        self.requests.clear()
        return found


class Operator:
    """Registers repositories and looks at what became of them."""

    def __init__(self, settings: Settings, gitea: GiteaServer) -> None:
        self.settings = settings
        self.gitea = gitea
        self.forge = Counting(settings)

    def register(self, full_name: str) -> Project:
        row, found = hooks.register(self.forge.repository(full_name), self.forge, self.settings)
        assert found.state == State.MENDED
        return row

    def sync(self) -> Found:
        """Compare the only project."""
        with db.connection():
            row = Project.get()
        (found,) = hooks.sync([row], self.forge, self.settings)
        return found

    def project(self) -> Project:
        with db.connection():
            return Project.get()

    def secret(self, row: Project) -> str:
        return projects.webhook_secret(row, self.settings.secret_key_file)

    def is_right(self, full_name: str) -> bool:
        """Tell whether there is one hook, the noted one, and it is as it should be."""
        row, found = self.project(), self.gitea.hooks(full_name)
        return (
            [hook["id"] for hook in found] == [row.hook_id]
            and found[0]["active"]
            and set(found[0]["events"]) == SHOWN
            and found[0]["config"] == {"url": self.settings.webhook_url, "content_type": "json"}
        )


@pytest.fixture
def operator(
    forge_settings: Settings, database_file: Path, gitea: GiteaServer, receiver: Receiver
) -> Operator:
    return Operator(forge_settings.model_copy(update={"forge_hook_url": receiver.url}), gitea)


@pytest.fixture
def shop(gitea: GiteaServer) -> str:
    """A repository with one commit."""
    return gitea.repository(empty=False)


# --- made ---


def test_a_registered_repository_has_one_hook_whose_deliveries_are_signed_with_its_secret(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver, tmp_path: Path
) -> None:
    row = operator.register(shop)

    assert operator.is_right(shop)
    assert (row.full_name, row.clone_url, row.default_branch) == (shop, gitea.clone_url(shop), "main")
    assert row.forge_id == operator.forge.repository(shop).id
    tree = gitea.tree(shop, tmp_path / "tree")
    tree.git("switch", "--quiet", "--create", "topic")
    tree.commit({"a": "1"})
    tree.push()
    number = gitea.pull_request(shop, "topic")
    gitea.comment(shop, number, "/kennel help")
    tree.commit({"a": "2"})
    tree.push()
    until(lambda: "pull_request_sync" in receiver.kinds(), what="the second push reaches the pull request")
    gitea.call("POST", f"/repos/{shop}/labels", name="big", color="#ff0000")
    gitea.call("PUT", f"/repos/{shop}/issues/{number}/labels", labels=["big"])
    gitea.close(shop, number)
    tree.push(":topic")
    kinds = {"create", "push", "delete", "pull_request", "pull_request_comment", "pull_request_label"}
    until(lambda: kinds <= set(receiver.kinds()), what="every kind of event is delivered")
    assert len(receiver.came) == len(receiver.events(operator.secret(row)))


def test_what_does_not_concern_kennel_is_not_delivered(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver
) -> None:
    row = operator.register(shop)
    number = int(gitea.call("POST", f"/repos/{shop}/issues", title="A question")["number"])
    gitea.comment(shop, number, "no pull request")
    gitea.call("POST", f"/repos/{shop}/hooks/{row.hook_id}/tests")

    until(lambda: receiver.events(operator.secret(row)), what="the test is delivered")
    assert receiver.events(operator.secret(row)) == ["push"]


def test_registering_twice_changes_nothing(operator: Operator, shop: str) -> None:
    first = operator.register(shop)
    operator.forge.writes()

    second, found = hooks.register(operator.forge.repository(shop), operator.forge, operator.settings)

    assert (second.id, second.hook_id, found.state) == (first.id, first.hook_id, State.RIGHT)
    assert operator.forge.writes() == []


def test_a_project_registered_by_hand_gets_a_hook_in_place_of_the_one_made_by_hand(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver
) -> None:
    config = {"url": receiver.url, "content_type": "json", "secret": "typed wrongly"}
    gitea.call("POST", f"/repos/{shop}/hooks", type="gitea", active=True, events=["push"], config=config)
    with db.connection():
        projects.add(shop, gitea.clone_url(shop), "main")

    assert operator.sync().state == State.MENDED
    assert operator.is_right(shop)
    assert operator.project().forge_id == operator.forge.repository(shop).id
    assert operator.sync().state == State.RIGHT


def test_a_repository_that_kennel_may_not_administer_is_refused_and_not_registered(
    operator: Operator, gitea: GiteaServer
) -> None:
    for allowed, says in (("write", "may only write"), ("", "may only read")):
        name = gitea.repository(bot=allowed)
        with pytest.raises(Rejected, match=f"{says} .*collaborator with admin rights"):
            operator.register(name)
    archived = gitea.repository()
    gitea.call("PATCH", f"/repos/{archived}", archived=True)
    with pytest.raises(Conflict, match="archived"):
        operator.register(archived)
    with db.connection():
        assert Project.select().count() == 0


# --- repaired ---


@pytest.mark.parametrize(
    "change",
    [
        {"active": False, "events": sorted(EVENTS)},
        {"active": True, "events": ["push"]},
        {"active": True, "events": [*EVENTS, "issues"]},
        {"active": True, "events": sorted(EVENTS), "branch_filter": "main"},
        {"active": True, "events": sorted(EVENTS), "config": {"content_type": "form"}},
        {"active": True, "events": sorted(EVENTS), "config": {"url": "http://127.0.0.1:9/elsewhere"}},
    ],
    ids=["inactive", "fewer", "more", "filtered", "form", "elsewhere"],
)
def test_a_hook_that_was_edited_is_replaced_and_a_second_look_writes_nothing(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver, change: dict[str, Any]
) -> None:
    row = operator.register(shop)
    gitea.call("PATCH", f"/repos/{shop}/hooks/{row.hook_id}", **change)
    operator.forge.writes()

    assert operator.sync().state == State.MENDED
    assert operator.forge.writes() == ["POST", "DELETE"]
    assert operator.is_right(shop)

    assert operator.sync() == Found(shop, State.RIGHT)
    assert len(operator.forge.requests) == 2
    assert operator.forge.writes() == []
    new = operator.project()
    assert new.hook_id != row.hook_id
    gitea.call("POST", f"/repos/{shop}/hooks/{new.hook_id}/tests")
    until(lambda: receiver.events(operator.secret(new)), what="a delivery signed with the secret")


def test_a_hook_that_was_deleted_is_made_again(operator: Operator, shop: str, gitea: GiteaServer) -> None:
    row = operator.register(shop)
    gitea.call("DELETE", f"/repos/{shop}/hooks/{row.hook_id}")

    found = operator.sync()

    assert (found.state, found.notes[0].partition(": ")[2]) == (State.MENDED, "it was removed")
    assert operator.is_right(shop)


def test_doubled_hooks_become_one_and_other_peoples_hooks_stay(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver
) -> None:
    def make(url: str) -> int:
        config = {"url": url, "content_type": "json", "secret": "x"}
        made = gitea.call(
            "POST", f"/repos/{shop}/hooks", type="gitea", active=True, events=["push"], config=config
        )
        return int(made["id"])

    theirs = {make("http://127.0.0.1:9/webhook"), make(f"{receiver.url}/"), make(f"{receiver.url}?x=1")}
    row = operator.register(shop)
    make(receiver.url)
    make(receiver.url)

    assert operator.sync().state == State.MENDED
    assert {hook["id"] for hook in gitea.hooks(shop)} == {*theirs, row.hook_id}
    assert operator.sync().state == State.RIGHT


def test_a_crash_at_any_step_of_a_repair_leaves_what_the_next_one_mends(
    operator: Operator, shop: str, gitea: GiteaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = operator.register(shop)

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    for step in ("create_hook", "delete_hook"):
        gitea.call("PATCH", f"/repos/{shop}/hooks/{operator.project().hook_id}", events=["push"])
        with monkeypatch.context() as patched, pytest.raises(Crash):
            patched.setattr(operator.forge, step, crash)
            operator.sync()
        assert operator.sync().state == State.MENDED
        assert operator.is_right(shop)
    gitea.call("DELETE", f"/repos/{shop}/hooks/{operator.project().hook_id}")
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(hooks, "_note_hook", crash)
        operator.sync()
    assert operator.sync().state == State.MENDED
    assert operator.is_right(shop)
    assert operator.project().id == row.id


def test_another_secret_is_a_hook_made_anew(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver
) -> None:
    row = operator.register(shop)
    old = operator.secret(row)
    with db.connection(), db.write():
        projects.rotate_secret(row)

    assert hooks.renew(row, operator.forge, operator.settings).state == State.MENDED

    assert operator.is_right(shop)
    new = operator.project()
    gitea.call("POST", f"/repos/{shop}/hooks/{new.hook_id}/tests")
    until(lambda: receiver.came, what="a delivery")
    assert receiver.events(operator.secret(new)) == ["push"]
    assert receiver.events(old) == []


def test_a_forge_does_not_change_the_secret_of_a_hook(
    shop: str, gitea: GiteaServer, receiver: Receiver
) -> None:
    config = {"url": receiver.url, "content_type": "json", "secret": "first"}
    path = f"/repos/{shop}/hooks"
    made = gitea.call("POST", path, type="gitea", active=True, events=["push"], config=config)
    gitea.call("PATCH", f"{path}/{made['id']}", config=config | {"secret": "second"}, events=["push"])
    gitea.call("POST", f"{path}/{made['id']}/tests")

    until(lambda: receiver.came, what="a delivery")
    assert (receiver.events("first"), receiver.events("second")) == (["push"], [])


def test_the_hook_goes_with_the_project(operator: Operator, shop: str, gitea: GiteaServer) -> None:
    row = operator.register(shop)
    renamed = gitea.rename(shop, f"{shop.partition('/')[2]}-new")
    with db.connection():
        projects.remove(row)

    hooks.forget(row, operator.forge)
    hooks.forget(row, operator.forge)

    assert gitea.hooks(renamed) == []
    gitea.call("DELETE", f"/repos/{renamed}")
    hooks.forget(row, operator.forge)


# --- what is compared, purely ---

URL = "https://kennel.example.org/webhook"


def hook(number: int, url: str = URL, **changes: Any) -> Hook:
    given: dict[str, Any] = {
        "kind": "forgejo",
        "content_type": "json",
        "active": True,
        "events": SHOWN,
        "branch_filter": "*",
    }
    return Hook(id=number, url=url, **(given | changes))


@pytest.mark.parametrize(
    ("there", "noted", "make", "removed"),
    [
        ([], None, True, []),
        ([], 1, True, []),
        ([hook(1)], 1, False, []),
        ([hook(1, branch_filter="")], 1, False, []),
        ([hook(1)], None, True, [1]),
        ([hook(1), hook(2)], 2, False, [1]),
        ([hook(1), hook(2, active=False)], 2, True, [1, 2]),
        ([hook(1, "https://old.example.org/webhook")], 1, True, [1]),
        ([hook(1, "https://other.example.org/webhook")], None, True, []),
        ([hook(1, "https://other.example.org/webhook"), hook(2)], 2, False, []),
    ],
)
def test_kennels_hooks_are_the_noted_one_and_those_that_deliver_to_it(
    there: list[Hook],
    noted: int | None,
    make: bool,  # noqa: FBT001
    removed: list[int],
) -> None:
    found = drift(there, URL, noted)

    assert (found.make, [one.id for one in found.remove]) == (make, removed)
    assert bool(found.why) == (make or bool(removed))


# --- renamed, moved, deleted ---


def test_a_renamed_and_a_moved_repository_keep_their_project(
    operator: Operator, shop: str, gitea: GiteaServer
) -> None:
    row = operator.register(shop)
    renamed = gitea.rename(shop, f"{shop.partition('/')[2]}-new")

    found = operator.sync()
    assert (found.project, found.state) == (renamed, State.MENDED)
    assert found.notes == (f"renamed from {shop} to {renamed}",)
    moved = gitea.transfer(renamed, gitea.organisation())
    operator.sync()

    now = operator.project()
    assert (now.id, now.full_name, now.clone_url) == (row.id, moved, gitea.clone_url(moved))
    assert now.hook_id == row.hook_id
    assert operator.sync().state == State.RIGHT


def test_a_delivery_under_the_new_name_is_taken_before_anybody_looked(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver, tmp_path: Path
) -> None:
    row = operator.register(shop)
    renamed = gitea.rename(shop, f"{shop.partition('/')[2]}-new")
    tree = gitea.tree(renamed, tmp_path / "tree")
    commit = tree.commit({"a": "1"})
    tree.push()
    until(lambda: receiver.came, what="the push is delivered")
    headers, body = receiver.came[0]

    with db.connection():
        receive.receive(headers, body, operator.settings, RecordingDoorbell(), time.time())
        assert Build.get().commit == commit
        assert Project.get().id == row.id
        assert Project.get().full_name == renamed
        assert Project.get().clone_url == gitea.clone_url(renamed)


def test_another_repository_that_takes_the_name_is_not_the_project(
    operator: Operator, shop: str, gitea: GiteaServer, tmp_path: Path
) -> None:
    row = operator.register(shop)
    gitea.call("DELETE", f"/repos/{shop}")
    assert gitea.repository(shop.partition("/")[2]) == shop

    with pytest.raises(Conflict, match="project of another repository"):
        operator.register(shop)
    found = operator.sync()
    assert (found.state, operator.project().forge_id) == (State.GONE, row.forge_id)
    assert gitea.hooks(shop) == []


def test_a_deleted_repository_is_reported_and_nothing_is_taken_down(
    operator: Operator, shop: str, gitea: GiteaServer
) -> None:
    row = operator.register(shop)
    gitea.call("DELETE", f"/repos/{shop}")

    found = operator.sync()

    assert found.state == State.GONE
    assert f"`kennel project remove {shop}`" in found.notes[0]
    assert operator.project().id == row.id


def test_a_default_branch_that_changed_is_said_and_production_stays(
    operator: Operator, shop: str, gitea: GiteaServer
) -> None:
    operator.register(shop)
    gitea.call("POST", f"/repos/{shop}/branches", new_branch_name="trunk", old_ref_name="heads/main")
    gitea.call("PATCH", f"/repos/{shop}", default_branch="trunk")

    found = operator.sync()

    assert (found.state, operator.project().default_branch) == (State.RIGHT, "main")
    assert found.notes == ("its default branch is trunk on the forge; production stays main",)


# --- all projects ---


def test_every_project_is_looked_at_and_one_that_fails_holds_up_no_other(
    operator: Operator, gitea: GiteaServer
) -> None:
    first, second, third = sorted(gitea.repository() for _ in range(3))
    for name in (first, second, third):
        operator.register(name)
    with db.connection():
        projects.add("elsewhere/x", "https://git.example.org/elsewhere/x.git", "main")
    gitea.allow(first, BOT, "read")
    gitea.call("DELETE", f"/repos/{second}/hooks/{gitea.hooks(second)[0]['id']}")

    found = {one.project: one for one in hooks.sync_all(operator.settings)}

    assert {name: one.state for name, one in found.items()} == {
        first: State.FAILED,
        second: State.MENDED,
        third: State.RIGHT,
        "elsewhere/x": State.ELSEWHERE,
    }
    assert "admin rights" in found[first].notes[0]


def test_a_forge_that_is_down_is_asked_once(operator: Operator, gitea: GiteaServer) -> None:
    for _ in range(3):
        operator.register(gitea.repository())
    asked = Counting(operator.settings.model_copy(update={"forge_url": f"http://127.0.0.1:{free_port()}"}))
    moved = asked._api.url
    with db.connection(), db.write():
        Project.update(clone_url=f"{moved}/x.git").execute()
        rows = list(Project.select())

    found = hooks.sync(rows, asked, operator.settings.model_copy(update={"forge_url": moved}))

    assert [one.state for one in found] == [State.UNANSWERED] * 3
    assert len(asked.requests) == 1


def test_without_a_forge_nothing_is_looked_at(settings: Settings, database_file: Path) -> None:
    assert hooks.sync_all(settings) == []


# --- the shared secret ---


@pytest.fixture
def sharing(settings: Settings, database: Path, tmp_path: Path) -> Settings:
    file = tmp_path / "shared-secret"
    file.write_text(f"{SHARED}\n")
    return settings.model_copy(update={"auto_register_secret_file": file})


def deliver(
    settings: Settings, document: object, secret: str = SHARED, event: str = "push"
) -> dict[str, Any]:
    body = deliveries.encoded(document)
    headers = deliveries.headers(secret, body, event)
    return dict(receive.receive(headers, body, settings, RecordingDoorbell(), time.time()).body)


@pytest.mark.parametrize("name", ["forgejo/push/push", "gitea/push/push", "gitea/pr-opened/pull_request"])
def test_the_first_delivery_that_the_shared_secret_signed_registers(sharing: Settings, name: str) -> None:
    recorded = deliveries.document(name)
    recorded["repository"] |= {
        "clone_url": "https://forge.example.org/acme/shop.git",
        "default_branch": "trunk",
    }

    deliver(sharing, recorded, event=name.rpartition("/")[2])
    deliver(sharing, recorded, event=name.rpartition("/")[2])

    (row,) = Project.select()
    assert (row.full_name, row.default_branch) == ("acme/shop", "trunk")
    assert row.clone_url == "https://forge.example.org/acme/shop.git"
    assert row.forge_id == recorded["repository"]["id"]


def test_a_recorded_delivery_of_a_real_forge_registers(sharing: Settings) -> None:
    assert sharing.auto_register_secret_file
    sharing.auto_register_secret_file.write_text(deliveries.RECORDED_SECRET)
    for recording in deliveries.RECORDED:
        receive.receive(recording.headers, recording.body, sharing, RecordingDoorbell(), time.time())

    assert Project.select().count() == 1
    assert Build.select().count() > 0


def test_only_the_shared_secret_registers(sharing: Settings, settings: Settings) -> None:
    for chosen, secret in ((sharing, "another"), (sharing, ""), (settings, SHARED), (settings, "")):
        with pytest.raises(BadSignature):
            deliver(chosen, deliveries.push(), secret)
    assert Project.select().count() == 0


@pytest.mark.parametrize(
    "url",
    [
        None,
        "ssh://git@forge.example.org/x.git",
        "ext::sh -c x",
        "https://ada:secret@forge.example.org/x.git",
        "file:///etc",
        "https://forge.example.org/\x1b[2J",
        "https://other.example.org/x.git",
    ],
)
def test_a_signed_delivery_with_an_address_that_is_not_safe_registers_nothing(
    sharing: Settings, url: str | None
) -> None:
    document = deliveries.push()
    document["repository"]["clone_url"] = url

    with pytest.raises(BadPayload, match="clone_url"):
        deliver(sharing.model_copy(update={"forge_url": "https://forge.example.org"}), document)
    assert Project.select().count() == 0


def test_the_shared_secret_signs_no_more_where_kennel_made_a_hook(sharing: Settings) -> None:
    deliver(sharing, deliveries.push())
    Project.update(hook_id=7).execute()

    with pytest.raises(BadSignature):
        deliver(sharing, deliveries.push())
    own = projects.webhook_secret(Project.get(), sharing.secret_key_file)
    assert deliver(sharing, deliveries.push(), own)["status"] == "queued"


def test_a_token_turns_a_shared_secret_into_one_of_its_own(
    operator: Operator, shop: str, gitea: GiteaServer, receiver: Receiver, tmp_path: Path
) -> None:
    config = {"url": receiver.url, "content_type": "json", "secret": SHARED}
    made = gitea.call(
        "POST", f"/repos/{shop}/hooks", type="gitea", active=True, events=["push"], config=config
    )
    gitea.call("POST", f"/repos/{shop}/hooks/{made['id']}/tests")
    until(lambda: receiver.came, what="a delivery")
    (tmp_path / "shared").write_text(SHARED)
    settings = operator.settings.model_copy(update={"auto_register_secret_file": tmp_path / "shared"})
    with db.connection():
        receive.receive(*receiver.came[0], settings, RecordingDoorbell(), time.time())

    assert operator.project().clone_url == gitea.clone_url(shop)
    assert operator.sync().state == State.MENDED
    assert operator.is_right(shop)
    gitea.call("POST", f"/repos/{shop}/hooks/{operator.project().hook_id}/tests")
    until(lambda: receiver.events(operator.secret(operator.project())), what="a delivery with its own")
    with db.connection():
        receive.receive(*receiver.came[-1], settings, RecordingDoorbell(), time.time())
        with pytest.raises(BadSignature):
            receive.receive(*receiver.came[0], settings, RecordingDoorbell(), time.time())


# --- private repositories ---


def test_a_private_repository_is_cloned_and_the_token_is_nowhere(
    operator: Operator, gitea: GiteaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    private = gitea.repository(private=True, empty=False)
    commit = gitea.head(private)
    row = operator.register(private)
    token = gitea.tokens[BOT]
    seen: set[str] = set()
    done = threading.Event()
    watch = threading.Thread(target=arguments_until, args=(done, seen))
    with db.connection():
        with db.write():
            builds.enqueue(row, "main", commit, time.time())
        build = lease.claim(time.time())
        assert build is not None
        job = Job(build, operator.settings)
        watch.start()
        try:
            with job.working():
                clone.clone(job)
                assert (job.source / "README.md").exists()
                files = [path for path in job.directory.rglob("*") if path.is_file()]
                assert job.source / ".git/config" in files
                assert not [path for path in files if token.encode() in path.read_bytes()]
            job.log.close()
        finally:
            done.set()
            watch.join()
        assert token not in builds.full_log(build.id)
    assert any("fetch" in argv for argv in seen)
    assert not [argv for argv in seen if token in argv]
    with db.connection():
        rows = [list(table.select().dicts()) for table in TABLES]
    assert token not in repr(rows)
    assert token not in caplog.text


def arguments_until(done: threading.Event, seen: set[str]) -> None:
    """Take down the arguments of every process of this machine's git."""
    while not done.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                argv = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if "git" in argv:
                seen.add(argv)


def test_a_private_repository_without_a_token_says_so(
    operator: Operator, gitea: GiteaServer, tmp_path: Path
) -> None:
    private = gitea.repository(private=True, empty=False)
    commit = gitea.head(private)
    row = operator.register(private)
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 40)
    cases: list[tuple[dict[str, object], str]] = [
        ({"forge_token_file": None}, "it is private, or gone: KENNEL_FORGE_TOKEN_FILE"),
        ({"forge_url": "https://other.example.org"}, "it is private, or gone"),
        ({"forge_token_file": wrong}, "it is private, or gone"),
        ({"forge_token_file": tmp_path / "none"}, "KENNEL_FORGE_TOKEN_FILE"),
    ]
    for changes, says in cases:
        with db.connection():
            with db.write():
                builds.enqueue(row, "main", commit, time.time())
            build = lease.claim(time.time())
            assert build is not None
            pipeline.run(build, operator.settings.model_copy(update=changes))
            assert says in (builds.get(build.id).error or "")


# --- on the command line, with a real web process ---


@pytest.fixture
def connected(web_settings: Settings, web: Gunicorn, gitea: GiteaServer, tmp_path: Path) -> Settings:
    """Settings of a web process that runs, and of the forge that delivers to it."""
    file = tmp_path / "forge-token"
    file.write_text(gitea.tokens[BOT])
    return web_settings.model_copy(update={"forge_url": gitea.url, "forge_token_file": file})


def test_one_command_connects_a_repository_and_starts_its_first_build(connected: Settings, shop: str) -> None:
    cli = runner(connected)

    added = data(cli("project", "add", shop, "--json"))

    assert (added["project"], added["state"], added["delivery"]) == (shop, "mended", "received")
    (build,) = data(cli("build", "list", "--json"))
    assert (build["project"], build["ref"]) == (shop, "main")
    again = cli("project", "add", shop)
    assert "it is registered already" in again.stdout


def test_a_whole_organisation_is_connected_and_what_cannot_be_is_named(
    connected: Settings, gitea: GiteaServer
) -> None:
    cli, owner = runner(connected), gitea.organisation()
    good = gitea.repository("good", owner=owner, empty=False)
    empty = gitea.repository("empty", owner=owner)
    refused = gitea.repository("refused", owner=owner, bot="write")
    archived = gitea.repository("archived", owner=owner)
    gitea.call("PATCH", f"/repos/{archived}", archived=True)
    gitea.call("PUT", f"/repos/{good}/topics", topics=["kennel"])

    (tagged,) = data(cli("project", "add", owner, "--topic", "kennel", "--json"))
    assert tagged["project"] == good
    found = {one["project"]: one for one in data(cli("project", "add", owner, "--all", "--json", status=1))}

    assert {name: one["state"] for name, one in found.items()} == {
        good: "right",
        empty: "mended",
        refused: "failed",
    }
    assert (found[good]["delivery"], found[empty]["delivery"]) == (
        "received",
        "none, because the repository is empty",
    )


def test_sync_shows_and_repairs_and_tells_a_forge_that_is_down(
    connected: Settings, shop: str, gitea: GiteaServer
) -> None:
    cli = runner(connected)
    cli("project", "add", shop)
    gitea.call("DELETE", f"/repos/{shop}/hooks/{gitea.hooks(shop)[0]['id']}")

    assert "it was removed" in cli("project", "sync").stdout
    assert data(cli("project", "sync", shop, "--json")) == [{"project": shop, "state": "right", "notes": []}]
    assert connected.forge_token_file
    connected.forge_token_file.write_text("0" * 40)
    assert "KENNEL_FORGE_TOKEN_FILE" in cli("project", "sync", shop, status=1).stdout


def test_rotating_and_removing_reach_the_forge(connected: Settings, shop: str, gitea: GiteaServer) -> None:
    cli = runner(connected)
    cli("project", "add", shop)
    before = gitea.hooks(shop)[0]["id"]

    rotated = data(cli("project", "rotate-secret", shop, "--json"))
    assert (rotated["state"], len(gitea.hooks(shop))) == ("mended", 1)
    assert gitea.hooks(shop)[0]["id"] != before
    removed = data(cli("project", "remove", shop, "--yes", "--json"))
    assert removed == {"project": shop, "deployments": 0, "webhook": "removed"}
    assert gitea.hooks(shop) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["acme"],
        ["acme/shop", "--all"],
        ["acme", "--all", "--clone-url", "https://x/y"],
        ["acme/shop", "--default-branch", "x"],
    ],
)
def test_what_does_not_fit_together_is_wrong_usage(connected: Settings, arguments: list[str]) -> None:
    assert "Usage" in runner(connected)("project", "add", *arguments, status=2).stderr


def test_without_a_forge_the_clone_url_is_asked_for(cli_without_forge: Cli) -> None:
    assert "--clone-url" in cli_without_forge("project", "add", "acme/shop", status=2).stderr
    assert "KENNEL_FORGE_URL" in cli_without_forge("project", "sync", status=2).stderr


@pytest.fixture
def cli_without_forge(settings: Settings, database_file: Path) -> Cli:
    return runner(settings)
