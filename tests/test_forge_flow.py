"""The whole loop with a real forge: Kennel's hooks, pushes over HTTP, statuses and comments read back."""

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from kennel_core import db, projects
from kennel_core.models import Build, ForgeReport, Project
from kennel_core.settings import PREFIX
from tests.servers import web
from tests.servers.caddy import CaddyServer, programs
from tests.servers.gitea import BOT, OWNER, STRANGER, GiteaServer, WorkTree
from tests.servers.redis import RedisServer
from tests.servers.stack import Stack, files, running
from tests.servers.systemd import private_systemd
from tests.waiting import until

BUILD = "kennel/build"
DEPLOYS = ("kennel/deploy (api)", "kennel/deploy (docs)")
GOOD = {BUILD: "success", **dict.fromkeys(DEPLOYS, "success")}


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory, gitea: GiteaServer) -> Iterator[Stack]:
    """All of Kennel's processes, told where the forge is."""
    home = tmp_path_factory.mktemp("connected")
    with ExitStack() as cleaning:
        systemd = cleaning.enter_context(private_systemd())
        for name in ("redis", "caddy"):
            (home / name).mkdir()
        redis = RedisServer(home / "redis")
        redis.start()
        cleaning.callback(redis.kill)
        caddy = CaddyServer(programs()[-1], home / "caddy")
        caddy.ask.close()
        stack = cleaning.enter_context(running(home, home / "state", redis, caddy, systemd))
        token = home / "token"
        token.write_text(gitea.tokens[BOT])
        stack.settings = stack.settings.model_copy(
            update={
                "forge_url": gitea.url,
                "forge_token_file": token,
                "forge_hook_url": f"{stack.url}/webhook",
            }
        )
        told = web.environment(stack.settings).items()
        stack.env |= {name: value for name, value in told if name.startswith(PREFIX)}
        asked = f"{stack.url}/internal/caddy/check-domain"
        caddy.config = json.loads(json.dumps(caddy.config).replace(caddy.ask.url, asked))
        cleaning.callback(caddy.kill)
        caddy.start()
        stack.start()
        until(stack.is_whole, timeout=60, what="the stack is ready")
        yield stack
        assert stack.tracebacks() == []


class Shop:
    """A repository of the forge that Kennel connected itself to, and a work tree whose pushes are real."""

    def __init__(self, stack: Stack, gitea: GiteaServer, home: Path) -> None:
        self.stack, self.gitea = stack, gitea
        self.name = gitea.repository()
        self.short = self.name.partition("/")[2]
        self.tree: WorkTree = gitea.tree(self.name, home)
        self.tree.commit({"README.md": "hello"})
        self.tree.push()
        done = stack.run("kennel", "project", "add", self.name, "--json")
        assert done.returncode == 0, done.stderr + done.stdout

    def push(self, version: str, branch: str = "main") -> str:
        """Push a version to a branch; returns the commit."""
        self.tree.git("checkout", "--quiet", "-B", branch)
        self.tree.commit(_text(files(version)))
        return self.tree.push(branch)

    def statuses(self, commit: str) -> dict[str, str]:
        return {context: state for context, (state, *_) in self.gitea.statuses(self.name, commit).items()}

    def becomes(self, commit: str, wanted: dict[str, str], timeout: float = 60) -> None:
        def there() -> bool:
            return self.statuses(commit) == wanted

        try:
            until(there, timeout=timeout, what=f"{commit[:10]} has its statuses")
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {self.gitea.statuses(self.name, commit)}") from exc

    def pending_after(self, commit: str) -> float:
        """Wait until the forge shows that a commit is seen; returns the seconds."""
        began = time.monotonic()
        until(lambda: BUILD in self.statuses(commit), timeout=30, what="a status")
        return time.monotonic() - began

    def says(self, ref: str, item: str = "api") -> str:
        try:
            return self.stack.says(f"{self.short}-{item}-{ref}.localhost")
        except ssl.SSLError:  # no certificate: there is no such host
            return "404"

    def comments(self, number: int) -> list[str]:
        found = self.gitea.comments(self.name, number)
        return [str(one["body"]) for one in found if one["user"]["login"] == BOT]

    def comment_has(self, number: int, *parts: str) -> str:
        def there() -> str | None:
            found = self.comments(number)
            return found[0] if found and all(part in found[0] for part in parts) else None

        try:
            found: Any = until(there, timeout=60, what=f"the comment has {parts}")
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {self.comments(number)} {self.reports()}") from exc
        assert len(self.comments(number)) == 1
        return str(found)

    def reports(self) -> list[dict[str, Any]]:
        with db.connection():
            return list(ForgeReport.select().where(ForgeReport.tries > 0).dicts())

    def builds(self, ref: str) -> list[Build]:
        with db.connection():
            query = Build.select(Build.id, Build.commit, Build.status).join(Project)
            owner, _, name = self.name.partition("/")
            query = query.where(Project.owner == owner, Project.name == name, Build.ref == ref)
            return list(query.order_by(Build.id))


