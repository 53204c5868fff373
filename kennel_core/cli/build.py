"""``kennel build``."""

import time

import click

from kennel_core import builds, db, follow, logs, projects
from kennel_core.cli import shapes
from kennel_core.cli.context import database, doorbell, json_option, load_settings
from kennel_core.cli.output import console, fields, print_line, rows, show
from kennel_core.cli.progress import Progress
from kennel_core.models import BuildStatus

FAILED = 5


@click.group()
def build() -> None:
    """See builds, repeat and stop them."""


@build.command(name="list")
@click.option("--project", "name", metavar="OWNER/NAME", help="Only those of one project.")
@click.option("--ref", help="Only those of one branch, or of a pull request: pr-7.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many."
)
@json_option
def list_(name: str | None, ref: str | None, limit: int, *, as_json: bool) -> None:
    """Show the newest builds."""
    with database():
        project = projects.find(name) if name else None
        found = builds.recent(project, 10_000 if ref else limit)
        data = [shapes.of_build(row) for row in found if ref in (None, row.ref)][:limit]
    table = [{**row, "commit": row["commit"][:12]} for row in data]
    columns = ("id", "status", "project", "ref", "commit", "created_at", "error")
    show(data, lambda: rows(table, columns, "no build yet"), as_json=as_json)


@build.command(name="show")
@click.argument("number", type=int)
@json_option
def show_(number: int, *, as_json: bool) -> None:
    """Show one build."""
    with database():
        data = shapes.of_build(builds.get(number))
    show(data, lambda: fields(data), as_json=as_json)


@build.command()
@click.argument("number", type=int)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the build has ended.")
@json_option
def log(number: int, *, following: bool, as_json: bool) -> int:
    """Print the log of a build; with -f the exit status says how the build ended."""
    if following:
        load_settings()
        return _follow(number, as_json=as_json)
    with database():
        text = builds.full_log(number)
    show({"build": number, "log": text}, lambda: click.echo(text, nl=False), as_json=as_json)
    return 0


def _follow(number: int, *, as_json: bool) -> int:
    if as_json:
        for text in filter(None, follow.build_log_text(number)):
            print_line({"log": text})
    else:
        with Progress(console()) as progress:
            for text in follow.build_log_text(number):
                progress.feed(text)
    with db.connection():
        row = shapes.of_build(builds.get(number))
    if as_json:
        print_line(row)
    else:
        ending = f"build {number}: {row['status']}" + (f": {row['error']}" if row["error"] else "")
        click.echo(logs.escape(ending), err=True)
    return 0 if row["status"] == BuildStatus.DONE else FAILED


@build.command()
@click.argument("number", type=int)
@json_option
def retry(number: int, *, as_json: bool) -> None:
    """Build the commit of an ended build again, as a new build."""
    with database():
        row = builds.retry(number, time.time())
        doorbell().build(row.id)
        data = shapes.of_build(row)
    show(data, lambda: click.echo(f"build {data['id']} is queued"), as_json=as_json)


@build.command()
@click.argument("number", type=int)
@json_option
def cancel(number: int, *, as_json: bool) -> None:
    """Stop a build that waits or runs."""
    with database():
        builds.cancel(number, time.time())
        data = shapes.of_build(builds.get(number))
    running = data["status"] == BuildStatus.BUILDING
    text = f"build {number}: " + ("its processes are being stopped" if running else "cancelled")
    show(data, lambda: click.echo(text), as_json=as_json)
