"""The laws of the breaker (B1 to B6, see `guard.probing`), of the one that users run: rates, guard and store of orders.

By a state machine against a reference that keeps every event, over both stores, and by example. What is proven of the
same path elsewhere is not proven again: that sixteen callers at once, and several processes, are given exactly so many
probes, and that a restart closes nothing (`test_probes`, `guard.test_breakers`).
"""

import functools
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from builders import at_once
from rescind.errors import BreakerForcedOpen, BreakerOpen, CallDenied
from rescind.model.order import Measure
from rescind.model.signal import SignalKind
from rescind.switch.store import SqliteOrders
from rescind.triggers.change import weights_of
from rescind.triggers.evidence import Rule
from rescind.triggers.probing import ASK_AGAIN_S, Wait
from rescind.triggers.rates import RatesConfig, RatesDetector
from rescind.triggers.window import ANOMALOUS, BUCKETS, FAILED, SLOW
from triggers.live_breaker import Fate, LiveBreaker, UnderWay, Watched, a_breaker

if TYPE_CHECKING:
    from rescind.switch.probes import Claim

# How it comes back is left as it is by default, since that is in force too while rates are not watched.
RATES: dict[str, Any] = {
    "error_rate_pct": 20,
    "anomaly_rate_pct": 30,
    "slow_rate_pct": None,
    "limit": 50,
    "minimum_calls": 4,
    "window_seconds": 12,
    "volume_spike_factor": None,
}
CONFIG = RatesConfig(**RATES)
COOLDOWN_S, PROBES, TIMEOUT_S = 600, 3, 120


class Refusal(NamedTuple):
    """Why a call is refused, and for how long, if anybody knows."""

    forced: bool
    retry_after_s: float | None = None


class Trip:
    """An open breaker. `probes` is of its present round: number -> [claimed at, ended at, succeeded]."""

    def __init__(self, at: int) -> None:
        self.round = 1
        self.opened_at = at
        self.probes: dict[int, list[int | bool | None]] = {}

    def relapse(self, now: int) -> None:
        failures = []
        for claimed, ended, succeeded in self.probes.values():
            assert isinstance(claimed, int)
            too_late = claimed + TIMEOUT_S
            if (ended if ended is not None else now) >= too_late:
                failures.append(too_late)
            elif ended is not None and succeeded is False:
                failures.append(int(ended))
        if failures:
            self.round, self.opened_at, self.probes = self.round + 1, min(failures), {}

    def wait(self, now: int) -> float:
        left = self.opened_at + COOLDOWN_S - now
        if not self.probes and left > 0:
            return float(left)
        live = [probe for probe in self.probes.values() if probe[1] is None or probe[2] is not None]
        return ASK_AGAIN_S if len(live) >= PROBES else 0.0

    def claim(self, now: int) -> "Place":
        number = len(self.probes) + 1
        self.probes[number] = [now, None, None]
        return Place(self, self.round, number)

    def has_recovered(self) -> bool:
        return sum(probe[2] is True for probe in self.probes.values()) >= PROBES


class Place(NamedTuple):
    """A probe's place in a round of a trip."""

    trip: Trip
    round: int
    number: int


