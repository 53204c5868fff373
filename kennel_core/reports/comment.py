"""The one comment that Kennel keeps on a pull request. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kennel_core.reports import inert

MARKER = "<!-- kennel-deployment -->"
HEADING = "### Kennel Deployments"
ROWS_MAX = 50
LINES_MAX = 20
LINE_MAX = 200  # characters
SENTENCE_MAX = 500
BODY_MAX = 60_000  # characters; forges refuse more than 65,535

_URL = re.compile(r"https?://[a-z0-9.:-]+(/[a-z0-9/?=&]*)?")
_HEADER = re.compile(r"=== phase: (.*) ===")


@dataclass(frozen=True, slots=True)
class Line:
    """One service or site that is up. `commit` is the one that is live."""

    name: str
    url: str
    commit: str
    state: str
    took: str
    log: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The newest build, when it did not end well. `error` is as the build has it."""

    build_id: int
    commit: str
    error: str
    log: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the last command that has something to say was answered. `command_id` tells one from another."""

    command_id: int
    author: str
    words: str
    text: str


@dataclass(frozen=True, slots=True)
class View:
    """All that a comment shows.

    `waits`: why `commit` is not built yet, and `approvable` that it needs approval. `gone`: what was taken
    down, when it is closed.
    """

    lines: tuple[Line, ...] = ()
    failure: Failure | None = None
    waits: str | None = None
    approvable: bool = False
    why_not: str | None = None
    answer: Answer | None = None
    gone: tuple[str, ...] | None = None
    commit: str = ""


def body(view: View, tag: str, log: str = "") -> str:
    """Write the comment. `tag` proves that it is Kennel's; `log` is the whole log of the failed build."""
    parts = [f"{MARKER}\n<!-- {tag} -->\n{HEADING}"]
    if view.gone is not None:
        parts.append(_closed(view.gone))
    elif view.lines:
        parts.append(_table(view.lines))
    if view.waits:
        parts.append(_waiting(view))
    if view.why_not:
        parts.append(f"Not deployed: {inert.code(view.why_not, SENTENCE_MAX)}")
    if view.failure:
        parts.append(_failure(view.failure, log))
    if view.answer:
        parts.append(_answer(view.answer))
    whole = ""
    for part in parts:  # a part is shown whole or not at all: half of one could open what it does not close
        if len(whole) + len(part) <= BODY_MAX:
            whole += f"{part}\n\n"
    return whole.rstrip() + "\n"


def _table(lines: Sequence[Line]) -> str:
    rows = ["| | URL | Commit | State | Took | Log |", "| --- | --- | --- | --- | --- | --- |"]
    for line in lines[:ROWS_MAX]:
        cells = (
            inert.code(line.name, 80),
            _link(line.url, line.url),
            inert.code(line.commit[:10], 10),
            line.state,
            line.took,
            _link("log", line.log),
        )
        rows.append(f"| {' | '.join(cells)} |")
    if len(lines) > ROWS_MAX:
        rows.append(f"| … and {len(lines) - ROWS_MAX} more | | | | | |")
    return "\n".join(rows)


def _link(text: str, url: str) -> str:
    """Make a link of a URL that Kennel made; of any other only text."""
    if not _URL.fullmatch(url):
        return inert.code(text, LINE_MAX) if url else ""
    return f"[{text}]({url})"


def _closed(names: Sequence[str]) -> str:
    if not names:
        return "The pull request is closed; nothing of it was deployed."
    shown = ", ".join(inert.code(name, 80) for name in names[:ROWS_MAX])
    return f"The pull request is closed, and its preview is torn down: {shown}, with the data of each."


def _waiting(view: View) -> str:
    commit = inert.code(view.commit[:10], 10)
    text = f"**Commit {commit} is not built yet:** {inert.code(view.waits or '', SENTENCE_MAX)}"
    if view.approvable:
        command = f"<code>/kennel approve {inert.entities(inert.shown(view.commit[:10], 10))}</code>"
        text += f"\n\nWhoever may write to the repository approves it with {command} in a comment."
    return text


def _failure(failure: Failure, log: str) -> str:
    phase, sentence, lines = failed_at(failure.error, log)
    place = f" in {inert.code(phase, 80)}" if phase else ""
    text = (
        f"**Commit {inert.code(failure.commit[:10], 10)} failed{place}:** "
        f"{inert.code(sentence, SENTENCE_MAX)} {_link('whole log', failure.log)}"
    ).rstrip()
    return f"{text}\n\n{inert.block(lines, LINE_MAX)}" if lines else text


def failed_at(error: str, log: str) -> tuple[str, str, list[str]]:
    """Tell the phase in which a build failed, the sentence, and the last lines of that phase's output."""
    phases: dict[str, list[str]] = {}
    phase = ""
    for line in log.splitlines():
        if header := _HEADER.fullmatch(line):
            phase = header[1]
        else:
            phases.setdefault(phase, []).append(line)
    named = max((name for name in phases if name and error.startswith(f"{name}: ")), key=len, default="")
    lines = [line for line in phases.get(named or phase, ()) if line.strip()][-LINES_MAX:]
    return named or phase, error.removeprefix(f"{named}: ") if named else error, lines


def _answer(answer: Answer) -> str:
    command = inert.code(f"/kennel {answer.words}".rstrip(), LINE_MAX)
    lines = [line for line in answer.text.splitlines() if line.strip()][-LINES_MAX:]
    return f"{command} by {inert.code(answer.author, 80)}:\n\n{inert.block(lines, LINE_MAX)}"
