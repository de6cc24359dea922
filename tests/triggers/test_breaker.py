"""The laws of the breaker (B1 to B6): by a state machine against a reference that keeps every event, and by example."""

import itertools
import math
import threading
import time
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from builders import at_once
from rescind.model.signal import SignalKind
from rescind.triggers.breaker import TABLE, Breaker, Event, Pass, Refused, State, next_state
from rescind.triggers.change import weights_of
from rescind.triggers.evidence import Bounds, Rule, Trip
from rescind.triggers.probing import ASK_AGAIN_S
from rescind.triggers.window import ANOMALOUS, BUCKETS, FAILED, SLOW

BOUNDS = Bounds(
    rule=Rule.CHANGE,
    error_rate=0.2,
    anomaly_rate=0.3,
    slow_rate=None,
    limit=50,
    minimum_calls=4,
    window_s=12,
    spike_factor=None,
    cooldown_s=20,
    probes=2,
    probe_timeout_s=10,
)
BY_WINDOW = Bounds(**{name: getattr(BOUNDS, name) for name in BOUNDS.__struct_fields__} | {"rule": Rule.WINDOW})


class Place(NamedTuple):
    """A probe's place in a round."""

    round: object
    number: int


class Reference:
    """A breaker that keeps every event, and works everything out anew from all of them, slowly and in other words.

    `calls` are those that count, since evidence last began; `probes` is of the present round:
    number -> [claimed at, ended at, succeeded].
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.set_state(State.CLOSED)

    def set_state(self, state: State) -> None:
        self.state = state
        self.era = object()
        self.calls: list[tuple[int, int]] = []
        self.trips: list[int] = []
        self.opened_at = 0
        self.probes: dict[int, list[int | bool | None]] = {}
        self.round = object()

    # --- evidence ---

    def strikes(self, now: int) -> int:
        if self.trips and now >= self.trips[-1] + self.bounds.cooldown_s:
            self.trips, self.calls = [], []
        return len(self.trips)

    def is_enough(self, strikes: int) -> bool:
        if strikes > 5:
            return False
        marks_of_rates = ((FAILED, self.bounds.error_rate), (ANOMALOUS, self.bounds.anomaly_rate))
        return any(rate is not None and self.one_is_enough(mark, rate, 2**strikes) for mark, rate in marks_of_rates)

    def one_is_enough(self, mark: int, rate: float, times: int) -> bool:
        bads = [marks & mark > 0 for _, marks in self.calls]
        if self.bounds.rule is Rule.WINDOW:
            newest = max(at for at, _ in self.calls)  # slots are one second long here
            held = [marks & mark > 0 for at, marks in self.calls if at > newest - BUCKETS]
            return len(held) >= self.bounds.minimum_calls * times and sum(held) >= rate * len(held)
        if not bads[-1]:
            return False  # a good call is never evidence
        best = [
            max(math.prod(up if bad else down for bad in bads[start:]) for start in range(len(bads)))
            for up, down in zip(weights_of(rate).bad, weights_of(rate).good, strict=True)
        ]
        return sum(best) / len(best) >= self.bounds.limit**times

    def record(self, now: int, marks: int) -> bool:
        strikes = self.strikes(now)
        self.calls.append((now, marks))
        if not self.is_enough(strikes):
            return False
        self.calls = []
        self.trips.append(now)
        if self.state is State.CLOSED:
            self.set_state(State.OPEN)
            self.opened_at = now
        return True

    # --- probes ---

    def relapse(self, now: int) -> None:
        failures = []
        for claimed, ended, succeeded in self.probes.values():
            assert isinstance(claimed, int)
            too_late = claimed + int(self.bounds.probe_timeout_s)
            if (ended if ended is not None else now) >= too_late:
                failures.append(too_late)
            elif ended is not None and succeeded is False:
                failures.append(int(ended))
        if failures:
            self.state, self.probes, self.opened_at = State.OPEN, {}, min(failures)
            self.era = self.round = object()

    def admit(self, now: int) -> object:
        """An era, a place in a round, or a refusal: None, or the seconds to wait."""
        if self.state in (State.CLOSED, State.SHADOW, State.DISABLED):
            return self.era
        if self.state is State.FORCED_OPEN:
            return None
        self.relapse(now)
        left = self.opened_at + self.bounds.cooldown_s - now
        if not self.probes and left > 0:
            return float(left)
        live = [probe for probe in self.probes.values() if probe[1] is None or probe[2] is not None]
        if len(live) >= self.bounds.probes:
            return ASK_AGAIN_S
        self.state = State.HALF_OPEN
        number = len(self.probes) + 1
        self.probes[number] = [now, None, None]
        return Place(self.round, number)

    def end_probe(self, round_: object, number: int, now: int, succeeded: bool | None) -> None:
        if self.state is not State.HALF_OPEN or round_ is not self.round:
            return
        if self.probes[number][1] is None:
            self.probes[number][1:] = [now, succeeded]
        self.relapse(now)
        if sum(probe[2] is True for probe in self.probes.values()) >= self.bounds.probes:
            self.set_state(State.CLOSED)


class BreakerMachine(RuleBasedStateMachine):
    bounds = BOUNDS

    def __init__(self) -> None:
        super().__init__()
        self.now = 100
        self.breaker, self.reference = Breaker(self.bounds), Reference(self.bounds)
        self.under_way: list[tuple[Pass, object]] = []

    @rule(seconds=st.sampled_from([1, 3, 9, 10, 11, 19, 20, 21, 40]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(times=st.integers(1, 4))
    def calls_begin(self, times: int) -> None:
        for _ in range(times):
            ours, theirs = self.breaker.admit(self.now), self.reference.admit(self.now)
            if isinstance(ours, Refused):
                assert theirs is None or isinstance(theirs, float)
                assert ours.retry_after_s == theirs
            else:
                assert ours.is_probe == isinstance(theirs, Place)
                self.under_way.append((ours, theirs))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), marks=st.sampled_from([0, FAILED, FAILED | ANOMALOUS, ANOMALOUS | SLOW]))
    def a_call_ends(self, data: st.DataObject, marks: int) -> None:
        ours, theirs = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.end(ours, theirs, marks)

    @rule(marks=st.lists(st.sampled_from([0, 0, FAILED, FAILED | ANOMALOUS, SLOW]), max_size=12))
    def short_calls(self, marks: list[int]) -> None:
        for each in marks:
            self.calls_begin(1)
            if self.under_way:
                self.end(*self.under_way.pop(), each)

    @precondition(lambda self: self.under_way)
    @rule()
    def a_call_is_not_made_after_all(self) -> None:
        ours, theirs = self.under_way.pop()
        self.breaker.withdraw(ours, self.now)
        if isinstance(theirs, Place):
            self.reference.end_probe(*theirs, self.now, None)

    @rule(verb=st.sampled_from(["force_open", "disable", "shade", "reset", "reset"]))
    def a_person_decides(self, verb: str) -> None:
        getattr(self.breaker, verb)()
        states = {"force_open": State.FORCED_OPEN, "disable": State.DISABLED, "shade": State.SHADOW}
        self.reference.set_state(states.get(verb, State.CLOSED))

    def end(self, ours: Pass, theirs: object, marks: int) -> None:
        trip = self.breaker.record(ours, self.now, marks)
        if isinstance(theirs, Place):
            self.reference.end_probe(*theirs, self.now, not marks)
            assert trip is None
        elif theirs is self.reference.era and self.reference.state in (State.CLOSED, State.SHADOW):
            assert (trip is not None) == self.reference.record(self.now, marks)
        else:
            assert trip is None

    @invariant()
    def the_states_agree(self) -> None:
        assert self.breaker.state is self.reference.state


class WindowBreakerMachine(BreakerMachine):
    bounds = BY_WINDOW


TestBreakerByChange = BreakerMachine.TestCase
TestBreakerByWindow = WindowBreakerMachine.TestCase
TestBreakerByChange.settings = TestBreakerByWindow.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)


# --- by example ---


def call(breaker: Breaker, at_s: float, marks: int = 0) -> Trip | None:
    passed = breaker.admit(at_s)
    assert isinstance(passed, Pass), passed
    return breaker.record(passed, at_s, marks)


def state_of(breaker: Breaker) -> State:
    return breaker.state  # through a function, for a type checker thinks that a property stays as it was


def a_tripped_breaker(bounds: Bounds = BOUNDS) -> Breaker:
    """Open since 100 s."""
    breaker = Breaker(bounds)
    while breaker.state is State.CLOSED:
        call(breaker, 100, FAILED)
    return breaker


def test_every_state_and_event_is_in_the_table_or_changes_nothing() -> None:
    for state, event in itertools.product(State, Event):
        assert next_state(state, event) is TABLE.get((state, event), state)


def test_b4_nothing_but_a_person_leads_out_of_what_a_person_has_set() -> None:
    by_calls = (Event.TRIPPED, Event.COOLED, Event.RECOVERED, Event.RELAPSED)
    for state, event in itertools.product((State.FORCED_OPEN, State.DISABLED, State.SHADOW), by_calls):
        assert next_state(state, event) is state


def test_b4_forced_open_is_never_taken_for_tripped() -> None:
    breaker = Breaker(BOUNDS)
    breaker.force_open()

    assert breaker.admit(100) == Refused(State.FORCED_OPEN, None)
    assert breaker.admit(1e9) == Refused(State.FORCED_OPEN, None)  # no cooldown ends it
    tripped = a_tripped_breaker().admit(100)
    assert tripped == Refused(State.OPEN, 20.0)
    breaker.reset()
    assert isinstance(breaker.admit(100), Pass)


def test_b1_shadow_reports_a_trip_and_refuses_nothing() -> None:
    breaker = Breaker(BOUNDS, state=State.SHADOW)

    trips = [trip for number in range(200) if (trip := call(breaker, 100 + number / 100, FAILED))]

    assert state_of(breaker) is State.SHADOW
    assert [trip.strikes for trip in trips] == list(range(len(trips)))
    assert trips[0].kind is SignalKind.ERROR_RATE
    assert 3 <= len(trips) <= 6  # and not one for each of 200 calls


def test_a_disabled_breaker_admits_and_counts_nothing() -> None:
    breaker = Breaker(BOUNDS)
    breaker.disable()
    for _ in range(100):
        assert call(breaker, 100, FAILED) is None
    breaker.reset()
    assert call(breaker, 100, FAILED) is None


def test_b3_all_probes_have_to_succeed() -> None:
    breaker = a_tripped_breaker()
    first, second = breaker.admit(120), breaker.admit(120)
    assert isinstance(first, Pass)
    assert isinstance(second, Pass)

    breaker.record(first, 121)
    assert state_of(breaker) is State.HALF_OPEN
    breaker.record(second, 121)
    assert state_of(breaker) is State.CLOSED


def test_b3_a_prober_that_died_opens_it_anew() -> None:
    breaker = a_tripped_breaker()
    assert isinstance(breaker.admit(120), Pass)

    assert breaker.admit(130) == Refused(State.OPEN, 20.0)
    assert isinstance(breaker.admit(150), Pass)


def test_b5_a_slow_call_from_before_the_trip_decides_nothing() -> None:
    breaker = Breaker(BOUNDS)
    slow = breaker.admit(100)
    assert isinstance(slow, Pass)
    while breaker.state is State.CLOSED:
        call(breaker, 100, FAILED)
    probe = breaker.admit(120)
    assert isinstance(probe, Pass)

    assert breaker.record(slow, 121, 0) is None
    assert state_of(breaker) is State.HALF_OPEN
    breaker.record(probe, 122)
    assert state_of(breaker) is State.HALF_OPEN  # one of two


def test_b5_a_probe_of_a_round_that_has_failed_decides_nothing_in_the_next() -> None:
    breaker = a_tripped_breaker()
    late, failing = breaker.admit(120), breaker.admit(120)
    assert isinstance(late, Pass)
    assert isinstance(failing, Pass)
    breaker.record(failing, 121, FAILED)
    again = [breaker.admit(141), breaker.admit(141)]
    assert all(isinstance(each, Pass) and each.is_probe for each in again)

    breaker.record(late, 142, FAILED)
    assert state_of(breaker) is State.HALF_OPEN


def test_b3_of_two_probers_that_died_the_first_one_began_the_cooldown() -> None:
    breaker = a_tripped_breaker()
    breaker.admit(120)
    breaker.admit(125)

    assert breaker.admit(140) == Refused(State.OPEN, 10.0)  # the first was given up at 130, and 20 s are to pass


@pytest.mark.parametrize("probes", [1, 3])
def test_b2_exactly_so_many_probes_enter_under_sixteen_callers(probes: int) -> None:
    breaker = a_tripped_breaker(Bounds(cooldown_s=20, probes=probes))
    together, entered = threading.Barrier(16), []

    def caller() -> None:
        together.wait()
        for _ in range(50):
            passed = breaker.admit(200)
            if isinstance(passed, Pass):
                entered.append(passed)

    at_once([caller] * 16)
    assert [passed.is_probe for passed in entered] == [True] * probes


def test_b6_an_operator_never_waits_for_a_call() -> None:
    breaker, began, go_on = Breaker(BOUNDS), threading.Event(), threading.Event()

    def long_call() -> None:
        passed = breaker.admit(100)
        assert isinstance(passed, Pass)
        began.set()
        go_on.wait(10)
        breaker.record(passed, 101, FAILED)

    caller = threading.Thread(target=long_call)
    caller.start()
    began.wait(10)
    before_s = time.perf_counter()
    breaker.force_open()
    took_s = time.perf_counter() - before_s
    assert caller.is_alive()
    go_on.set()
    caller.join()

    assert took_s < 0.5  # the call would have lasted ten seconds
    assert state_of(breaker) is State.FORCED_OPEN


def test_threads_lose_no_failure() -> None:
    breaker = Breaker(
        Bounds(rule=Rule.WINDOW, error_rate=0.9, minimum_calls=8_000, spike_factor=None, anomaly_rate=None)
    )
    at_once([lambda: [call(breaker, 100, FAILED) for _ in range(999)]] * 8)
    assert state_of(breaker) is State.CLOSED
    for _ in range(8):
        call(breaker, 100, FAILED)
    assert state_of(breaker) is State.OPEN


def test_a_breaker_does_not_begin_open() -> None:
    with pytest.raises(ValueError, match="begins closed"):
        Breaker(BOUNDS, state=State.OPEN)
