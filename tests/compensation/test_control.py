"""An undo that somebody pauses, lets go on, or cancels: laws PC1-PC4, U16 and U17, also while it dies."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from compensation.dying import Died
from compensation.test_crash import World
from compensation.undo_world import Shop
from rescind.clock import SystemClock
from rescind.compensation.decision import Plan
from rescind.compensation.paperwork import plan_run_of
from rescind.errors import UsageError
from rescind.model.entry import CompensationIntended, PlanControlled, PlanFinished, PlanLeft
from rescind.model.history import StepRecord
from rescind.recovery.control import control_undo
from rescind.testing import ManualClock


@pytest.fixture
def shop() -> Shop:
    return Shop()


def order(shop: Shop, plan: Plan, what: str, **words: str) -> None:
    control_undo(shop.journal, plan_run_of(plan), what, clock=shop.clock, **{"actor": "eve"} | words)


def at_step(shop: Shop, number: int, act: Callable[[], None]) -> None:
    """Do something while the step of that number is undone; each step takes a second."""

    def pass_time(record: StepRecord) -> None:
        shop.clock.advance(1.0)
        if sum(shop.charging.refunds.values()) == number:
            act()

    shop.charging.before_undo = pass_time


class TickingClock(ManualClock):
    """Moves on whenever it is looked at."""

    def monotonic_s(self) -> float:
        self.advance(0.001)
        return super().monotonic_s()


def begin_and_leave(shop: Shop, plan: Plan) -> None:
    """Apply the plan without any time to do something of it."""
    shop.clock = TickingClock()
    assert shop.apply(plan, within_s=1e-6).left_because == "out_of_time"
    shop.clock = ManualClock()


class ClockWithAlarm(ManualClock):
    """Rings once, when somebody sleeps for the so-manieth time."""

    def __init__(self, sleeps: int, ring: Callable[[], None]) -> None:
        super().__init__()
        self._sleeps, self._ring = sleeps, ring

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        self._sleeps -= 1
        if self._sleeps == 0:
            self._ring()


def test_a_cancelled_undo_ends_with_what_is_under_way_and_says_what_it_did_not_reach(shop: Shop) -> None:
    """U17, PC4."""
    for _ in range(5):
        shop.charge()
    plan = shop.plan()
    at_step(shop, 2, lambda: order(shop, plan, "cancel", reason="wrong run"))
    result = shop.apply(plan)

    assert result.counts == {"compensated": 3, "not_reached": 2}
    assert (result.left_because, result.left_detail) == ("cancelled", "by eve: wrong run")
    (left,) = [entry.event for entry in shop.entries() if isinstance(entry.event, PlanLeft)]
    assert (left.why, left.detail, left.counts) == ("cancelled", "by eve: wrong run", result.counts)


def test_a_later_undo_of_the_same_selection_goes_on_with_what_a_cancel_left(shop: Shop) -> None:
    """PC3; also if the cancelled one had done nothing, so that the plan is the same one."""
    shop.charge()
    shop.charge()
    plan = shop.plan()
    begin_and_leave(shop, plan)
    order(shop, plan, "cancel")
    assert shop.plan().digest == plan.digest

    assert shop.apply().counts == {"compensated": 2}


def test_a_cancel_counts_for_whoever_goes_on_with_what_it_ended(shop: Shop) -> None:
    """U17: a cancel that a runner died over is obeyed by the one that was started in its place."""
    for _ in range(3):
        shop.charge()
    plan = shop.plan()
    asked_at = shop.entries()[-1].sequence
    begin_and_leave(shop, plan)
    order(shop, plan, "cancel")

    assert shop.apply(asked_at=asked_at).counts == {"not_reached": 3}
    assert not shop.charging.refunds


def test_a_paused_undo_begins_nothing_until_it_is_resumed(shop: Shop) -> None:
    """U16."""
    for _ in range(4):
        shop.charge()
    plan = shop.plan()
    seen: list[int] = []

    def resume() -> None:
        seen.append(sum(shop.charging.refunds.values()))
        order(shop, plan, "resume")

    shop.clock = ClockWithAlarm(20, resume)
    at_step(shop, 1, lambda: order(shop, plan, "pause"))

    assert shop.apply(plan).counts == {"compensated": 4}
    assert seen == [2]
    assert any(isinstance(entry.event, PlanFinished) for entry in shop.entries())


def test_a_pause_holds_the_rest_of_an_undo_that_has_another_digest(shop: Shop) -> None:
    """U16, PC2."""
    for _ in range(3):
        shop.charge()
    plan = shop.plan()
    at_step(shop, 0, lambda: order(shop, plan, "pause"))
    shop.clock = ClockWithAlarm(3, lambda: order(shop, plan, "cancel"))
    shop.apply(plan)
    order(shop, plan, "pause")
    rest = shop.plan()
    assert rest.digest != plan.digest
    shop.clock = ClockWithAlarm(5, lambda: order(shop, plan, "resume"))
    before = len(shop.clock.slept_s)

    assert shop.apply(rest).is_complete
    assert len(shop.clock.slept_s) - before >= 5


def test_a_pause_ends_with_the_undo_that_it_held(shop: Shop) -> None:
    """PC2."""
    shop.charge()
    plan = shop.plan()
    at_step(shop, 0, lambda: order(shop, plan, "pause"))
    assert shop.apply(plan).is_complete

    shop.charge()
    assert shop.apply().is_complete
    assert not shop.clock.slept_s


def test_a_cancel_ends_a_pause(shop: Shop) -> None:
    shop.charge()
    shop.charge()
    plan = shop.plan()
    at_step(shop, 0, lambda: order(shop, plan, "pause"))
    shop.clock = ClockWithAlarm(9, lambda: order(shop, plan, "cancel"))

    assert shop.apply(plan).counts == {"compensated": 1, "not_reached": 1}


def test_an_order_is_obeyed_within_a_second_of_real_time(shop: Shop) -> None:
    for _ in range(100):
        shop.charge()
    clock = SystemClock()
    shop.clock = clock  # type: ignore[assignment]
    plan = shop.plan()
    took_s: list[float] = []
    begun = threading.Event()

    def slow(record: StepRecord) -> None:
        begun.set()
        clock.sleep(0.02)

    def cancel() -> None:
        begun.wait(timeout=20)
        order(shop, plan, "cancel")
        took_s.append(clock.monotonic_s())

    shop.charging.before_undo = slow
    canceller = threading.Thread(target=cancel)
    canceller.start()
    assert shop.apply(plan).counts["not_reached"] > 0
    canceller.join()
    assert clock.monotonic_s() - took_s[0] < 1.0


def test_an_order_that_is_none_is_refused(shop: Shop) -> None:
    shop.charge()
    plan = shop.plan()
    with pytest.raises(UsageError, match="knows no undo"):
        order(shop, plan, "pause")
    shop.apply(plan)
    with pytest.raises(UsageError, match="use one of pause, resume, cancel"):
        order(shop, plan, "stop")


# --- while it dies ---


class OrderedWorld(World):
    """A world in which each handler takes a second, and somebody gives an order at one of all requests."""

    def __init__(self, seed: int, what: str, moment: int) -> None:
        super().__init__(seed)
        self._what, self._left = what, moment
        self.plan_run = ""
        self.clock = ClockWithAlarm(25, lambda: self.order("resume"))

        burn = self.fuse.burn

        def burn_or_order() -> None:
            self.clock.advance(0.25)
            if self.is_begun:
                if self._left == 0:
                    self.order(self._what)
                self._left -= 1
            burn()

        self.fuse.burn = burn_or_order  # type: ignore[method-assign]

    @property
    def is_begun(self) -> bool:
        return self.journal.run(self.plan_run) is not None

    def order(self, what: str) -> None:
        inner = self.journal._journal  # type: ignore[attr-defined]  # past the fuse: this is somebody else's process
        control_undo(inner, self.plan_run, what, actor="eve", clock=self.clock)

    def try_once(self) -> Any:
        plan = self.plan(*self.chosen)
        self.plan_run = plan_run_of(plan)
        return self.apply(plan)

    def intents_between(self, what: str, until: str) -> int:
        """Steps that were begun after the first such order, and before the first of the other kind after it."""
        began: set[str] = set()
        counting = False
        for entry in self.entries():
            event = entry.event
            if isinstance(event, PlanControlled):
                counting = event.what == what or (counting and event.what != until)
            elif counting and isinstance(event, CompensationIntended):
                began.add(f"{entry.run.run_id}/{event.step_id}")
        return len(began)


@pytest.mark.parametrize("seed", range(12))
def test_a_cancel_at_any_request_ends_it_there_and_loses_nothing(seed: int) -> None:
    for moment in range(200):
        world = OrderedWorld(seed, "cancel", moment)
        if not world.chosen:
            return
        result = world.try_once()
        was_cancelled = any(isinstance(entry.event, PlanControlled) for entry in world.entries())
        # One may be under way, and one may have been begun since the last look for orders.
        assert world.intents_between("cancel", "") <= 2
        assert result.is_complete or result.left_because == "cancelled"
        world.undo_until_done()
        world.check()
        if not was_cancelled:
            return
    raise AssertionError("it never comes to an end")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("later", [1, 4, 9])
def test_a_pause_at_any_request_holds_also_whoever_goes_on_after_a_death(seed: int, later: int) -> None:
    for moment in range(200):
        world = OrderedWorld(seed, "pause", moment)
        if not world.chosen:
            return
        world.fuse.left = moment + later
        try:
            world.try_once()
        except Died:
            world.fuse.left = -1
            world.try_once()
        was_paused = any(isinstance(entry.event, PlanControlled) for entry in world.entries())
        assert world.intents_between("pause", "resume") <= 2
        world.fuse.left = -1
        world.undo_until_done()
        world.check()
        if not was_paused:
            return
    raise AssertionError("it never comes to an end")
