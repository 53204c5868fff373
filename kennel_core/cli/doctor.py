"""``kennel doctor``."""

import click

from kennel_core import doctor as doctor_module
from kennel_core.cli.context import json_option, load_settings
from kennel_core.cli.output import rows, show
from kennel_core.doctor.checks import MARKS, Verdict


@click.command()
@click.argument("systems", metavar="[SYSTEM]...", nargs=-1)
@json_option
def doctor(systems: tuple[str, ...], *, as_json: bool) -> int:
    """Ask every neighbour for what Kennel will need of it; exit status 1 when something does not work.

    What is tried is made under names that nobody has, and removed again.
    """
    checks = doctor_module.examine(load_settings(), systems)
    data = [check.record() for check in checks]
    lines = [record | {"": MARKS[check.verdict]} for check, record in zip(checks, data, strict=True)]
    show(data, lambda: rows(lines, ("", "system", "what", "remedy"), "nothing to ask"), as_json=as_json)
    return int(any(check.verdict is Verdict.FAILED for check in checks))
