"""``kennel audit-log``."""

import click

from kennel_core import audit_log
from kennel_core.cli import shapes
from kennel_core.cli.context import database, json_option
from kennel_core.cli.output import rows, show


@click.command(name="audit-log")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most.")
@json_option
def listing(limit: int, *, as_json: bool) -> None:
    """Show what people asked for in comments and on the command line, newest first."""
    with database():
        data = [shapes.of_audit_entry(row) for row in audit_log.recent(limit)]
    show(data, lambda: rows(data, ("at", "who", "what", "target", "outcome"), "nothing yet"), as_json=as_json)
