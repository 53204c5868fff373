"""``kennel pr``."""

import time

import click

from kennel_core import projects, pull_requests
from kennel_core.cli import shapes
from kennel_core.cli.context import database, doorbell, json_option, operator
from kennel_core.cli.output import rows, show


@click.group()
def pr() -> None:
    """See pull requests, and let those of strangers be built."""


@pr.command(name="list")
@click.option("--project", "name", metavar="OWNER/NAME", help="Only those of one project.")
@json_option
def list_(name: str | None, *, as_json: bool) -> None:
    """Show the open pull requests, and what those that are not built wait for."""
    with database():
        found = pull_requests.all_open(projects.find(name) if name else None)
        data = [shapes.of_pull_request(row) for row in found]
    columns = ("project", "number", "commit", "author", "fork", "state", "why")
    show(data, lambda: rows(data, columns, "no pull request is open"), as_json=as_json)


@pr.command()
@click.argument("name", metavar="OWNER/NAME")
@click.argument("number", type=int)
@click.option("--commit", help="The commit that you looked at. Default: the one that it is at.")
@json_option
def approve(name: str, number: int, commit: str | None, *, as_json: bool) -> None:
    """Let one commit of a pull request be built; a new push has to be approved again."""
    with database():
        project = projects.find(name)
        wanted = commit or pull_requests.find(project, number).commit
        row = pull_requests.approve(project, number, wanted, operator(), time.time())
        data = shapes.of_pull_request(row)
        doorbell().report()
    text = f"{project.full_name} pr-{number}: {row.commit[:12]} is approved"
    show(data, lambda: click.echo(text), as_json=as_json)
