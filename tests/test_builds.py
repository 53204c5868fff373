"""The queue: what a push, a worker and a lost worker do to a row."""

import pytest

from kennel_core import build_log, builds, db, lease, projects, refs
from kennel_core.errors import Cancelled, Conflict, Fenced, NotFound
from kennel_core.models import Build, BuildStatus, Deployment, LogChunk, Project
from kennel_core.outputs import Outputs, SiteOutput
from kennel_core.settings import Settings

NOW = 1_000_000.0
OUTPUTS = Outputs(config_path="/nix/store/c", sites=[SiteOutput(name="docs", store_path="/nix/store/d")])


def queue(project: Project, ref: str = "main", commit: str = "a" * 40, now: float = NOW) -> Build:
    with db.write():
        return builds.enqueue(project, ref, commit, now)


def take(now: float = NOW) -> Build:
    build = lease.claim(now)

    assert build is not None
    return build


def status(build: Build) -> tuple[str, str | None]:
    row = builds.get(build.id)
    return row.status, row.error


def test_a_newer_push_supersedes_what_waits_and_stops_what_runs(project: Project) -> None:
    running = queue(project, commit="a" * 40)
    held = take()
    waiting = queue(project, commit="b" * 40)
    newest = queue(project, commit="c" * 40)
    other = queue(project, ref="dev", commit="d" * 40)

    assert status(waiting) == (BuildStatus.CANCELLED, f"superseded by build {newest.id}")
    assert status(running)[0] == BuildStatus.BUILDING
    with pytest.raises(Cancelled, match=f"superseded by build {waiting.id}|superseded by build {newest.id}"):
        lease.renew(held, NOW)
    assert status(newest)[0] == status(other)[0] == BuildStatus.QUEUED


def test_the_same_push_twice_is_one_build(project: Project, settings: Settings) -> None:
    first = queue(project)
    assert queue(project).id == first.id
    held = take()
    assert queue(project).id == first.id
    lease.succeed(held, OUTPUTS, settings, NOW)
    assert queue(project).id == first.id
    with db.write():
        builds.went_live(first.id, NOW)
    assert queue(project).id == first.id


def test_a_commit_that_failed_or_was_removed_is_built_again(project: Project, settings: Settings) -> None:
    failed = queue(project)
    lease.fail(take(), "no", NOW)
    again = queue(project)
    assert again.id != failed.id

    lease.succeed(take(), OUTPUTS, settings, NOW)
    with db.write():
        builds.went_live(again.id, NOW)
        refs.remove(project, "main", "gone", NOW)
    assert queue(project).id not in (failed.id, again.id)


def test_an_older_commit_pushed_by_force_is_built(project: Project) -> None:
    first = queue(project, commit="a" * 40)
    queue(project, commit="b" * 40)

    assert queue(project, commit="a" * 40).id != first.id


def test_a_message_that_comes_twice_finds_nothing(project: Project) -> None:
    queue(project)
    take()

    assert lease.claim(NOW) is None


def test_builders_are_shared_fairly_between_projects(project: Project) -> None:
    other = projects.add("acme/blog", "https://forge.example.org/acme/blog.git", "main")
    for number in range(3):
        queue(project, ref=f"branch-{number}")
    latecomer = queue(other)

    assert [take().project_id, take().id, take().project_id] == [project.id, latecomer.id, project.id]


def test_a_worker_that_lost_its_lease_writes_nothing(project: Project, settings: Settings) -> None:
    queue(project)
    lost = take()
    lease.append_log(lost, [("clone", "one\n")])
    later = NOW + lease.LEASE_S + 1
    assert builds.forgotten(later, slots=2) == [lost.id]
    held = take(later)
    lease.append_log(held, [("clone", "two\n")])

    for action in (
        lambda: lease.renew(lost, later),
        lambda: lease.append_log(lost, [("clone", "late\n")]),
        lambda: lease.succeed(lost, OUTPUTS, settings, later),
        lambda: lease.fail(lost, "late", later),
        lambda: lease.cancelled(lost, "late", later),
    ):
        with pytest.raises(Fenced):
            action()
    assert status(held) == (BuildStatus.BUILDING, None)
    assert builds.full_log(held.id) == "=== phase: clone ===\ntwo\n"


def test_a_lease_that_is_renewed_is_kept(project: Project) -> None:
    queue(project)
    held = take()
    lease.renew(held, NOW + lease.LEASE_S - 1)

    assert builds.forgotten(NOW + lease.LEASE_S + 5, slots=2) == []
    assert status(held)[0] == BuildStatus.BUILDING


