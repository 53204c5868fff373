"""Commands in comments on pull requests: kept when they come, carried out by the reports.

What one may do is asked of the forge at the moment at which it is done.
"""

from collections.abc import Callable

from kennel_core import audit_log, builds, db, deployments, environment, pull_requests, redeploy, refs
from kennel_core.errors import Conflict, KennelError, NotFound
from kennel_core.models import Build, Command, Project, PullRequest
from kennel_core.settings import Settings
from kennel_core.webhook import Asked

MAY = frozenset({"write", "admin", "owner"})
UNKNOWN = "unknown"
LAPSES_S = 86_400.0  # a command that could not be carried out for so long is not any more
LOG_CHARACTERS = 6000

DONE, REFUSED, PUZZLED = "+1", "-1", "confused"  # reactions

HELP = """\
/kennel redeploy: deploy again; a build that failed is tried again
/kennel rollback: go back to the build before
/kennel stop, /kennel start: let the services sleep, and wake them
/kennel approve [COMMIT]: let this commit be built
/kennel logs: show the end of the build's log here
/kennel help: show this"""


def note(project: Project, asked: Asked, now: float) -> bool:
    """Keep a command, inside the caller's `db.write()`; False when its comment was seen before."""
    known = (Command.project == project) & (Command.comment_id == asked.comment_id)
    if Command.select(Command.id).where(known).exists():
        return False
    pull = PullRequest.get_or_none(PullRequest.project == project, PullRequest.number == asked.number)
    Command.create(
        project=project,
        number=asked.number,
        comment_id=asked.comment_id,
        author=asked.author,
        words=asked.words,
        commit=pull.commit if pull else None,
        at=now,
    )
    return True


def waiting() -> list[Command]:
    """List the commands that were not carried out yet, oldest first."""
    query = Command.select(Command, Project).join(Project).where(Command.outcome.is_null())
    return list(query.order_by(Command.id))


def unanswered() -> list[Command]:
    """List the commands whose comment lacks its reaction, oldest first."""
    query = Command.select(Command, Project).join(Project)
    return list(query.where(Command.reaction.is_null(is_null=False)).order_by(Command.id))


def answered(command: Command) -> None:
    """Note that a comment has its reaction, or cannot get one."""
    Command.update(reaction=None).where(Command.id == command.id).execute()


def carry_out(command: Command, permission: str, settings: Settings, now: float) -> Build | None:
    """Do what was asked for, and note what came of it; returns a build to ring for.

    A stranger gets no answer; nor does who is too late.
    """
    if permission not in MAY:
        unknown = f"the forge does not tell Kennel what {command.author} may do"
        refusal = unknown if permission == UNKNOWN else f"{command.author} may not write to the repository"
        _end(command, f"refused: {refusal}", now)
        return None
    if now > command.at + LAPSES_S:
        _end(command, "lapsed: it could not be carried out for a day", now)
        return None
    verb, *arguments = command.words.lower().split() or ["help"]
    act = _ACTS.get(verb)
    if act is None or len(arguments) > (verb == "approve"):
        _end(command, "there is no such command", now, PUZZLED, HELP)
        return None
    try:
        outcome, build, answer = act(command, arguments, settings, now)
    except KennelError as exc:
        _end(command, str(exc), now, REFUSED, str(exc))
        return None
    _end(command, outcome, now, DONE, answer)
    return build


def _end(command: Command, outcome: str, now: float, reaction: str | None = None, answer: str = "") -> None:
    """Note how a command ended, and clear the answers of those before it: the comment shows one."""
    target = f"{command.project.full_name} {environment.pull_request_ref(command.number)}"
    with db.write():
        if answer:
            Command.update(answer=None).where(
                Command.project == command.project_id, Command.number == command.number
            ).execute()
        Command.update(outcome=outcome[:250], reaction=reaction, answer=answer or None).where(
            Command.id == command.id
        ).execute()
        audit_log.note(command.author, command.words or "help", target, outcome, now)


_Done = tuple[str, Build | None, str]  # what is noted, the build to ring for, what the comment shows


def _redeploy(command: Command, _arguments: list[str], settings: Settings, now: float) -> _Done:
    ref = environment.pull_request_ref(command.number)
    pull = pull_requests.find(command.project, command.number)
    if pull.state != pull_requests.State.BUILT:
        raise Conflict(f"pull request {command.number} is not built: {pull.why or 'it waits'}")
    build = redeploy.again(command.project, ref, f"asked for by {command.author}", settings, now)
    return f"build {build.id}", build, ""


def _rollback(command: Command, _arguments: list[str], settings: Settings, now: float) -> _Done:
    ref = environment.pull_request_ref(command.number)
    build = redeploy.rollback(command.project, ref, f"asked for by {command.author}", settings, now)
    return f"build {build.id} at {build.commit[:12]}", build, ""


def _stop(command: Command, _arguments: list[str], _settings: Settings, now: float) -> _Done:
    ref = environment.pull_request_ref(command.number)
    with db.write():
        _require_deployed(command.project, ref)
        refs.stop(command.project, ref, f"stopped by {command.author}", now)
    return "stopped", None, ""


def _start(command: Command, _arguments: list[str], _settings: Settings, _now: float) -> _Done:
    ref = environment.pull_request_ref(command.number)
    with db.write():
        _require_deployed(command.project, ref)
        done = refs.start(command.project, ref)
    return "started" if done else "was not stopped", None, ""


def _require_deployed(project: Project, ref: str) -> None:
    if not deployments.is_deployed(project, ref):
        raise NotFound(f"{ref}: nothing of it is deployed")


def _approve(command: Command, arguments: list[str], _settings: Settings, now: float) -> _Done:
    # Without a commit: the one that was known when the comment came, not one pushed since.
    commit = arguments[0] if arguments else command.commit or ""
    row = pull_requests.approve(command.project, command.number, commit, command.author, now)
    return f"approved {row.commit}", None, ""


def _logs(command: Command, _arguments: list[str], _settings: Settings, _now: float) -> _Done:
    ref = environment.pull_request_ref(command.number)
    newest = (
        Build.select(Build.id)
        .where(Build.project == command.project_id, Build.ref == ref)
        .order_by(Build.id.desc())
    ).first()
    if newest is None:
        raise NotFound(f"{ref}: nothing of it was built yet")
    text = builds.full_log(newest.id)[-LOG_CHARACTERS:]
    return f"log of build {newest.id}", None, text or "the log is empty"


def _help(_command: Command, _arguments: list[str], _settings: Settings, _now: float) -> _Done:
    return "help", None, HELP


_ACTS: dict[str, Callable[[Command, list[str], Settings, float], _Done]] = {
    "redeploy": _redeploy,
    "rollback": _rollback,
    "stop": _stop,
    "start": _start,
    "approve": _approve,
    "logs": _logs,
    "help": _help,
}