class Reference:
    """A breaker that keeps every event, and works everything out anew from all of them, slowly and in other words.

    `calls` are those that count, since evidence last began, and `strikes_at` when it was enough since then; `noted` are
    the trips that the guard knew of when it last looked: what is lifted meanwhile takes the evidence with it (V6).
    """

    def __init__(self, how: Rule) -> None:
        self.how = how
        self.forced = False
        self.trips: dict[SignalKind, Trip] = {}
        self.noted: list[Trip] = []
        self.written = self.watched = Watched.ENFORCED
        self.forget()

    def forget(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.strikes_at: list[int] = []

    # --- evidence ---

    def strikes(self, now: int) -> int:
        if self.strikes_at and now >= self.strikes_at[-1] + COOLDOWN_S:
            self.forget()
        return len(self.strikes_at)

    def enough(self, strikes: int) -> SignalKind | None:
        if strikes > 5:
            return None
        asked = ((SignalKind.ERROR_RATE, FAILED, 0.2), (SignalKind.ANOMALY_RATE, ANOMALOUS, 0.3))
        return next((kind for kind, mark, rate in asked if self.is_enough(mark, rate, 2**strikes)), None)

    def is_enough(self, mark: int, rate: float, times: int) -> bool:
        bads = [marks & mark > 0 for _, marks in self.calls]
        if self.how is Rule.WINDOW:
            newest = max(at for at, _ in self.calls)  # slots are one second long here
            held = [marks & mark > 0 for at, marks in self.calls if at > newest - BUCKETS]
            return len(held) >= CONFIG.minimum_calls * times and sum(held) >= rate * len(held)
        if not bads[-1]:
            return False  # a good call is never evidence
        best = [
            max(math.prod(up if bad else down for bad in bads[start:]) for start in range(len(bads)))
            for up, down in zip(weights_of(rate).bad, weights_of(rate).good, strict=True)
        ]
        return sum(best) / len(best) >= CONFIG.limit**times

    def count(self, now: int, marks: int) -> SignalKind | None:
        """What is noticed at a call that has ended."""
        if self.watched is Watched.OFF:
            return None
        strikes = self.strikes(now)
        self.calls.append((now, marks))
        kind = self.enough(strikes)
        if kind is None:
            return None
        self.calls = []
        self.strikes_at.append(now)
        if self.watched is Watched.ENFORCED and kind not in self.trips:
            self.trips[kind] = Trip(now)
        self.note()
        return kind

    def note(self) -> None:
        if any(trip not in self.trips.values() for trip in self.noted):
            self.forget()
        self.noted = list(self.trips.values())

    # --- calls ---

    def admit(self, now: int) -> list[Place] | Refusal:
        if self.forced:
            return Refusal(forced=True)
        places = self.claim(now)
        if isinstance(places, float):
            return Refusal(forced=False, retry_after_s=places)
        if (self.watched is Watched.OFF) != (self.written is Watched.OFF):
            self.forget()
        self.watched = self.written
        self.note()
        return places

    def claim(self, now: int) -> list[Place] | float:
        self.relapse(now)
        wait = max((trip.wait(now) for trip in self.trips.values()), default=0.0)
        return wait or [trip.claim(now) for trip in self.trips.values()]

    def end(self, places: list[Place], began: int, now: int, fate: Fate) -> SignalKind | None:
        self.end_probe(places, now, fate is Fate.GOOD)
        marks = {Fate.GOOD: 0, Fate.FAILED: FAILED, Fate.LOST: FAILED | ANOMALOUS, Fate.ODD: ANOMALOUS}[fate]
        return self.count(now, marks | (SLOW | ANOMALOUS if now - began >= CONFIG.slow_call_seconds else 0))

    def end_probe(self, places: list[Place], now: int, succeeded: bool | None) -> int:
        """How many trips that closes."""
        for trip, round_, number in places:
            if trip.round == round_ and trip.probes[number][1] is None:
                trip.probes[number][1:] = [now, succeeded]
        self.relapse(now)
        closed = [kind for kind, trip in self.trips.items() if trip.has_recovered()]
        for kind in closed:
            del self.trips[kind]
        return len(closed)

    def relapse(self, now: int) -> None:
        for trip in self.trips.values():
            trip.relapse(now)

    def under_way(self) -> list[int]:
        """When those probes began of which nobody has heard."""
        probes = [probe for trip in self.trips.values() for probe in trip.probes.values()]
        return [claimed for claimed, ended, _ in probes if ended is None and isinstance(claimed, int)]

    @property
    def state(self) -> str:
        if self.forced:
            return "forced open"
        if not self.trips:
            return "closed"
        return "half-open" if all(trip.probes for trip in self.trips.values()) else "open"


class BreakerMachine(RuleBasedStateMachine):
    how = Rule.CHANGE
    in_a_file = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        self.stores = [SqliteOrders(path) for _ in range(2)] if self.in_a_file else []
        self.breaker = LiveBreaker(path, *self.stores[:1], rule=self.how, **RATES)
        self.elsewhere = self.stores[1] if self.stores else self.breaker.orders  # as another process opens them
        self.reference = Reference(self.how)
        self.under_way: list[tuple[UnderWay, list[Place], int]] = []
        self.claims: list[tuple[Claim, list[Place]]] = []

    def teardown(self) -> None:
        self.breaker.close()
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    @property
    def now(self) -> int:
        return self.breaker.now_s

    @rule(seconds=st.sampled_from([1, 3, 11, 29, 30, 60, 119, 120, 121, 1200]))
    def time_passes(self, seconds: int) -> None:
        self.breaker.clock.advance(seconds)

    @precondition(lambda self: self.reference.trips)
    @rule(less=st.sampled_from([0, 0, 0, 1, -1]))
    def a_cooldown_passes(self, less: int) -> None:
        self.breaker.clock.advance(COOLDOWN_S - less)

    @precondition(lambda self: self.reference.under_way())
    @rule(late=st.sampled_from([-1, 0, 0, 1, 60]))
    def time_is_up_for_a_probe(self, late: int) -> None:
        left = min(self.reference.under_way()) + TIMEOUT_S - self.now
        self.breaker.clock.advance(max(0, left + late))

    @rule(times=st.integers(1, 4))
    def calls_begin(self, times: int) -> None:
        for _ in range(times):
            ours, theirs = self.breaker.begin(), self.reference.admit(self.now)
            if isinstance(ours, UnderWay):
                assert isinstance(theirs, list), theirs
                self.under_way.append((ours, theirs, self.now))
            else:
                assert refusal_of(ours) == theirs

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), fate=st.sampled_from([Fate.GOOD, Fate.GOOD, *Fate]))
    def a_call_ends(self, data: st.DataObject, fate: Fate) -> None:
        ours, theirs, began = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        watched = self.reference.watched
        noticed = [(each.signal.kind, each.shadow) for each in self.breaker.end(ours, fate)]
        kind = self.reference.end(theirs, began, self.now, fate)
        assert noticed == ([] if kind is None else [(kind, watched is Watched.SHADOW)])

    @rule(
        fate=st.sampled_from([Fate.GOOD, Fate.GOOD, Fate.FAILED, Fate.FAILED, Fate.ODD]),
        times=st.integers(3, 9),
        then_s=st.sampled_from([0, 0, COOLDOWN_S - 1, COOLDOWN_S, COOLDOWN_S, COOLDOWN_S]),
    )
    def calls_of_one_kind(self, fate: Fate, times: int, then_s: int) -> None:
        self.short_calls([fate] * times)
        self.breaker.clock.advance(then_s)

    @rule(fates=st.lists(st.sampled_from([Fate.GOOD, Fate.GOOD, Fate.FAILED, Fate.LOST, Fate.ODD]), max_size=12))
    def short_calls(self, fates: list[Fate]) -> None:
        for fate in fates:
            ours, theirs = self.breaker.call(fate), self.reference.admit(self.now)
            if isinstance(ours, CallDenied):
                assert refusal_of(ours) == theirs
                continue
            assert isinstance(theirs, list), theirs
            noticed = [(each.signal.kind, each.shadow) for each in ours]
            watched = self.reference.watched
            kind = self.reference.end(theirs, self.now, self.now, fate)
            assert noticed == ([] if kind is None else [(kind, watched is Watched.SHADOW)])

    @rule()
    def a_call_is_not_made_after_all(self) -> None:
        ours, theirs = self.breaker.withdraw(), self.reference.admit(self.now)
        if ours is not None:
            assert refusal_of(ours) == theirs
            return
        assert isinstance(theirs, list), theirs
        assert self.reference.end_probe(theirs, self.now, None) == 0

    @precondition(lambda self: self.reference.trips and not self.reference.forced)
    @rule()
    def another_process_asks(self) -> None:
        now_us, rule_ = self.breaker.clock.now_us(), self.breaker.rule
        trips = [order for order in self.elsewhere.standing().orders if order.measure is Measure.TRIP]
        ours = self.elsewhere.claim_probe(trips, by="another", now_us=now_us, rule=rule_)
        theirs = self.reference.claim(self.now)
        if isinstance(ours, Wait):
            assert ours.retry_after_s == theirs
        else:
            assert isinstance(theirs, list), theirs
            self.claims.append((ours, theirs))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), succeeded=st.sampled_from([True, True, False, None]))
    def another_process_is_heard(self, data: st.DataObject, succeeded: bool | None) -> None:
        ours, theirs = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        lifts = self.elsewhere.end_probe(ours, succeeded=succeeded, now_us=self.breaker.clock.now_us())
        assert len(lifts) == self.reference.end_probe(theirs, self.now, succeeded)

    @rule(verb=st.sampled_from(["force_open", "reset", "reset", "reset", *Watched, *[Watched.ENFORCED] * 4]))
    def a_person_decides(self, verb: str) -> None:
        if isinstance(verb, Watched):
            self.breaker.set_watched(verb)
            self.reference.written = verb
        elif verb == "force_open":
            self.breaker.force_open()
            self.reference.forced = True
        elif self.reference.forced or self.reference.trips:
            self.breaker.reset()
            self.reference.forced, self.reference.trips = False, {}

    @invariant()
    def the_states_and_all_rounds_agree(self) -> None:
        self.reference.relapse(self.now)
        assert self.breaker.state() == self.reference.state
        assert bool(self.breaker.standing(Measure.FORCED_OPEN)) == self.reference.forced
        assert self.breaker.rounds() == {
            kind: (
                trip.round,
                None if trip.probes else trip.opened_at,
                [tuple(probe) for probe in trip.probes.values()],
            )
            for kind, trip in self.reference.trips.items()
        }


