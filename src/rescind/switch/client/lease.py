"""How long a guard may go on without hearing more: arithmetic on two clocks that do not know each other.

A switch says `at_s`, its own boot clock, when it speaks. What a guard needs is its *own* time of that moment, or
anything earlier, never anything later; for a process that was suspended finds an hour of old words in its socket, and
must not take them for new ones. It learns that from round trips:

    guard    ── asked_s ─────────────────────────── received_s ──▶      the answer was spoken after asked_s
    switch   ─────────────────── at_s ──────────────────────────▶      so  offset ≥ asked_s - at_s

    offset = the guard's clock minus the switch's; the same for all words of one connection, but for drift

Laws, which hold for every delay, suspension and reconnection:

L1. `until_s` is never later than (the guard's time at which the newest renewing word was spoken) + ttl.
L2. Words that arrive at once renew at once: with small delays, `until_s` is at most one round trip short of that.
"""

import math

from rescind.model.level import Level

DRIFT_RATIO = 0.002
"""How far two clocks may part, per second. Crystals differ by 0.0001, and a time service may bend each clock by
0.0005; with some room, 0.12 s between two round trips of a minute. What was learned earlier is trusted less by that."""


class LineLease:
    """The lease that one switch renews. All times in seconds; `at_s` by the switch's boot clock, the others by ours."""

    __slots__ = ("_learned_s", "_offset_s", "_ttl_s", "until_s")

    def __init__(self, ttl_s: float) -> None:
        """A lease that has run out: nothing was heard yet."""
        self.until_s = -math.inf
        self._ttl_s = ttl_s
        self.forget_clock()

    def forget_clock(self) -> None:
        """Another connection: the switch may run on another machine by now, or its machine was started anew."""
        self._offset_s, self._learned_s = -math.inf, 0.0

    def answered(self, at_s: float, *, asked_s: float, received_s: float) -> None:
        """A round trip: what was asked at `asked_s` was answered at `at_s`, and the answer is here."""
        # The best bound so far, and not the newest: one slow answer would otherwise cost the lease its renewals.
        self._offset_s = max(self._bound(received_s), asked_s - at_s)
        self._learned_s = received_s
        self._correct(at_s, received_s)

    def stamped(self, at_s: float, *, received_s: float) -> None:
        """The switch renewed the lease when its clock said `at_s`. Everything that it said before was taken up."""
        self._correct(at_s, received_s)
        until_s = at_s + self._bound(received_s) + self._ttl_s
        if until_s > self.until_s:  # false for what is no number: absurd clocks renew nothing
            self.until_s = until_s

    def _bound(self, now_s: float) -> float:
        return self._offset_s - DRIFT_RATIO * (now_s - self._learned_s)

    def _correct(self, at_s: float, received_s: float) -> None:
        # Nothing was spoken after it was heard. A bound that says so is wrong, and this word shows by how much.
        if at_s + self._bound(received_s) > received_s:
            self._offset_s, self._learned_s = received_s - at_s, received_s


SWITCHES_SILENT = "no switch has been heard for longer than the lease; calls go on by themselves once one is heard"
STORE_SILENT = (
    "the database of the orders has not been heard for longer than the lease; calls go on by themselves once it is"
)
"""Why calls are refused after a lease has run out. The operator's part of it is in the guard's report."""


class Lease:
    """The lease of a guard, as its gate compares it with the clock.

    A guard may follow switches, of which the latest counts, and a store that it has to hear of over a network. It goes
    on only while both let it.

    Attributes:
        until_s: Boot clock; infinite for a guard that follows no switch and has its orders on this machine.
        on_silence: The level once it has run out.
    """

    __slots__ = ("_store_s", "_switches_s", "on_silence", "until_s")

    def __init__(
        self, *, until_s: float = math.inf, store_until_s: float = math.inf, on_silence: Level = Level.READ_ONLY
    ) -> None:
        self._switches_s, self._store_s, self.on_silence = until_s, store_until_s, on_silence
        self.until_s = min(until_s, store_until_s)

    def extend(self, until_s: float) -> None:
        """A switch has renewed it until then; it may hold longer already."""
        if until_s > self._switches_s:
            self._switches_s = until_s
            self._settle()

    def extend_store(self, until_s: float) -> None:
        """The store of the orders was heard, and lets the guard go on until then; it may be longer already."""
        if until_s > self._store_s:
            self._store_s = until_s
            self._settle()

    def level_at(self, now_s: float) -> Level:
        """The level that it holds its guard at by itself: normal as long as it holds."""
        return self.on_silence if now_s >= self.until_s else Level.NORMAL

    @property
    def why(self) -> str:
        """Who is silent, once it has run out."""
        return STORE_SILENT if self._store_s < self._switches_s else SWITCHES_SILENT

    def end(self) -> None:
        """The switches let it go on no longer."""
        self._switches_s = -math.inf
        self._settle()

    def end_store(self) -> None:
        """Nor does the store."""
        self._store_s = -math.inf
        self._settle()

    def _settle(self) -> None:
        # Two threads, one for each side, may come by here at once: whoever comes last has seen what both have written.
        while True:
            sides = self._switches_s, self._store_s
            self.until_s = min(sides)
            if sides == (self._switches_s, self._store_s):
                return
