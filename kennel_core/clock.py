"""A clock that was put back: what was noted at a time that is still to come counts as noted now.

Else a lease would not run out, a message not count as lost and a unit not be stopped before the clock has
caught up.
"""

import peewee

from kennel_core import db
from kennel_core.lease import LEASE_S
from kennel_core.models import Build, BuildStatus, Resource

SLACK_S = 1.0  # clocks are adjusted by less all the time


def catch_up(now: float) -> int:
    """Move what lies ahead of `now` back to it; returns how many rows were changed. Reads only, mostly."""
    latest = now + SLACK_S
    changes: list[tuple[type[peewee.Model], peewee.Field, float, object]] = [
        (Build, Build.lease_until, now + LEASE_S, Build.status == BuildStatus.BUILDING),
        (Build, Build.enqueued_at, now, Build.status == BuildStatus.QUEUED),
        (Build, Build.created_at, now, Build.status == BuildStatus.QUEUED),
        (Build, Build.built_at, now, Build.status == BuildStatus.BUILT),
        (Resource, Resource.created_at, now, None),
        (Resource, Resource.unwanted_at, now, None),
    ]
    changed = 0
    for model, column, value, among in changes:
        ahead = column > latest + (value - now)
        where = ahead if among is None else (among & ahead)
        if model.select().where(where).exists():
            with db.write():
                changed += model.update({column: value}).where(where).execute()
    return changed