def refusal_of(error: CallDenied) -> Refusal:
    if isinstance(error, BreakerForcedOpen):
        return Refusal(forced=True)
    assert isinstance(error, BreakerOpen), error
    return Refusal(forced=False, retry_after_s=error.retry_after_s)


class WindowBreakerMachine(BreakerMachine):
    how = Rule.WINDOW


class FileBreakerMachine(BreakerMachine):
    in_a_file = True


TestBreakerByChange = BreakerMachine.TestCase
TestBreakerByWindow = WindowBreakerMachine.TestCase
TestBreakerInAFile = FileBreakerMachine.TestCase
TestBreakerByChange.settings = TestBreakerByWindow.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None
)
TestBreakerInAFile.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


# --- by example ---


def refusal(breaker: LiveBreaker) -> Refusal:
    """That of a call; its tool has not run."""
    refused = breaker.call()
    assert isinstance(refused, CallDenied), refused
    return refusal_of(refused)


def begun(breaker: LiveBreaker) -> UnderWay:
    call = breaker.begin()
    assert isinstance(call, UnderWay), call
    return call


@pytest.fixture
def breaker(tmp_path: Path) -> Iterator[LiveBreaker]:
    with a_breaker(tmp_path, **RATES | {"cooldown_seconds": 20, "probes": 2, "probe_timeout_seconds": 10}) as made:
        yield made


