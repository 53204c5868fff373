"""Run one of Celery's processes: ``python -m kennel_tasks builder``, ``reconciler`` or ``beat``.

As ``celery worker`` and ``celery beat`` do, whose command line would load flower and an interactive shell
into every process: 10 to 15 MiB of each.
"""

import sys
from typing import Any

from celery.utils.nodenames import host_format

from kennel_tasks.app import app

# A full queue of builds must never delay a pass. Only a pool of processes can be stopped while they work.
WORKERS: dict[str, dict[str, Any]] = {
    "builder": {"queues": ["builds"], "pool": "prefork"},
    "reconciler": {"queues": ["reconcile"], "pool": "solo"},
}


def main(arguments: list[str]) -> int:
    """Run until a signal; returns the exit status."""
    match arguments:
        case ["beat"]:
            app.Beat(quiet=True).run()
            return 0
        case [name] if name in WORKERS:
            worker = app.Worker(
                hostname=host_format(f"{name}@%h"),
                quiet=True,
                without_gossip=True,
                without_mingle=True,
                **WORKERS[name],
            )
            worker.start()
            return int(worker.exitcode or 0)
        case _:
            sys.stderr.write(f"usage: python -m kennel_tasks {'|'.join((*WORKERS, 'beat'))}\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
