"""Previews that nobody pushes to sleep, and go later; prod and staging never do."""

import time

import pytest

from kennel_core import builds, db, deployments, expiry, redeploy, refs
from kennel_core.errors import Conflict
from kennel_core.models import Build, BuildStatus, Deployment, Ref
from kennel_core.reconcile.preview import preview
from tests.servers.world import World

DAY = 86_400.0


def sleep(world: World, ref: str) -> None:
    with db.write():
        refs.stop(world.project, ref, "asked for", time.time())


def pushed_ago(build: Build, days: float) -> None:
    Build.update(created_at=time.time() - days * DAY).where(Build.id == build.id).execute()


def expire(world: World, **changed: float) -> expiry.Expired:
    return expiry.expire(world.settings.model_copy(update=changed), time.time())


def test_a_ref_that_sleeps_has_no_unit_and_its_hosts_say_so(world: World) -> None:
    world.build(world.service("one"), ref="pr-7")
    world.build(world.service("one"))
    world.converge()
    before = {row.id: row.unit for row in deployments.all_rows()}
    sleep(world, "pr-7")

    world.converge()

    status, text = world.get("api", "pr-7")
    assert status == 503
    assert "sleeps" in text
    assert "kennel deployment start" in text
    assert world.get("api") == (200, "one main")
    assert [name for name in world.units() if "pr-7" in name] == []
    assert {row.id: row.unit for row in deployments.all_rows()} == before
    assert world.is_settled()
    assert preview(world.settings, world.host) == []

    with db.write():
        assert refs.start(world.project, "pr-7")
    world.converge()
    assert world.get("api", "pr-7") == (200, "one pr-7")
    assert {row.id: row.unit for row in deployments.all_rows()} == before
    assert world.is_settled()


def test_a_site_sleeps_too(world: World) -> None:
    world.build(world.site("one"), ref="topic")
    world.converge()
    sleep(world, "topic")
    world.converge()
    assert world.get("docs", "topic")[0] == 503
    assert world.is_settled()


def test_a_push_wakes_what_sleeps(world: World) -> None:
    world.build(world.service("one"), ref="pr-7")
    world.converge()
    sleep(world, "pr-7")
    world.converge()

    build = world.build(world.service("two"), ref="pr-7")
    world.converge()

    assert world.status(build) == BuildStatus.DONE
    assert world.get("api", "pr-7") == (200, "two pr-7")
    assert refs.asleep() == {}
    assert len(world.units()) == 1


def test_what_is_put_to_sleep_while_it_rolls_out_is_proven_first(world: World) -> None:
    world.build(world.service("one"), ref="pr-7")
    world.converge()
    build = world.build(world.service("bad", health=500, timeout=0.5), ref="pr-7")
    sleep(world, "pr-7")

    world.converge()
    assert world.status(build) == BuildStatus.FAILED
    assert world.units() == {}
    with db.write():
        refs.start(world.project, "pr-7")
    world.converge()
    assert world.get("api", "pr-7") == (200, "one pr-7")


def test_what_sleeps_is_not_rolled_out_again(world: World) -> None:
    world.build(world.service("one"), ref="pr-7")
    world.converge()
    sleep(world, "pr-7")

    again = redeploy.redeploy(world.project.id, "pr-7", "a secret", world.settings, time.time())

    assert again is None


@pytest.mark.parametrize("ref", ["main", "staging"])
def test_prod_and_staging_never_sleep(world: World, ref: str) -> None:
    build = world.build(world.site("one"), ref=ref)
    world.converge()
    pushed_ago(build, 1000)
    with pytest.raises(Conflict, match="never sleeps"):
        sleep(world, ref)

    assert expire(world) == expiry.Expired()
    assert Deployment.select().count() == 1


def test_a_preview_without_a_push_sleeps_after_seven_days_and_goes_after_thirty(world: World) -> None:
    build = world.build(world.site("one"), ref="pr-7")
    world.converge()
    other = world.build(world.site("one"), ref="topic")
    world.converge()
    pushed_ago(build, 7.1)
    pushed_ago(other, 6.9)

    assert expire(world) == expiry.Expired(stopped=["acme/shop pr-7"])
    assert expire(world) == expiry.Expired()
    row = Ref.get(Ref.ref == "pr-7")
    assert row.stopped_why == "nobody has pushed for 7 days"

    pushed_ago(build, 30.1)
    assert expire(world) == expiry.Expired()  # it has slept for a moment only
    Ref.update(stopped_at=time.time() - 23.1 * DAY).where(Ref.id == row.id).execute()
    assert expire(world) == expiry.Expired(removed=["acme/shop pr-7"])
    assert {row.ref for row in Deployment.select()} == {"topic"}
    assert expire(world) == expiry.Expired()


def test_a_clock_that_is_put_forward_takes_no_data(world: World) -> None:
    world.build(world.site("one"), ref="pr-7")
    world.converge()
    next_year = time.time() + 365 * DAY

    assert expiry.expire(world.settings, next_year) == expiry.Expired(stopped=["acme/shop pr-7"])
    assert expiry.expire(world.settings, next_year) == expiry.Expired()
    assert expire(world) == expiry.Expired()
    assert Deployment.select().count() == 1


def test_a_redeploy_is_no_push(world: World) -> None:
    build = world.build(world.site("one"), ref="pr-7")
    world.converge()
    pushed_ago(build, 8)
    again = redeploy.redeploy(world.project.id, "pr-7", "a secret", world.settings, time.time())
    assert again is not None
    world.converge()

    assert expire(world).stopped == ["acme/shop pr-7"]


def test_an_operator_who_wakes_a_preview_has_a_week_again(world: World) -> None:
    build = world.build(world.site("one"), ref="pr-7")
    world.converge()
    pushed_ago(build, 8)
    expire(world)
    with db.write():
        assert refs.start(world.project, "pr-7")

    assert expire(world) == expiry.Expired()


def test_nought_days_are_for_ever(world: World) -> None:
    build = world.build(world.site("one"), ref="pr-7")
    world.converge()
    pushed_ago(build, 1000)
    assert expire(world, preview_stop_days=0, preview_remove_days=0) == expiry.Expired()
    assert expire(world, preview_stop_days=0).removed == ["acme/shop pr-7"]


def test_a_build_that_is_on_its_way_keeps_a_preview(world: World) -> None:
    build = world.build(world.site("one"), ref="pr-7")
    world.converge()
    pushed_ago(build, 100)
    with db.write():
        builds.enqueue(world.project, "pr-7", "c" * 40, time.time())
    assert expire(world) == expiry.Expired()
