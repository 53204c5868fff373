"""The statuses of commits. Pure.

A commit is often built more than once: as a branch, and as a pull request. There is one writer for each
context, which shows the worst of all, so that none hides another.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kennel_core.reports import inert

BUILD, DEPLOY = "kennel/build", "kennel/deploy"
DESCRIPTION_MAX = 200  # characters
SLOW_S = 5.0  # a rollout is announced when it takes longer; mostly its end is near
RANK = {"failure": 0, "pending": 1, "warning": 2, "success": 3}


@dataclass(frozen=True, slots=True)
class Built:
    """A build as it is. `hosts` are the URLs of its services and sites by name, once there are outputs.

    `origin` is the build whose outputs it took over, its own id when it made them. `deploys` is False when
    the project wants no previews.
    """

    id: int
    ref: str
    commit: str
    status: str
    error: str | None
    origin: int
    started_at: float | None
    built_at: float | None
    hosts: dict[str, str] | None
    deploys: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """A pull request whose commit is not built yet, and what it waits for, in a sentence."""

    commit: str
    why: str


@dataclass(frozen=True, slots=True)
class Status:
    """What one context shall say of a commit."""

    commit: str
    context: str
    state: str  # pending, success, failure or warning
    description: str
    url: str  # empty: none


def statuses(
    builds: Iterable[Built], held: Iterable[Held], log_url: Callable[[int], str], now: float
) -> list[Status]:
    """Say what the forge should show of the commits of one project, commits in the order of their builds.

    `builds` are in order of their ids.
    """
    newest: dict[str, dict[str, Built]] = defaultdict(dict)
    made: dict[str, dict[str, Built]] = defaultdict(dict)
    for build in builds:
        newest[build.commit][build.ref] = build
        if build.origin == build.id:
            made[build.commit][build.ref] = build
    found: list[Status] = []
    waiting: dict[str, str] = {one.commit: one.why for one in held}
    for commit in dict.fromkeys([*newest, *waiting]):
        opinions = [_build(build, log_url) for build in made[commit].values()]
        if commit in waiting:
            opinions.append(Status(commit, BUILD, "pending", _sentence(waiting[commit]), ""))
        found += _worst(opinions)
        names = {name for build in newest[commit].values() for name in build.hosts or ()}
        found += _worst(
            status
            for build in newest[commit].values()
            for status in _deploys(build, log_url, now, several=len(names) > 1)
        )
    return found


def _worst(opinions: Iterable[Status]) -> list[Status]:
    """Choose one for each context; of equals the one that came last."""
    chosen: dict[str, Status] = {}
    for one in opinions:
        before = chosen.get(one.context)
        if before is None or RANK[one.state] <= RANK[before.state]:
            chosen[one.context] = one
    return list(chosen.values())


def _build(build: Built, log_url: Callable[[int], str]) -> Status:
    match build.status:
        case "queued":
            state, text = "pending", "waits for a builder"
        case "building":
            state, text = "pending", "is being built"
        case "failed" if build.built_at is None:
            state, text = "failure", build.error or "failed"
        case "cancelled" if build.built_at is None:
            state, text = "warning", build.error or "cancelled"
        case _:
            state, text = "success", f"built{_took(build)}"
    return Status(build.commit, BUILD, state, _sentence(text), log_url(build.id))


def _took(build: Built) -> str:
    if build.started_at is None or build.built_at is None:
        return ""
    return f" in {duration(build.built_at - build.started_at)}"


def _deploys(build: Built, log_url: Callable[[int], str], now: float, *, several: bool) -> list[Status]:
    """Give the opinion of one build on each service and site that it has."""
    if build.built_at is None or build.hosts is None:
        return []
    url = log_url(build.id)
    if not build.deploys:
        text = "not deployed: kennel.json says that there are no previews"
        return [Status(build.commit, DEPLOY, "success", text, url)] if build.status == "done" else []
    if build.status == "built" and now < build.built_at + SLOW_S:
        return []
    found = []
    for name, host in build.hosts.items():
        match build.status:
            case "built":
                state, text = "pending", "is starting"
            case "failed":
                state, text = "failure", build.error or "did not come up"
            case "cancelled":
                state, text = "warning", build.error or "cancelled"
            case _:
                state, text = "success", f"deployed to {host}"
        context = f"{DEPLOY} ({name})" if several else DEPLOY
        found.append(Status(build.commit, context, state, _sentence(text), url))
    return found


def _sentence(text: str) -> str:
    lines = text.strip().splitlines()
    return inert.shown(lines[0] if lines else "", DESCRIPTION_MAX)


def duration(seconds: float) -> str:
    """Give a duration as people say it.

    >>> duration(0.4), duration(75), duration(3700)
    ('1 s', '1 min 15 s', '1 h 1 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
