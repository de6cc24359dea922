"""Counts of the last some minutes, in a ring of buckets: constant memory, and constant time for each call.

Time is cut into slots of `seconds / BUCKETS`. A call counts for as long as its slot is among the newest `BUCKETS` ones:
at least `seconds` less one slot, and at most `seconds`. Moving on empties the buckets that time has passed over; each
is emptied once for each time that it was filled, and never more than `BUCKETS` at once, so it is cheap on average and
bounded at worst.

A call that arrives late counts in the slot where it belongs, if that is still in the window, and else not at all.
"""

from typing import NamedTuple

BUCKETS = 12
"""Slots of a window: 25 s each for the default of 300 s. More would be finer, and cost memory for each breaker."""

FAILED, ANOMALOUS, SLOW = 1, 2, 4
"""What may be wrong with a call, as bits: `FAILED | SLOW`. Zero is a good call."""

MARKS = (FAILED, ANOMALOUS, SLOW)


class Counts(NamedTuple):
    """Calls in a window, and how many of them were wrong in which way. A call may be wrong in several."""

    calls: int = 0
    failed: int = 0
    anomalous: int = 0
    slow: int = 0


class Window:
    """See the module. Times are seconds on any clock; the window moves forward only.

    `calls` and `slot` are there to be read, and for a good call in the newest slot `calls += 1` is all that `add` does:
    what belongs to that slot is what `calls` has grown by since it began.
    """

    __slots__ = ("_bad", "_calls", "_older", "bad", "calls", "slot", "slot_s")

    def __init__(self, seconds: float) -> None:
        """An empty window. `seconds` is its length, more than 0."""
        self.slot_s = seconds / BUCKETS
        self.slot = -1
        """The number of the newest slot; -1 before the first call."""
        self._calls = [0] * BUCKETS  # of each slot but the newest
        self._older = 0  # their sum
        self._bad: list[list[int] | None] = [None, None, None]  # most breakers never see one that is slow
        self.calls = 0
        """Calls in the window, as of the newest time that it was told."""
        self.bad = [0, 0, 0]
        """How many of them were failed, anomalous and slow, in the order of `MARKS`."""

    @property
    def newest_calls(self) -> int:
        """Calls in the newest slot."""
        return self.calls - self._older

    def slot_of(self, at_s: float) -> int:
        """The number of the slot of a time, at least 0."""
        return int(at_s / self.slot_s)

    def add(self, at_s: float, marks: int = 0) -> None:
        """Count a call that ended at `at_s`."""
        self.add_in(self.slot_of(at_s), marks)

    def add_in(self, slot: int, marks: int = 0) -> None:
        """Count a call that ended in this slot."""
        place = slot % BUCKETS
        if slot > self.slot:
            self.move_on(slot)
        elif slot < self.slot:
            if slot <= self.slot - BUCKETS:
                return
            self._calls[place] += 1
            self._older += 1
        self.calls += 1
        if marks:
            self._add_marks(place, marks)

    def counts(self, at_s: float) -> Counts:
        """What the window holds at `at_s`. A moment before the newest one is taken for the newest."""
        slot = self.slot_of(at_s)
        if slot > self.slot:
            self.move_on(slot)
        return Counts(self.calls, *self.bad)

    def clear(self) -> None:
        """Forget all calls."""
        self._calls = [0] * BUCKETS
        self._bad = [None, None, None]
        self.calls = self._older = 0
        self.bad = [0, 0, 0]

    def move_on(self, slot: int) -> None:
        """Let time pass to this slot, which is later than the newest."""
        passed = slot - self.slot
        self._calls[self.slot % BUCKETS] = self.newest_calls
        self.slot = slot
        if passed >= BUCKETS:
            if self.calls:
                self.clear()
            return
        for place in (each % BUCKETS for each in range(slot - passed + 1, slot + 1)):
            self.calls -= self._calls[place]
            self._calls[place] = 0
            for index, buckets in enumerate(self._bad):
                if buckets is not None:
                    self.bad[index] -= buckets[place]
                    buckets[place] = 0
        self._older = self.calls

    def _add_marks(self, place: int, marks: int) -> None:
        for index, mark in enumerate(MARKS):
            if marks & mark:
                buckets = self._bad[index]
                if buckets is None:
                    buckets = self._bad[index] = [0] * BUCKETS
                buckets[place] += 1
                self.bad[index] += 1
