"""What no delivery told: pushes, branches that are gone, pull requests. The decision, and real git."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kennel_core import builds, catch_up, db, deployments, lease, projects, receive, refs
from kennel_core.adapters import git_remote
from kennel_core.errors import Rejected, Unavailable
from kennel_core.heads import Gone, Heads, Known, Moved, Proposed, missed, parse
from kennel_core.models import Build, BuildStatus, Deployment, Project, PullRequest, Ref
from kennel_core.outputs import Outputs, SiteOutput
from kennel_core.settings import Settings
from kennel_core.webhook import Proposal
from tests import deliveries
from tests.recording_doorbell import RecordingDoorbell
from tests.servers.git import GitRepository
from tests.servers.gitea import OWNER, GiteaServer
from tests.waiting import until

A, B, C = "a" * 40, "b" * 40, "c" * 40
PULL = Proposal(7, A, "ada", fork=False, draft=False, labels=(), skip=False, fresh=False)


def decide(heads: Heads, known: dict[str, Known], *, first: bool = False, deploys: bool = True) -> list:
    return missed(heads, known, "main", lambda _ref: deploys, first=first)


# --- the decision


def test_what_is_as_it_was_told_changes_nothing() -> None:
    known = {"main": Known(A, 1, up=True), "pr-7": Known(A, 2, up=True, pull=PULL)}
    assert decide(Heads({"main": A}, {7: A}), known) == []


def test_a_branch_that_moved_or_is_new_is_built() -> None:
    heads = Heads({"main": B, "topic": C}, {})
    assert decide(heads, {"main": Known(A, 1, up=True)}) == [Moved("main", B), Moved("topic", C)]


def test_at_the_first_look_only_prod_and_staging_are_built_without_a_push() -> None:
    heads = Heads({"main": A, "staging": B, "old": C, "told": B}, {})
    known = {"told": Known(A, 3, up=True)}
    assert decide(heads, known, first=True) == [
        Moved("main", A),
        Moved("old", C, build=False),
        Moved("staging", B),
        Moved("told", B),
    ]


def test_a_branch_that_does_not_deploy_is_only_remembered() -> None:
    assert decide(Heads({"main": B}, {}), {}, deploys=False) == [Moved("main", B, build=False)]


def test_a_branch_that_is_gone_is_taken_down_but_never_the_default_one() -> None:
    known = {"main": Known(A, 1, up=True), "topic": Known(A, 2, up=True), "dev": Known(B, 3, up=True)}
    assert decide(Heads({"dev": B}, {}), known) == [Gone("topic")]


def test_an_answer_without_a_branch_is_none() -> None:
    assert decide(Heads({}, {7: B}), {"topic": Known(A, 1, up=True)}) == []
    assert decide(Heads({}, {}, {}), {"pr-7": Known(A, 1, up=True, pull=PULL)}) == []


def test_git_tells_new_heads_of_open_pull_requests_only() -> None:
    known = {"main": Known(A, 1), "pr-7": Known(A, 2, up=True, pull=PULL), "pr-8": Known(A, 3)}
    heads = Heads({"main": A}, {6: C, 7: B, 8: B})
    changed = Proposal(7, B, "ada", fork=False, draft=False, labels=(), skip=False, fresh=False)
    assert decide(heads, known) == [Proposed(changed)]


def test_a_pull_request_of_which_git_has_nothing_any_more_is_gone() -> None:
    known = {"main": Known(A, 1), "pr-7": Known(A, 2, up=True, pull=PULL)}
    assert decide(Heads({"main": A}, {}), known) == [Gone("pr-7")]


def test_the_forge_tells_which_pull_requests_are_open() -> None:
    known = {
        "main": Known(A, 1),
        "pr-7": Known(A, 2, up=True, pull=PULL),
        "pr-8": Known(A, 3, up=True),
        "pr-9": Known(A, 4),
    }
    draft = Proposal(7, A, "ada", fork=False, draft=True, labels=(), skip=False, fresh=False)
    new = Proposal(10, B, "bob", fork=True, draft=False, labels=(), skip=False, fresh=False)
    heads = Heads({"main": A}, {7: A, 10: B}, {7: draft, 10: new})
    assert decide(heads, known) == [Proposed(new), Proposed(draft), Gone("pr-8")]


def test_a_listing_is_read_and_what_is_else_is_left_out() -> None:
    listing = "\n".join(
        (
            f"{A}\trefs/heads/main",
            f"{B}\trefs/heads/a/b",
            f"{C}\trefs/pull/12/head",
            f"{C}\trefs/pull/12/merge",
            f"{C}\trefs/tags/v1",
            f"{C}\tHEAD",
            "warning: nonsense",
        )
    )
    assert parse(listing) == Heads({"main": A, "a/b": B}, {12: C})


# --- acting, on real git


class World:
    """A registered repository on real git, and deliveries of which a test leaves some out."""

    def __init__(self, repository: GitRepository, settings: Settings) -> None:
        self.repository, self.settings = repository, settings
        self.project = projects.add("acme/shop", repository.url, "main")
        self.doorbell = RecordingDoorbell()

    def push(self, ref: str = "main") -> str:
        commit = self.repository.commit({"VERSION": str(time.time_ns())})
        self.repository.push(ref)
        return commit

    def tell(self, document: dict, event: str = "push") -> dict:
        secret = projects.webhook_secret(self.project, self.settings.secret_key_file)
        body = deliveries.encoded(document)
        headers = deliveries.headers(secret, body, event)
        return dict(receive.receive(headers, body, self.settings, self.doorbell, time.time()).body)

    def told(self, ref: str = "main") -> str:
        commit = self.push(ref)
        self.tell(deliveries.push(f"refs/heads/{ref}", commit))
        return commit

    def live(self) -> None:
        """Build all that waits, and let it go live."""
        while build := lease.claim(time.time()):
            site = SiteOutput(name="docs", store_path="/nix/store/x")
            outputs = Outputs(config_path="/nix/store/x", sites=[site])
            lease.succeed(build, outputs, self.settings, time.time())
            with db.write():
                builds.went_live(build.id, time.time())
                deployments.went_live(builds.get(build.id))

    def look(self, ask: Callable[[Project], Heads] | None = None) -> catch_up.CaughtUp:
        return catch_up.catch_up(self.settings, self.doorbell, ask)

    def waiting(self) -> list[tuple[str, str]]:
        rows = Build.select().where(Build.status == BuildStatus.QUEUED).order_by(Build.id)
        return [(row.ref, row.commit) for row in rows]


@pytest.fixture
def world(git_repo: GitRepository, settings: Settings, database: object) -> World:
    return World(git_repo, settings)


def test_a_push_whose_delivery_never_came_is_built(world: World) -> None:
    world.told()
    world.live()
    assert world.look() == catch_up.CaughtUp()
    world.doorbell.rung.clear()
    commit = world.push()
    topic = world.push("topic")

    found = world.look()

    assert world.waiting() == [("main", commit), ("topic", topic)]
    assert world.doorbell.rung == found.builds
    assert world.look() == catch_up.CaughtUp()


def test_a_delivery_that_comes_after_all_changes_nothing(world: World) -> None:
    world.told()
    world.live()
    commit = world.push()
    world.look()
    before = Build.select().count()

    world.tell(deliveries.push("refs/heads/main", commit))
    world.tell(deliveries.push("refs/heads/main", commit))

    assert Build.select().count() == before


def test_a_build_that_failed_is_not_tried_again_and_again(world: World) -> None:
    world.told()
    build = lease.claim(time.time())
    assert build is not None
    lease.fail(build, "clone: no", time.time())

    assert world.look() == catch_up.CaughtUp()
    assert world.look() == catch_up.CaughtUp()


def test_an_older_head_after_a_forced_push_is_built(world: World) -> None:
    first = world.told()
    world.live()
    world.told()
    world.live()
    world.repository.git("reset", "--quiet", "--hard", first)
    world.repository.push()

    world.look()

    assert world.waiting() == [("main", first)]


def test_a_branch_that_is_gone_is_taken_down(world: World) -> None:
    world.told()
    world.told("topic")
    world.live()
    world.repository.delete("topic")

    found = world.look()

    assert found.removed == ["acme/shop topic"]
    assert world.doorbell.rung[-1] == "pass"
    assert [row.ref for row in Deployment.select()] == ["main"]
    assert [row.ref for row in Ref.select()] == ["main"]


def test_a_branch_that_comes_back_at_the_same_commit_is_built_again(world: World) -> None:
    world.told()
    commit = world.told("topic")
    world.live()
    world.repository.delete("topic")
    world.look()
    world.repository.push("topic")

    world.look()

    assert world.waiting() == [("topic", commit)]


def test_branches_older_than_the_registration_wait_for_a_push(world: World) -> None:
    world.push("old")
    commit = world.push()

    world.look()
    assert world.waiting() == [("main", commit)]
    world.live()
    assert world.look() == catch_up.CaughtUp()
    commit = world.push("old")
    world.look()
    assert world.waiting() == [("old", commit)]


def test_a_push_that_asked_not_to_be_built_is_not_missed(world: World) -> None:
    world.told()
    world.live()
    world.look()
    commit = world.push()
    document = deliveries.push("refs/heads/main", commit)
    document["head_commit"] = {**(document.get("head_commit") or {}), "message": "docs [skip kennel]"}
    assert world.tell(document)["status"] == "ignored"

    assert world.look() == catch_up.CaughtUp()


def test_a_preview_that_expired_waits_for_a_push(world: World) -> None:
    world.told()
    world.told("topic")
    world.live()
    from kennel_core import expiry  # noqa: PLC0415

    expiry.expire(world.settings, time.time() + 7.1 * expiry.DAY_S)
    expiry.expire(world.settings, time.time() + 31 * expiry.DAY_S)
    assert [row.ref for row in Deployment.select()] == ["main"]

    assert world.look() == catch_up.CaughtUp()
    commit = world.push("topic")
    world.look()
    assert world.waiting() == [("topic", commit)]


def test_a_new_commit_of_an_open_pull_request_is_built_and_a_closed_one_left_alone(world: World) -> None:
    world.told()
    for number in (7, 8):
        commit = world.push(f"refs/pull/{number}/head")
        world.tell(deliveries.pull_request("opened", number, commit), "pull_request")
    world.live()
    world.look()
    world.tell(deliveries.pull_request("closed", 8, commit), "pull_request")
    world.push("refs/pull/8/head")
    commit = world.push("refs/pull/7/head")

    world.look()

    assert world.waiting() == [("pr-7", commit)]
    assert PullRequest.get(PullRequest.number == 7).commit == commit
    assert world.look() == catch_up.CaughtUp()


def test_what_a_delivery_tells_meanwhile_is_left_as_it_is(world: World) -> None:
    world.told()
    world.told("topic")
    world.live()
    world.look()
    ask = catch_up.asker(world.settings)

    def slowly(project: Project) -> Heads:
        heads = ask(project)
        with db.connection(), db.write():
            refs.remove(project, "topic", "told", time.time())
            builds.enqueue(project, "main", B, time.time())
            builds.enqueue(project, "new", C, time.time())
        return heads

    assert world.look(slowly) == catch_up.CaughtUp()
    assert world.waiting() == [("main", B), ("new", C)]


# --- no answer is no answer


def test_a_repository_without_branches_takes_nothing_down(world: World) -> None:
    world.told()
    world.told("topic")
    world.live()
    for ref in ("topic", "main"):
        world.repository.git("-C", str(world.repository.origin), "update-ref", "-d", f"refs/heads/{ref}")

    assert world.look() == catch_up.CaughtUp()
    assert Deployment.select().count() == 2


def test_a_repository_that_cannot_be_reached_takes_nothing_down_and_holds_up_no_other(world: World) -> None:
    world.told()
    world.live()
    world.look()
    projects.add("acme/gone", f"file://{world.repository.origin}-gone", "main")
    commit = world.push()

    found = world.look()

    assert len(found.errors) == 1
    assert found.errors[0].startswith("git: ls-remote acme/gone: ")
    assert world.waiting() == [("main", commit)]


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        for connection in held:
            connection.close()


def test_a_forge_that_never_answers_is_given_up() -> None:
    with silent() as port, pytest.raises(Unavailable, match="no answer within"):
        argv = ["git", "ls-remote", "--", f"http://127.0.0.1:{port}/x.git"]
        git_remote.listed(argv, {"PATH": "/usr/bin:/bin"}, "acme/shop", timeout=0.5)


def test_what_git_says_last_is_the_reason(git_repo: GitRepository) -> None:
    with pytest.raises(Rejected, match=r"fatal: .*origin\.gitx"):
        git_remote.listed(
            ["git", "ls-remote", "--", f"file://{git_repo.origin}x"], {"PATH": "/usr/bin:/bin"}, "x"
        )


# --- through the API of a real forge


def test_the_forge_is_asked_for_branches_and_for_pull_requests_opened_and_closed_meanwhile(
    gitea: GiteaServer, forge_settings: Settings, database: object, tmp_path: Path
) -> None:
    name = gitea.repository(private=True)
    tree = gitea.tree(name, tmp_path / "tree")
    tree.commit({"README": "one"})
    main = tree.push("main")
    bell = RecordingDoorbell()
    projects.add(name, gitea.clone_url(name), "main")

    def look() -> catch_up.CaughtUp:
        bell.rung.clear()
        return catch_up.catch_up(forge_settings, bell)

    def waiting() -> list[tuple[str, str]]:
        return [(row.ref, row.commit) for row in Build.select().where(Build.status == BuildStatus.QUEUED)]

    until(lambda: look().errors == [], what="the forge shows what was pushed first")
    assert waiting() == [("main", main)]
    tree.git("switch", "--quiet", "--create", "topic")
    tree.commit({"README": "two"})
    topic = tree.push("topic")
    number = gitea.pull_request(name, "topic", title="Draft: change")

    look()
    assert ("topic", topic) in waiting()
    assert "report" in bell.rung  # which decides whether the pull request is built
    row = PullRequest.get(PullRequest.number == number)
    assert (row.commit, row.open, row.fork, row.author) == (topic, True, False, OWNER)
    assert look() == catch_up.CaughtUp()

    gitea.close(name, number)
    tree.push(":topic")
    assert look().removed == [f"{name} pr-{number}", f"{name} topic"]
    assert not PullRequest.get(PullRequest.number == number).open
    assert waiting() == [("main", main)]
    assert look() == catch_up.CaughtUp()
