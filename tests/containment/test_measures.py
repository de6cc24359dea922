"""What orders do to a run besides its level, and the errors that say so."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.containment.measures import NOTHING, what_holds
from rescind.errors import CallDenied, FanOutBlocked, LeaseRevoked, RunHalted, RunQuarantined
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope


def an_order(measure: Measure, order_id: str = "ord-1") -> Order:
    return Order(
        order_id=order_id,
        scope=Scope.parse("run:run-1"),
        level=max(Level.SUPERVISED, measure.level),
        reason="",
        actor="ada",
        placed_at=datetime(2026, 1, 1, tzinfo=UTC),
        measure=measure,
    )


def test_a_run_with_plain_orders_is_held_by_no_measure() -> None:
    assert what_holds([an_order(Measure.LEVEL)]) is NOTHING
    assert not what_holds([])


def test_each_measure_is_found_under_its_own_name() -> None:
    by_measure = {measure: an_order(measure, measure.value) for measure in Measure}

    holds = what_holds(by_measure.values())

    assert holds
    assert holds.revoked is by_measure[Measure.REVOKE]
    assert holds.quarantined is by_measure[Measure.QUARANTINE]
    assert holds.fan_out_blocked is by_measure[Measure.BLOCK_FAN_OUT]
    assert holds.forced_open is by_measure[Measure.FORCED_OPEN]
    assert holds.queue_paused is by_measure[Measure.PAUSE_QUEUE]
    assert holds.trips == (by_measure[Measure.TRIP],)


@given(st.lists(st.sampled_from(list(Measure))))
def test_the_first_order_of_a_measure_is_shown_and_every_trip_is(measures: list[Measure]) -> None:
    orders = [an_order(measure, f"ord-{number}") for number, measure in enumerate(measures)]

    holds = what_holds(orders)

    assert holds.revoked == next((order for order in orders if order.measure is Measure.REVOKE), None)
    assert holds.trips == tuple(order for order in orders if order.measure is Measure.TRIP)
    assert bool(holds) == any(measure is not Measure.LEVEL for measure in measures)


def test_a_refusal_by_a_measure_is_caught_as_the_refusals_that_callers_know() -> None:
    with pytest.raises(CallDenied, match="stop here and report") as revoked:
        raise LeaseRevoked(action="pay", run_id="run-1", fencing_number=3, why="leaked", order_ids=["ord-1"])
    assert revoked.value.level is Level.PAUSED
    assert revoked.value.order_ids == ("ord-1",)

    with pytest.raises(CallDenied, match="child run mailer was not started"):
        raise FanOutBlocked(
            action="spawn", run_id="run-1", started="child run mailer", why="spreads", order_ids=["ord-2"]
        )

    text = RunQuarantined.text(action="pay", run_id="run-1", why="rogue (order ord-3 by ada)")
    with pytest.raises(RunHalted, match="until a person releases it"):
        raise RunQuarantined(text, fallback="Please try later.", run_id="run-1", order_ids=["ord-3"])
