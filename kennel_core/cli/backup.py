"""``kennel backup`` and ``kennel restore``."""

from pathlib import Path
from typing import Any

import click

from kennel_core import backup as copies
from kennel_core.cli.context import json_option, load_settings
from kennel_core.cli.output import moment, show

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=FILE)
@json_option
def backup(file: Path, *, as_json: bool) -> None:
    """Write database and secret key to a new FILE, while everything runs; keep it secret."""
    found = copies.backup(load_settings(), file.absolute())
    data = _data(file, found)
    text = f"{file}: {found.projects} projects and {found.builds} builds, checked"
    show(data, lambda: click.echo(text), as_json=as_json)


@click.command()
@click.argument("file", type=FILE)
@click.option("--replace", is_flag=True, help="Also where there is a database already, which is kept aside.")
@json_option
def restore(file: Path, *, replace: bool, as_json: bool) -> None:
    """Put a backup back, while Kennel is stopped; the next pass does the rest."""
    found = copies.restore(load_settings(), file.absolute(), replace=replace)
    data = _data(file, found)
    text = f"{file}: {found.projects} projects and {found.builds} builds are back; start kennel.target now"
    show(data, lambda: click.echo(text), as_json=as_json)


def _data(file: Path, found: copies.Copy) -> dict[str, Any]:
    return {
        "file": str(file),
        "version": found.version,
        "projects": found.projects,
        "builds": found.builds,
        "last_build_at": moment(found.last),
    }
