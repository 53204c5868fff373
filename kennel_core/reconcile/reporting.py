"""Ask the forge what is not known, and tell it what it does not show yet.

Nothing here is a reason for a build or a deployment to fail. One request at a time goes to a repository,
several repositories are served side by side; what fails is tried again later, longer and longer apart.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import structlog

from kennel_core import builds, comment_commands, db, pull_requests
from kennel_core.adapters.forge import Forge
from kennel_core.doorbell import Doorbell
from kennel_core.errors import KennelError, NotFound, Rejected, Unavailable
from kennel_core.models import Build, Command, ForgeReport, Project, PullRequest
from kennel_core.reconcile import wanted_reports
from kennel_core.reconcile.wanted_reports import Reports, Wanted
from kennel_core.reports import comment, status
from kennel_core.settings import Settings

LIMIT_S = 10.0  # how long a report goes on before others get their turn
AT_ONCE = 8  # repositories side by side
FIRST_S, LONGEST_S = 10.0, 300.0  # between tries when the forge cannot
REFUSED_S, REFUSED_LONGEST_S = 300.0, 21_600.0  # ... and when it will not
ERROR_MAX = 250  # characters
KEPT_S = 2 * wanted_reports.REPORTED_S  # what the forge was told about commits and pull requests that ended
PRUNED_EVERY_S = 3600.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Reported:
    """What a report did. `again` asks for another one at once: time was up."""

    sent: list[str] = field(default_factory=list)  # targets
    queued: list[int] = field(default_factory=list)  # builds
    errors: list[str] = field(default_factory=list)
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing to ask or tell. `ask` runs in a thread and touches no row; `keep` gets what it returns."""

    project: Project
    target: str
    ask: Callable[[], Any]
    keep: Callable[[Any], None]


