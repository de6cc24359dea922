"""The change detector keeps its promise: exactly where that can be counted out, by simulation where it cannot."""

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.triggers.change import Change, tolerated, weights_of

rates = st.floats(0.001, 0.9)


@given(rates, st.floats(0, 1))
def test_nobody_can_win_a_bet_while_the_null_holds(p_max: float, share: float) -> None:
    weights, rate = weights_of(p_max), p_max * share
    for bad, good in zip(weights.bad, weights.good, strict=True):
        growth = rate * bad + (1 - rate) * good
        assert growth <= 1 + 1e-9
        assert p_max * bad + (1 - p_max) * good == pytest.approx(1)


@given(rates)
def test_every_alternative_is_worse_than_what_is_tolerated(p_max: float) -> None:
    weights = weights_of(p_max)
    assert weights.bad
    assert all(bad > 1 > good > 0 for bad, good in zip(weights.bad, weights.good, strict=True))


@pytest.mark.parametrize("p_max", [0.05, 0.2, 0.35])
@pytest.mark.parametrize("limit", [3.0, 20.0, 200.0])
def test_counted_over_all_outcomes_the_evidence_at_a_trip_is_at_most_the_calls_until_then(
    p_max: float, limit: float
) -> None:
    # E[M_N] <= E[N] for the stopping time N = min(trip, 12): all outcomes, each with its probability.
    evidence = calls = tripped_share = 0.0
    for outcome in itertools.product((True, False), repeat=12):
        probability = math.prod(p_max if bad else 1 - p_max for bad in outcome)
        change = Change(weights_of(p_max))
        until = next((n for n, bad in enumerate(outcome, start=1) if tripped(change, bad, limit)), 12)
        evidence += probability * change.evidence
        calls += probability * until
        tripped_share += probability * (change.evidence >= limit)

    assert evidence <= calls + 1e-9
    assert limit * tripped_share <= calls + 1e-9


def fed(change: Change, bad: bool) -> None:
    if bad:
        change.bad()
    else:
        change.good()


@given(rates, st.lists(st.booleans(), max_size=30))
def test_it_is_the_best_start_of_each_alternative_and_their_mean(p_max: float, calls: list[bool]) -> None:
    change, weights = Change(weights_of(p_max)), weights_of(p_max)
    for bad in calls:
        fed(change, bad)

    best: list[float] = []
    for up, down in zip(weights.bad, weights.good, strict=True):
        logs = [math.log(up if bad else down) for bad in calls]
        best.append(max((sum(logs[start:]) for start in range(len(logs))), default=0.0))
    if max(best) <= 0:
        assert change.is_at_rest
        assert change.evidence == 1
    else:
        assert change.evidence == pytest.approx(statistics.fmean(map(math.exp, best)))


@given(rates, st.lists(st.booleans(), max_size=50))
def test_at_rest_it_has_forgotten_everything(p_max: float, calls: list[bool]) -> None:
    change, fresh = Change(weights_of(p_max)), Change(weights_of(p_max))
    for bad in calls:
        fed(change, bad)
    while not change.is_at_rest:
        change.good()

    assert (change.calls, change.bads) == (0, 0)
    for bad in (True, False, True, True):
        fed(change, bad)
        fed(fresh, bad)
        assert change.evidence == fresh.evidence


@pytest.mark.parametrize(
    ("healthy", "p_max", "sick", "limit", "published"),
    [
        (0.02, 0.05, 0.3, 1e6, 47),
        (0.02, 0.05, 0.5, 1e6, 17),
        (0.02, 0.05, 0.9, 1e6, 6),
        (0.10, 0.20, 0.5, 1e6, 61),
        (0.25, 0.35, 0.7, 1e6, 51),
        (0.02, 0.05, 0.3, 1e4, 29),
        (0.02, 0.05, 0.5, 1e4, 11),
        (0.02, 0.05, 0.9, 1e4, 4),
    ],
)
def test_calls_to_trip_are_those_of_the_reference(
    healthy: float, p_max: float, sick: float, limit: float, published: int
) -> None:
    chance = random.Random(7)
    needed = []
    for _ in range(150):
        change = Change(weights_of(p_max))
        for _ in range(200):
            fed(change, chance.random() < healthy)
        needed.append(next(n for n in itertools.count(1) if tripped(change, chance.random() < sick, limit)))
    assert statistics.median(needed) == pytest.approx(published, rel=0.25, abs=1.5)


def tripped(change: Change, bad: bool, limit: float) -> bool:
    fed(change, bad)
    return change.evidence >= limit


def test_an_alternating_failure_is_noticed() -> None:
    change = Change(weights_of(0.15))
    assert any(tripped(change, number % 2 == 0, 1e4) for number in range(40))


def test_false_trips_are_rarer_than_promised_at_the_edge_of_the_null() -> None:
    chance, trips, calls = random.Random(11), 0, 100_000
    change = Change(weights_of(0.1))
    for _ in range(calls):
        if tripped(change, chance.random() < 0.1, 1_000):
            trips += 1
            change = Change(weights_of(0.1))
    assert trips <= calls / 1_000


@pytest.mark.parametrize("p_max", [0, -0.1, 0.95, 1, math.nan])
def test_a_rate_that_cannot_be_tolerated_is_refused(p_max: float) -> None:
    with pytest.raises(ValueError, match="must be more than 0"):
        weights_of(p_max)


@pytest.mark.parametrize(("bad", "calls", "rate"), [(200, 10_000, 0.05), (2_000, 20_000, 0.20), (5_000, 20_000, 0.35)])
def test_a_long_record_tolerates_what_the_rules_were_compared_with(bad: int, calls: int, rate: float) -> None:
    assert tolerated(bad, calls) == pytest.approx(rate, abs=0.01)


@given(st.integers(1, 10_000), st.data())
def test_a_baseline_tolerates_more_than_was_seen_and_less_than_everything(calls: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, calls))
    rate = tolerated(bad, calls)
    assert 0.03 <= rate <= 0.9
    assert rate > bad / calls or bad / calls > 0.87
    weights_of(rate)


@pytest.mark.parametrize(("bad", "calls"), [(0, 0), (-1, 10), (11, 10)])
def test_an_impossible_baseline_is_refused(bad: int, calls: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        tolerated(bad, calls)
