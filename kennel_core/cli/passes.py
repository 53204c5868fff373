"""``kennel plan``, ``kennel reconcile`` and ``kennel catch-up``."""

from dataclasses import asdict

import click

from kennel_core import catch_up as missed
from kennel_core.cli.context import database, doorbell, json_option
from kennel_core.cli.output import rows, show
from kennel_core.reconcile import converge
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.host import LocalHost
from kennel_core.reconcile.preview import preview

FAILED = 5
AT_MOST_S = 120.0  # for what is on its way; the reconciler goes on with it


@click.command()
@json_option
def plan(*, as_json: bool) -> None:
    """Show what the next pass would do, and why; changes nothing."""
    with database() as settings:
        steps = [asdict(step) for step in preview(settings, LocalHost(settings))]
    empty = "nothing to do: the host is as the deployments say"
    show(steps, lambda: rows(steps, ("action", "what", "why"), empty), as_json=as_json)


@click.command()
@json_option
def reconcile(*, as_json: bool) -> int:
    """Run a pass now, here, until nothing is on its way any more.

    The exit status is 1 when another system failed, and 5 when a deployment did.
    """
    with database() as settings:
        report = converge(settings, doorbell(), LocalHost(settings), Backoff(), AT_MOST_S)
    data = asdict(report) | {"result": report.result}

    def human() -> None:
        done = (
            *(("started", unit) for unit in report.started),
            *(("stopped", unit) for unit in report.stopped),
            *(("live", f"build {number}") for number in report.live),
            *(("failed", f"build {number}: {reason}") for number, reason in report.failed.items()),
            *([("routed", "the route table was written")] if report.routed else []),
            *(("error", text) for text in report.errors),
        )
        rows([{"did": did, "what": what} for did, what in done], ("did", "what"), "nothing to do")

    show(data, human, as_json=as_json)
    if report.errors:
        return 1
    return FAILED if report.failed else 0


@click.command(name="catch-up")
@json_option
def catch_up(*, as_json: bool) -> int:
    """Ask every repository now for pushes and deletions that no delivery told.

    The exit status is 1 when a repository did not answer.
    """
    with database() as settings:
        done = missed.catch_up(settings, doorbell())
    data = asdict(done)

    def human() -> None:
        found = (
            *(("queued", f"build {number}") for number in done.builds),
            *(("removed", name) for name in done.removed),
            *(("error", text) for text in done.errors),
        )
        rows([{"did": did, "what": what} for did, what in found], ("did", "what"), "nothing was missed")

    show(data, human, as_json=as_json)
    return 1 if done.errors else 0
