"""What a breaker knows of its calls, and when that is enough to trip.

Calls are judged by one of two rules. `change` asks whether the rate has risen above what is tolerated (see `change`):
it needs no minimum of calls and no length of a window, and says how rarely it is wrong. `window` is the classic one: at
or above a share, among at least so many calls, in the last so many seconds. Volume has a rule of its own, beside both.

A trip begins all evidence anew, and is said once: within the cooldown after it the next one takes twice as much (the
square of the limit, twice the calls), and so on. What has tripped may be closed by a person before its cooldown is
over, and goes on to be watched. After the cooldown all is as it was at first.
"""

import enum
import math
from typing import NamedTuple

import msgspec

from rescind.model.signal import SignalKind
from rescind.triggers.change import Change, weights_of
from rescind.triggers.volume import Volume
from rescind.triggers.window import BUCKETS, MARKS, Window

STRIKES_MAX = 5
"""How often evidence is asked to double within one cooldown; after that many further trips nothing more is said. It
also keeps the square of the square of a limit within what a float can hold."""

KINDS: tuple[SignalKind, ...] = (SignalKind.ERROR_RATE, SignalKind.ANOMALY_RATE, SignalKind.SLOW_RATE)
"""What a breaker counts, in the order of `MARKS`."""


class Rule(enum.StrEnum):
    """How the rates of a breaker are judged."""

    CHANGE = "change"
    WINDOW = "window"


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker trips, and for how long that stays in mind.

    Attributes:
        rule: How rates are judged.
        error_rate, anomaly_rate, slow_rate: Tolerated shares of calls, more than 0 and less than 0.95; None: not asked.
        limit: How much evidence `change` wants: at least so many calls lie between false trips, on average.
        minimum_calls: How many calls `window` wants to have seen.
        spike_factor: How many times the usual number of calls is a spike; None: not asked.
        spike_least: Calls in a window below which nothing is a spike.
        cooldown_s: How long an open breaker refuses, before it admits probes (see `probing`).
    """

    rule: Rule = Rule.CHANGE
    error_rate: float | None = 0.15
    anomaly_rate: float | None = 0.10
    slow_rate: float | None = 0.50
    limit: float = 1e4
    minimum_calls: int = 20
    spike_factor: float | None = 3.0
    spike_least: int = 30
    cooldown_s: float = 600.0

    @property
    def rates(self) -> tuple[float | None, float | None, float | None]:
        """The tolerated rates, in the order of `MARKS`."""
        return self.error_rate, self.anomaly_rate, self.slow_rate


class Trip(NamedTuple):
    """Why a breaker trips.

    Attributes:
        kind: Which rate.
        rule: `change`, `window` or `spike`.
        calls, bad: Calls in the window, and how many of them were bad in this way; for a spike, `bad` is 0.
        bound: The tolerated rate; of a spike, the tolerated number of calls.
        strikes: How many trips came before it within the cooldown: 0 is the first.
        evidence: What the change detector made of it; 0 for other rules.
        since: Of `change`: calls since it began to look like one, and how many of them were bad.
    """

    kind: SignalKind
    rule: str
    calls: int
    bad: int
    bound: float
    strikes: int
    evidence: float = 0.0
    since: tuple[int, int] = (0, 0)


class Evidence:
    """What one breaker knows. Times are seconds on any clock; those of calls may be out of order."""

    __slots__ = (
        "_alert",
        "_bounds",
        "_calls_max",
        "_changes",
        "_limit",
        "_minimum",
        "_tripped_at_s",
        "_volume",
        "strikes",
        "window",
    )

    def __init__(self, bounds: Bounds) -> None:
        """No call has been seen."""
        self._bounds = bounds
        self.window = Window()
        factor = bounds.spike_factor
        self._volume = None if factor is None else Volume(factor=factor, least=bounds.spike_least)
        self._changes: list[Change | None] = [None, None, None]  # each is made when the first call is bad in its way
        self._tripped_at_s = 0.0
        self.strikes = 0
        """Trips within the cooldown of the last one; 0 again once that is over and somebody has looked."""
        self._limit, self._minimum, self._calls_max = bounds.limit, bounds.minimum_calls, math.inf
        self._alert = bounds.rule is Rule.WINDOW

    def record(self, slot: int, at_s: float, marks: int) -> Trip | None:
        """Take up a call that ended at `at_s`, in that slot of the window; the trip, if that is enough for one."""
        window = self.window
        trip: Trip | None
        if not marks and slot == window.slot and not self._alert:
            # Nearly every call of a healthy agent. Nothing but the number of calls can be too much.
            window.calls = calls = window.calls + 1
            if calls <= self._calls_max:
                return None
            trip = self._by_volume()
        else:
            if self.strikes:
                self.look(at_s)
            self._move_on(slot)
            window.add(slot, marks)
            trip = self._judge(marks)
        if trip is not None:
            self._strike(at_s)
        return trip

    def look(self, at_s: float) -> bool:
        """Whether it has tripped and is in its cooldown at `at_s`. When that is over, evidence begins anew."""
        if self.strikes and at_s >= self._tripped_at_s + self._bounds.cooldown_s:
            self.strikes = 0
            self.restart()
        return self.strikes > 0

    def restart(self) -> None:
        """Forget what was counted. What is usual stays known, and so do strikes."""
        self._learn()
        self.window.clear()
        self._changes = [None, None, None]
        doubled = 2 ** min(self.strikes, STRIKES_MAX)
        self._limit, self._minimum = self._bounds.limit**doubled, self._bounds.minimum_calls * doubled
        self._set_calls_max()
        self._alert = self.strikes > 0 or self._bounds.rule is Rule.WINDOW

    def _move_on(self, slot: int) -> None:
        window = self.window
        if slot > window.slot:
            self._learn()
            window.move_on(slot)
            if self._volume is not None:
                self._volume.add(slot // BUCKETS, 0)
                self._set_calls_max()

    def _learn(self) -> None:
        if self._volume is not None:
            self._volume.add(self.window.slot // BUCKETS, self.window.newest_calls)

    def _set_calls_max(self) -> None:
        if self._volume is not None:
            self._calls_max = math.inf if self.strikes > STRIKES_MAX else self._volume.bound * 2**self.strikes

    def _judge(self, marks: int) -> Trip | None:
        trip = None
        if self._bounds.rule is Rule.CHANGE:
            trip = self._by_change(marks)
        elif self.window.calls >= self._minimum and self.strikes <= STRIKES_MAX:
            trip = self._by_window()
        if trip is None and self.window.calls > self._calls_max:
            trip = self._by_volume()
        return trip

    def _by_change(self, marks: int) -> Trip | None:
        found = None
        alert = self.strikes > 0
        for index, mark in enumerate(MARKS):
            change = self._changes[index]
            if marks & mark:
                change = change or self._new_change(index)
                if change is None:
                    continue
                alert = True
                evidence = change.bad()
                if evidence >= self._limit and found is None and self.strikes <= STRIKES_MAX:
                    found = self._trip(index, "change", evidence, (change.calls, change.bads))
            elif change is not None and not change.is_at_rest:
                change.good()
                alert = alert or not change.is_at_rest
        self._alert = alert
        return found

    def _new_change(self, index: int) -> Change | None:
        rate = self._bounds.rates[index]
        if rate is None:
            return None
        change = self._changes[index] = Change(weights_of(rate))
        return change

    def _by_window(self) -> Trip | None:
        calls, bad = self.window.calls, self.window.bad
        for index, rate in enumerate(self._bounds.rates):
            if rate is not None and bad[index] >= rate * calls:
                return self._trip(index, "window")
        return None

    def _by_volume(self) -> Trip:
        return Trip(SignalKind.VOLUME_RATE, "spike", self.window.calls, 0, self._calls_max, self.strikes)

    def _trip(self, index: int, rule: str, evidence: float = 0.0, since: tuple[int, int] = (0, 0)) -> Trip:
        rate = self._bounds.rates[index]
        assert rate is not None
        window = self.window
        return Trip(KINDS[index], rule, window.calls, window.bad[index], rate, self.strikes, evidence, since)

    def _strike(self, at_s: float) -> None:
        self.strikes += 1
        self._tripped_at_s = at_s
        self.restart()