class Reporter:
    """Reports, and remembers for as long as its process lives how long the forge wants to be left alone."""

    def __init__(self, settings: Settings, make: Callable[[Settings], Forge] = Forge) -> None:
        self._settings = settings
        self._make = make
        self._client: Forge | None = None
        self._myself: str | None = None
        self._silent = 0  # in a row
        self._quiet_until = 0.0
        self._pruned_at = 0.0

    def report(self, doorbell: Doorbell, limit: float = LIMIT_S) -> Reported:
        """Carry out commands, decide about pull requests, and tell the forge what changed; rings for builds.

        Raises:
            ConfigError: the forge's token, or the secret key, cannot be read.
        """
        done = Reported()
        now = time.time()
        if not self._settings.reports or now < self._quiet_until:
            return done
        deadline = time.monotonic() + limit
        if now > self._pruned_at + PRUNED_EVERY_S:
            self._pruned_at = now
            _prune(now)
        self._settle_known(done, now)
        if self._send(self._questions(done, now), done, deadline):
            self._send(self._news(done, now), done, deadline)
        for build_id in done.queued:
            doorbell.build(build_id)
        if done.queued:
            self._send(self._news(done, time.time()), done, deadline)
        if done.queued or any(target.startswith("command:") for target in done.sent):
            doorbell.reconcile()
        if done.again:
            doorbell.report()
        return done

    # --- what has to be asked ---

    def _settle_known(self, done: Reported, now: float) -> None:
        """Decide about the pull requests of which all is known: those from forks, and those that waited."""
        for row in pull_requests.undecided():
            if not pull_requests.needs_asking(row):
                _settle(row, self._settings, done, now)

    def _questions(self, done: Reported, now: float) -> list[_Step]:
        told = _told()
        steps = [
            self._about_author(row, done)
            for row in pull_requests.undecided()
            if pull_requests.needs_asking(row)
        ]
        steps += [self._about_command(command, done) for command in comment_commands.waiting()]
        return [step for step in steps if _is_due(told.get((step.project.id, step.target)), now)]

    def _about_author(self, row: PullRequest, done: Reported) -> _Step:
        project, author = row.project, row.author

        def keep(permission: str) -> None:
            row.trusted = permission in comment_commands.MAY
            _settle(row, self._settings, done, time.time())

        return _Step(project, f"pull:{row.number}", lambda: self._permission(project, author), keep)

    def _about_command(self, command: Command, done: Reported) -> _Step:
        project, author = command.project, command.author

        def keep(permission: str) -> None:
            build = comment_commands.carry_out(command, permission, self._settings, time.time())
            if build is not None and build.status == "queued":
                done.queued.append(build.id)
            for row in pull_requests.undecided():  # one that was approved
                if row.project_id == project.id and not pull_requests.needs_asking(row):
                    _settle(row, self._settings, done, time.time())

        return _Step(project, f"command:{command.id}", lambda: self._permission(project, author), keep)

    def _permission(self, project: Project, author: str) -> str:
        """Ask what somebody may do; who is not told that counts as a stranger."""
        if not author:
            return comment_commands.UNKNOWN
        try:
            return self._forge.permission(project.full_name, author)
        except Rejected as exc:
            log.warning("permission not known", project=project.full_name, who=author, error=str(exc))
            return comment_commands.UNKNOWN

    # --- what has to be told ---

    def _news(self, done: Reported, now: float) -> list[_Step]:
        told = _told()
        wanted = wanted_reports.statuses(self._settings, told, now)
        steps = [self._tell_status(one) for one in _changed(wanted, told, now)]
        steps += [
            self._react(command)
            for command in comment_commands.unanswered()
            if _is_due(told.get((command.project_id, f"reaction:{command.id}")), now)
        ]
        views = wanted_reports.comments(self._settings, told)
        steps += [self._tell_comment(one, told) for one in _changed(views, told, now)]
        return [step for step in steps if step.target not in done.sent]

    def _tell_status(self, wanted: Wanted) -> _Step:
        one, name = wanted.what, wanted.project.full_name
        assert isinstance(one, status.Status)  # noqa: S101

        def ask() -> None:
            self._forge.set_status(name, one.commit, one.state, one.context, one.description, one.url)

        return _Step(wanted.project, wanted.target, ask, lambda _answer: _noted(wanted))

    def _react(self, command: Command) -> _Step:
        name, comment_id, content = command.project.full_name, command.comment_id, command.reaction

        def ask() -> None:
            try:
                self._forge.react(name, comment_id, content)
            except (NotFound, Rejected) as exc:  # the comment is gone, or closed to reactions
                log.warning("no reaction", project=name, error=str(exc))

        return _Step(
            command.project,
            f"reaction:{command.id}",
            ask,
            lambda _answer: comment_commands.answered(command),
        )

    def _tell_comment(self, wanted: Wanted, told: Reports) -> _Step:
        view, name = wanted.what, wanted.project.full_name
        assert isinstance(view, comment.View)  # noqa: S101
        number = int(wanted.target.partition(":")[2])
        tag = wanted_reports.tag(self._settings, wanted.project, number)
        text = comment.body(view, tag, builds.full_log(view.failure.build_id) if view.failure else "")
        report = told.get((wanted.project.id, wanted.target))
        known = report.remote_id if report else None

        def ask() -> int:
            found = known or self._find(name, number, tag)
            if found is not None:
                try:
                    self._forge.edit_comment(name, found, text)
                except NotFound:  # somebody deleted it
                    pass
                else:
                    return found
            return self._forge.create_comment(name, number, text)

        return _Step(wanted.project, wanted.target, ask, lambda number_: _noted(wanted, number_))

    def _find(self, full_name: str, number: int, tag: str) -> int | None:
        """Find Kennel's comment: by its tag, or by the marker where the forge says who Kennel is."""
        if self._myself is None:
            self._myself = self._forge.who()
        for one in self._forge.comments(full_name, number):
            if comment.MARKER in one.body and (
                tag in one.body or (self._myself and one.author == self._myself)
            ):
                return one.id
        return None

    # --- sending ---

    @property
    def _forge(self) -> Forge:
        if self._client is None:
            self._client = self._make(self._settings)
        return self._client

    def _send(self, steps: Iterable[_Step], done: Reported, deadline: float) -> bool:
        """Take the steps of each project in order, a round after the other; False when the forge is down."""
        queues: dict[int, deque[_Step]] = defaultdict(deque)
        for step in steps:
            queues[step.project.id].append(step)
        if not queues:
            return True
        _ = self._forge  # a token that cannot be read is nobody's fault but the settings'
        with ThreadPoolExecutor(AT_ONCE, "report") as pool:
            while queues:
                if time.monotonic() > deadline:
                    done.again = True
                    return True
                heads = [queue.popleft() for queue in queues.values()]
                answers = list(pool.map(_ask, heads))
                for step, answer in zip(heads, answers, strict=True):
                    if isinstance(answer, KennelError):
                        _failed(step, answer, done)
                        if isinstance(answer, Unavailable):
                            queues[step.project.id].clear()
                    else:
                        step.keep(answer)
                        done.sent.append(step.target)
                        _forget_trouble(step)
                if self._is_down(answers):
                    return False
                queues = defaultdict(deque, {key: queue for key, queue in queues.items() if queue})
        return True

    def _is_down(self, answers: list[Any]) -> bool:
        """Leave the forge alone for a while when it asks for that, or answers nobody."""
        asked = [one.retry_after for one in answers if isinstance(one, Unavailable) and one.retry_after]
        if not asked and not all(isinstance(one, Unavailable) for one in answers):
            self._silent = 0
            return False
        self._silent += 1
        wait = max(asked, default=min(FIRST_S * 2.0 ** (self._silent - 1), LONGEST_S / 5))
        self._quiet_until = time.time() + wait
        return True


