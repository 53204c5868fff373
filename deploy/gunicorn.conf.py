"""gunicorn's configuration for both web processes.

gunicorn -c deploy/gunicorn.conf.py kennel_web.wsgi:app          webhook, pages of text, metrics
gunicorn -c deploy/gunicorn.conf.py kennel_web.follow_wsgi:app   whatever has ?follow=true
"""

import os
import sys
from pathlib import Path
from typing import Any

from kennel_core import settings

_settings = settings.load_or_exit()
_follow = any(argument.startswith("kennel_web.follow_wsgi") for argument in sys.argv)

# The processes of Kennel add their measurements together here. It must be set before prometheus_client is
# imported, and be emptied when all of Kennel starts: what dead processes counted stays until then.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(_settings.runtime_dir / "metrics"))
Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(mode=0o700, parents=True, exist_ok=True)

from prometheus_client.multiprocess import mark_process_dead  # noqa: E402

from kennel_core import db  # noqa: E402
from kennel_web.context import FOLLOWERS_MAX  # noqa: E402

preload_app = True  # a broken setting is refused once, with exit status 2, and workers share memory
control_socket_disable = True
proc_name = "kennel-follow" if _follow else "kennel-web"

if _follow:
    bind = _settings.follow_bind
    worker_class = "gthread"
    workers = 1
    threads = FOLLOWERS_MAX + 8  # the rest answer 503 at once
    graceful_timeout = 2  # followers would go on for ever, and can ask again
else:
    bind = _settings.bind
    worker_class = "sync"  # a thread pool is slower here and loses the time limit for a stalled upload
    workers = 2
    timeout = 15  # seconds for one request; a lock in the database takes up to 5
    graceful_timeout = 15


def post_fork(_server: object, _worker: object) -> None:
    """Refuse a connection that came through the fork: it would lose commits without an error."""
    if not db.database.is_closed():
        raise RuntimeError("a database connection was open when a worker was forked")


def post_worker_init(worker: Any) -> None:
    """Do once what would otherwise make the first request slow; a pass is welcome at a start."""
    if not _follow:
        db.keep_connections()
        worker.wsgi.extensions["kennel.doorbell"].reconcile()
    worker.wsgi.test_client().get("/healthz")


def child_exit(_server: object, worker: Any) -> None:
    """Forget the gauges of a worker that ended."""
    mark_process_dead(worker.pid)