def test_b4_forced_open_is_never_taken_for_tripped(breaker: LiveBreaker) -> None:
    breaker.force_open()

    assert refusal(breaker) == Refusal(forced=True)
    breaker.clock.advance(1e9)
    assert refusal(breaker) == Refusal(forced=True)  # no cooldown ends it
    breaker.reset()
    breaker.trip()
    assert refusal(breaker) == Refusal(forced=False, retry_after_s=20.0)
    breaker.reset()
    assert breaker.call() == []


def test_b4_probes_that_succeed_close_what_tripped_and_not_what_a_person_has_opened(breaker: LiveBreaker) -> None:
    breaker.trip()
    breaker.clock.advance(20)
    probes = [begun(breaker), begun(breaker)]
    breaker.force_open()
    for probe in probes:
        assert breaker.end(probe, Fate.GOOD) == []

    assert breaker.standing() == ()
    assert breaker.state() == "forced open"
    assert refusal(breaker) == Refusal(forced=True)


def test_b1_shadow_reports_a_trip_and_refuses_nothing(breaker: LiveBreaker) -> None:
    breaker.set_watched(Watched.SHADOW)

    noticed = []
    for _ in range(200):
        breaker.clock.advance(0.01)
        found = breaker.call(Fate.FAILED)
        assert isinstance(found, list), found
        noticed += found

    assert breaker.state() == "closed"
    assert [each.signal.facts["strikes"] for each in noticed] == list(range(len(noticed)))
    assert {(each.signal.kind, each.shadow) for each in noticed} == {(SignalKind.ERROR_RATE, True)}
    assert 3 <= len(noticed) <= 6  # and not one for each of 200 calls


def test_b4_where_rates_are_off_everything_is_admitted_and_nothing_counts(breaker: LiveBreaker) -> None:
    breaker.set_watched(Watched.OFF)
    for _ in range(100):
        assert breaker.call(Fate.FAILED) == []
    breaker.set_watched(Watched.ENFORCED)
    assert breaker.call(Fate.FAILED) == []
    assert breaker.state() == "closed"


def test_b4_what_has_tripped_stays_open_when_rates_are_switched_off(breaker: LiveBreaker) -> None:
    breaker.trip()
    breaker.set_watched(Watched.OFF)
    assert refusal(breaker).retry_after_s is not None
    assert breaker.state() == "open"


def test_b3_all_probes_have_to_succeed(breaker: LiveBreaker) -> None:
    breaker.trip()
    breaker.clock.advance(20)
    first, second = begun(breaker), begun(breaker)

    breaker.clock.advance(1)
    breaker.end(first, Fate.GOOD)
    assert breaker.state() == "half-open"
    breaker.end(second, Fate.GOOD)
    assert breaker.state() == "closed"


@pytest.mark.parametrize("fate", [Fate.FAILED, Fate.LOST, Fate.ODD])
def test_b3_a_probe_of_which_it_is_not_known_that_it_did_its_work_has_failed(breaker: LiveBreaker, fate: Fate) -> None:
    breaker.trip()
    breaker.clock.advance(20)
    breaker.end(begun(breaker), fate)

    assert breaker.state() == "open"
    assert refusal(breaker) == Refusal(forced=False, retry_after_s=20.0)


