"""What `kennel project` does at the forge, and how it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from kennel_core import db, hooks, projects
from kennel_core.adapters.forge import Forge, Repository
from kennel_core.cli.output import fields, rows
from kennel_core.errors import KennelError, Unavailable
from kennel_core.hooks import Found, State
from kennel_core.models import Project
from kennel_core.settings import Settings

FAILED, NO_ANSWER = 1, 69

Record = dict[str, Any]
Registered = tuple[Repository, Project, Found]


def add(name: str, settings: Settings, *, topic: str, many: bool) -> list[Record]:
    """Register one repository, or those of an owner, and let the forge try out their webhooks.

    Of several, those that cannot be registered are among the records.
    """
    forge = Forge(settings)
    if not many:
        repository = forge.repository(name)
        return _tried([(repository, *hooks.register(repository, forge, settings))], forge)
    done: list[Registered] = []
    failed: list[Record] = []
    for repository in forge.repositories(name, topic):
        if repository.archived:
            continue
        try:
            done.append((repository, *hooks.register(repository, forge, settings)))
        except Unavailable:
            raise
        except KennelError as exc:
            failed.append(record(Found(repository.full_name, State.FAILED, (str(exc),), exc)))
    return [*_tried(done, forge), *failed]


def sync(name: str | None, settings: Settings) -> list[Record]:
    """Compare one project, or all of them."""
    if name is None:
        return [record(found) for found in hooks.sync_all(settings)]
    with db.connection():
        row = projects.find(name)
    return [record(found) for found in hooks.sync([row], Forge(settings), settings)]


def renew(row: Project, settings: Settings) -> Record:
    """Make the webhook of a project anew."""
    return record(hooks.renew(row, Forge(settings), settings))


def forget(row: Project, settings: Settings) -> str:
    """Remove the webhook of a project that was removed; says what came of it."""
    try:
        hooks.forget(row, Forge(settings))
    except KennelError as exc:
        return f"remove it by hand: {exc}"
    return "removed"


def record(found: Found) -> Record:
    """Describe what was found."""
    return {"project": found.project, "state": str(found.state), "notes": list(found.notes)}


def table(found: Sequence[Mapping[str, Any]]) -> None:
    """Show how each project stands to its repository."""
    shown = [{**one, "notes": "; ".join(one["notes"])} for one in found]
    rows(shown, ("project", "state", "notes"), "no project yet; see `kennel project add --help`")


def explain(found: Sequence[Record], settings: Settings) -> None:
    """Show what was registered, and what to do where no delivery came."""
    if len(found) == 1:
        fields(found[0])
    else:
        table(found)
    silent = [one["project"] for one in found if one.get("delivery") == "missing"]
    if silent:
        click.echo(
            f"\nNo delivery of {' '.join(silent)} came within {hooks.DELIVERY_S:g} s.\n"
            f"Does Kennel run, and does the forge reach {settings.webhook_url}?\n"
            "The webhook's page on the forge says what it got. The forge's [webhook] ALLOWED_HOST_LIST must\n"
            "allow the host; KENNEL_FORGE_HOOK_URL names another address.",
            err=True,
        )


def exit_status(found: Sequence[Mapping[str, Any]]) -> int:
    """Choose the exit status: whether something failed, and whether the forge answered."""
    states = {one["state"] for one in found}
    if State.UNANSWERED in states:
        return NO_ANSWER
    return FAILED if State.FAILED in states else 0


def _tried(done: Sequence[Registered], forge: Forge) -> list[Record]:
    came = hooks.try_out([row for repository, row, _found in done if not repository.empty], forge)
    return [record(found) | {"delivery": _delivery(one, row.id in came)} for one, row, found in done]


def _delivery(repository: Repository, came: bool) -> str:  # noqa: FBT001  # the answer to one question
    if came:
        return "received"
    return "none, because the repository is empty" if repository.empty else "missing"
