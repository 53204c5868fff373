"""Projects that follow their repositories on the forge, and the webhook that each has there.

Nothing here needs a database connection: one is opened for each look, and none is held while the forge is
waited for.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import peewee
import structlog

from kennel_core import db, projects
from kennel_core.adapters.forge import Forge, Repository
from kennel_core.adapters.forge.doorway import is_of
from kennel_core.errors import Conflict, KennelError, NotFound, Rejected, Unavailable
from kennel_core.hook_drift import EVENTS, drift
from kennel_core.models import Delivery, Project
from kennel_core.settings import Settings

DELIVERY_S = 10.0  # a forge delivers within a second, unless it may not reach Kennel
POLL_S = 0.1

log = structlog.get_logger()


class State(StrEnum):
    """How a project stands to its repository and the webhook there."""

    RIGHT = "right"
    MENDED = "mended"
    GONE = "gone"  # the forge has no such repository: an operator decides
    ELSEWHERE = "elsewhere"  # not on the forge that the settings name
    FAILED = "failed"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found and done for one project; `notes` are sentences."""

    project: str
    state: State
    notes: tuple[str, ...] = ()
    error: KennelError | None = None


def sync_all(settings: Settings) -> list[Found]:
    """Compare every project with its repository, and mend what differs. Two requests where nothing does.

    A forge that does not answer is asked once. Nothing is asked where none is configured.

    Raises:
        ConfigError: the token cannot be read.
    """
    if not settings.forge_url:
        return []
    with db.connection():
        rows = list(Project.select().order_by(Project.owner, Project.name))
    return sync(rows, Forge(settings), settings)


def sync(rows: Iterable[Project], forge: Forge, settings: Settings) -> list[Found]:
    """Do that for some projects."""
    found: list[Found] = []
    down: Unavailable | None = None
    for row in rows:
        if down is None:
            try:
                found.append(_follow(row, forge, settings))
                continue
            except Unavailable as exc:
                down = exc
                log.warning("the forge does not answer", error=str(exc))
            except KennelError as exc:
                log.warning("webhook", project=row.full_name, error=str(exc))
                found.append(_failed(row.full_name, exc))
                continue
        found.append(_failed(row.full_name, down))
    return found


def register(repository: Repository, forge: Forge, settings: Settings) -> tuple[Project, Found]:
    """Make the project of a repository, or find it, and see to its webhook.

    Raises:
        Conflict: the name is another project's or cannot be used, or the repository is archived.
        Rejected: the token's user is not an admin of the repository.
        Unavailable: the forge does not answer.
    """
    name = repository.full_name
    if repository.archived:
        raise Conflict(f"{name}: is archived on the forge; nobody can push to it")
    if repository.permission != "admin":
        why = (
            f"the token's user may only {repository.permission} {name}"
            if repository.permission != "none"
            else ""
        )
        advice = "make it a collaborator with admin rights: webhooks are for admins"
        raise Rejected("forge", f"register {name}", f"{why or 'the token has no rights there'}; {advice}")
    with db.connection():
        row = projects.find_by_number(repository.id) or _unnumbered(repository)
        new = row is None
        if row is None:
            row = projects.add(name, repository.clone_url, repository.default_branch, repository.id)
    found = _follow(row, forge, settings, repository)
    return row, Found(name, found.state, ("registered" if new else "it is registered already", *found.notes))


def renew(row: Project, forge: Forge, settings: Settings) -> Found:
    """Make a webhook that signs with the project's present secret, and remove the one it has."""
    with db.connection(), db.write():
        _note_hook(row, None)
    return sync([row], forge, settings)[0]


def forget(row: Project, forge: Forge) -> None:
    """Remove the webhook of a project that is no more; quiet when it is gone.

    Raises:
        Unavailable: the forge does not answer.
        Rejected: it does not let us.
    """
    if row.hook_id is None:
        return
    try:
        name = row.full_name if row.forge_id is None else forge.repository_by_id(row.forge_id).full_name
    except NotFound:
        return
    forge.delete_hook(name, row.hook_id)


