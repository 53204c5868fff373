"""A clock that was put back: what was noted at a time that is still to come counts as noted now.

Else a lease would not run out, a message not count as lost and a unit not be stopped before the clock has
caught up.
"""

from functools import reduce
from operator import or_
from typing import Any

import peewee

from kennel_core import db
from kennel_core.lease import LEASE_S
from kennel_core.models import Build, BuildStatus, Resource

SLACK_S = 1.0  # clocks are adjusted by less all the time


def catch_up(now: float) -> int:
    """Move what lies ahead of `now` back to it; returns how many rows were changed. Reads only, mostly."""
    return sum(_moved(model, among, columns, now) for model, among, columns in _COLUMNS)


# What is looked at, and how far ahead of now each time may be.
_COLUMNS: tuple[tuple[type[peewee.Model], Any, dict[Any, float]], ...] = (
    (
        Build,
        Build.status << [BuildStatus.QUEUED, BuildStatus.BUILDING, BuildStatus.BUILT],
        {Build.created_at: 0.0, Build.enqueued_at: 0.0, Build.built_at: 0.0, Build.lease_until: LEASE_S},
    ),
    (Resource, Resource.id.is_null(is_null=False), {Resource.created_at: 0.0, Resource.unwanted_at: 0.0}),
)


def _moved(model: type[peewee.Model], among: Any, columns: dict[Any, float], now: float) -> int:
    ahead = {column: column > now + may + SLACK_S for column, may in columns.items()}
    if not model.select().where(among, reduce(or_, ahead.values())).exists():
        return 0
    with db.write():
        return sum(
            model.update({column: now + columns[column]}).where(among, is_ahead).execute()
            for column, is_ahead in ahead.items()
        )
