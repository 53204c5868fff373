"""A clock that was put back by an hour."""

import time

import pytest

from kennel_core import builds, clock, db, lease, resources
from kennel_core.environment import Environment
from kennel_core.models import Build, BuildStatus, Project, Resource
from kennel_core.provision import Owner

NOW = 1_000_000.0
HOUR = 3600.0


def queued(project: Project, now: float) -> Build:
    with db.write():
        return builds.enqueue(project, "main", "a" * 40, now)


def test_a_build_whose_worker_died_is_taken_again_within_a_lease(project: Project) -> None:
    queued(project, NOW + HOUR)
    lost = lease.claim(NOW + HOUR)

    clock.catch_up(NOW)
    builds.forgotten(NOW + lease.LEASE_S + 1, 2)

    assert builds.get(lost.id).status == BuildStatus.QUEUED


def test_a_build_whose_worker_lives_goes_on(project: Project) -> None:
    queued(project, NOW + HOUR)
    build = lease.claim(NOW + HOUR)

    clock.catch_up(NOW)
    lease.renew(build, NOW + 10)
    builds.forgotten(NOW + lease.LEASE_S + 1, 2)

    assert builds.get(build.id).status == BuildStatus.BUILDING


def test_a_message_counts_as_lost_as_soon_as_it_would_have(project: Project) -> None:
    build = queued(project, NOW + HOUR)

    clock.catch_up(NOW)

    assert builds.forgotten(NOW + builds.RING_AGAIN_S + 1, 2) == [build.id]


def test_a_unit_drains_no_longer_than_it_would_have(database: object) -> None:
    owner = Owner(1, "shop", "main", Environment.PROD)
    with db.write():
        resources.note_units({"kennel-a.service": (1, owner)}, NOW + HOUR)
    resources.unwanted([1], NOW + HOUR)

    assert clock.catch_up(NOW) == 2

    assert [(row.created_at, row.unwanted_at) for row in Resource.select()] == [(NOW, NOW)]


@pytest.mark.parametrize("later", [0.0, 5.0, HOUR])
def test_a_clock_that_goes_on_changes_nothing(project: Project, later: float) -> None:
    queued(project, NOW)
    lease.claim(NOW)

    assert clock.catch_up(NOW + later) == 0


def test_a_pass_puts_right_what_the_clock_did(project: Project) -> None:
    build = queued(project, time.time() + HOUR)

    clock.catch_up(time.time())

    assert builds.get(build.id).enqueued_at <= time.time()