def test_b3_a_prober_that_died_opens_it_anew(breaker: LiveBreaker) -> None:
    breaker.trip()
    breaker.clock.advance(20)
    begun(breaker)

    breaker.clock.advance(10)
    assert refusal(breaker) == Refusal(forced=False, retry_after_s=20.0)
    breaker.clock.advance(20)
    begun(breaker)


def test_b3_of_two_probers_that_died_the_first_one_began_the_cooldown(breaker: LiveBreaker) -> None:
    breaker.trip()
    breaker.clock.advance(20)
    begun(breaker)
    breaker.clock.advance(5)
    begun(breaker)

    breaker.clock.advance(15)  # the first was given up at 130, and 20 s are to pass
    assert refusal(breaker) == Refusal(forced=False, retry_after_s=10.0)


def test_b2_a_call_through_two_trips_is_a_probe_of_both(breaker: LiveBreaker) -> None:
    breaker.trip()
    for _ in range(3):
        breaker.clock.advance(20)
        probes = [begun(breaker), begun(breaker)]
        breaker.clock.advance(1)
        for probe in probes:  # what is odd in them is evidence of another kind
            breaker.end(probe, Fate.ODD)
    assert set(breaker.rounds()) == {SignalKind.ERROR_RATE, SignalKind.ANOMALY_RATE}

    breaker.clock.advance(20)
    for _ in range(2):
        breaker.end(begun(breaker), Fate.GOOD)
    assert breaker.state() == "closed"


def test_b5_a_slow_call_from_before_the_trip_decides_nothing(breaker: LiveBreaker) -> None:
    slow = [begun(breaker), begun(breaker)]
    breaker.trip()
    breaker.clock.advance(20)
    probe = begun(breaker)

    breaker.clock.advance(1)
    assert breaker.end(slow[0], Fate.GOOD) == []
    assert breaker.state() == "half-open"
    assert breaker.end(slow[1], Fate.FAILED) == []
    assert breaker.state() == "half-open"
    breaker.clock.advance(1)
    breaker.end(probe, Fate.GOOD)
    assert breaker.state() == "half-open"  # one of two


def test_b5_a_probe_of_a_round_that_has_failed_decides_nothing_in_the_next(breaker: LiveBreaker) -> None:
    breaker.trip()
    breaker.clock.advance(20)
    late, failing = begun(breaker), begun(breaker)
    breaker.clock.advance(1)
    breaker.end(failing, Fate.FAILED)
    breaker.clock.advance(20)
    again = [begun(breaker), begun(breaker)]

    breaker.clock.advance(1)
    breaker.end(late, Fate.FAILED)
    assert breaker.state() == "half-open"
    for probe in again:
        breaker.end(probe, Fate.GOOD)
    assert breaker.state() == "closed"


def test_b6_an_operator_never_waits_for_a_call_nor_does_another_call(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path / "store")
    with a_breaker(tmp_path, orders, **RATES) as breaker:
        long_call = begun(breaker)
        before_s = time.perf_counter()
        assert breaker.call() == []
        breaker.force_open()
        assert refusal(breaker) == Refusal(forced=True)
        took_s = time.perf_counter() - before_s
        assert long_call.is_running

        assert took_s < 0.5  # the call would have lasted twenty seconds
        assert breaker.end(long_call, Fate.FAILED) == []
        assert breaker.state() == "forced open"
    orders.close()


def test_a_lost_store_closes_nothing(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path / "store")
    with a_breaker(tmp_path, orders, **RATES) as breaker:
        breaker.trip()
        breaker.clock.advance(COOLDOWN_S)
        probe = begun(breaker)
        (tmp_path / "store" / "orders.db").unlink()

        assert isinstance(breaker.call(), CallDenied)  # though there were two more probes
        assert breaker.end(probe, Fate.GOOD) == []
        assert isinstance(breaker.call(), CallDenied)
        breaker.clock.advance(1e9)
        assert isinstance(breaker.call(), CallDenied)
    orders.close()


def test_threads_lose_no_failure() -> None:
    config = RatesConfig(
        rule=Rule.WINDOW, error_rate_pct=90, minimum_calls=8_000, volume_spike_factor=None, anomaly_rate_pct=None
    )
    detector, group = RatesDetector(config), ("shelf.put", "clerk@1", "", "")
    fail = functools.partial(detector.record, group, 100.0, FAILED)

    at_once([lambda: [fail() for _ in range(999)]] * 8)
    noticed = [fail() for _ in range(8)]
    assert [each is not None for each in noticed] == [False] * 7 + [True]
