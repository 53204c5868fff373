"""The tasks. A message carries an id at most; the database has the rest."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from kennel_core import builds, db, hooks, lease, metrics, pipeline, reconcile, room
from kennel_core import catch_up as missed
from kennel_core.errors import AdapterError, ConfigError
from kennel_core.reconcile import rotation
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.host import LocalHost
from kennel_core.reconcile.reporting import Reporter
from kennel_tasks.app import app, settings
from kennel_tasks.doorbell import CeleryDoorbell

log = structlog.get_logger(__name__)

_doorbell = CeleryDoorbell()
_host = LocalHost(settings)
_backoff = Backoff()
_reporter = Reporter(settings)

TURN_S = reconcile.SETTLE_S if not settings.reports else 1.0  # of a pass: then the forge gets its turn


class Failed(Exception):
    """A task failed for a reason that an operator can mend. The next pass is the retry."""


@app.task(name="kennel.build", throws=(Failed,))
def build(build_id: int) -> str:
    """Run the build whose turn it is: the id is a hint, since every queued build has a message of its own."""
    with _connected():
        if lack := room.lack(settings):
            builds.hold(lack)
            return f"build {build_id}: {lack}"
        claimed = lease.claim(time.time())
        if claimed is None:
            return f"build {build_id}: somebody else took it"
        metrics.build_claimed(time.time() - claimed.created_at)
        pipeline.run(claimed, settings)
    _doorbell.reconcile()
    _ask_for_a_report()
    return f"build {claimed.id}: has ended"


@app.task(name="kennel.reconcile", throws=(Failed,))
def run_pass() -> str:
    """Bring the host in step with the rows. Never retried: the next tick is the retry."""
    with _connected():
        result = reconcile.converge(settings, _doorbell, _host, _backoff, TURN_S).result
    if result != "unchanged":
        _ask_for_a_report()
    return result


@app.task(name="kennel.report", throws=(Failed,))
def report() -> str:
    """Tell the forge what it does not show yet. Never retried: what is due stands in the rows."""
    with _connected():
        done = _reporter.report(_doorbell)
    return f"told {len(done.sent)}, failed {len(done.errors)}"


def _ask_for_a_report() -> None:
    if settings.reports:
        _doorbell.report()


@app.task(name="kennel.hooks", throws=(Failed,))
def sync_hooks() -> str:
    """Mend webhooks that were edited or deleted on the forge."""
    try:
        found = hooks.sync_all(settings)
    except ConfigError as exc:
        raise Failed(str(exc)) from None
    return f"looked at {len(found)}"


@app.task(name="kennel.catch_up", throws=(Failed,))
def catch_up() -> str:
    """Look for pushes that no delivery told. Never retried: the next look is the retry."""
    with _connected():
        done = missed.catch_up(settings, _doorbell)
    return f"builds {len(done.builds)}, removed {len(done.removed)}, did not answer {len(done.errors)}"


@app.task(name="kennel.look", throws=(Failed,))
def look() -> str:
    """Look for secrets and logins that changed outside. Never retried, as a pass."""
    with _connected():
        return rotation.look(settings, _doorbell, _host).result


@contextmanager
def _connected() -> Iterator[None]:
    """Hold a database connection. What is not a bug becomes one line in the log, without a traceback."""
    try:
        with db.connection():
            yield
    except (AdapterError, ConfigError) as exc:
        log.error("task failed", error=str(exc))  # noqa: TRY400  # no bug, no traceback
        raise Failed(str(exc)) from None
