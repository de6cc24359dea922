"""Counts of the last some minutes, in a ring of buckets: constant memory, and constant time for each call.

Time is cut into slots, `BUCKETS` to a window, which the caller numbers from 0. A call counts for as long as its slot is
among the newest `BUCKETS` ones: at least the window's length less one slot, and at most its length. Moving on empties
the buckets that time has passed over; each is emptied once for each time that it was filled, and never more than
`BUCKETS` at once, so it is cheap on average and bounded at worst.

A call that arrives late counts in the slot where it belongs, if that is still in the window, and else not at all.
"""

BUCKETS = 12
"""Slots of a window: 25 s each for the default of 300 s. More would be finer, and cost memory for each breaker."""

FAILED, ANOMALOUS, SLOW = 1, 2, 4
"""What may be wrong with a call, as bits: `FAILED | SLOW`. Zero is a good call."""

MARKS = (FAILED, ANOMALOUS, SLOW)


class Window:
    """See the module. It moves forward only.

    `calls` and `slot` are there to be read, and for a good call in the newest slot `calls += 1` is all that `add` does:
    what belongs to that slot is what `calls` has grown by since it began.
    """

    __slots__ = ("_bad", "_calls", "_older", "bad", "calls", "slot")

    def __init__(self) -> None:
        """An empty window."""
        self.slot = -1
        """The number of the newest slot; -1 before the first call."""
        self._calls = [0] * BUCKETS  # of each slot but the newest
        self._older = 0  # their sum
        self._bad: list[list[int] | None] = [None, None, None]  # most breakers never see one that is slow
        self.calls = 0
        """Calls in the window, as of the newest slot."""
        self.bad = [0, 0, 0]
        """How many of them were failed, anomalous and slow, in the order of `MARKS`. One may be several of these."""

    @property
    def newest_calls(self) -> int:
        """Calls in the newest slot."""
        return self.calls - self._older

    def add(self, slot: int, marks: int = 0) -> None:
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