def try_out(rows: Sequence[Project], forge: Forge) -> set[int]:
    """Let the forge deliver to Kennel; returns the ids of those projects of which a delivery came.

    A test says that the default branch is where it is, so it also starts the first build.
    """
    before = _deliveries(rows)
    for row in rows:
        if row.hook_id is not None:
            forge.test_hook(row.full_name, row.hook_id)
    deadline = time.monotonic() + DELIVERY_S
    while True:
        came = {number for number, last in _deliveries(rows).items() if last > before[number]}
        if len(came) == len(rows) or time.monotonic() > deadline:
            return came
        time.sleep(POLL_S)


def _follow(row: Project, forge: Forge, settings: Settings, repository: Repository | None = None) -> Found:
    """Bring one project up to date with its repository."""
    if row.forge_id is None and not is_of(settings.forge_url, row.clone_url):
        return Found(row.full_name, State.ELSEWHERE, ("its clone URL leads to another host",))
    try:
        repository = repository or _look_up(row, forge)
    except NotFound:
        advice = f"or the token may not see it; `kennel project remove {row.full_name}` takes it down"
        return Found(row.full_name, State.GONE, (f"the forge has no such repository any more, {advice}",))
    notes = [*_named(row, repository), *_hooked(row, repository, forge, settings)]
    if notes:
        log.info("webhook", project=row.full_name, notes=notes)
    state = State.MENDED if notes else State.RIGHT
    if repository.default_branch != row.default_branch:
        there, here = repository.default_branch, row.default_branch
        notes.append(f"its default branch is {there} on the forge; production stays {here}")
    return Found(row.full_name, state, tuple(notes))


def _look_up(row: Project, forge: Forge) -> Repository:
    if row.forge_id is None:
        return forge.repository(row.full_name)
    return forge.repository_by_id(row.forge_id)


def _named(row: Project, repository: Repository) -> list[str]:
    """Keep the number of the repository, and follow its name."""
    notes = []
    if row.forge_id is None:
        with db.connection(), db.write():
            Project.update(forge_id=repository.id).where(Project.id == row.id).execute()
        row.forge_id = repository.id
        notes.append(f"it is repository {repository.id} of the forge")
    if row.full_name != repository.full_name:
        notes.append(f"renamed from {row.full_name} to {repository.full_name}")
        with db.connection(), db.write():
            projects.rename(row, repository.full_name, repository.clone_url)
    return notes


def _hooked(row: Project, repository: Repository, forge: Forge, settings: Settings) -> list[str]:
    """See that there is one webhook, and that it is right."""
    url, name = settings.webhook_url, repository.full_name
    found = drift(forge.hooks(name), url, row.hook_id)
    if found.make:
        secret = projects.webhook_secret(row, settings.secret_key_file)
        hook = forge.create_hook(name, url, secret, EVENTS)
        wrong = drift([hook], url, hook.id).why
        if wrong:
            forge.delete_hook(name, hook.id)
            raise Rejected(
                "forge", f"make a hook of {name}", f"it made another one than was asked for: {wrong}"
            )
        with db.connection(), db.write():
            _note_hook(row, hook.id)
    for hook in found.remove:
        forge.delete_hook(name, hook.id)
    if not found.why:
        return []
    return [f"webhook {row.hook_id} {'made' if found.make else 'kept'}: {found.why}"]


def _note_hook(row: Project, hook_id: int | None) -> None:
    Project.update(hook_id=hook_id).where(Project.id == row.id).execute()
    row.hook_id = hook_id


def _unnumbered(repository: Repository) -> Project | None:
    """Find the project of this name that was registered without the forge."""
    try:
        row = projects.find(repository.full_name)
    except NotFound:
        return None
    if row.forge_id is not None:
        advice = "run `kennel project sync`, and `kennel project remove` it when its repository is gone"
        raise Conflict(
            f"{row.full_name}: is the project of another repository, number {row.forge_id}; {advice}"
        )
    return row


def _deliveries(rows: Sequence[Project]) -> dict[int, int]:
    """Give the last delivery of each project."""
    with db.connection():
        return {row.id: _last(row) for row in rows}


def _last(row: Project) -> int:
    last: int | None = Delivery.select(peewee.fn.MAX(Delivery.id)).where(Delivery.project == row).scalar()
    return last or 0


def _failed(project: str, error: KennelError) -> Found:
    state = State.UNANSWERED if isinstance(error, Unavailable) else State.FAILED
    return Found(project, state, (str(error),), error)
