"""Counting different things in bounded memory, compared with counting that keeps everything."""

import functools

from hypothesis import given
from hypothesis import strategies as st

from builders import at_once, switching_every
from rescind.triggers.distinct import CountLately, Distinct, DistinctLately


@given(st.lists(st.integers(0, 12)), st.integers(0, 8))
def test_the_first_different_keys_are_admitted_for_good_and_no_others(keys: list[int], most: int) -> None:
    distinct, admitted = Distinct(most), list[int]()

    for key in keys:
        if key not in admitted and len(admitted) < most:
            admitted.append(key)
        assert distinct.admits(key) is (key in admitted)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40))), st.integers(1, 4))
def test_no_more_than_the_bound_are_admitted_within_a_minute(steps: list[tuple[int, int]], most: int) -> None:
    lately, now_s = DistinctLately(most), 0.0
    admitted: list[tuple[int, float]] = []

    for key, wait_s in steps:
        now_s += wait_s
        is_admitted = lately.admits(key, now_s)
        within = {key for key, at_s in admitted if now_s - at_s < 60}
        fresh = {key for key, at_s in admitted if now_s - at_s < 61}
        if is_admitted:
            admitted.append((key, now_s))
            assert len(within | {key}) <= most
        else:
            assert len(fresh | {key}) > most  # it is refused only if the minute, or a second more, is full


@given(st.lists(st.integers(0, 40)), st.integers(0, 4))
def test_events_are_admitted_exactly_while_the_last_minute_has_room(waits_s: list[int], most: int) -> None:
    lately, now_s, admitted = CountLately(most), 0.0, list[float]()

    for wait_s in waits_s:
        now_s += wait_s
        has_room = sum(now_s - at_s < 60 for at_s in admitted) < most
        assert lately.admits(now_s) is has_room
        if has_room:
            admitted.append(now_s)


def test_threads_that_overlap_are_never_admitted_more_than_the_bound() -> None:
    distinct, lately, events = Distinct(500), DistinctLately(500), CountLately(500)
    keys: list[set[int]] = [set(), set()]
    admitted = [0] * 8

    def in_thread(which: int) -> None:
        for number in range(1_000):
            key = number * 8 + which if which < 6 else number  # two threads bring what others bring, too
            if distinct.admits(key):
                keys[0].add(key)
            if lately.admits(key, 1.0):
                keys[1].add(key)
            admitted[which] += events.admits(1.0)

    with switching_every(1e-6):
        at_once(functools.partial(in_thread, which) for which in range(8))

    assert 500 - 8 <= len(keys[0]) <= 500
    assert 500 - 8 <= len(keys[1]) <= 500
    assert 500 - 8 <= sum(admitted) <= 500


def test_what_is_refused_leaves_nothing_behind() -> None:
    distinct, lately = Distinct(5), DistinctLately(5)

    for key in range(100_000):
        distinct.admits(key)
        lately.admits(key, key / 1_000)

    assert len(distinct._numbers) == 5
    assert len(lately._times) <= 6
