"""``kennel deployment``."""

import click

from kennel_core import deployments, logs, projects, runtime
from kennel_core.cli import shapes
from kennel_core.cli.context import database, json_option
from kennel_core.cli.output import fields, print_line, rows, show

FAILED = 5


@click.group()
def deployment() -> None:
    """See what runs."""


@deployment.command(name="list")
@click.option("--project", "name", metavar="OWNER/NAME", help="Only those of one project.")
@click.option("--ref", help="Only those of one branch, or of a pull request: pr-7.")
@json_option
def list_(name: str | None, ref: str | None, *, as_json: bool) -> None:
    """Show every deployment with its address."""
    with database() as settings:
        found = deployments.all_rows(projects.find(name) if name else None)
        data = [shapes.of_deployment(row, settings) for row in found if ref in (None, row.ref)]
    columns = ("id", "status", "project", "ref", "name", "kind", "environment", "url")
    show(data, lambda: rows(data, columns, "no deployment yet"), as_json=as_json)


@deployment.command(name="show")
@click.argument("number", type=int)
@json_option
def show_(number: int, *, as_json: bool) -> None:
    """Show one deployment."""
    with database() as settings:
        data = shapes.of_deployment(deployments.get(number), settings)
    show(data, lambda: fields(data), as_json=as_json)


@deployment.command(name="logs")
@click.argument("number", type=int)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--lines", type=click.IntRange(1, runtime.LINES_MAX), default=100, show_default=True, help="Last lines."
)
@click.option("--since", help="A time such as 2026-01-31T12:00:00Z, or an age such as 15m, 2h, 3d.")
@json_option
def logs_(number: int, lines: int, since: str | None, *, follow: bool, as_json: bool) -> None:
    """Print what a service wrote, of all its revisions; with --json one object a line."""
    with database() as settings:
        found = runtime.deployment_logs(number, settings, lines=lines, since=since, follow=follow)
    for line in filter(None, found):
        if as_json:
            moment, _, message = line.partition(" ")
            print_line({"time": moment, "message": message})
        else:
            click.echo(logs.escape(line))


@deployment.command()
@click.argument("number", type=int)
@json_option
def health(number: int, *, as_json: bool) -> int:
    """Ask systemd and the service itself; exit status 5 when it is not well."""
    with database() as settings:
        data = runtime.deployment_health(number, settings)
    show(data, lambda: fields(data), as_json=as_json)
    return 0 if data["active"] and data.get("app_healthy", True) else FAILED
