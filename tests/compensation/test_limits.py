"""What an undo asks of target systems: limits, rests, deadlines, and that waiting holds nobody up (U18-U20)."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest

from compensation.undo_world import Charging, RowSetting, Shop, raising
from rescind.clock import SystemClock
from rescind.compensation.execution.limits import Limits, TokenBuckets
from rescind.compensation.execution.systems import TROUBLES_MAX
from rescind.compensation.execution.trying import backoff_s
from rescind.compensation.planning.selection import read_steps
from rescind.config import SystemLimits
from rescind.errors import Conflict, Transient, UsageError
from rescind.model.entry import CompensationIntended, CompensationWithdrawn, PlanLeft, StepRef
from rescind.model.history import StepRecord
from rescind.model.step import Target
from rescind.testing import ManualClock


@pytest.fixture
def shop() -> Shop:
    return Shop()


def at_system(shop: Shop, system: str) -> StepRef:
    return shop.charge(target=Target(system, "charge", str(shop.steps)))


def limits(**systems: SystemLimits) -> Limits:
    return Limits(systems)


def down(system: str, error: Callable[[], Exception]) -> Callable[[StepRecord], None]:
    """For `before_undo`: this system raises such errors."""

    def fail(record: StepRecord) -> None:
        if record.step.target is not None and record.step.target.system == system:
            raise error()

    return fail


def intents(shop: Shop) -> list[StepRef]:
    return [
        StepRef(entry.run.run_id, entry.event.step_id)
        for entry in shop.entries()
        if isinstance(entry.event, CompensationIntended)
    ]


# --- waiting (U18) ---


def test_a_step_that_waits_lets_others_have_the_turn(shop: Shop) -> None:
    slow = shop.charge()
    shop.charge()
    newest = shop.charge()
    shop.charging.before_undo = raising(Transient("busy"))
    shop.apply(parallel=1)

    assert shop.charging.order == [StepRef("run-1", "2"), slow, newest]


def test_a_step_that_waits_lets_others_have_the_turn_whose_handlers_are_not_parallel(shop: Shop) -> None:
    """U14, U18."""
    shop.charging.parallel = False
    for _ in range(4):
        shop.charge()
    under_way: list[StepRef] = []
    fails = raising(Transient("busy"))

    def alone(record: StepRecord) -> None:
        assert not under_way
        under_way.append(record.ref)
        try:
            fails(record)
        finally:
            under_way.clear()

    shop.charging.before_undo = alone
    assert shop.apply(parallel=4).counts == {"compensated": 4}
    assert [ref.step_id for ref in shop.charging.order] == ["3", "2", "1", "4"]


def test_what_waits_for_a_waiting_step_goes_on_waiting(shop: Shop) -> None:
    """U2, U18."""
    shop.charge()
    shop.charge(depends_on=("1",))
    shop.charging.before_undo = raising(Transient("busy"))
    shop.apply(parallel=2)

    assert [ref.step_id for ref in shop.charging.order] == ["2", "1"]


def test_a_system_that_asks_for_a_pause_gets_it_and_others_go_on(shop: Shop) -> None:
    ours = [at_system(shop, "stripe") for _ in range(3)]
    others = [at_system(shop, "crm") for _ in range(3)]
    shop.charging.before_undo = down("stripe", lambda: Transient("429", retry_after_s=90))
    done_at_s: dict[StepRef, float] = {}

    def undo(record: StepRecord) -> None:
        if record.ref == ours[2] and shop.clock.monotonic_s() < 60:
            raise Transient("429", retry_after_s=90)
        done_at_s[record.ref] = shop.clock.monotonic_s()

    shop.charging.before_undo = undo
    assert shop.apply(parallel=1).counts == {"compensated": 6}
    assert all(done_at_s[ref] < 1 for ref in others)
    assert all(done_at_s[ref] >= 90 for ref in ours)


# --- limits ---


def test_a_bucket_holds_its_burst_and_fills_at_its_rate() -> None:
    clock = ManualClock()
    buckets = TokenBuckets(limits(stripe=SystemLimits(rate_per_s=4, burst=3)), clock)

    assert [buckets.try_acquire("stripe") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.try_acquire("stripe") == pytest.approx(0.25)
    assert buckets.try_acquire("crm") == 0.0
    clock.advance(0.25)
    assert buckets.try_acquire("stripe") == 0.0
    assert buckets.try_acquire("stripe") == pytest.approx(0.25)
    clock.advance(60)
    assert [buckets.try_acquire("stripe") > 0 for _ in range(4)] == [False, False, False, True]


def test_processes_that_share_limits_keep_to_their_part() -> None:
    shared = Limits({"stripe": SystemLimits(parallel=3, rate_per_s=8, burst=2)}, share=4)

    assert shared.parallel_of("stripe") == 1
    assert shared.rate_of("stripe") == (2.0, 1)


def test_a_star_stands_for_every_system_that_is_not_named() -> None:
    chosen = Limits({"*": SystemLimits(parallel=2), "crm": SystemLimits()})

    assert (chosen.parallel_of("stripe"), chosen.parallel_of("crm")) == (2, None)


def test_tries_at_a_system_keep_to_its_rate(shop: Shop) -> None:
    for _ in range(21):
        at_system(shop, "stripe")
    result = shop.apply(parallel=4, limits=limits(stripe=SystemLimits(rate_per_s=10, burst=1)))

    assert result.is_complete
    assert shop.clock.monotonic_s() == pytest.approx(2.0, abs=0.1)


def test_no_more_steps_are_under_way_at_a_system_than_it_allows(shop: Shop) -> None:
    for number in range(24):
        at_system(shop, "stripe" if number % 2 else "crm")
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    lock = threading.Lock()

    def count(record: StepRecord) -> None:
        assert record.step.target is not None
        with lock:
            now[record.step.target.system] += 1
            most[record.step.target.system] = max(most[record.step.target.system], now[record.step.target.system])
        SystemClock().sleep(0.005)
        with lock:
            now[record.step.target.system] -= 1

    shop.charging.before_undo = count
    shop.apply(parallel=8, limits=limits(stripe=SystemLimits(parallel=2)))

    assert most["stripe"] == 2
    assert most["crm"] > 2


# --- a system that is down (U19) ---


@pytest.mark.parametrize("error", [Transient, ConnectionRefusedError, TimeoutError])
def test_a_system_that_is_down_costs_few_tries_and_asks_nobody_about_the_rest(
    shop: Shop, error: Callable[[str], Exception]
) -> None:
    shop.charging = Charging(idempotent=True)
    ours = [at_system(shop, "stripe") for _ in range(300)]
    others = [at_system(shop, "crm") for _ in range(30)]
    shop.charging.before_undo = down("stripe", lambda: error("down"))
    result = shop.apply(parallel=4)

    words = {step.step: step.word for step in result.steps}
    assert {words[ref] for ref in others} == {"compensated"}
    tried = {ref for ref in intents(shop) if ref in ours}
    assert len(tried) <= 4 + TROUBLES_MAX
    assert sum(words[ref] == "not_reached" for ref in ours) >= 300 - len(tried)
    assert list(result.lost_systems) == ["stripe"]
    assert "stripe does not answer" in result.steps[-1].detail
    (left,) = [entry.event for entry in shop.entries() if isinstance(entry.event, PlanLeft)]
    assert left.why == "unavailable"

    shop.charging.before_undo = lambda record: None
    again = shop.apply()
    assert again.is_complete
    assert set(shop.charging.refunds.values()) == {1}


def test_a_system_that_comes_back_is_gone_on_with(shop: Shop) -> None:
    for _ in range(50):
        at_system(shop, "stripe")

    def down_for_a_while(record: StepRecord) -> None:
        if shop.clock.monotonic_s() < 2:
            raise Transient("restarting")

    shop.charging.before_undo = down_for_a_while
    assert shop.apply(parallel=4).counts == {"compensated": 50}
    assert len(intents(shop)) < 50 + 15


def test_a_system_that_refuses_every_step_is_not_down(shop: Shop) -> None:
    for _ in range(30):
        at_system(shop, "stripe")
    shop.charging.before_undo = raising(*[Conflict("refunded by hand")] * 30)
    assert shop.apply(parallel=2).counts == {"review": 30}


def test_a_compensation_that_is_given_up_harmlessly_is_withdrawn(shop: Shop) -> None:
    """The next plan must not take it for one that may have happened."""
    shop.charge()
    shop.clock = ManualClock()
    shop.charging.before_undo = raising(*[Transient("busy")] * 3)
    result = shop.apply(within_s=0.1)

    assert result.counts == {"not_reached": 1}
    assert (result.left_because, result.steps[0].detail) == (
        "out_of_time",
        "nothing happened in 1 tries; the last one: Transient: busy",
    )
    assert any(isinstance(entry.event, CompensationWithdrawn) for entry in shop.entries())
    assert not read_steps(shop.journal, ["run-1"])[0].compensation_open
    shop.charging.before_undo = lambda record: None
    assert shop.apply().counts == {"compensated": 1}


def test_what_may_have_happened_is_not_withdrawn(shop: Shop) -> None:
    """U9: a try that vouches for itself says nothing about the one before it."""
    shop.charging = Charging(idempotent=True)
    shop.charge()
    shop.charging.before_undo = raising(TimeoutError(), Transient("busy"), Transient("busy"))
    shop.apply(within_s=1.0)

    assert not any(isinstance(entry.event, CompensationWithdrawn) for entry in shop.entries())
    assert read_steps(shop.journal, ["run-1"])[0].compensation_open


# --- deadlines (U20) ---


def test_an_undo_has_its_time_and_leaves_what_it_did_not_reach(shop: Shop) -> None:
    for _ in range(10):
        shop.charge()
    shop.charging.before_undo = lambda record: shop.clock.advance(1.0)
    result = shop.apply(within_s=3.5)

    assert result.counts == {"compensated": 4, "not_reached": 6}
    assert result.left_because == "out_of_time"
    assert not result.interrupted


@pytest.mark.parametrize("within_s", [0, -1, float("nan")])
def test_an_undo_without_any_time_is_refused(shop: Shop, within_s: float) -> None:
    shop.charge()
    with pytest.raises(UsageError, match="within_s"):
        shop.apply(within_s=within_s)


def test_a_step_whose_deadline_passes_while_it_waits_for_its_turn_goes_to_a_person(shop: Shop) -> None:
    until = shop.clock.now() + timedelta(seconds=2)
    late = shop.charge(allowed_until=until)
    for _ in range(3):
        shop.charge()
    shop.charging.before_undo = lambda record: shop.clock.advance(1.0)
    result = shop.apply(parallel=1)

    assert result.counts == {"compensated": 3, "review": 1}
    assert result.steps[-1].reason == "past_deadline"
    assert late not in intents(shop)


def test_a_step_whose_deadline_passes_between_two_tries_is_not_tried_again(shop: Shop) -> None:
    shop.charge(allowed_until=shop.clock.now() + timedelta(seconds=0.1))
    shop.charging.before_undo = raising(Transient("busy"))
    result = shop.apply()

    assert result.steps[0].reason == "past_deadline"
    assert "nothing happened in 1 tries" in result.steps[0].detail
    assert not shop.charging.refunds


def test_a_lost_reply_stays_in_doubt_when_the_deadline_passes(shop: Shop) -> None:
    shop.charging = Charging(idempotent=True)
    shop.charge(allowed_until=shop.clock.now() + timedelta(seconds=0.1))
    shop.charging.before_undo = raising(TimeoutError())

    assert shop.apply().steps[0].reason == "in_doubt"


def test_a_wait_is_at_least_as_long_as_was_asked_for(shop: Shop) -> None:
    shop.charge()
    shop.charging.before_undo = raising(Transient("429", retry_after_s=20))
    shop.apply()

    record = read_steps(shop.journal, ["run-1"])[0]
    assert backoff_s(record, 1) < 20 <= shop.clock.monotonic_s() < 21


def test_restores_of_a_system_that_is_down_are_left_and_found_again(shop: Shop) -> None:
    for number in range(40):
        shop.set(f"row-{number}", number)
    shop.setting.before_undo = down("shop", lambda: ConnectionRefusedError("down"))
    result = shop.apply(parallel=4)
    assert result.counts.get("not_reached", 0) >= 25
    assert isinstance(shop.setting, RowSetting)

    shop.setting.before_undo = lambda record: None
    shop.apply()
    left = {record.ref for record in read_steps(shop.journal, ["run-1"]) if record.disposition is None}
    assert not left
