"""The API of a real Gitea, and what the adapter makes of everything that a forge should not answer."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from kennel_core import db, delivery, doctor, projects
from kennel_core.adapters.forge import Forge, doorway
from kennel_core.errors import ConfigError, NotFound, Rejected, Unavailable
from kennel_core.hook_drift import EVENTS, SHOWN
from kennel_core.pipeline import commands
from kennel_core.settings import Settings
from tests.servers.gitea import ADMIN, BOT, OWNER, STRANGER, GiteaServer
from tests.servers.ports import free_port

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOOK_URL = "http://127.0.0.1:9/webhook"


@pytest.fixture
def forge(forge_settings: Settings) -> Forge:
    return Forge(forge_settings)


@pytest.fixture
def shop(gitea: GiteaServer) -> str:
    """A repository with nothing in it."""
    return gitea.repository()


# --- a real one ---


def test_a_repository_is_found_by_name_and_by_number_also_after_it_was_renamed(
    forge: Forge, gitea: GiteaServer, shop: str
) -> None:
    found = forge.repository(shop)

    assert (found.full_name, found.default_branch, found.permission) == (shop, "main", "admin")
    assert found.clone_url == gitea.clone_url(shop)
    assert found.empty
    assert forge.repository_by_id(found.id) == found

    renamed = gitea.rename(shop, f"{shop.partition('/')[2]}-renamed")
    assert forge.repository(shop).full_name == renamed  # the old name redirects
    assert forge.repository_by_id(found.id).full_name == renamed
    assert forge.create_comment(shop, issue(gitea, renamed), "through the old name") > 0


def issue(gitea: GiteaServer, full_name: str) -> int:
    return int(gitea.call("POST", f"/repos/{full_name}/issues", title="A question")["number"])


def test_what_the_token_may_do_is_said(forge: Forge, gitea: GiteaServer) -> None:
    for allowed in ("read", "write", "admin"):
        assert forge.repository(gitea.repository(bot=allowed)).permission == allowed
    assert forge.repository(gitea.repository(bot="")).permission == "read"  # it is public
    with pytest.raises(NotFound, match="may not see it"):
        forge.repository(gitea.repository(private=True, bot=""))


def test_repositories_of_an_owner_and_with_a_topic_are_listed_over_all_pages(
    forge: Forge, gitea: GiteaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway, "PAGE_SIZE", 2)
    owner = gitea.organisation()
    mine = [gitea.repository(f"one-{number}", owner=owner, private=number == 1) for number in range(5)]
    gitea.repository(f"{owner}-look-alike")
    gitea.call("PUT", f"/repos/{mine[2]}/topics", topics=["kennel", "web"])

    assert sorted(one.full_name for one in forge.repositories(owner)) == mine
    assert [one.full_name for one in forge.repositories(owner, "kennel")] == [mine[2]]
    assert mine[2] in {one.full_name for one in forge.repositories("", "kennel")}


def test_branches_pull_requests_and_their_origin_are_listed(
    forge: Forge, gitea: GiteaServer, shop: str, tmp_path: Path
) -> None:
    tree = gitea.tree(shop, tmp_path / "tree")
    first = tree.commit({"a": "1"})
    tree.push()
    tree.git("switch", "--quiet", "--create", "topic/ä")
    second = tree.commit({"a": "2"})
    tree.push()
    own = gitea.pull_request(shop, "topic/ä", title="WIP: Change a")
    gitea.call("POST", f"/repos/{shop}/labels", name="big", color="#ff0000")
    gitea.call("PUT", f"/repos/{shop}/issues/{own}/labels", labels=["big"])
    copy = gitea.fork(shop)
    stranger = gitea.tree(copy, tmp_path / "stranger", STRANGER)
    stranger.git("pull", "--quiet", "origin", "main")
    third = stranger.commit({"b": "1"})
    stranger.push()
    foreign = gitea.pull_request(shop, f"{STRANGER}:main", user=STRANGER)

    assert forge.branches(shop) == {"main": first, "topic/ä": second}
    found = {pull.number: pull for pull in forge.pulls(shop)}
    assert found[own].head_ref == "topic/ä"
    assert (found[own].draft, found[own].labels, found[own].fork) == (True, ("big",), False)
    assert (found[own].author, found[own].head_commit, found[own].base_ref) == (OWNER, second, "main")
    assert (found[foreign].author, found[foreign].head_commit) == (STRANGER, third)
    assert (found[foreign].fork, found[foreign].head_repository) == (True, copy)
    assert forge.pull(shop, own) == found[own]

    gitea.call("DELETE", f"/repos/{copy}")
    gone = forge.pull(shop, foreign)
    assert (gone.fork, gone.head_repository) == (True, "")
    gitea.close(shop, own)
    assert own not in {pull.number for pull in forge.pulls(shop)}
    assert not forge.pull(shop, own).open


def test_every_page_of_a_list_is_read(
    forge: Forge, gitea: GiteaServer, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway, "PAGE_SIZE", 2)
    tree = gitea.tree(shop, tmp_path / "tree")
    commit = tree.commit({"a": "1"})
    tree.push("main", *[f"main:b{number}" for number in range(4)])
    number = issue(gitea, shop)
    written = [gitea.comment(shop, number, f"comment {count}") for count in range(5)]
    for count in range(5):
        forge.set_status(shop, commit, "pending", f"kennel/{count}", "waits", "http://127.0.0.1/")
        forge.create_hook(shop, f"{HOOK_URL}/{count}", "secret", EVENTS)

    assert len(forge.branches(shop)) == 5
    assert [comment.id for comment in forge.comments(shop, number)] == written
    assert len(forge.statuses(shop, commit)) == 5
    assert len(forge.hooks(shop)) == 5


def test_the_last_word_of_each_context_is_the_status(
    forge: Forge, gitea: GiteaServer, shop: str, tmp_path: Path
) -> None:
    tree = gitea.tree(shop, tmp_path / "tree")
    commit = tree.commit({"a": "1"})
    tree.push()
    assert forge.statuses(shop, commit) == {}

    for state in ("pending", "failure", "warning", "error", "success"):
        forge.set_status(shop, commit, state, "kennel/build", f"it is {state}", "https://kennel.example/1")
    forge.set_status(shop, commit, "pending", "kennel/deploy", "waits", "https://kennel.example/1")

    assert forge.statuses(shop, commit) == {"kennel/build": "success", "kennel/deploy": "pending"}
    assert gitea.statuses(shop, commit)["kennel/build"] == (
        "success",
        "it is success",
        "https://kennel.example/1",
    )


def test_a_status_of_a_commit_that_is_gone_is_a_clear_no(
    forge: Forge, gitea: GiteaServer, shop: str, tmp_path: Path
) -> None:
    tree = gitea.tree(shop, tmp_path / "tree")
    tree.commit({"a": "1"})
    tree.push()

    with pytest.raises(Rejected, match="does not have the commit any more"):
        forge.set_status(shop, COMMIT, "success", "kennel/build", "built", "https://kennel.example/1")


def test_a_comment_is_written_edited_and_reacted_to(forge: Forge, gitea: GiteaServer, shop: str) -> None:
    number = issue(gitea, shop)
    asked = gitea.comment(shop, number, "/kennel help")

    made = forge.create_comment(shop, number, "first")
    forge.edit_comment(shop, made, "second <b>&amp;")
    forge.react(shop, asked, "+1")
    forge.react(shop, asked, "+1")

    assert [(one.id, one.author, one.body) for one in forge.comments(shop, number)] == [
        (asked, OWNER, "/kennel help"),
        (made, BOT, "second <b>&amp;"),
    ]
    assert gitea.reactions(shop, asked) == [(BOT, "+1")]
    gitea.call("DELETE", f"/repos/{shop}/issues/comments/{made}")
    with pytest.raises(NotFound):
        forge.edit_comment(shop, made, "third")


def test_a_hook_is_made_as_asked_for_and_its_secret_is_never_told(
    forge: Forge, gitea: GiteaServer, shop: str
) -> None:
    made = forge.create_hook(shop, HOOK_URL, "a-secret", EVENTS)

    assert forge.hooks(shop) == [made]
    assert (made.kind, made.url, made.content_type, made.active) == ("gitea", HOOK_URL, "json", True)
    assert made.events == SHOWN
    assert "a-secret" not in json.dumps(gitea.hooks(shop))
    with pytest.raises(NotFound):
        forge.test_hook(shop, made.id)  # there is no commit to tell of
    forge.delete_hook(shop, made.id)
    forge.delete_hook(shop, made.id)
    assert forge.hooks(shop) == []


# --- rights ---


def test_what_a_person_may_do_is_asked(forge: Forge, gitea: GiteaServer, shop: str) -> None:
    gitea.allow(shop, STRANGER, "write")

    assert forge.permission(shop, OWNER) == "owner"
    assert forge.permission(shop, BOT) == "admin"
    assert forge.permission(shop, STRANGER) == "write"
    assert forge.permission(shop, "nobody-at-all") == "none"
    gitea.call("DELETE", f"/repos/{shop}/collaborators/{STRANGER}")
    assert forge.permission(shop, STRANGER) == "read"  # it is public
    assert forge.permission(gitea.repository(private=True), STRANGER) == "none"


def test_who_the_token_is_needs_a_scope_that_nothing_else_needs(
    forge: Forge, gitea: GiteaServer, forge_settings: Settings
) -> None:
    assert forge.who() == ""
    assert with_token(forge_settings, gitea.tokens[ADMIN]).who() == ADMIN
    assert forge.missing_scopes() == []
    assert re.match(r"1\.", forge.version())
    assert forge.hook_type() == "gitea"


def with_token(settings: Settings, token: str) -> Forge:
    assert settings.forge_token_file
    settings.forge_token_file.write_text(token)
    return Forge(settings)


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [("read:repository,write:issue", "write:repository"), ("write:repository", "issue")],
)
def test_a_missing_scope_is_named(
    gitea: GiteaServer, forge_settings: Settings, shop: str, scopes: str, missing: str
) -> None:
    number = issue(gitea, shop)
    forge = with_token(forge_settings, gitea.make_token(BOT, scopes))

    assert [scope.partition(":")[2] for scope in forge.missing_scopes()] == [missing.rpartition(":")[2]]
    with pytest.raises(Rejected, match=rf"lacks the scope .*{missing}.*write:repository and write:issue"):
        if missing == "issue":
            forge.create_comment(shop, number, "x")
        else:
            forge.create_hook(shop, HOOK_URL, "secret", EVENTS)


def test_a_right_that_is_missing_is_named(forge: Forge, gitea: GiteaServer) -> None:
    with pytest.raises(Rejected, match="give the token's user admin rights"):
        forge.hooks(gitea.repository(bot="write"))


def test_a_wrong_token_and_none_are_told_apart(
    gitea: GiteaServer, forge_settings: Settings, shop: str
) -> None:
    with pytest.raises(Rejected, match=r"not valid .*KENNEL_FORGE_TOKEN_FILE"):
        with_token(forge_settings, "0" * 40).repository(shop)
    nobody = Forge(forge_settings.model_copy(update={"forge_token_file": None}))
    assert nobody.repository(shop).permission in {"read", "none"}
    with pytest.raises(Rejected, match="needs a token"):
        nobody.hooks(shop)


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "\x00"])
def test_a_file_without_one_token_is_refused(forge_settings: Settings, content: str) -> None:
    with pytest.raises(ConfigError, match="KENNEL_FORGE_TOKEN_FILE"):
        with_token(forge_settings, content)


def test_a_missing_file_and_a_missing_address_are_refused(forge_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KENNEL_FORGE_TOKEN_FILE"):
        Forge(forge_settings.model_copy(update={"forge_token_file": tmp_path / "none"}))
    with pytest.raises(ConfigError, match="KENNEL_FORGE_URL is not set"):
        Forge(forge_settings.model_copy(update={"forge_url": ""}))


# --- a forge that answers badly ---

Answer = Callable[["Bad"], None]


class Bad(BaseHTTPRequestHandler):
    """Answers as it was told, and keeps what it was asked."""

    answer: Answer
    asked: list[tuple[str, str, str]]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
        type(self).answer(self)

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def say(self, status: int, body: bytes | object = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Run a server that answers so; gives its URL and what it was asked."""
    asked: list[tuple[str, str, str]] = []
    handler = type("One", (Bad,), {"answer": staticmethod(answer), "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def bad_settings(settings: Settings, tmp_path: Path) -> Settings:
    file = tmp_path / "bad-token"
    file.write_text("0123456789-the-token")
    return settings.model_copy(update={"forge_token_file": file})


def at(settings: Settings, url: str) -> Forge:
    return Forge(settings.model_copy(update={"forge_url": url}), timeout=0.5)


def error(code: int, message: str) -> Answer:
    return lambda one: one.say(code, {"message": message, "url": "http://forge/api/swagger"})


def redirecting(target: str) -> Answer:
    return lambda one: one.say(302, Location=target)


def half(one: Bad) -> None:
    one.send_response(200)
    one.send_header("Content-Length", "100")
    one.end_headers()
    one.wfile.write(b'{"id": 1')


PAGE = b"<!DOCTYPE html><html>Just a moment...</html>"
BAD_ANSWERS: list[tuple[str, Answer, type[Exception], str]] = [
    ("401", error(401, "user does not exist"), Rejected, "KENNEL_FORGE_TOKEN_FILE"),
    (
        "403 scope of Gitea",
        error(
            403,
            "token does not have at least one of required scope(s), required=[write:issue], token scope=x",
        ),
        Rejected,
        "lacks the scope write:issue",
    ),
    (
        "403 scope of Forgejo",
        error(403, "token does not have at least one of required scope(s): [write:repository]"),
        Rejected,
        "lacks the scope write:repository",
    ),
    ("403 right", error(403, "should be an owner"), Rejected, "admin rights"),
    ("404", error(404, "The target couldn't be found."), NotFound, "may not see it"),
    ("409", error(409, "it exists"), Rejected, "409 it exists"),
    ("422", error(422, "Invalid hook type"), Rejected, "422 Invalid hook type"),
    ("423", error(423, "repository is archived"), Rejected, "423 repository is archived"),
    ("500", error(500, ""), Unavailable, "500"),
    ("503", lambda one: one.say(503, PAGE), Unavailable, "503"),
    ("200 page", lambda one: one.say(200, PAGE), Unavailable, "not JSON"),
    ("403 page", lambda one: one.say(403, PAGE), Unavailable, "the forge itself"),
    ("404 page", lambda one: one.say(404, PAGE), Unavailable, "the forge itself"),
    ("nothing", lambda one: one.say(200, b""), Unavailable, "not JSON"),
    ("another document", lambda one: one.say(200, {"hello": 1}), Unavailable, "not what a forge answers"),
    ("a list", lambda one: one.say(200, [1]), Unavailable, "not what a forge answers"),
    ("half a body", half, Unavailable, "half an answer|not JSON"),
    ("a cut connection", lambda one: one.connection.close(), Unavailable, "cannot reach"),
    ("control characters", error(409, "\x1b[2J\n\nx"), Rejected, r"409  \[2J  x"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "says"), [entry[1:] for entry in BAD_ANSWERS], ids=[e[0] for e in BAD_ANSWERS]
)
def test_a_bad_answer_is_a_typed_error_that_says_what_to_do(
    bad_settings: Settings, answer: Answer, kind: type[Exception], says: str
) -> None:
    with answering(answer) as (url, asked):
        with pytest.raises(kind, match=says) as caught:
            at(bad_settings, url).repository("acme/shop")

        assert "0123456789-the-token" not in str(caught.value)
        assert [one[2] for one in asked] == ["token 0123456789-the-token"]


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("soon", None), ("", None)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_later_says_when(bad_settings: Settings, status: int, value: str, seconds: float | None) -> None:
    with (
        answering(lambda one: one.say(status, PAGE, Retry_After=value)) as (url, _asked),
        pytest.raises(Unavailable) as caught,
    ):
        at(bad_settings, url).repository("acme/shop")

    assert caught.value.retry_after == seconds


def test_the_token_is_taken_to_no_other_host(bad_settings: Settings) -> None:
    with answering(error(500, "")) as (other, asked_there):
        for target in (f"{other}/api/v1/repos/acme/shop", "//evil.example/api/v1/repos/x", "/user/login"):
            with (
                answering(redirecting(target)) as (url, asked),
                pytest.raises(Unavailable, match="where the token is not taken"),
            ):
                at(bad_settings, url).repository("acme/shop")
            assert len(asked) == 1
        assert asked_there == []


def test_a_circle_of_redirects_ends(bad_settings: Settings) -> None:
    with (
        answering(lambda one: one.say(301, Location=one.path)) as (url, asked),
        pytest.raises(Unavailable, match="in a circle"),
    ):
        at(bad_settings, url).repository("acme/shop")
    assert len(asked) == 4


def test_silence_and_nobody_are_later(bad_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"no answer from .* within 0.5 s"):
            at(bad_settings, f"http://127.0.0.1:{silent.getsockname()[1]}").repository("acme/shop")
        assert time.monotonic() - began < 10
    with pytest.raises(Unavailable, match="does it run"):
        at(bad_settings, f"http://127.0.0.1:{free_port()}").repository("acme/shop")


def test_names_cannot_lead_to_another_path(bad_settings: Settings) -> None:
    with answering(error(404, "no")) as (url, asked):
        for name in ("../admin", "acme/..", "acme", "", "acme/../../admin?x#y", "acme/shop/hooks"):
            with pytest.raises(NotFound):
                at(bad_settings, url).repository(name)
    assert all(path.startswith("/api/v1/repos/") and path.count("/") == 5 for _method, path, _token in asked)


def test_a_list_that_never_ends_is_not_read_for_ever(
    bad_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway, "PAGES_MAX", 3)
    branch = {"name": "main", "commit": {"id": COMMIT}}
    with answering(lambda one: one.say(200, [branch], Link='<http://evil/?page=2>; rel="next"')) as (
        url,
        asked,
    ):
        assert at(bad_settings, url).branches("acme/shop") == {"main": COMMIT}
    assert [path.partition("?")[2].split("&")[0] for _method, path, _token in asked] == [
        "page=1",
        "page=2",
        "page=3",
    ]


# --- what the doctor says ---


def lines(settings: Settings) -> list[tuple[str, str]]:
    return [(str(check.verdict), check.what) for check in doctor.examine(settings, ["forge"])]


def test_the_doctor_finds_a_forge_that_is_well(forge_settings: Settings, database_file: Path) -> None:
    public = forge_settings.model_copy(update={"forge_hook_url": "https://kennel.example.org/webhook"})

    assert [verdict for verdict, _what in lines(public)] == ["ok", "ok", "ok"]


def test_the_doctor_names_what_a_token_lacks(
    gitea: GiteaServer, forge_settings: Settings, database_file: Path
) -> None:
    with_token(forge_settings, gitea.make_token(BOT, "write:repository"))
    assert lines(forge_settings)[-1] == ("failed", "the token lacks write:issue")
    with_token(forge_settings, "0" * 40)
    assert lines(forge_settings) == [("failed", "ask for the version")]
    nobody = forge_settings.model_copy(update={"forge_token_file": None})
    assert lines(nobody)[-1] == ("failed", "there is no token")


def test_the_doctor_names_repositories_that_the_token_may_not_administer(
    gitea: GiteaServer, forge_settings: Settings, database_file: Path
) -> None:
    weak, gone = gitea.repository(bot="write"), gitea.repository()
    with db.connection():
        for name in (weak, gone):
            number = gitea.call("GET", f"/repos/{name}")["id"]
            projects.add(name, gitea.clone_url(name), "main", number)
    gitea.call("DELETE", f"/repos/{gone}")

    found = lines(forge_settings)

    assert ("failed", f"{weak}: the token's user has the right 'write', and no more") in found
    assert ("failed", f"{gone}: there is no such repository") in found
    assert found[2][0] == "warning"  # deliveries to this host


# --- git ---


def test_a_private_repository_is_asked_for_a_commit_with_the_token(
    gitea: GiteaServer, forge_settings: Settings
) -> None:
    private = gitea.repository(private=True, empty=False)
    url = gitea.clone_url(private)

    assert delivery.commit_of(url, "main", forge_settings) == gitea.head(private)
    with pytest.raises(Rejected, match="could not read Username"):
        delivery.commit_of(url, "main", forge_settings.model_copy(update={"forge_token_file": None}))


def test_git_is_given_the_token_for_the_forge_alone(tmp_path: Path) -> None:
    """Git itself decides by the URL; here another port of the same host gets nothing."""
    with (
        answering(lambda one: one.say(404)) as (forge, asked),
        answering(lambda one: one.say(404)) as (
            other,
            asked_there,
        ),
    ):
        variables = commands.git_config(commands.git_access(forge, "the-token"))
        for url in (f"{forge}/acme/shop.git", f"{other}/acme/shop.git"):
            subprocess.run(
                ["git", "ls-remote", url],
                env={**os.environ, "HOME": str(tmp_path), "GIT_TERMINAL_PROMPT": "0", **variables},
                check=False,
                capture_output=True,
                timeout=60,
            )
    assert {token for _method, _path, token in asked} == {"token the-token"}
    assert {token for _method, _path, token in asked_there} == {""}
