"""``kennel deployment``."""

import time

import click

from kennel_core import audit_log, db, deployments, logs, projects, redeploy, refs, runtime
from kennel_core.cli import shapes
from kennel_core.cli.context import database, doorbell, json_option, operator
from kennel_core.cli.output import fields, print_line, rows, show
from kennel_core.errors import Conflict, NotFound
from kennel_core.models import Build, BuildStatus, Project

FAILED = 5


@click.group()
def deployment() -> None:
    """See what runs, go back to what ran before, let previews sleep and wake them."""


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
@click.argument("name", metavar="OWNER/NAME")
@click.argument("ref", metavar="REF")
@click.option("--why", default="an operator stopped it", show_default=True, help="A sentence for others.")
@json_option
def stop(name: str, ref: str, why: str, *, as_json: bool) -> None:
    """Let a preview or dev branch sleep: its data stays, its hosts say that it sleeps."""
    with database():
        project = projects.find(name)
        with db.write():
            _require_deployed(project, ref)
            refs.stop(project, ref, why, time.time())
            _note(project, ref, "stop")
        doorbell().reconcile()
    data = {"project": project.full_name, "ref": ref, "sleeps": True}
    show(data, lambda: click.echo(f"{project.full_name} {ref}: the next pass stops it"), as_json=as_json)


@deployment.command()
@click.argument("name", metavar="OWNER/NAME")
@click.argument("ref", metavar="REF")
@json_option
def start(name: str, ref: str, *, as_json: bool) -> None:
    """Wake what sleeps; so does a push."""
    with database():
        project = projects.find(name)
        with db.write():
            _require_deployed(project, ref)
            if not refs.start(project, ref):
                raise Conflict(f"{project.full_name} {ref}: does not sleep")
            _note(project, ref, "start")
        doorbell().reconcile()
    data = {"project": project.full_name, "ref": ref, "sleeps": False}
    show(data, lambda: click.echo(f"{project.full_name} {ref}: the next pass starts it"), as_json=as_json)


@deployment.command(name="redeploy")
@click.argument("name", metavar="OWNER/NAME")
@click.argument("ref", metavar="REF")
@json_option
def redeploy_(name: str, ref: str, *, as_json: bool) -> None:
    """Roll out a branch or pull request again; when its newest build failed, build it again."""
    with database() as settings:
        project = projects.find(name)
        build = redeploy.again(project, ref, "an operator asked for it", settings, time.time())
        _note(project, ref, "redeploy")
        _ring(build)
    _show_build(build, as_json=as_json)


@deployment.command()
@click.argument("name", metavar="OWNER/NAME")
@click.argument("ref", metavar="REF")
@json_option
def rollback(name: str, ref: str, *, as_json: bool) -> None:
    """Go back to the build before the one that runs; nothing is built. The next push rolls forward."""
    with database() as settings:
        project = projects.find(name)
        build = redeploy.rollback(project, ref, "an operator asked for it", settings, time.time())
        _note(project, ref, "rollback")
        _ring(build)
    _show_build(build, as_json=as_json)


def _ring(build: Build) -> None:
    if build.status == BuildStatus.QUEUED:
        doorbell().build(build.id)
    else:
        doorbell().reconcile()


def _show_build(build: Build, *, as_json: bool) -> None:
    data = shapes.of_build(build)
    text = f"build {build.id} of {build.ref} at {build.commit[:12]} is {build.status}"
    show(data, lambda: click.echo(text), as_json=as_json)


def _require_deployed(project: Project, ref: str) -> None:
    if not deployments.is_deployed(project, ref):
        raise NotFound(f"{project.full_name} has no deployment of {ref}; see `kennel deployment list`")


def _note(project: Project, ref: str, what: str) -> None:
    audit_log.note(operator(), what, f"{project.full_name} {ref}", "done", time.time())


@deployment.command()
@click.argument("number", type=int)
@json_option
def health(number: int, *, as_json: bool) -> int:
    """Ask systemd and the service itself; exit status 5 when it is not well."""
    with database() as settings:
        data = runtime.deployment_health(number, settings)
    show(data, lambda: fields(data), as_json=as_json)
    return 0 if data["active"] and data.get("app_healthy", True) else FAILED