def _text(content: dict[str, Any]) -> dict[str, str]:
    return {name: str(text) for name, text in content.items()}


@pytest.fixture
def shop(connected: Stack, gitea: GiteaServer, tmp_path: Path) -> Iterator[Shop]:
    db.configure(connected.settings.database)
    made = Shop(connected, gitea, tmp_path / "shop")
    yield made
    with db.connection():
        projects.remove(projects.find(made.name))


def test_a_push_is_pending_at_once_then_live_and_the_log_is_where_the_status_leads(shop: Shop) -> None:
    commit = shop.push("one")
    waited = shop.pending_after(commit)
    shop.becomes(commit, GOOD)
    assert shop.says("main") == "one"
    assert shop.says("main", "docs") == "one"
    assert waited < 10  # a busy machine; the figure is measured elsewhere

    *_, url = shop.gitea.statuses(shop.name, commit)[BUILD]
    (build,) = shop.builds("main")[-1:]
    assert url.endswith(f"/builds/{build.id}/log?follow=true")
    log = requests.get(f"{shop.stack.url}/builds/{build.id}/log?follow=true", timeout=30)
    assert "phase: build:api" in log.text


def test_a_pull_request_from_push_to_preview_and_back_to_nothing(shop: Shop) -> None:
    shop.becomes(shop.push("main"), GOOD)
    first = shop.push("first", "topic")
    number = shop.gitea.pull_request(shop.name, "topic")
    ref = f"pr-{number}"
    shop.comment_has(
        number, f"{shop.short}-api-{ref}.localhost", f"{shop.short}-docs-{ref}.localhost", first[:10]
    )
    assert shop.says(ref) == "first"

    broken = dict(_text(files("second")), **{"api.py": "raise SystemExit('cannot find my wits')\n"})
    shop.tree.commit(broken)
    second = shop.tree.push("topic")
    shop.comment_has(number, "failed", second[:10], first[:10])
    assert shop.says(ref) == "first"  # a failed rollout takes nothing down

    third = shop.push("third", "topic")
    shop.comment_has(number, third[:10])
    until(lambda: shop.says(ref) == "third", timeout=30, what="the third is live")

    answered = shop.gitea.comment(shop.name, number, "/kennel rollback")
    shop.comment_has(number, first[:10])
    until(lambda: shop.says(ref) == "first", timeout=30, what="the first is back")
    until(lambda: (BOT, "+1") in shop.gitea.reactions(shop.name, answered), what="the reaction")

    ignored = shop.gitea.comment(shop.name, number, "/kennel stop", STRANGER)
    shop.gitea.comment(shop.name, number, "/kennel help")
    shop.comment_has(number, "by <code>ada</code>")
    assert shop.gitea.reactions(shop.name, ignored) == []
    assert shop.says(ref) == "first"

    shop.gitea.close(shop.name, number)
    shop.comment_has(number, "torn down", "<code>api</code>", "<code>docs</code>")
    until(lambda: shop.says(ref) == "404", timeout=60, what="the preview is gone")
    assert shop.says("main") == "main"


