"""The Celery application, and what happens around its workers."""

import gc
from typing import Any

from celery import Celery, signals
from celery.worker.control import Panel

from kennel_core import db, logs
from kennel_core.settings import load_or_exit

settings = load_or_exit()
db.configure(settings.database)

app = Celery("kennel")
app.config_from_object("celeryconfig")

# Remote control is for looking only: whoever reaches the broker must not stop workers or revoke tasks.
for _name, _meta in list(Panel.meta.items()):
    if _meta.type == "control" and _name not in {"enable_events", "heartbeat", "election"}:
        del Panel.data[_name], Panel.meta[_name]


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    logs.configure(settings)


@signals.worker_init.connect
def _require_database(**_: Any) -> None:
    db.require_or_exit()


@signals.worker_process_init.connect
def _after_fork(**_: Any) -> None:
    if not db.database.is_closed():  # SystemExit, because Celery goes on after any other exception
        raise SystemExit("a database connection was open when the worker forked; it would lose commits")


@signals.worker_ready.connect
def _ask_for_a_pass(sender: Any, **_: Any) -> None:
    app.send_task("kennel.reconcile")
    if sender.hostname.startswith("builder@"):  # what came while Kennel was down
        app.send_task("kennel.catch_up", expires=settings.catch_up_interval)


@signals.worker_before_create_process.connect
def _freeze(**_: Any) -> None:
    """Leave what is loaded out of garbage collection, which would write to the pages that children share."""
    gc.collect()
    gc.freeze()
