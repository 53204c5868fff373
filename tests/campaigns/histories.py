"""Random histories, made and shrunk by Hypothesis."""

import contextlib
import logging
from collections.abc import Iterator

import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.campaigns.history import PLANS, History

REFS = st.sampled_from(["main", "main", "dev", "pr-1"])
NUMBERS = st.integers(0, 9)


class Histories(RuleBasedStateMachine):
    """The rules are what can happen; see `History`."""

    played = 0
    kills = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).played += 1
        self.history = History()

    def teardown(self) -> None:
        try:
            self.history.end()
        finally:
            self.history.close()

    @invariant()
    def holds(self) -> None:
        self.history.check()

    @rule(ref=REFS, plan=st.sampled_from(PLANS), late=st.sampled_from([False, False, True]))
    def push(self, ref: str, plan: str, late: bool) -> None:  # noqa: FBT001  # Hypothesis passes by name
        self.history.push(ref, plan, late=late)

    @rule(ref=REFS, late=st.booleans())
    def remove(self, ref: str, late: bool) -> None:  # noqa: FBT001  # Hypothesis passes by name
        self.history.remove(ref, late=late)

    @rule(which=NUMBERS)
    def arrives(self, which: int) -> None:
        self.history.arrives(which)

    @rule(which=NUMBERS)
    def comes_again(self, which: int) -> None:
        self.history.comes_again(which)

    @rule(which=NUMBERS)
    def cancel(self, which: int) -> None:
        self.history.cancel(which)

    @rule(which=NUMBERS)
    def retry(self, which: int) -> None:
        self.history.retry(which)

    @rule()
    def claim(self) -> None:
        self.history.claim()

    @rule(which=NUMBERS)
    def finish(self, which: int) -> None:
        self.history.finish(which)

    @rule()
    def work(self) -> None:
        self.history.work()

    @rule()
    def work_and_pass(self) -> None:
        self.history.work()
        self.history.pass_()

    @rule()
    def one_pass(self) -> None:
        self.history.pass_()

    @rule(effects=st.integers(0, 30))
    def kill(self, effects: int) -> None:
        type(self).kills += 1
        self.history.kill(effects)

    @rule(which=NUMBERS)
    def crash(self, which: int) -> None:
        self.history.crash(which)

    @rule()
    def caddy_restarts(self) -> None:
        self.history.caddy_restarts()

    @rule(up=st.booleans())
    def caddy(self, up: bool) -> None:  # noqa: FBT001  # Hypothesis passes by name
        self.history.caddy(up=up)

    @rule(up=st.booleans())
    def systemd(self, up: bool) -> None:  # noqa: FBT001  # Hypothesis passes by name
        self.history.systemd(up=up)

    @rule(port=st.integers(30_000, 30_009))
    def takes_port(self, port: int) -> None:
        self.history.takes_port(port)

    @rule(seconds=st.sampled_from([1.0, 31.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.history.wait(seconds)

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def jump(self, seconds: float) -> None:
        self.history.jump(seconds)


def play(count: int, number: int, steps: int = 25, *, shrink: bool = True) -> int:
    """Play random histories; returns how many. The same `number` gives the same ones.

    Raises:
        AssertionError: one of them failed; its notes have it shrunk.
    """
    before = Histories.played
    wanted = settings(
        max_examples=count,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )
    with silence():
        run_state_machine_as_test(seed(number)(Histories), settings=wanted)
    return Histories.played - before


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Have nothing logged: it would take most of the time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.reset_defaults()
