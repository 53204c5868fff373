"""``kennel secrets``."""

from dataclasses import asdict
from pathlib import Path

import click

from kennel_core import logs, projects
from kennel_core.cli.context import database, json_option
from kennel_core.cli.output import rows, show
from kennel_core.environment import Environment
from kennel_core.errors import NotFound
from kennel_core.models import Deployment, Project

SPECIFICATION = "secretspec.toml"
PROBLEMS = 1


@click.group()
def secrets() -> None:
    """See where secrets come from; never what they are."""


@secrets.command()
@click.argument("name", metavar="OWNER/NAME")
@click.argument("environment", type=click.Choice([str(one) for one in Environment]))
@click.option("--ref", help="The secretspec.toml of this branch or pull request, not of the newest one.")
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="This secretspec.toml, before it is pushed.",
)
@json_option
def check(name: str, environment: str, ref: str | None, file: Path | None, *, as_json: bool) -> int:
    """Look for every secret of a project in an environment; exit status 1 when one is missing."""
    from kennel_core.secrets import Secrets  # noqa: PLC0415  # it reads what OpenBao says: not in every command

    with database() as settings:
        project = projects.find(name)
        file = file or _deployed(project, environment, ref)
        found = Secrets(settings).check(file.read_text(errors="replace"), project.name, environment)
    listed = [asdict(one) | {"source": str(one.source)} for one in found.secrets]
    data = {"file": str(file), "secrets": listed, "problems": found.problems, "warnings": found.warnings}
    columns = ("name", "source", "required", "path")
    show(data, lambda: rows(listed, columns, "no secret is declared"), as_json=as_json)
    if not as_json:
        for line in (*found.warnings, *found.problems):
            click.echo(logs.escape(line), err=True)
    return PROBLEMS if found.problems else 0


def _deployed(project: Project, environment: str, ref: str | None) -> Path:
    """Find the file of the row that was written last."""
    wanted = (Deployment.project == project) & (Deployment.environment == environment)
    if ref is not None:
        wanted &= Deployment.ref == ref
    row = Deployment.select().where(wanted).order_by(Deployment.updated_at.desc()).first()
    if row is None:
        where = environment if ref is None else f"{environment}, {ref}"
        raise NotFound(f"{project.full_name} has no deployment in {where}; name a file with --file")
    file = Path(row.config_path) / SPECIFICATION
    if not file.is_file():
        raise NotFound(f"{project.full_name} has no {SPECIFICATION} in {environment}: it needs no secrets")
    return file