def test_a_build_that_kills_its_workers_fails_with_that_reason(project: Project) -> None:
    build = queue(project)
    now = NOW
    for _ in range(builds.ATTEMPTS_MAX):
        take(now)
        now += lease.LEASE_S + 1
        builds.forgotten(now, slots=2)

    assert status(build) == (BuildStatus.FAILED, "its worker was lost 3 times; see the log")


def test_a_lost_message_is_sent_again_while_a_slot_is_free(project: Project) -> None:
    first, second = queue(project), queue(project, ref="dev")
    soon, late = NOW + 1, NOW + builds.RING_AGAIN_S + 1

    assert builds.forgotten(soon, slots=2) == []
    assert builds.forgotten(late, slots=0) == []
    assert builds.forgotten(late, slots=2) == [first.id, second.id]
    assert builds.forgotten(late + 1, slots=2) == []


def test_a_build_that_nobody_takes_for_a_day_fails(project: Project) -> None:
    build = queue(project)

    builds.forgotten(NOW + builds.QUEUED_MAX_S + 1, slots=2)

    assert status(build) == (BuildStatus.FAILED, "waited a day for a builder; is one running?")


def test_cancel_ends_what_waits_and_asks_what_runs(project: Project) -> None:
    waiting = queue(project)
    builds.cancel(waiting.id, NOW)
    assert status(waiting)[0] == BuildStatus.CANCELLED
    queue(project, commit="b" * 40)
    held = take()
    builds.cancel(held.id, NOW)
    with pytest.raises(Cancelled, match="by an operator"):
        lease.check(held)
    lease.cancelled(held, "cancelled by an operator", NOW)
    with pytest.raises(Conflict, match="is cancelled"):
        builds.cancel(held.id, NOW)
    with pytest.raises(NotFound):
        builds.cancel(99, NOW)


def test_retry_is_a_new_build_of_the_newest_commit_only(project: Project) -> None:
    old = queue(project, commit="a" * 40)
    lease.fail(take(), "no", NOW)
    new = queue(project, commit="b" * 40)
    with pytest.raises(Conflict, match=f"build {new.id} of main is newer"):
        builds.retry(old.id, NOW)
    with pytest.raises(Conflict, match="is queued"):
        builds.retry(new.id, NOW)
    lease.fail(take(), "no", NOW)

    fresh = builds.retry(new.id, NOW)

    assert (fresh.commit, fresh.status) == ("b" * 40, BuildStatus.QUEUED)


def test_a_build_that_a_newer_push_overtook_writes_no_rows(project: Project, settings: Settings) -> None:
    queue(project)
    held = take()
    queue(project, commit="b" * 40)

    with pytest.raises(Cancelled):
        lease.succeed(held, OUTPUTS, settings, NOW)
    assert Deployment.select().count() == 0
    assert status(held)[0] == BuildStatus.BUILDING


def test_the_log_is_written_once_with_phases_that_ran_side_by_side_put_together(project: Project) -> None:
    queue(project)
    held = take()
    lease.append_log(held, [("clone", "c\n"), ("build:a", "a1\n"), ("build:b", "b1\n")])
    lease.append_log(held, [("build:a", "a2\n")])
    live = builds.full_log(held.id)
    chunks, after, final = builds.log_since(held.id, 2)

    assert live.count("=== phase: build:a ===") == 2
    assert ([chunk.data for chunk in chunks], after, final) == (["b1\n", "a2\n"], 4, False)

    lease.fail(held, "no", NOW)

    assert builds.full_log(held.id) == (
        "=== phase: clone ===\nc\n=== phase: build:a ===\na1\na2\n=== phase: build:b ===\nb1\n"
    )
    assert LogChunk.select().count() == 0
    assert builds.log_since(held.id, 0) == ([], 0, True)


def test_the_deploy_phase_is_part_of_the_log(project: Project, settings: Settings) -> None:
    queue(project)
    held = take()
    lease.append_log(held, [("clone", "c\n")])
    lease.succeed(held, OUTPUTS, settings, NOW)
    builds.note(held.id, "deploy", "started\n")
    with db.write():
        assert builds.went_live(held.id, NOW)
        assert not builds.went_live(held.id, NOW)
    builds.note(held.id, "deploy", "too late\n")

    assert builds.full_log(held.id) == "=== phase: clone ===\nc\n=== phase: deploy ===\nstarted\n"


def test_counts_have_every_status(project: Project) -> None:
    queue(project)

    assert builds.counts() == dict.fromkeys(BuildStatus, 0) | {"queued": 1}
    assert [build.id for build in builds.recent(project, 10)] == [1]
    assert build_log.compose([]) == ""
