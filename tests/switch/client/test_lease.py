"""L1 and L2: a lease never outlives its evidence, and is renewed by words that arrive at once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.model.level import Level
from rescind.switch.client.lease import DRIFT_RATIO, Lease, LineLease

TTL_S = 10.0
_SLACK_S = 1e-6  # of floating point, on clocks of up to some years

moments = st.floats(0, 100, allow_nan=False)
offsets = st.floats(-1e8, 1e8, allow_nan=False)


class Story:
    """One switch and one guard, each with a clock of its own, and a stream that delivers in order and late."""

    def __init__(self, offset_s: float, drift: float) -> None:
        self.now_s = 0.0  # the guard's clock, which is the true one
        self.offset_s, self.drift = offset_s, drift
        self.stream: list[tuple[float, float]] = []  # at_s, and the guard's time of that moment
        self.newest_s = -math.inf  # the guard's time at which the newest word that it has processed was spoken
        self.lease = LineLease(TTL_S)

    def at_s(self) -> float:
        return self.now_s * (1 + self.drift) + self.offset_s

    def wait(self, duration_s: float) -> None:
        self.now_s += duration_s

    def beat(self) -> None:
        self.stream.append((self.at_s(), self.now_s))

    def read(self) -> None:
        for at_s, spoken_s in self.stream:
            self.lease.stamped(at_s, received_s=self.now_s)
            self.newest_s = max(self.newest_s, spoken_s)
        self.stream.clear()

    def report(self, there_s: float, back_s: float) -> None:
        asked_s = self.now_s
        self.wait(there_s)
        at_s = self.at_s()
        self.wait(back_s)
        self.lease.answered(at_s, asked_s=asked_s, received_s=self.now_s)

    def connect(self, offset_s: float, there_s: float, back_s: float) -> None:
        """Also to a switch whose machine was started anew: its clock says something else."""
        self.offset_s = offset_s
        self.stream.clear()
        self.lease.forget_clock()
        self.report(there_s, back_s)
        spoken_s = self.now_s - back_s
        self.lease.stamped(spoken_s * (1 + self.drift) + offset_s, received_s=self.now_s)
        self.newest_s = max(self.newest_s, spoken_s)


steps = st.one_of(
    st.tuples(st.just("wait"), st.one_of(moments, st.floats(1000, 1e6))),  # the latter: a machine that was suspended
    st.tuples(st.just("beat")),
    st.tuples(st.just("read")),
    st.tuples(st.just("report"), moments, moments),
    st.tuples(st.just("connect"), offsets, moments, moments),
)


@given(offsets, st.floats(-DRIFT_RATIO / 2, DRIFT_RATIO / 2), moments, moments, st.lists(steps, max_size=40))
def test_l1_no_lease_outlives_its_evidence(
    offset_s: float, drift: float, there_s: float, back_s: float, story: list[tuple[object, ...]]
) -> None:
    world = Story(offset_s, drift)
    world.connect(offset_s, there_s, back_s)
    for name, *arguments in story:
        getattr(world, str(name))(*arguments)
        assert world.lease.until_s <= world.newest_s + TTL_S + _SLACK_S


@given(offsets, st.floats(0, 0.05), st.integers(1, 60))
def test_l2_words_that_arrive_at_once_renew_at_once(offset_s: float, delay_s: float, beats: int) -> None:
    world = Story(offset_s, 0.0)
    world.connect(offset_s, delay_s, delay_s)
    for _ in range(beats):
        world.wait(1.0)
        world.beat()
        world.read()
        trusted_less_s = DRIFT_RATIO * world.now_s
        assert world.lease.until_s >= world.now_s + TTL_S - 2 * delay_s - trusted_less_s - _SLACK_S


def test_an_hour_of_beats_found_in_the_socket_renews_nothing() -> None:
    world = Story(500.0, 0.0)
    world.connect(500.0, 0.01, 0.01)
    for _ in range(60):
        world.wait(1.0)
        world.beat()
    world.wait(3600.0)
    world.read()
    assert world.lease.until_s < world.now_s - 3500


def test_one_slow_answer_costs_no_renewals() -> None:
    world = Story(0.0, 0.0)
    world.connect(0.0, 0.01, 0.01)
    world.report(20.0, 20.0)
    world.beat()
    world.read()
    assert world.lease.until_s > world.now_s + TTL_S - 0.2


@pytest.mark.parametrize("at_s", [math.inf, -math.inf, math.nan, 1e308, -1e308])
def test_absurd_clocks_renew_no_lease_beyond_their_arrival(at_s: float) -> None:
    lease = LineLease(TTL_S)
    for said_s in (at_s, 5.0, at_s):
        lease.answered(said_s, asked_s=100.0, received_s=101.0)
        lease.stamped(said_s, received_s=101.0)
        assert lease.until_s <= 101.0 + TTL_S


def test_a_lease_holds_until_it_ends_and_its_level_says_so() -> None:
    lease = Lease(until_s=-math.inf, on_silence=Level.PAUSED)
    assert lease.level_at(0.0) is Level.PAUSED
    lease.extend(10.0)
    lease.extend(5.0)
    assert (lease.level_at(9.9), lease.level_at(10.0)) == (Level.NORMAL, Level.PAUSED)
    lease.end()
    assert lease.level_at(0.0) is Level.PAUSED
    assert Lease().level_at(1e12) is Level.NORMAL
