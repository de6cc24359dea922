"""Receipts: what a switch may say of a guard, and when."""

from typing import Any

import pytest

from builders import an_order
from rescind.switch.receipt import GuardReceipt, GuardState
from rescind.switch.service.problems import Refused
from rescind.switch.service.registry import MARGIN_S, Placement, Registry
from rescind.switch.wire import Ended, Report, RunDoc
from rescind.testing import ManualClock

TTL_S = 10.0


class World:
    """A switch's register on a manual clock; the order has place 5 in the ledger."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.clock.advance(100.0)
        self.registry = Registry("sw-a", self.clock)
        self.placement = self.placed()

    def placed(self, **elsewhere: float) -> Placement:
        known = {name.replace("_", "-"): at_s for name, at_s in elsewhere.items()}
        return Placement(order=an_order(), sequence=5, at_s=self.clock.boot_s(), elsewhere=known)

    def says(self, guard_id: str = "g", **fields: Any) -> None:
        defaults: dict[str, Any] = {"pid": 1, "host": "h", "lease_ttl_s": TTL_S, "hears": ("sw-a",)}
        report = Report(**(defaults | fields))
        self.registry.report(guard_id, "token", report)

    def listens(self, guard_id: str = "g") -> None:
        self.registry.stream_began(self.registry.guards[guard_id])

    def hangs_up(self, guard_id: str = "g") -> None:
        self.registry.stream_ended(self.registry.guards[guard_id])

    def of(self, guard_id: str = "g") -> GuardReceipt:
        return next(each for each in self.registry.receipt(self.placement).guards if each.guard_id == guard_id)


@pytest.fixture
def world() -> World:
    return World()


def test_a_guard_that_has_said_nothing_is_unknown_until_its_lease_has_run_out(world: World) -> None:
    world.says()
    world.listens()
    world.placement = world.placed()
    assert world.of().state is GuardState.UNKNOWN
    assert world.of().until is not None
    world.clock.advance(TTL_S + MARGIN_S - 0.01)
    assert world.of().state is GuardState.UNKNOWN
    world.clock.advance(0.02)
    assert world.of().state is GuardState.SILENCED


def test_the_lease_of_a_guard_that_hung_up_counts_from_then(world: World) -> None:
    world.says()
    world.listens()
    world.hangs_up()
    world.clock.advance(TTL_S - 1)
    world.placement = world.placed()
    assert world.of().state is GuardState.UNKNOWN
    world.clock.advance(1 + MARGIN_S)
    assert world.of().state is GuardState.SILENCED


def test_a_guard_that_acknowledged_is_bound_and_then_drained_with_times(world: World) -> None:
    world.says()
    world.clock.advance(0.010)
    world.says(bound=5, drained=False, in_flight=("run-1/7",), in_flight_count=1)
    assert (world.of().state, world.of().in_flight) == (GuardState.BOUND, ("run-1/7",))
    assert world.of().bound_ms == pytest.approx(10.0)
    world.clock.advance(0.020)
    world.says(bound=5, drained=True)
    assert (world.of().state, world.of().in_flight) == (GuardState.DRAINED, ())
    assert world.of().drained_ms == pytest.approx(30.0)


def test_an_acknowledgement_of_older_orders_says_nothing_of_this_one(world: World) -> None:
    world.says(bound=4)
    assert world.of().state is GuardState.UNKNOWN


def test_an_old_report_that_arrives_late_takes_nothing_back(world: World) -> None:
    world.says(bound=6)
    world.says(bound=3, drained=False)
    assert world.of().state is GuardState.DRAINED


@pytest.mark.parametrize(
    ("fields", "elsewhere"),
    [
        ({"hears": ("sw-a", "sw-b"), "switches": 2}, {}),  # it hears one that is not known to have the order
        ({"switches": 2}, {}),  # it may yet hear another
        ({"on_silence": "normal"}, {}),  # it goes on in silence
    ],
)
def test_nobody_is_silenced_who_may_have_a_lease_from_elsewhere(
    world: World, fields: dict[str, Any], elsewhere: dict[str, float]
) -> None:
    world.says(**fields)
    world.placement = world.placed(**elsewhere)
    world.clock.advance(1_000.0)
    assert world.of().state is GuardState.UNKNOWN
    assert world.of().until is None


def test_the_last_switch_that_got_the_order_decides_when_silence_is_certain(world: World) -> None:
    world.says(hears=("sw-a", "sw-b"), switches=2)
    world.listens()
    world.placement = world.placed(sw_b=world.clock.boot_s() + 4)
    world.clock.advance(TTL_S + 1)
    assert world.of().state is GuardState.UNKNOWN
    world.clock.advance(4.0)
    assert world.of().state is GuardState.SILENCED


def test_who_said_that_it_leaves_is_gone_and_who_left_before_is_no_part_of_it(world: World) -> None:
    world.says("early", leaving=True)
    world.clock.advance(1.0)
    world.placement = world.placed()
    world.says("late")
    world.says("late", leaving=True)
    guards = {guard.guard_id: guard.state for guard in world.registry.receipt(world.placement).guards}
    assert guards == {"late": GuardState.GONE}


def test_a_guard_under_a_supervisor_that_ended_it_is_killed(world: World) -> None:
    world.says("g", pid=42, supervisor="sup")
    world.says("sup", kind="supervisor", pid=41, ended=(Ended(pid=42, how="killed", status=-9),), bound=5)
    assert world.of("g").state is GuardState.KILLED


def test_another_token_acknowledges_nothing_in_a_guards_name(world: World) -> None:
    world.says("g")
    with pytest.raises(Refused, match="belongs to another token"):
        world.registry.report("g", "somebody", Report(pid=1, bound=5))
    assert world.of("g").state is GuardState.UNKNOWN


def test_the_receipt_says_how_many_of_its_runs_an_order_covers(world: World) -> None:
    world.says(runs=(RunDoc(run_id="r-1", agent="a@1"), RunDoc(run_id="r-2", agent="b@1")), runs_open=2)
    world.placement = Placement(order=an_order(scope="agent:a"), sequence=5, at_s=world.clock.boot_s(), elsewhere={})
    assert (world.of().runs_covered, world.of().runs_open) == (1, 2)


def test_whoever_waits_is_woken_when_the_last_guard_has_drained(world: World) -> None:
    woken: list[int] = []
    for guard_id in ("g-1", "g-2"):
        world.says(guard_id)
    world.registry.await_drained(world.placement, lambda: woken.append(1))
    world.says("g-1", bound=5)
    assert not woken
    world.says("g-2", bound=7)
    assert woken
