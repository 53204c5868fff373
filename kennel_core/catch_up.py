"""Do what a delivery would have asked for that never came: Kennel was down, or the forge could not reach it.

Each registered repository is asked for its heads, through the forge's API where one is configured and the
repository is its own, else through git. Git knows no open pull requests: of those that Kennel knows it
gives new heads, and their closing is left to deliveries.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peewee
import structlog

from kennel_core import builds, db, pull_requests, receive, refs
from kennel_core.adapters import git_remote
from kennel_core.adapters.forge import Forge, doorway
from kennel_core.doorbell import Doorbell
from kennel_core.environment import is_pull_request, pull_request_ref
from kennel_core.errors import KennelError, NotFound, Rejected
from kennel_core.forge_records import Pull
from kennel_core.heads import Change, Gone, Heads, Known, Moved, Proposed, missed, parse
from kennel_core.logs import redact, register_secret
from kennel_core.models import Build, Deployment, Project, PullRequest, Ref
from kennel_core.pipeline import commands
from kennel_core.provision.servers import each
from kennel_core.settings import Settings
from kennel_core.webhook import Proposal, says_skip

log = structlog.get_logger(__name__)

NOWHERE = Path("/nonexistent")  # git needs no home here

Ask = Callable[[Project], Heads]


@dataclass(slots=True)
class CaughtUp:
    """What was missed: ids of builds, ``owner/name ref`` of what is gone, and who did not answer."""

    builds: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def catch_up(settings: Settings, doorbell: Doorbell, ask: Ask | None = None) -> CaughtUp:
    """Ask every repository, side by side, and act on what differs; needs a database connection.

    No answer, an error, and an answer without any branch change nothing. What a delivery told meanwhile is
    left as it is.
    """
    projects = list(Project.select())
    before = {project.id: _known(project) for project in projects}
    told = False
    done = CaughtUp()
    for project, heads in zip(projects, each(ask or asker(settings), projects), strict=True):
        if isinstance(heads, KennelError):
            done.errors.append(redact(str(heads)))
            log.warning("repository not asked", project=project.full_name, error=redact(str(heads)))
        elif not heads.branches:
            log.warning("repository has no branches: nothing is done", project=project.full_name)
        else:
            told = _act(project, heads, before[project.id], settings, done) or told
    for build_id in done.builds:
        doorbell.build(build_id)
    if done.removed:
        doorbell.reconcile()
    if settings.reports and (told or done.builds or done.removed):
        doorbell.report()
    return done


def asker(settings: Settings) -> Ask:
    """Give the function that asks one repository; threads may share it."""
    forge = Forge(settings) if settings.forge_url else None

    def ask(project: Project) -> Heads:
        if forge is not None and doorway.is_of(settings.forge_url, project.clone_url):
            return _by_forge(forge, project)
        return _by_git(project, settings)

    return ask


def _by_forge(forge: Forge, project: Project) -> Heads:
    try:
        pulls = forge.pulls(project.full_name)
        branches = forge.branches(project.full_name)
    except NotFound as exc:
        why = "it is empty, is not there, or the token's user may not see it"
        raise Rejected("forge", f"ask for the heads of {project.full_name}", why) from exc
    opened = {pull.number: _proposal(pull) for pull in pulls if pull.open}
    return Heads(branches, {number: one.commit for number, one in opened.items()}, opened)


def _proposal(pull: Pull) -> Proposal:
    return Proposal(
        number=pull.number,
        commit=pull.head_commit,
        author=pull.author,
        fork=pull.fork,
        draft=pull.draft,
        labels=pull.labels,
        skip=says_skip(pull.title),
        fresh=False,
    )


def _by_git(project: Project, settings: Settings) -> Heads:
    url = project.clone_url
    protocol = commands.protocol(url, allow_file=settings.git_allow_file)
    if protocol is None:
        raise Rejected("git", f"ask {project.full_name}", "its clone URL is not one that Kennel uses")
    token = doorway.token_for(settings, url)
    if token:
        register_secret(token)
    remote = commands.git_remote(url, commands.git_access(settings.forge_url, token))
    env = commands.environment(os.environ, NOWHERE, Path("/tmp"), protocol) | remote  # noqa: S108  # unused
    return parse(git_remote.listed(commands.git_heads(), env, project.full_name))


def _act(
    project: Project, heads: Heads, before: Mapping[str, Known], settings: Settings, done: CaughtUp
) -> bool:
    """Act on what differs; True when a pull request is to be decided about."""
    first = project.looked_at is None
    changes = missed(
        heads, before, project.default_branch, lambda ref: receive.deploys(ref, settings), first=first
    )
    told, now = False, time.time()
    with db.write():
        Project.update(looked_at=now).where(Project.id == project.id).execute()
        known = _known(project) if changes else {}
        for change in changes:
            if known.get(change.ref) == before.get(change.ref):  # else a delivery was quicker
                told = _apply(project, change, settings, now, done) or told
    return told


def _apply(project: Project, change: Change, settings: Settings, now: float, done: CaughtUp) -> bool:
    build: Build | None = None
    match change:
        case Moved(ref, commit, build=False):
            refs.heard(project, ref, commit)
        case Moved(ref, commit):
            build = builds.enqueue(project, ref, commit, now)
        case Gone(ref):
            names = refs.remove(project, ref, f"{ref} is gone from the repository", now)
            if is_pull_request(ref):
                pull_requests.closed(project, ref, names)
            done.removed.append(f"{project.full_name} {ref}")
        case Proposed(proposal):
            row = pull_requests.note(project, proposal)
            if row is not None and settings.reports:
                return True
            if row is not None:
                row.trusted = True  # as for a delivery: nobody can be asked
                build = pull_requests.settle(row, settings, now)
    if build is not None:
        done.builds.append(build.id)
    log.info("missed", project=project.full_name, ref=change.ref, what=type(change).__name__.lower())
    return False


def _known(project: Project) -> dict[str, Known]:
    of_project = Build.project == project
    newest: Any = Build.select(Build.ref, peewee.fn.MAX(Build.id)).where(of_project).group_by(Build.ref)
    by_ref = dict(newest.tuples())
    working: Any = (
        Build.select(Build.ref).where(of_project, Build.status << list(builds.UNFINISHED)).distinct().tuples()
    )
    deployed: Any = Deployment.select(Deployment.ref).where(Deployment.project == project).distinct().tuples()
    up = {ref for (ref,) in (*working, *deployed)}
    heads = {row.ref: row.head for row in Ref.select().where(Ref.project == project)}
    pulls = {
        pull_request_ref(row.number): _described(row)
        for row in PullRequest.select().where(PullRequest.project == project, PullRequest.open)
    }
    found = {}
    for ref in {*heads, *up, *pulls}:
        number = by_ref.get(ref)
        head = heads.get(ref) or (builds.get(number).commit if number else None)
        found[ref] = Known(head, number, ref in up, pulls.get(ref))
    return found


def _described(row: PullRequest) -> Proposal:
    return Proposal(
        number=row.number,
        commit=row.commit,
        author=row.author,
        fork=bool(row.fork),
        draft=bool(row.draft),
        labels=tuple(row.labels or ()),
        skip=bool(row.skip),
        fresh=False,
    )
