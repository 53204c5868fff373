"""Random histories on a model of the machine, for half a minute; `make campaign` plays ten thousand."""

import random

import pytest

from tests.campaigns import histories
from tests.campaigns.history import History
from tests.campaigns.stage import FIRST

COUNT = 100


def test_after_any_history_two_passes_put_everything_right_and_a_third_does_nothing() -> None:
    number = random.randrange(2**32)
    try:
        assert histories.play(COUNT, number) >= COUNT
    except Exception as exc:
        exc.add_note(f"repeat it with: deploy/dev/campaign --seed {number} histories {COUNT}")
        raise


def test_a_history_that_goes_well_ends_well() -> None:
    with histories.silence():
        history = History()
        try:
            history.push("main", "site too", late=False)
            history.work()
            history.pass_()
            history.check()
            assert history.serving == {"shop-api-main.localhost"}
            assert history.clock.time() > FIRST
            history.end()
        finally:
            history.close()


def test_a_row_that_is_lost_is_noticed() -> None:
    with histories.silence():
        history = History()
        try:
            history.push("main", "ok", late=False)
            history.plans["f" * 40] = "ok"
            history.wants["main"] = "f" * 40  # as if another push had been answered
            with pytest.raises(AssertionError, match="is lost"):
                history.end()
        finally:
            history.close()
