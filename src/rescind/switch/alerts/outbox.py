"""The outbox: every channel has a queue and a thread of its own, so none waits for another, and no stop for any.

    put ─▶ queue (bounded; the oldest falls out) ─▶ attempt ─▶ delivered
                                                     │  ▲
                                                     ▼  │ back-off, or what the receiver asked for
                                                   failed ─▶ given up: too often, too long, or it would not help

Laws, cited by the tests:

A1. `put` waits for nothing but a lock that nobody holds while doing anything slow, and it never raises.
A2. A channel that hangs delays no other channel.
A3. Queue, attempts, time and memory are bounded; whatever falls out is counted and said.
A4. On one channel, alerts arrive in the order in which they were put.

The queue is in memory: what a killed switch had not delivered is in its audit log, and in nobody's inbox.
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from rescind.clock import Clock, from_us
from rescind.switch.alerts.alert import Alert
from rescind.switch.alerts.channel import Channel, Undelivered

QUEUE_MAX = 1_000
"""Alerts that wait for one channel: some 3 MB at worst. Who is told of a thousand stops at once needs the list."""

_LOG = logging.getLogger(__name__)


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How long one channel tries to deliver one alert.

    Attributes:
        attempts_max: All of them, with the first.
        within_s: After so long since the alert was put, no further attempt is begun; but the first always is.
        first_s: The first back-off. Each is twice the one before, and shortened at random by up to half.
        longest_s: No back-off is longer.
        timeout_s: For one attempt.
    """

    attempts_max: int = 12
    within_s: float = 600.0
    first_s: float = 1.0
    longest_s: float = 120.0
    timeout_s: float = 10.0


class ChannelHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a channel is doing. It holds no secrets, and goes into `/health` and `rescind status` as it is.

    Attributes:
        name: The channel's.
        delivered: Alerts that the receiver took.
        pending: Alerts that wait or are being sent.
        given_up: Alerts that were tried and never taken.
        dropped: Alerts that were never tried, or no longer: the queue was full, the receiver gone, the outbox closed.
        failing_since: The first failure since the last delivery; None while all is well.
        last_problem: What went wrong last, for people; kept after a recovery.
        gone: The receiver wants nothing any more.
    """

    name: str
    delivered: int = 0
    pending: int = 0
    given_up: int = 0
    dropped: int = 0
    failing_since: datetime | None = None
    last_problem: str = ""
    gone: bool = False


class Alerts:
    """The outbox of a switch. Without channels it does nothing, and has no threads."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        clock: Clock,
        retries: Retries | None = None,
        queue_max: int = QUEUE_MAX,
        pause: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """An outbox that collects; `start` begins to send.

        Args:
            channels: Where everything is sent.
            clock: For bounds and health.
            retries: The same for all channels.
            queue_max: Alerts that wait for one channel.
            pause: Waits out a back-off of so many seconds; by default until the outbox is closed, at most.
            jitter: From 0 to 1.
        """
        self._clock = clock
        self._closing = threading.Event()
        wait = pause or self._closing.wait
        self._lines = [
            _Line(channel, clock, retries or Retries(), queue_max, self._closing, wait, jitter) for channel in channels
        ]

    def start(self) -> None:
        """Begin to send, in one daemon thread for each channel. To be called once."""
        for line in self._lines:
            line.thread.start()

    def put(self, alert: Alert) -> None:
        """Take the alert for every channel; returns at once and never raises (law A1). From any thread."""
        for line in self._lines:
            line.put(alert)

    def health(self) -> tuple[ChannelHealth, ...]:
        """How each channel is doing, in their order."""
        return tuple(line.health() for line in self._lines)

    def close(self, timeout_s: float) -> None:
        """Take no more, try what waits once more and without back-off, and return after `timeout_s` at the latest.

        What could not be delivered by then is counted as dropped, and logged. May be called twice.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        for line in self._lines:
            line.close(until_s)
        self._closing.set()
        for line in self._lines:
            if line.thread.is_alive():
                line.thread.join(max(0.0, until_s - self._clock.monotonic_s()))
            line.drop_waiting("the switch ends")
            if line.thread.is_alive():
                _LOG.warning("alerts by %s: the switch ends while one is being sent", line.name)


class _Line:
    """One channel, its queue and its thread."""

    def __init__(
        self,
        channel: Channel,
        clock: Clock,
        retries: Retries,
        queue_max: int,
        closing: threading.Event,
        pause: Callable[[float], object],
        jitter: Callable[[], float],
    ) -> None:
        self.name = channel.name
        self._channel, self._clock, self._retries, self._queue_max = channel, clock, retries, queue_max
        self._closing, self._pause, self._jitter = closing, pause, jitter
        self._close_at_s: float | None = None
        self._waiting: deque[tuple[Alert, float]] = deque()
        self._sending = False
        self._health = ChannelHealth(name=channel.name)
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name=f"rescind-alerts-{channel.name}", daemon=True)

    def put(self, alert: Alert) -> None:
        with self._changed:
            if self._health.gone or self._close_at_s is not None:
                self._count(dropped=1)
                return
            if len(self._waiting) >= self._queue_max:
                # The newest tells most about how things are now.
                self._waiting.popleft()
                self._count(dropped=1)
            self._waiting.append((alert, self._clock.monotonic_s()))
            self._changed.notify()

    def health(self) -> ChannelHealth:
        with self._changed:
            return msgspec.structs.replace(self._health, pending=len(self._waiting) + self._sending)

    def close(self, at_s: float) -> None:
        with self._changed:
            if self._close_at_s is None:
                self._close_at_s = at_s
            self._changed.notify()

    def drop_waiting(self, why: str) -> None:
        with self._changed:
            dropped = len(self._waiting)
            self._waiting.clear()
            self._count(dropped=dropped)
        if dropped:
            _LOG.warning("alerts by %s: %d were dropped, since %s", self.name, dropped, why)

    def _run(self) -> None:
        problem = self._perform(self._channel.prepare)
        if problem is not None:
            self._note_failed(problem)
        while (taken := self._take()) is not None:
            self._deliver(*taken)
            with self._changed:
                self._sending = False

    def _take(self) -> tuple[Alert, float] | None:
        """The next one, once there is one; None when the outbox closes and nothing waits, or its time is over."""
        with self._changed:
            while not self._waiting and self._close_at_s is None:
                self._changed.wait()
            if not self._waiting or self._timeout_s() <= 0:
                return None
            self._sending = True
            return self._waiting.popleft()

    def _deliver(self, alert: Alert, put_s: float) -> None:
        for attempt in range(1, self._retries.attempts_max + 1):
            problem = self._perform(lambda: self._channel.send(alert, timeout_s=max(0.01, self._timeout_s())))
            if problem is None:
                self._note_delivered()
                return
            self._note_failed(problem)
            pause_s = self._pause_s(attempt, problem)
            over_s = put_s + self._retries.within_s - self._clock.monotonic_s()
            if not problem.again or attempt == self._retries.attempts_max or pause_s > over_s or self._closing.is_set():
                break
            self._pause(pause_s)
        self._give_up(alert)

    def _perform(self, what: Callable[[], None]) -> Undelivered | None:
        try:
            what()
        except Undelivered as problem:
            return problem
        except Exception as error:  # noqa: BLE001  # a mistake in a channel must not silence it for good
            return Undelivered(f"the channel failed with {type(error).__name__}", again=False)
        return None

    def _pause_s(self, attempt: int, problem: Undelivered) -> float:
        longest_s = min(self._retries.longest_s, self._retries.first_s * 2.0 ** (attempt - 1))
        return max(longest_s * (1 - self._jitter() / 2), problem.after_s or 0.0)

    def _timeout_s(self) -> float:
        if self._close_at_s is None:
            return self._retries.timeout_s
        return min(self._retries.timeout_s, self._close_at_s - self._clock.monotonic_s())

    def _note_delivered(self) -> None:
        with self._changed:
            recovered = self._health.failing_since is not None
            self._health = msgspec.structs.replace(
                self._health, delivered=self._health.delivered + 1, failing_since=None
            )
        if recovered:
            _LOG.info("alerts by %s are delivered again", self.name)

    def _note_failed(self, problem: Undelivered) -> None:
        with self._changed:
            before = self._health
            self._health = msgspec.structs.replace(
                before,
                failing_since=before.failing_since or from_us(self._clock.now_us()),
                last_problem=str(problem),
                gone=before.gone or problem.gone,
            )
        if before.failing_since is None:
            _LOG.warning("alerts by %s fail: %s", self.name, problem)

    def _give_up(self, alert: Alert) -> None:
        with self._changed:
            self._count(given_up=1)
            gone, problem = self._health.gone, self._health.last_problem
        _LOG.warning("alerts by %s: gave up %s: %s", self.name, alert.alert_id, problem)
        if gone:
            self.drop_waiting("the receiver is gone")

    def _count(self, *, dropped: int = 0, given_up: int = 0) -> None:
        self._health = msgspec.structs.replace(
            self._health, dropped=self._health.dropped + dropped, given_up=self._health.given_up + given_up
        )
