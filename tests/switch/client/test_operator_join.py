"""Receipts of several switches, joined: for one guard the most that is known counts."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.switch.receipt import GuardReceipt, GuardState, Receipt, join_receipts

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

MOMENTS = st.none() | st.integers(0, 20).map(lambda seconds: NOON + timedelta(seconds=seconds))
MILLISECONDS = st.none() | st.integers(0, 50).map(float)
WORDS = st.sampled_from(["", "a", "b"])
COUNTS = st.none() | st.integers(0, 3)
SWITCHES = st.lists(st.sampled_from(["sw_1", "sw_2", "sw_3"]), max_size=3).map(tuple)

GUARDS = st.builds(
    GuardReceipt,
    guard_id=st.sampled_from(["g1", "g2", "g3"]),
    state=st.sampled_from(GuardState),
    pid=COUNTS,
    program=WORDS,
    bound_ms=MILLISECONDS,
    drained_ms=MILLISECONDS,
    in_flight=st.lists(st.sampled_from(["r/1", "r/2"]), max_size=2).map(tuple),
    runs_covered=COUNTS,
    runs_open=COUNTS,
    detail=WORDS,
    host=WORDS,
    until=MOMENTS,
)

RECEIPTS = st.builds(
    Receipt,
    order_id=st.just("ord_1"),
    stamp=st.integers(0, 9),
    waited_ms=st.integers(0, 50).map(float),
    all_bound=st.booleans(),
    all_drained=st.booleans(),
    guards=st.lists(GUARDS, max_size=4).map(tuple),
    unheard=SWITCHES,
    heard=SWITCHES,
)


def of(*guards: GuardReceipt, heard: tuple[str, ...] = (), unheard: tuple[str, ...] = ()) -> Receipt:
    return Receipt(
        order_id="ord_1",
        stamp=1,
        waited_ms=1.0,
        all_bound=False,
        all_drained=False,
        guards=guards,
        heard=heard,
        unheard=unheard,
    )


def a_guard(state: GuardState, until: datetime | None = None, in_flight: tuple[str, ...] = ()) -> GuardReceipt:
    return GuardReceipt(guard_id="g1", state=state, until=until, in_flight=in_flight)


@given(RECEIPTS, RECEIPTS, RECEIPTS)
def test_joining_is_commutative_associative_and_idempotent(one: Receipt, two: Receipt, three: Receipt) -> None:
    joined = join_receipts([one, two, three])

    assert joined == join_receipts([three, one, two])
    assert joined == join_receipts([join_receipts([one, two]), three])
    assert joined == join_receipts([one, join_receipts([two, three])])
    assert joined == join_receipts([joined, joined, two])


@given(st.lists(RECEIPTS, min_size=1, max_size=4))
def test_what_nobody_knows_stays_unknown_and_no_guard_is_lost(receipts: list[Receipt]) -> None:
    joined = join_receipts(receipts)

    said: dict[str, set[GuardState]] = {}
    for guard in (guard for receipt in receipts for guard in receipt.guards):
        said.setdefault(guard.guard_id, set()).add(guard.state)
    assert {guard.guard_id for guard in joined.guards} == said.keys()
    assert all(guard.state in said[guard.guard_id] for guard in joined.guards)
    unknown = {guard_id for guard_id, states in said.items() if states == {GuardState.UNKNOWN}}
    assert {guard.guard_id for guard in joined.guards if guard.state is GuardState.UNKNOWN} == unknown
    assert joined.all_bound is not bool(unknown)
    assert joined.all_drained is not any(g.state in (GuardState.UNKNOWN, GuardState.BOUND) for g in joined.guards)


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (GuardState.DRAINED, GuardState.KILLED),
        (GuardState.KILLED, GuardState.GONE),
        (GuardState.GONE, GuardState.BOUND),
        (GuardState.BOUND, GuardState.SILENCED),
        (GuardState.SILENCED, GuardState.UNKNOWN),
    ],
)
def test_the_more_certain_state_counts(more: GuardState, less: GuardState) -> None:
    (guard,) = join_receipts([of(a_guard(less)), of(a_guard(more))]).guards

    assert guard.state is more


def test_an_unknown_guard_is_silent_at_the_latest_moment_and_at_none_if_one_cannot_say() -> None:
    early, late = a_guard(GuardState.UNKNOWN, NOON), a_guard(GuardState.UNKNOWN, NOON + timedelta(seconds=7))

    assert join_receipts([of(early), of(late)]).guards[0].until == late.until
    assert join_receipts([of(early), of(late), of(a_guard(GuardState.UNKNOWN))]).guards[0].until is None
    # What an unknowing switch cannot say takes nothing from what another one knows.
    silenced = a_guard(GuardState.SILENCED, NOON)
    assert join_receipts([of(silenced), of(a_guard(GuardState.UNKNOWN))]).guards[0].until == NOON


def test_of_two_lists_of_steps_in_flight_the_newer_and_shorter_counts() -> None:
    older, newer = a_guard(GuardState.BOUND, None, ("r/1", "r/2")), a_guard(GuardState.BOUND, None, ("r/2",))

    assert join_receipts([of(older), of(newer)]).guards[0].in_flight == ("r/2",)


def test_a_switch_is_unheard_if_no_receipt_includes_it() -> None:
    one = of(heard=("sw_1",), unheard=("sw_2", "sw_3"))
    two = of(heard=("sw_2",), unheard=("sw_1",))

    joined = join_receipts([one, two])

    assert joined.unheard == ("sw_3",)
    assert joined.heard == ("sw_1", "sw_2")


def test_receipts_of_different_orders_are_not_joined() -> None:
    other = Receipt(order_id="ord_2", stamp=1, waited_ms=1.0, all_bound=True, all_drained=True, guards=())

    with pytest.raises(ValueError, match="of one order"):
        join_receipts([of(), other])
    with pytest.raises(ValueError, match="at least one"):
        join_receipts([])
