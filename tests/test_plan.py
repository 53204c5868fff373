"""What a pass decides: literals in, literals out."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kennel_core.environment import Environment
from kennel_core.provision import Owner
from kennel_core.reconcile.backoff import FIRST_S, FORGIVEN_AFTER_S, LONGEST_S, Backoff
from kennel_core.reconcile.plan import Actual, Desired, Health, Plan, diff
from kennel_core.reconcile.rollout import SETTLED_S, Seen, Verdict, judge

OLD, NEW, FOREIGN = "kennel-a-old.service", "kennel-a-new.service", "kennel-but-not-ours.service"
OWNER = Owner(1, "shop", "main", Environment.PROD, ("api",))
ROW = Desired(
    id=1,
    name="api",
    owner=OWNER,
    build_id=7,
    rollout=False,
    hosts=("a.example.org",),
    store_path="/nix/store/a",
    unit=NEW,
    port=18000,
    environment={"KENNEL_SERVICE": "api"},
    health=Health("/api/health", 60),
)
SITE = Desired(
    id=2,
    name="docs",
    owner=OWNER,
    build_id=7,
    rollout=False,
    hosts=("b.example.org",),
    store_path="/nix/store/b",
)


def actual(made: tuple[str, ...] = (), **states: str) -> Actual:
    return Actual({f"kennel-a-{name}.service": state for name, state in states.items()}, frozenset(made))


def test_a_row_without_a_unit_is_started_and_a_site_never_is() -> None:
    assert diff([ROW, SITE], actual()) == Plan(start=(ROW,), stop=())


def test_a_running_unit_is_left_alone() -> None:
    for state in ("active", "activating", "reloading"):
        assert diff([ROW], actual(made=(NEW,), new=state)) == Plan(start=(), stop=())


def test_a_unit_that_failed_is_started_again_when_its_time_has_come() -> None:
    failed = actual(made=(NEW,), new="failed")

    assert diff([ROW], failed).start == (ROW,)
    assert diff([ROW], failed, waiting={NEW}).start == ()


def test_what_no_row_names_is_stopped_if_kennel_made_it() -> None:
    seen = Actual({OLD: "active", FOREIGN: "active"}, frozenset({OLD}))

    assert diff([], seen).stop == (OLD,)


names = st.sampled_from([f"kennel-{letter}.service" for letter in "abcdef"])


@given(
    rows=st.sets(names),
    states=st.dictionaries(names, st.sampled_from(["active", "activating", "failed", "inactive"])),
    made=st.frozensets(names),
)
def test_after_a_plan_is_carried_out_the_next_one_is_empty(
    rows: set[str], states: dict[str, str], made: frozenset[str]
) -> None:
    desired = [replace(ROW, id=number, unit=name) for number, name in enumerate(sorted(rows))]

    plan = diff(desired, Actual(states, made))

    started = {str(row.unit) for row in plan.start}
    after = {name: state for name, state in states.items() if name not in plan.stop}
    after |= dict.fromkeys(started, "active")
    assert diff(desired, Actual(after, (made | started) - set(plan.stop))) == Plan((), ())
    assert set(plan.stop) <= made - rows


def verdict(
    seen: Seen, *, now: float = 100.0, row: Desired = ROW, built_at: float = 90.0
) -> tuple[Verdict, str]:
    return judge([row, SITE], {row.id: seen}, built_at, now, limit=1800)


def test_a_build_goes_live_when_every_service_is_healthy() -> None:
    assert verdict(Seen("active", since=95)) == (Verdict.PROMOTE, "")


def test_a_build_of_sites_alone_goes_live_at_once() -> None:
    assert judge([SITE], {}, 90, 100, limit=1800) == (Verdict.PROMOTE, "")


def test_a_service_has_its_time_to_become_healthy() -> None:
    seen = Seen("active", since=95, unhealthy="GET /api/health answered 503")

    assert verdict(seen, now=154)[0] is Verdict.WAIT
    assert verdict(seen, now=156) == (
        Verdict.ROLL_BACK,
        "api: was not healthy within 60 s: GET /api/health answered 503",
    )


def test_the_time_begins_with_the_build_when_the_unit_ran_before() -> None:
    seen = Seen("active", since=5, unhealthy="GET /api/health answered 503")

    assert verdict(seen, now=100, built_at=90)[0] is Verdict.WAIT


def test_one_service_that_ended_takes_the_whole_build_back() -> None:
    ended = Seen("failed", since=95, error="the process ended")

    assert verdict(ended) == (Verdict.ROLL_BACK, "api: the process ended")


def test_a_service_without_a_check_counts_when_it_has_run_for_a_while() -> None:
    bot = replace(ROW, health=Health(None, 60))

    assert verdict(Seen("active", since=100), row=bot)[0] is Verdict.WAIT
    assert verdict(Seen("active", since=100), row=bot, now=100 + SETTLED_S)[0] is Verdict.PROMOTE
    assert verdict(Seen(None, since=None), row=bot)[0] is Verdict.WAIT


def test_a_rollout_that_waits_for_another_system_ends_some_day() -> None:
    kept_waiting = Seen(None, since=None)

    assert verdict(kept_waiting, now=90 + 1800)[0] is Verdict.WAIT
    assert verdict(kept_waiting, now=90 + 1801) == (
        Verdict.ROLL_BACK,
        "did not come up within 1800 s: api: it is not running",
    )


def test_a_crashing_service_is_left_alone_for_longer_each_time() -> None:
    backoff = Backoff()
    now = 0.0
    waits = []
    for _ in range(8):
        backoff.tried(NEW, now)
        wait = next(s for s in range(1, 10_000) if NEW not in backoff.waiting((), now + s))
        waits.append(wait)
        now += wait

    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits[-1] == LONGEST_S


def test_a_service_that_stays_up_starts_afresh() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.tried(NEW, 0.0)
    backoff.waiting({NEW}, FORGIVEN_AFTER_S)
    backoff.tried(NEW, 1000.0)

    assert backoff.waiting((), 1000 + FIRST_S - 1) == {NEW}
    assert backoff.waiting((), 1000 + FIRST_S) == frozenset()
