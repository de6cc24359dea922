"""A ring of buckets against a list that keeps every call."""

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rescind.triggers.window import ANOMALOUS, BUCKETS, FAILED, MARKS, SLOW, Window

SECONDS = 300.0
SLOT_S = SECONDS / BUCKETS

times = st.floats(0, 3_000) | st.integers(0, 30).map(lambda slot: slot * SLOT_S)
calls = st.lists(st.tuples(times, st.sampled_from([0, FAILED, FAILED | ANOMALOUS, SLOW | ANOMALOUS])))


def slot_of(at_s: float) -> int:
    return int(at_s / SLOT_S)


def counts(window: Window, now_s: float) -> tuple[int, ...]:
    """Calls that it holds now, and how many were wrong in which way. A moment before the newest is taken for it."""
    if slot_of(now_s) > window.slot:
        window.move_on(slot_of(now_s))
    return window.calls, *window.bad


@given(calls, st.floats(0, 4_000))
@example([(BUCKETS * SLOT_S, 0), (0.0, FAILED)], 0.0)  # late by just too much
@example([((BUCKETS - 1) * SLOT_S, 0), (0.0, FAILED)], 0.0)  # late by just not too much
def test_it_holds_what_a_list_of_all_calls_holds_whatever_their_order(
    calls: list[tuple[float, int]], now_s: float
) -> None:
    window = Window()
    for at_s, marks in calls:
        window.add(slot_of(at_s), marks)

    newest = max(int(at_s / SLOT_S) for at_s in [now_s, *(at_s for at_s, _ in calls)])
    held = [marks for at_s, marks in calls if int(at_s / SLOT_S) > newest - BUCKETS]
    assert counts(window, now_s) == (len(held), *(sum(marks & mark > 0 for marks in held) for mark in MARKS))


@given(st.floats(0, 10_000), st.floats(0, 10_000))
def test_a_call_counts_for_the_window_less_a_slot_and_no_longer_than_the_window(at_s: float, age_s: float) -> None:
    window = Window()
    window.add(slot_of(at_s), FAILED)

    _, held, _, _ = counts(window, at_s + age_s)
    if age_s < SECONDS - SLOT_S:
        assert held == 1
    if age_s > SECONDS + 1e-6:
        assert held == 0


@given(calls)
def test_the_newest_slot_is_what_the_calls_have_grown_by(calls: list[tuple[float, int]]) -> None:
    window = Window()
    for at_s, marks in calls:
        window.add(slot_of(at_s), marks)

    slots = [int(at_s / SLOT_S) for at_s, _ in calls]
    assert window.newest_calls == (slots.count(max(slots)) if slots else 0)


def test_what_is_cleared_is_gone_and_the_window_goes_on() -> None:
    window = Window()
    window.add(slot_of(100), FAILED)
    window.clear()
    window.add(slot_of(110), SLOW)

    assert counts(window, 120) == (1, 0, 0, 1)


def test_its_memory_does_not_grow_with_the_calls() -> None:
    window = Window()
    for number in range(20_000):
        window.add(slot_of(number / 10), FAILED | ANOMALOUS | SLOW)

    buckets = [getattr(window, "_calls"), *getattr(window, "_bad")]  # noqa: B009  # a look inside: that is the question
    assert [len(each) for each in buckets] == [BUCKETS] * 4
    assert sum(sys.getsizeof(each) for each in buckets) < 1_000


@pytest.mark.parametrize("gap_s", [0.0, SECONDS, 1e9])
def test_a_long_silence_costs_no_more_than_a_short_one(gap_s: float) -> None:
    window = Window()
    window.add(slot_of(0))
    window.add(slot_of(gap_s))
    assert counts(window, gap_s)[0] == (2 if gap_s == 0 else 1)
