"""Pull requests as they were last described, and the decision whether their commit is built.

Rows are written when the forge tells something. What has to be asked of it is asked by the reports, so a
delivery is answered at once.
"""

from enum import StrEnum
from typing import Any

from peewee import fn

from kennel_core import audit_log, builds, db, environment, gate, refs
from kennel_core.errors import Conflict, NotFound
from kennel_core.models import Build, Command, Deployment, Project, PullRequest
from kennel_core.settings import Settings
from kennel_core.webhook import Proposal


class State(StrEnum):
    """How far the decision about a pull request's commit has come."""

    NEW = "new"  # to be decided
    CHANGED = "changed"  # its commit was built; whether it still may be is to be decided
    WAITING = "waiting"  # decided again from time to time; `why` is told
    HELD = "held"  # not built until it changes
    BUILT = "built"


UNDECIDED = (State.NEW, State.CHANGED, State.WAITING)


def note(project: Project, seen: Proposal) -> PullRequest | None:
    """Keep what a pull request is now, inside the caller's `db.write()`; None: there is nothing to decide.

    A new commit makes worthless what was approved and asked for the one before.
    """
    row = PullRequest.get_or_none(PullRequest.project == project, PullRequest.number == seen.number)
    if row is None:
        row = PullRequest(project=project, number=seen.number, commit="")
    facts = (row.draft, row.skip, list(row.labels or ()), row.open)
    if seen.commit != row.commit or not row.open:
        row.state, row.trusted, row.why = State.NEW, None, None
        Command.update(answer=None).where(
            Command.project == project, Command.number == seen.number
        ).execute()  # what a command was answered is about the commit before
    elif seen.fresh or row.state != State.BUILT:
        row.state = State.NEW
    elif facts != (seen.draft, seen.skip, list(seen.labels), True):
        row.state = State.CHANGED
    row.commit, row.author, row.fork, row.open = seen.commit, seen.author, seen.fork, True
    row.draft, row.skip, row.labels, row.removed = seen.draft, seen.skip, list(seen.labels), None
    row.save()
    return row if row.state in UNDECIDED else None


def closed(project: Project, ref: str, names: list[str]) -> None:
    """Note that a pull request is closed and what was taken down: inside the caller's `db.write()`."""
    PullRequest.update(open=False, removed=names, state=State.HELD, why=None).where(
        PullRequest.project == project, PullRequest.number == number_of(ref), PullRequest.open
    ).execute()


def number_of(ref: str) -> int:
    """Give the number of a pull request's ref."""
    return int(ref.removeprefix("pr-"))


def find(project: Project, number: int) -> PullRequest:
    """Return a pull request that is known.

    Raises:
        NotFound: it is not.
    """
    row = PullRequest.get_or_none(PullRequest.project == project, PullRequest.number == number)
    if row is None:
        raise NotFound(f"{project.full_name}: pull request {number} is not known; has it a new commit?")
    return row


def all_open(project: Project | None = None) -> list[PullRequest]:
    """List the open ones, by project and number."""
    query = PullRequest.select(PullRequest, Project).join(Project).where(PullRequest.open)
    if project is not None:
        query = query.where(PullRequest.project == project)
    return list(query.order_by(Project.owner, Project.name, PullRequest.number))


def undecided() -> list[PullRequest]:
    """List the open ones that wait for a decision, oldest first."""
    query = PullRequest.select(PullRequest, Project).join(Project)
    return list(query.where(PullRequest.open, PullRequest.state << list(UNDECIDED)).order_by(PullRequest.id))


def needs_asking(row: PullRequest) -> bool:
    """Tell whether the decision depends on what its author may do, which is not known yet."""
    return row.trusted is None and not row.fork and row.approved_commit != row.commit


def needs_approval(row: PullRequest) -> bool:
    """Tell whether a pull request that waits does so for approval."""
    return row.approved_commit != row.commit and (row.fork or not row.trusted)


def approve(project: Project, number: int, commit: str, who: str, now: float) -> PullRequest:
    """Let one commit of a pull request be built; `commit` may be its beginning, of 7 digits at least.

    Raises:
        NotFound: the pull request is not known.
        Conflict: it is closed, or at another commit by now.
    """
    with db.write():
        row = find(project, number)
        if not row.open:
            raise Conflict(f"pull request {number}: is closed")
        if len(commit) < 7 or not row.commit.startswith(commit):
            raise Conflict(
                f"pull request {number}: is at {row.commit[:12]} by now, not at {commit[:12]}; "
                "look at that commit and approve it"
            )
        row.approved_commit, row.approved_by = row.commit, who
        if row.state in (State.WAITING, State.HELD):
            row.state = State.NEW
        row.save()
        audit_log.note(who, "approve", f"{project.full_name} pr-{number}", f"approved {row.commit}", now)
    return row


def settle(row: PullRequest, settings: Settings, now: float) -> Build | None:
    """Decide, inside the caller's `db.write()`; returns the build when there is one to ring for.

    What is up of a pull request that is kept back by its draft state, title or labels goes; one that waits
    for approval of a new commit keeps what is up of the one before.
    """
    project, ref = row.project, environment.pull_request_ref(row.number)
    held = gate.hold(_facts(row), rules(settings))
    build = None
    if held is None:
        if row.state != State.CHANGED:
            build = builds.enqueue(project, ref, row.commit, now)
        row.state, row.why = State.BUILT, None
    elif held.waits:
        row.state, row.why = State.WAITING, held.why
    else:
        refs.remove(project, ref, held.why, now)
        row.state, row.why = State.HELD, held.why
    row.save()
    return build


def let_in(project: Project, settings: Settings, now: float) -> None:
    """Decide again about those of a project that wait, inside the caller's `db.write()`.

    The builds are not rung for: the next pass does that.
    """
    for row in undecided():
        if row.project_id == project.id:
            settle(row, settings, now)


def rules(settings: Settings) -> gate.Rules:
    """Read what the settings say of previews."""
    return gate.Rules(
        limit=settings.preview_limit,
        drafts=settings.preview_drafts,
        labels=gate.labels(settings.preview_labels),
        excluded=gate.labels(settings.preview_labels_excluded),
    )


def _facts(row: PullRequest) -> gate.Facts:
    return gate.Facts(
        fork=row.fork,
        draft=row.draft,
        labels=row.labels,
        skip=row.skip,
        approved=row.approved_commit == row.commit,
        trusted=bool(row.trusted),
        others=len(_up(row.project_id) - {environment.pull_request_ref(row.number)}),
    )


def _up(project_id: int) -> set[str]:
    """Name the refs of pull requests that have deployments, or a build on its way."""
    deployed: Any = (
        Deployment.select(fn.DISTINCT(Deployment.ref)).where(Deployment.project == project_id).tuples()
    )
    building: Any = (
        Build.select(fn.DISTINCT(Build.ref))
        .where(Build.project == project_id, Build.status << list(builds.UNFINISHED))
        .tuples()
    )
    return {ref for (ref,) in (*deployed, *building) if environment.is_pull_request(ref)}
