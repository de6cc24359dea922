"""Is this far more than usual? The usual number of calls in a window, learned robustly.

Time is cut into whole windows. The number of calls of each that had any is remembered, the last `REMEMBERED` of them,
and their median is what is usual: a few odd windows do not move it. A window without a call says nothing (nights would
else make every morning a spike), and one with more calls than the bound counts as the bound, so that whoever raises
the volume slowly needs hours for each factor.
"""

import statistics

REMEMBERED = 24
"""Windows that are remembered: two busy hours at the default of 300 s."""

LEARNED_AFTER = 6
"""Windows with calls before anything is called unusual."""


class Volume:
    """The calls of one scope, counted by whole windows. `bound` is what a window may hold; infinite until learned."""

    __slots__ = ("_count", "_factor", "_least", "_number", "_seen", "bound")

    def __init__(self, *, factor: float, least: int) -> None:
        """Nothing is learned yet.

        Args:
            factor: How many times the usual number is a spike, more than 1.
            least: Calls in a window below which nothing is a spike.
        """
        self._factor, self._least = factor, least
        self._number, self._count = -1, 0
        self._seen: list[int] | None = None
        self.bound = float("inf")

    @property
    def usual(self) -> float | None:
        """The usual number of calls in a window; None until it is learned."""
        seen = self._seen
        return statistics.median(seen) if seen is not None and len(seen) >= LEARNED_AFTER else None

    def add(self, number: int, calls: int) -> None:
        """Calls of the window with this number; windows come in order. A new number closes the one before."""
        if number > self._number:
            self._close()
            self._number = number
        self._count += calls

    def _close(self) -> None:
        if not self._count:
            return
        if self._seen is None:
            self._seen = []
        self._seen.append(self._count if self._count <= self.bound else int(self.bound))
        del self._seen[:-REMEMBERED]
        self._count = 0
        usual = self.usual
        if usual is not None:
            self.bound = max(self._factor * usual, self._least)