def _ask(step: _Step) -> Any:
    try:
        return step.ask()
    except KennelError as exc:
        return exc


def _settle(row: PullRequest, settings: Settings, done: Reported, now: float) -> None:
    with db.write():
        build: Build | None = pull_requests.settle(row, settings, now)
    if build is not None and build.status == "queued":
        done.queued.append(build.id)


def _prune(now: float) -> None:
    """Forget what was told of statuses that are not wanted any more, and of pull requests that are closed."""
    ended = ForgeReport.target.startswith("status:") & ~ForgeReport.digest.startswith("pending:")
    closed = ForgeReport.digest.startswith("closed:")
    ForgeReport.delete().where(ForgeReport.updated_at < now - KEPT_S, ended | closed).execute()


def _told() -> Reports:
    return {(row.project_id, row.target): row for row in ForgeReport.select()}


def _changed(wanted: Iterable[Wanted], told: Reports, now: float) -> list[Wanted]:
    found = []
    for one in wanted:
        report = told.get((one.project.id, one.target))
        if (report is None or report.digest != one.digest) and _is_due(report, now):
            found.append(one)
    return found


def _is_due(report: ForgeReport | None, now: float) -> bool:
    return report is None or report.next_at is None or report.next_at <= now


def _noted(wanted: Wanted, remote_id: int | None = None) -> None:
    """Note what the forge has now."""
    values = {"digest": wanted.digest, "remote_id": remote_id, "tries": 0, "next_at": None, "error": None}
    _upsert(wanted.project, wanted.target, values)


def _failed(step: _Step, error: KennelError, done: Reported) -> None:
    """Note that a step failed, and when it is tried again; it is logged once."""
    done.errors.append(str(error))
    before = ForgeReport.get_or_none(ForgeReport.project == step.project, ForgeReport.target == step.target)
    tries = before.tries if before else 0
    text = str(error)[:ERROR_MAX]
    if before is None or before.error != text:
        log.warning("not reported", project=step.project.full_name, target=step.target, error=str(error))
    later = isinstance(error, Unavailable)
    first, longest = (FIRST_S, LONGEST_S) if later else (REFUSED_S, REFUSED_LONGEST_S)
    wait = (error.retry_after if isinstance(error, Unavailable) else None) or min(
        first * 2.0 ** min(tries, 20), longest
    )
    _upsert(step.project, step.target, {"tries": tries + 1, "next_at": time.time() + wait, "error": text})


def _forget_trouble(step: _Step) -> None:
    """Drop the row that only says when to ask again."""
    if not step.target.startswith(("status:", "comment:")):
        ForgeReport.delete().where(
            ForgeReport.project == step.project, ForgeReport.target == step.target
        ).execute()


def _upsert(project: Project, target: str, values: dict[str, Any]) -> None:
    values = values | {"updated_at": time.time()}
    with db.write():
        if (
            not ForgeReport.update(values)
            .where(ForgeReport.project == project, ForgeReport.target == target)
            .execute()
            and Project.select(Project.id).where(Project.id == project.id).exists()
        ):
            ForgeReport.create(project=project, target=target, **values)