def test_a_strangers_pull_request_waits_until_its_commit_is_approved(shop: Shop, tmp_path: Path) -> None:
    shop.push("main")
    fork = shop.gitea.fork(shop.name)
    theirs = shop.gitea.tree(fork, tmp_path / "theirs", STRANGER)
    theirs.git("pull", "--quiet", "origin", "main")
    theirs.git("checkout", "--quiet", "-b", "evil")
    commit = theirs.commit(_text(files("theirs")))
    theirs.push("evil")
    number = shop.gitea.pull_request(shop.name, f"{STRANGER}:evil", user=STRANGER)
    ref = f"pr-{number}"

    shop.comment_has(number, "fork", f"/kennel approve {commit[:10]}")
    shop.becomes(commit, {BUILD: "pending"})
    shop.gitea.comment(shop.name, number, "/kennel approve", STRANGER)
    shop.gitea.comment(shop.name, number, "/kennel approve", OWNER)
    shop.becomes(commit, GOOD)
    assert shop.says(ref) == "theirs"
    assert [build.commit for build in shop.builds(ref)] == [commit]

    newer = theirs.commit({"VERSION": "again"})
    theirs.push("evil")
    shop.becomes(newer, {BUILD: "pending"})
    assert shop.says(ref) == "theirs"
    shop.stack.kennel("pr", "approve", shop.name, str(number), "--commit", newer)
    shop.becomes(newer, GOOD)
    assert shop.says(ref, "docs") == "again"


def test_a_renamed_branch_is_deployed_under_its_new_name_and_a_tag_changes_nothing(shop: Shop) -> None:
    commit = shop.push("old", "before")
    until(lambda: shop.says("before") == "old", timeout=60, what="the branch is live")
    shop.gitea.call("PATCH", f"/repos/{shop.name}/branches/before", OWNER, name="after")
    until(lambda: shop.says("after") == "old", timeout=60, what="the new name is live")
    until(lambda: shop.says("before") == "404", timeout=60, what="the old name is gone")
    assert [build.commit for build in shop.builds("after")] == [commit]

    shop.tree.git("tag", "v1")
    shop.tree.push("v1")
    shop.tree.git("push", "--quiet", "origin", ":refs/tags/v1")
    newer = shop.push("newer", "after")
    shop.becomes(newer, GOOD)
    assert [build.commit for build in shop.builds("after")] == [commit, newer]


def test_several_refs_in_one_push_a_force_push_and_a_deletion(shop: Shop) -> None:
    shop.tree.git("checkout", "--quiet", "-B", "one")
    shop.tree.commit(_text(files("one")))
    shop.tree.git("branch", "--force", "two")
    shop.tree.push("one", "two")
    for ref in ("one", "two"):
        until(lambda ref=ref: shop.says(ref) == "one", timeout=60, what=f"{ref} is live")

    shop.tree.git("reset", "--quiet", "--hard", "HEAD~1")
    commit = shop.tree.commit(_text(files("forced")))
    shop.tree.push("one", force=True)
    shop.becomes(commit, GOOD)
    assert shop.says("one") == "forced"

    shop.tree.push(":two")
    until(lambda: shop.says("two") == "404", timeout=60, what="two is gone")


def test_a_forge_that_is_down_delays_what_is_reported_and_nothing_else(shop: Shop, connected: Stack) -> None:
    shop.becomes(shop.push("before"), GOOD)
    commit = shop.push("during")
    number = until(lambda: [build.id for build in shop.builds("main") if build.commit == commit], what="seen")
    cloned = "=== phase: discover ==="  # what is built is there: the forge has the repository, too
    until(lambda: cloned in connected.build_log(number[0]), timeout=60, what="it is cloned")
    shop.gitea.stop()
    try:
        until(lambda: shop.says("main") == "during", timeout=60, what="it is live all the same")
        assert set(connected.ready()) <= {"forge"}
    finally:
        shop.gitea.start()
    shop.becomes(commit, GOOD, timeout=150)
    with db.connection():
        assert not ForgeReport.select().where(ForgeReport.tries > 5).exists()
