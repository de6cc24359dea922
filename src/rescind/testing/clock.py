"""A clock that stands still until somebody moves it."""

import threading
from datetime import UTC, datetime

from rescind.clock import from_us, to_us

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
"""When a manual clock begins, unless told otherwise."""


class ManualClock:
    """A `Clock` for tests and simulations: sleeping moves it forward, so an hour of back-off costs nothing.

    Thread-safe. `slept_s` lists the sleeps, oldest first.
    """

    def __init__(self, start: datetime = START) -> None:
        """A clock that says `start`, an aware datetime, until it is moved."""
        self.slept_s: list[float] = []
        self._start_us = to_us(start)
        self._passed_us = self._suspended_us = 0
        self._lock = threading.Lock()

    def now_us(self) -> int:
        """See `Clock`."""
        return self._start_us + self._passed_us + self._suspended_us

    def now(self) -> datetime:
        """The same as an aware datetime."""
        return from_us(self.now_us())

    def monotonic_s(self) -> float:
        """See `Clock`. Begins at 0."""
        return self._passed_us / 1_000_000

    def boot_s(self) -> float:
        """See `Clock`. Begins at 0."""
        return (self._passed_us + self._suspended_us) / 1_000_000

    def sleep(self, duration_s: float) -> None:
        """See `Clock`."""
        self.slept_s.append(duration_s)
        self.advance(duration_s)

    def advance(self, duration_s: float) -> None:
        """Let time pass."""
        assert duration_s >= 0, f"time does not run backwards: {duration_s}"
        with self._lock:
            self._passed_us += round(duration_s * 1_000_000)

    def suspend(self, duration_s: float) -> None:
        """Let time pass as on a machine that sleeps: the monotonic clock stands still."""
        assert duration_s >= 0, f"time does not run backwards: {duration_s}"
        with self._lock:
            self._suspended_us += round(duration_s * 1_000_000)
