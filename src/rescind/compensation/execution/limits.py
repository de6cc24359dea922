"""How much a target system is asked for at once and per second, as a port with an answer for one process.

A limit is a promise to a system that others use, too: it counts tries, which are what the system sees, and it counts
them over everything that one undo does there. Several processes that apply shares of one plan have a limiter each;
`share` says how many they are, and each keeps to its part of a rate. How many steps are under way at once is no matter
of parts: with a limit of two, the third of three processes has to wait. So workers hold `permits`, each of which one
process can have (see `recovery.locks`).
"""

import math
import threading
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from rescind.clock import Clock
from rescind.config import EVERY_SYSTEM, SystemLimits


class Limiter(Protocol):
    """Tries per second at each system. Thread-safe."""

    def try_acquire(self, system: str) -> float:
        """Take one try at this system. 0.0 if it was taken; else the seconds after which to ask again, and none was."""
        ...


class Limits(msgspec.Struct, frozen=True):
    """The limits of every system.

    Attributes:
        systems: By the name of the system, `target.system`; `*` stands for every system that is not named. A step
            without a target counts for a system that is named as its action.
        share: How many processes share them. Each has a part of a rate, and of a burst at least one try: over time the
            rate holds, and at once there may be as many tries as processes.
        permits: How many steps this process may have under way at which systems, because it holds as many permits.
    """

    systems: Mapping[str, SystemLimits] = {}
    share: int = 1
    permits: Mapping[str, int] = {}

    def parallel_of(self, system: str) -> int | None:
        """How many steps this process may have under way there, at least 1; None for any number.

        Without permits it is a part of the limit, which is too much where there are more processes than that.
        """
        parallel = self._of(system).parallel
        if parallel is None:
            return None
        return self.permits.get(system) or max(1, parallel // self.share)

    def shared_at(self, systems: Iterable[str]) -> dict[str, int]:
        """How many steps all processes together may have under way, at those of these systems that limit it."""
        limits = {system: self._of(system).parallel for system in systems}
        return {system: parallel for system, parallel in limits.items() if parallel is not None}

    def rate_of(self, system: str) -> tuple[float, int] | None:
        """Tries per second and burst of this process; None for no limit."""
        limits = self._of(system)
        if limits.rate_per_s is None:
            return None
        return limits.rate_per_s / self.share, max(1, limits.burst // self.share)

    def _of(self, system: str) -> SystemLimits:
        return self.systems.get(system) or self.systems.get(EVERY_SYSTEM) or SystemLimits()


class TokenBuckets:
    """A `Limiter` for one process: each system has a bucket that holds its burst and fills at its rate."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits, self._clock = limits, clock
        self._full_at_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def try_acquire(self, system: str) -> float:
        """See `Limiter`."""
        rate = self._limits.rate_of(system)
        if rate is None:
            return 0.0
        per_s, burst = rate
        now_s = self._clock.monotonic_s()
        with self._lock:
            # When the bucket will be full again says all about it: it lacks as many tries as fill it until then.
            full_at_s = max(now_s, self._full_at_s.get(system, -math.inf))
            wait_s = full_at_s - now_s - (burst - 1) / per_s
            if wait_s > 1e-9:  # less is a rounding error, and a sleep that short would not end it
                return wait_s
            self._full_at_s[system] = full_at_s + 1 / per_s
            return 0.0
