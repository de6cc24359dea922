"""M1 to M4: what stands after several switches have spoken, in whatever order and however often."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from builders import an_order
from rescind.model.level import Level
from rescind.switch.client import merge
from rescind.switch.client.merge import Merged
from rescind.switch.wire import BeatEvent, LiftEvent, OrderEvent, SetEvent, order_doc

if TYPE_CHECKING:
    from rescind.model.order import Order

IDS = [f"o-{number}" for number in range(6)]
LINES = 3


class Said:
    """What one switch says, as `Line` keeps it."""

    def __init__(self) -> None:
        self.orders: dict[str, frozenset[Order]] = {}


class Switches:
    """Lines with their merge. Deltas are events of this or that line."""

    def __init__(self, further: int = 0) -> None:
        self.lines = [Said() for _ in range(LINES + further)]
        self.merged = Merged(self.lines[:LINES], self.lines[LINES:])

    def order(self, line: int, order_id: str) -> None:
        self.lines[line].orders[order_id] = frozenset({an_order(order_id)})
        event = OrderEvent(sequence=1, order=order_doc(an_order(order_id)))
        self.merged.take(self.lines[line], event)

    def lift(self, line: int, *order_ids: str) -> None:
        for order_id in order_ids:
            self.lines[line].orders.pop(order_id, None)
        self.merged.take(self.lines[line], LiftEvent(sequence=1, order_ids=order_ids))

    def replace(self, line: int, order_ids: Sequence[str], lifted: Sequence[str] = ()) -> None:
        self.lines[line].orders = {order_id: frozenset({an_order(order_id)}) for order_id in order_ids}
        event = SetEvent(
            switch_id="a",
            sequence=1,
            at_s=0.0,
            renews=True,
            beat_s=1.0,
            orders=tuple(order_doc(an_order(order_id)) for order_id in order_ids),
            lifted=tuple(lifted),
        )
        self.merged.take(self.lines[line], event)

    @property
    def standing(self) -> set[str]:
        return set(self.merged.standing)


lines, ids = st.integers(0, LINES - 1), st.sampled_from(IDS)
deltas = st.one_of(st.tuples(st.just("order"), lines, ids), st.tuples(st.just("lift"), lines, ids))
sets = st.tuples(st.just("replace"), lines, st.lists(ids, unique=True), st.lists(ids, unique=True))


@given(st.lists(deltas, max_size=20), st.randoms(use_true_random=False))
def test_m1_m2_order_and_repetition_of_deltas_do_not_matter(story: list[tuple[str, int, str]], random: object) -> None:
    once, again = Switches(), Switches()
    for name, line, order_id in story:
        getattr(once, name)(line, order_id)
    shuffled = story * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for name, line, order_id in shuffled:
        getattr(again, name)(line, order_id)
    placed = {order_id for name, _, order_id in story if name == "order"}
    lifted = {order_id for name, _, order_id in story if name == "lift"}
    assert once.standing == again.standing == placed - lifted


@given(st.lists(st.one_of(deltas, sets), max_size=20))
def test_m1_the_incremental_merge_is_the_union_without_what_was_lifted(story: list[Any]) -> None:
    switches, lifted = Switches(), set[str]()
    for delta in story:
        match delta:
            case ("order", line, order_id):
                switches.order(line, order_id)
            case ("lift", line, order_id):
                switches.lift(line, order_id)
                lifted.add(order_id)
            case (_, line, order_ids, gone):
                switches.replace(line, order_ids, gone)
                lifted.update(gone)
    union = {order_id for line in switches.lines for order_id in line.orders}
    assert switches.standing == union - lifted


@given(st.permutations(range(LINES)), st.lists(st.tuples(lines, st.lists(ids), st.lists(ids)), max_size=6))
def test_m2_it_does_not_matter_which_line_is_which(
    names: list[int], story: list[tuple[int, list[str], list[str]]]
) -> None:
    one, other = Switches(), Switches()
    for line, order_ids, lifted in story:
        one.replace(line, order_ids, lifted)
        other.replace(names[line], order_ids, lifted)
    assert one.standing == other.standing


@given(st.lists(deltas, max_size=10), lines, st.lists(ids, min_size=1), st.lists(deltas, max_size=10))
def test_m3_a_concurrent_stop_survives_every_lift_that_did_not_see_it(
    before: list[tuple[str, int, str]], line: int, lifted: list[str], after: list[tuple[str, int, str]]
) -> None:
    switches = Switches()
    for name, where, order_id in before:
        getattr(switches, name)(where, order_id)
    switches.order(0, "the-stop")
    switches.lift(line, *lifted)
    for name, where, order_id in after:
        getattr(switches, name)(where, order_id)
    assert "the-stop" in switches.standing


def test_a_set_takes_back_what_this_switch_had_said_and_nobody_else_says() -> None:
    switches = Switches()
    switches.replace(0, ["o-1", "o-2"])
    switches.replace(1, ["o-2"])
    switches.replace(0, [])
    assert switches.standing == {"o-2"}


def test_m4_a_lift_that_was_forgotten_holds_more_and_not_less() -> None:
    switches = Switches()
    switches.order(1, "o-0")
    switches.lift(0, "o-0")
    assert switches.standing == set()
    switches.lift(0, *(f"other-{number}" for number in range(merge.LIFTED_MAX)))
    switches.replace(1, ["o-0"])
    assert switches.standing == {"o-0"}


def test_a_beat_changes_nothing() -> None:
    switches = Switches()
    assert not switches.merged.take(switches.lines[0], BeatEvent(sequence=1, at_s=0.0, renews=True))


def test_m1_two_orders_with_one_id_both_stand() -> None:
    switches = Switches()
    severe, mild = an_order("o-1", "everything"), an_order("o-1", "run:elsewhere", Level.SUPERVISED)
    for line, order in enumerate((severe, mild)):
        switches.lines[line].orders["o-1"] = frozenset({order})
        switches.merged.take(switches.lines[line], OrderEvent(sequence=1, order=order_doc(order)))
    assert set(switches.merged.orders) == {severe, mild}
    switches.lift(0, "o-1")
    assert switches.merged.orders == ()


def test_an_order_that_two_switches_tell_of_in_other_words_is_one() -> None:
    switches = Switches()
    for line, actor in enumerate(("alice", "alice at the other switch")):
        switches.lines[line].orders["o-1"] = frozenset({msgspec.structs.replace(an_order("o-1"), actor=actor)})
        switches.merged.take(switches.lines[line], OrderEvent(sequence=1, order=order_doc(an_order("o-1"))))
    assert [order.order_id for order in switches.merged.orders] == ["o-1"]


def test_m5_a_further_line_takes_away_nothing_but_what_it_alone_has_said() -> None:
    switches, further = Switches(further=1), LINES
    switches.order(0, "o-0")
    switches.order(further, "o-0")
    switches.order(further, "o-1")
    assert switches.standing == {"o-0", "o-1"}
    switches.lift(further, "o-0", "o-1")
    assert switches.standing == {"o-0"}
    switches.replace(further, ["o-2"], lifted=["o-0", "o-3"])
    switches.order(1, "o-3")
    assert switches.standing == {"o-0", "o-2", "o-3"}
    switches.lift(1, "o-0", "o-2", "o-3")
    assert switches.standing == set()
