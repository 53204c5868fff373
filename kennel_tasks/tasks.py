"""The two tasks. A message carries an id at most; the database has the rest."""

import time

from kennel_core import builds, db, metrics, pipeline, reconcile
from kennel_core.reconcile.backoff import Backoff
from kennel_core.reconcile.host import LocalHost
from kennel_tasks.app import app, settings
from kennel_tasks.doorbell import CeleryDoorbell

_doorbell = CeleryDoorbell()
_host = LocalHost(settings)
_backoff = Backoff()


@app.task(name="kennel.build")
def build(build_id: int) -> str:
    """Run the build whose turn it is: the id is a hint, since every queued build has a message of its own."""
    with db.connection():
        claimed = builds.claim(time.time())
        if claimed is None:
            return f"build {build_id}: somebody else took it"
        metrics.build_claimed(time.time() - claimed.created_at)
        pipeline.run(claimed, settings)
        status = builds.get(claimed.id).status
    _doorbell.reconcile()
    return f"build {claimed.id}: {status}"


@app.task(name="kennel.reconcile")
def run_pass() -> str:
    """Bring the host in step with the rows. Never retried: the next tick is the retry."""
    with db.connection():
        return reconcile.converge(settings, _doorbell, _host, _backoff).result
