"""The core's doorbell over Celery."""

import os
from typing import Any

import structlog
from kombu import Producer
from kombu.exceptions import OperationalError

from kennel_core.effects import Effect
from kennel_tasks.app import app

log = structlog.get_logger(__name__)

# Seconds; a frozen broker costs a caller this much at most, a refused one nothing.
TRANSPORT = {"socket_connect_timeout": 0.5, "socket_timeout": 0.5}
NO_RETRY = {"max_retries": 0}


class CeleryDoorbell:
    """Sends messages. A broker that is gone or frozen costs a delay, never a build.

    One connection is kept per process, opened at the first call, so that none exists when a process forks.
    """

    def __init__(self) -> None:
        self._producer: Producer | None = None
        self._pid = 0

    def build(self, build_id: int) -> None:
        """See `kennel_core.doorbell.Doorbell`."""
        self._send("kennel.build", (build_id,))

    def reconcile(self) -> None:
        """See `kennel_core.doorbell.Doorbell`."""
        self._send("kennel.reconcile", ())

    def report(self) -> None:
        """See `kennel_core.doorbell.Doorbell`."""
        self._send("kennel.report", ())

    def _send(self, task: str, args: tuple[Any, ...]) -> None:
        try:
            with Effect("publish"):
                app.send_task(task, args, producer=self._connected(), retry=True, retry_policy=NO_RETRY)
        except (OperationalError, OSError) as exc:
            self._producer = None
            log.warning("the message is lost, the next pass repairs it", task=task, args=args, error=str(exc))

    def _connected(self) -> Producer:
        if self._producer is None or self._pid != os.getpid():
            connection = app.connection_for_write(transport_options=TRANSPORT)
            self._producer = app.amqp.Producer(connection, auto_declare=False)
            self._pid = os.getpid()
        return self._producer
