"""``kennel project``."""

import sys
from typing import Any
from urllib.parse import urlsplit

import click

from kennel_core import db, logs, projects
from kennel_core.cli import connect, shapes
from kennel_core.cli.context import database, doorbell, json_option, load_settings
from kennel_core.cli.output import fields, rows, show
from kennel_core.models import Project
from kennel_core.settings import Settings


@click.group()
def project() -> None:
    """Register repositories."""


@project.command()
@click.argument("name", metavar="OWNER/NAME")
@click.option("--clone-url", help="Without a forge: where git fetches it from, https://...")
@click.option("--default-branch", help="With --clone-url: the branch that is production.  [default: main]")
@click.option("--all", "everything", is_flag=True, help="Every repository of OWNER.")
@click.option("--topic", help="Those of OWNER that have this topic.")
@json_option
def add(  # noqa: PLR0913  # one for each option
    name: str,
    *,
    clone_url: str | None,
    default_branch: str | None,
    everything: bool,
    topic: str | None,
    as_json: bool,
) -> int:
    """Register a repository of the forge, and make its webhook there.

    With --clone-url no forge is asked: the webhook's address and secret are printed.
    """
    many = everything or topic is not None
    if clone_url is not None:
        if many:
            raise click.UsageError("--clone-url is for one repository")
        return _add_by_hand(name, clone_url, default_branch or "main", as_json=as_json)
    if default_branch is not None:
        raise click.UsageError("the forge says which branch is the default one")
    if many == ("/" in name):
        raise click.UsageError("give OWNER/NAME, or OWNER with --all or --topic")
    settings = _with_forge("or give --clone-url")
    found = connect.add(name, settings, topic=topic or "", many=many)
    show(found if many else found[0], lambda: connect.explain(found, settings), as_json=as_json)
    return connect.exit_status(found)


@project.command()
@click.argument("name", metavar="OWNER/NAME", required=False)
@json_option
def sync(name: str | None, *, as_json: bool) -> int:
    """Compare projects with their repositories on the forge, and mend webhooks that differ."""
    settings = _with_forge("there is nothing to compare with")
    found = connect.sync(name, settings)
    show(found, lambda: connect.table(found), as_json=as_json)
    return connect.exit_status(found)


@project.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """Show every project."""
    with database():
        data = [shapes.of_project(row) for row in Project.select().order_by(Project.owner, Project.name)]
    columns = ("project", "default_branch", "clone_url")
    show(
        data, lambda: rows(data, columns, "no project yet; see `kennel project add --help`"), as_json=as_json
    )


@project.command(name="show")
@click.argument("name", metavar="OWNER/NAME")
@click.option("--secret", is_flag=True, help="Also show the webhook's secret.")
@json_option
def show_(name: str, *, secret: bool, as_json: bool) -> None:
    """Show one project."""
    with database() as settings:
        row = projects.find(name)
        hook = _hook(row, settings)
        data = shapes.of_project(row) | (hook if secret else {"webhook_url": hook["webhook_url"]})
    show(data, lambda: fields(data), as_json=as_json)


@project.command()
@click.argument("name", metavar="OWNER/NAME")
@json_option
def rotate_secret(name: str, *, as_json: bool) -> int:
    """Give a project another webhook secret; deliveries signed with the old one are refused at once.

    A webhook that Kennel made is made anew; any other must be given the secret by hand.
    """
    with database() as settings:
        row = projects.find(name)
        with db.write():
            projects.rotate_secret(row)
        data: dict[str, Any] = {"project": row.full_name} | _hook(row, settings)
    if row.hook_id is None or not settings.forge_url:
        show(data, lambda: _explain(data), as_json=as_json)
        return 0
    found = connect.renew(row, settings)
    data |= {name: found[name] for name in ("state", "notes")}
    show(data, lambda: fields(data), as_json=as_json)
    return connect.exit_status([found])


@project.command()
@click.argument("name", metavar="OWNER/NAME")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def remove(name: str, *, yes: bool, as_json: bool) -> None:
    """Forget a project with its builds and logs; the next pass takes its deployments down."""
    with database() as settings:
        row = projects.find(name)
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError(f"this forgets {row.full_name} and its builds for good: add --yes")
            click.confirm(f"Forget {row.full_name} with its builds, and take it down?", abort=True, err=True)
        data = {"project": row.full_name, "deployments": projects.remove(row)}
        doorbell().reconcile()
    if settings.forge_url and row.hook_id is not None:
        data["webhook"] = connect.forget(row, settings)
    show(data, lambda: click.echo(_removed(data)), as_json=as_json)


def _add_by_hand(name: str, clone_url: str, default_branch: str, *, as_json: bool) -> int:
    with database() as settings:
        _check_url(clone_url, settings)
        row = projects.add(name, clone_url, default_branch)
        data = shapes.of_project(row) | _hook(row, settings)
    show(data, lambda: _explain(data), as_json=as_json)
    return 0


def _with_forge(otherwise: str) -> Settings:
    settings = load_settings()
    if not settings.forge_url:
        raise click.UsageError(f"no forge is configured: set KENNEL_FORGE_URL, {otherwise}")
    return settings


def _removed(data: dict[str, Any]) -> str:
    count = data["deployments"]
    if not count:
        return f"{data['project']}: removed"
    return f"{data['project']}: removed; the next pass takes down {count} deployment{'s' * (count != 1)}"


def _hook(row: Project, settings: Settings) -> dict[str, str]:
    secret = projects.webhook_secret(row, settings.secret_key_file)
    return {"webhook_url": settings.webhook_url, "webhook_secret": secret}


def _explain(data: dict[str, Any]) -> None:
    fields(data)
    click.echo(
        "\nIn the repository's settings on the forge, add a webhook with this address and secret,\n"
        "content type application/json, for the events push, create, delete, pull request with its\n"
        "synchronisation and labels, and comments on pull requests.\n"
        f"The secret is shown again by `kennel project show {data['project']} --secret`.",
        err=True,
    )


def _check_url(url: str, settings: Settings) -> None:
    parts = urlsplit(url)
    allowed = {"https", "http", *(["file"] if settings.git_allow_file else [])}
    if parts.scheme not in allowed:
        raise click.BadParameter(f"must begin with {' or '.join(sorted(f'{name}://' for name in allowed))}")
    if parts.username or parts.password:
        raise click.BadParameter("must not hold a user name or a password")
    if url != logs.escape(url) or " " in url or not (parts.netloc or parts.scheme == "file"):
        raise click.BadParameter("is not a URL")
