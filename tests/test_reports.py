"""Statuses and comments as values: hostile text stays text, and no writer hides another."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kennel_core.reports import inert, status
from kennel_core.reports.comment import Answer, Failure, Line, View, body, failed_at
from kennel_core.reports.status import BUILD, DEPLOY, Built, Held, Status
from tests.servers.gitea import OWNER, STRANGER, GiteaServer

HOSTILE = [
    "@ada look at this",
    "<script>alert(1)</script>",
    "</pre></code><img src=x onerror=alert(1)>",
    "<!-- kennel-deployment -->",
    "--> <b>bold</b>",
    "[click](https://evil.example)",
    "![x](https://evil.example/x.png)",
    "https://evil.example/path?a=b www.evil.example ftp://evil.example",
    "mallory@evil.example",
    "# heading",
    "| a | b |",
    "```\nfence\n```",
    "~~~~",
    "`code` ``more``",
    "**bold** _it_ ~~gone~~",
    "fixes #1, closes ada/shop#1, !7",
    "0123456789abcdef0123456789abcdef01234567",
    ":tada: :smile:",
    "- [ ] task",
    "1. item",
    "> quote",
    "[^1]: footnote [^1]",
    "[ref]: https://evil.example\n[ref]",
    "&lt;b&gt; &#64;ada &amp;",
    "\\@ada \\<b\\>",
    "$x^2$ $$y$$ \\(z\\)",
    "\u202egnp.exe \u2066x\u2069 \u200b\u200f\ufeff",
    "a\x1b[31mred\x1b[0m\x07\x00\r\n",
    "e" + "\u0301" * 50,
    "\ud800 lone",
    "/kennel approve",
    "x" * 100_000,
    "- " * 5000,
]


def hostile_view(text: str) -> View:
    return View(
        lines=(Line(text, text, text, "live", "3 s", text),),
        failure=Failure(1, text, f"build:x: {text}", text),
        waits=text,
        approvable=True,
        why_not=text,
        answer=Answer(1, text, text, f"first\n{text}"),
        commit=text,
    )


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_forge_shows_hostile_text_and_does_nothing_with_it(gitea: GiteaServer, text: str) -> None:
    name = gitea.repository()
    log = f"=== phase: build:x ===\n{text}\n" * 30
    written = body(hostile_view(text), "kennel:tag", log)
    expected = body(hostile_view("harmless"), "kennel:tag", "=== phase: build:x ===\nharmless\n" * 30)

    html = gitea.request("POST", "/markdown", OWNER, Text=written, Mode="comment", Context=f"/{name}").text
    plain = gitea.request("POST", "/markdown", OWNER, Text=expected, Mode="comment", Context=f"/{name}").text

    assert tags(html) == tags(plain)
    assert not re.search(r'class="(mention|emoji|ref-issue|commit)', html)
    hrefs = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert all(href.startswith("#") or "user-content" in href for href in hrefs), hrefs


def tags(html: str) -> list[str]:
    """The tags of a page, runs of the same ones as one."""
    found = re.findall(r"</?([a-z0-9]+)", html)
    return [tag for place, tag in enumerate(found) if place == 0 or found[place - 1] != tag]


def test_nobody_is_notified_of_what_a_build_prints(gitea: GiteaServer) -> None:
    name = gitea.repository()
    number = int(gitea.call("POST", f"/repos/{name}/issues", title="Change")["number"])
    before = gitea.call("GET", "/notifications", STRANGER)
    written = body(hostile_view(f"@{STRANGER} see #1"), "kennel:tag", f"=== phase: x ===\n@{STRANGER}\n")
    gitea.comment(name, number, written)
    gitea.comment(name, number, "the end")
    assert gitea.call("GET", "/notifications", STRANGER) == before


@given(text=st.text(min_size=1, max_size=300), log=st.text(max_size=3000))
def test_any_text_is_written_without_a_character_that_means_anything(text: str, log: str) -> None:
    written = body(hostile_view(text), "kennel:tag", f"=== phase: x ===\nfirst\n{log}")
    harmless = body(hostile_view("harmless"), "kennel:tag", "=== phase: x ===\nfirst\n")
    assert skeleton(written) == skeleton(harmless)
    assert len(written) <= 60_100
    assert all(unicodedata.category(one) not in inert.INVISIBLE or one == "\n" for one in written)


def skeleton(text: str) -> str:
    """What is left of a comment without letters, digits, spaces and characters written as numbers."""
    return re.sub(r"&#\d+;|\s|…|[^\W_]", "", text)


def test_ten_thousand_lines_are_bounded_and_are_the_last_ones() -> None:
    log = "=== phase: build:x ===\n" + "".join(f"line {n}\n" for n in range(10_000))
    written = body(View(failure=Failure(1, "a" * 40, "build:x: boom", "")), "kennel:tag", log)
    assert "line 9999" in written
    assert "line 9979" not in written
    assert len(written) < 3000


def test_a_comment_is_bounded_whatever_it_shows() -> None:
    lines = tuple(
        Line(f"service-{n}", f"https://s{n}.example", "a" * 40, "live", "3 s", "") for n in range(5000)
    )
    wide = "=== phase: x ===\n" + ("@" * 5000 + "\n") * 100
    view = View(lines, Failure(1, "b" * 40, "x: " + "@" * 9000, ""), answer=Answer(1, "ada", "logs", wide))
    assert len(body(view, "kennel:tag", wide)) < 65_000
    assert "and 4950 more" in body(view, "kennel:tag", wide)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("build:api: package api failed", ("build:api", "package api failed", ["api 1", "api 2"])),
        ("build: odd", ("deploy", "build: odd", ["started"])),
        ("deploy: did not come up", ("deploy", "did not come up", ["started"])),
        ("waited a day", ("deploy", "waited a day", ["started"])),
    ],
)
def test_the_phase_of_a_failure_is_found_in_the_log(error: str, expected: tuple) -> None:
    log = "=== phase: build:api ===\napi 1\n\napi 2\n=== phase: build:docs ===\nd\n"
    log += "=== phase: deploy ===\nstarted\n"
    assert failed_at(error, log) == expected


# --- statuses ---

A = "a" * 40


def built(number: int, state: str, ref: str = "main", **changes: object) -> Built:
    same: dict = {"error": None, "origin": number, "started_at": 0.0, "built_at": None, "hosts": None}
    if state in {"built", "done"}:
        same |= {"built_at": 34.0, "hosts": {"api": "https://api.example"}}
    return Built(id=number, ref=ref, status=state, **({"commit": A} | same | changes))


def said(*builds: Built, held: tuple[Held, ...] = (), now: float = 100.0) -> dict[str, str]:
    found = status.statuses(builds, held, lambda number: f"log {number}", now)
    return {f"{one.context} {one.commit[0]}": one.state for one in found}


@pytest.mark.parametrize(
    ("state", "changes", "expected"),
    [
        ("queued", {}, {BUILD: "pending"}),
        ("building", {}, {BUILD: "pending"}),
        ("built", {}, {BUILD: "success", DEPLOY: "pending"}),
        ("built", {"built_at": 99.0}, {BUILD: "success"}),
        ("done", {}, {BUILD: "success", DEPLOY: "success"}),
        ("failed", {"error": "clone: no"}, {BUILD: "failure"}),
        ("failed", {"built_at": 9.0, "hosts": {"api": "h"}}, {BUILD: "success", DEPLOY: "failure"}),
        ("cancelled", {}, {BUILD: "warning"}),
        ("cancelled", {"built_at": 9.0, "hosts": {"api": "h"}}, {BUILD: "success", DEPLOY: "warning"}),
        ("done", {"deploys": False}, {BUILD: "success", DEPLOY: "success"}),
        ("done", {"hosts": {}}, {BUILD: "success"}),
        ("done", {"hosts": {"api": "h", "docs": "i"}}, None),
    ],
)
def test_a_build_is_said_as_it_is(state: str, changes: dict, expected: dict | None) -> None:
    expected = expected or {BUILD: "success", f"{DEPLOY} (api)": "success", f"{DEPLOY} (docs)": "success"}
    assert said(built(1, state, **changes)) == {f"{name} a": value for name, value in expected.items()}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("done", "failed"), "failure"),
        (("failed", "done"), "failure"),
        (("done", "queued"), "pending"),
        (("cancelled", "queued"), "pending"),
        (("failed", "queued"), "failure"),
        (("cancelled", "done"), "warning"),
        (("done", "done"), "success"),
    ],
)
def test_of_a_branch_and_a_pull_request_at_one_commit_the_worst_is_shown(
    states: tuple[str, str], expected: str
) -> None:
    first, second = states
    assert said(built(1, first, "topic"), built(2, second, "pr-1"))[f"{BUILD} a"] == expected


def test_a_newer_build_of_the_same_ref_replaces_the_older_one() -> None:
    assert said(built(1, "failed"), built(2, "queued"))[f"{BUILD} a"] == "pending"


def test_deploying_again_keeps_what_was_said_of_the_build() -> None:
    again = built(2, "done", origin=1, started_at=50.0, built_at=50.0)
    first, second = status.statuses([built(1, "done"), again], [], lambda number: f"log {number}", 100.0)
    assert first == Status(A, BUILD, "success", "built in 34 s", "log 1")
    assert second == Status(A, DEPLOY, "success", "deployed to https://api.example", "log 2")


def test_a_commit_that_waits_for_approval_is_pending() -> None:
    assert said(held=(Held("b" * 40, "waits"),)) == {f"{BUILD} b": "pending"}


@given(text=st.text())
def test_a_description_is_one_short_line(text: str) -> None:
    (one,) = status.statuses([built(1, "failed", error=text or "x")], [], lambda _n: "", 0.0)
    assert len(one.description) <= 200
    assert all(unicodedata.category(char) not in inert.INVISIBLE for char in one.description)
