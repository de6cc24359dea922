"""How often somebody may ask. Nothing here is ever asked about a stop: an order by an operator has no limit.

A bucket holds `burst` requests and refills at `rate` a second. Buckets are kept per token or, where none is shown, per
network address; the least recently used ones are forgotten, full as they would be by then.
"""

from collections import OrderedDict

from rescind.clock import Clock
from rescind.web.problems import Refused

BUCKETS_MAX = 20_000


class Limit:
    """A limit for many askers."""

    def __init__(self, *, rate: float, burst: float, clock: Clock) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was

    def take(self, asker: str) -> None:
        """One more request.

        Raises: Refused (429), with the time after which there is room again.
        """
        now_s = self._clock.boot_s()
        left, at_s = self._buckets.pop(asker, (self._burst, now_s))
        left = min(self._burst, left + (now_s - at_s) * self._rate)
        enough = left >= 1
        self._buckets[asker] = (left - 1 if enough else left, now_s)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        if not enough:
            wait_s = max(1, round((1 - left) / self._rate))
            raise Refused(429, f"too many requests; try again in {wait_s} s", retry_after_s=wait_s)
