"""Work on every build that waits, in this process alone, so that strace can watch it.

Usage: python -m tests.campaigns.work_all, with Kennel's variables in the environment
"""

import time

from kennel_core import db, lease, logs, pipeline
from kennel_core.settings import load


def main() -> None:
    """Claim, build, and go on until there is none."""
    settings = load()
    logs.configure(settings)
    db.configure(settings.database)
    with db.connection():
        while build := lease.claim(time.time()):
            pipeline.run(build, settings)


if __name__ == "__main__":
    main()
