"""``kennel migrate``."""

import click

from kennel_core import migrations, projects
from kennel_core.cli.context import json_option, load_settings
from kennel_core.cli.output import show


@click.command()
@json_option
def migrate(*, as_json: bool) -> None:
    """Create the database and the secret key, or bring the database up to date."""
    settings = load_settings()
    created = projects.create_secret_key(settings.secret_key_file)
    before, after = migrations.migrate(settings.database)
    data = {"database": str(settings.database), "from": before, "to": after, "secret_key_created": created}

    def human() -> None:
        step = "is up to date" if before == after else f"went from version {before} to {after}"
        click.echo(f"{settings.database}: {step}")
        if created:
            click.echo(f"{settings.secret_key_file}: created; keep it with the backup of the database")

    show(data, human, as_json=as_json)
