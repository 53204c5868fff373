"""``kennel audit``."""

import sys
from typing import Any

import click

from kennel_core import logs
from kennel_core.audit import Audit
from kennel_core.audit import audit as look
from kennel_core.audit import fix as put_right
from kennel_core.cli.context import database, doorbell, json_option
from kennel_core.cli.output import rows, show
from kennel_core.reconcile.host import LocalHost


@click.command()
@click.option("--fix", is_flag=True, help="Remove leftovers that are Kennel's, and make what is missing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def audit(*, fix: bool, yes: bool, as_json: bool) -> int:
    """Compare everything that carries a mark of Kennel with what should be there.

    The exit status is 0 when nothing was found, 1 when something was, 2 when a system did not answer.
    """
    failed: dict[str, str] = {}
    with database() as settings:
        host = LocalHost(settings)
        found = look(settings, host)
        if fix and found.fixable():
            if not yes:
                if not sys.stdin.isatty():
                    raise click.UsageError("this removes what is listed as leftover: add --yes")
                _table(found)
                question = f"Put these {len(found.fixable())} right, for good?"
                click.confirm(question, abort=True, err=True)
            failed = put_right(settings, host, doorbell(), found)
            found = look(settings, host)
    show(_data(found, failed), lambda: _human(found, failed), as_json=as_json)
    return max(found.status, 1 if failed else 0)


def _data(found: Audit, failed: dict[str, str]) -> dict[str, Any]:
    return {
        "findings": [one.record() for one in found.findings],
        "silent": found.silent,
        "failed": failed,
        "status": found.status,
    }


def _human(found: Audit, failed: dict[str, str]) -> None:
    _table(found)
    for what, why in (*failed.items(), *found.silent.items()):
        click.echo(f"{logs.escape(what)}: {logs.escape(why)}", err=True)


def _table(found: Audit) -> None:
    records = [one.record() for one in found.findings]
    nothing = "where there was an answer, nothing" if found.silent else "nothing"
    rows(records, ("system", "finding", "what", "why"), f"{nothing} is left over, and nothing is missing")
