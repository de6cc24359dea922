"""Counting different things exactly, up to a bound and in bounded memory, without a lock.

Threads may overlap: what is admitted is never more than the bound. Each new thing takes a number, and the number
decides; numbers are handed out by single operations of the interpreter, which no other thread can come between.
"""

from collections import deque
from itertools import count

from rescind.model.step import Target

WINDOW_S = 60.0

_SWEEP_S = 1.0
"""How often old things are looked for, at most. So something stays in its window for one second longer at times."""


def target_key(target: Target) -> int:
    """The hash of a target: 64 bits under a secret of this process, so that nobody can make two of them meet."""
    if target.qualifiers or type(target.id) is not str:  # hashes of numbers are no secret; texts' are
        return hash(repr(target))
    return hash((target.system, target.kind, target.id))


class Distinct:
    """Admits the first `most` different keys, and those again and again. Holds no more than these."""

    __slots__ = ("_most", "_next", "_numbers")

    def __init__(self, most: int) -> None:
        """Nothing is admitted yet."""
        self._most = most
        self._numbers: dict[int, int] = {}
        self._next = count()

    def admits(self, key: int) -> bool:
        """Whether the key is among the admitted ones, or becomes one of them."""
        numbers = self._numbers
        number = numbers.get(key)
        if number is None:
            number = numbers.setdefault(key, next(self._next))
            if number >= self._most:
                numbers.pop(key, None)  # who sees it before it is gone sees its number, too
        return number < self._most

    def has_room_for(self, key: int) -> bool:
        """Whether it would admit the key, which is not admitted by that."""
        return len(self._numbers) < self._most or key in self._numbers


class DistinctLately:
    """Admits different keys for as long as no more than `most` of them came within the last minute."""

    __slots__ = ("_most", "_swept_at_s", "_times")

    def __init__(self, most: int) -> None:
        """Nothing is admitted yet."""
        self._most = most
        self._times: dict[int, float | None] = {}  # by key; None while it is not decided
        self._swept_at_s = float("-inf")

    def admits(self, key: int, at_s: float) -> bool:
        """Whether the key came lately, or there is room for it."""
        times = self._times
        if times.get(key) is None:
            if len(times) >= self._most and at_s - self._swept_at_s >= _SWEEP_S:
                self._sweep(at_s)
            times[key] = None
            if len(times) > self._most:
                times.pop(key, None)
                return False
        times[key] = at_s
        return True

    def has_room_for(self, key: int, at_s: float) -> bool:
        """Whether it would admit the key, which is not admitted by that."""
        times = self._times
        if len(times) >= self._most and at_s - self._swept_at_s >= _SWEEP_S:
            self._sweep(at_s)
        return len(times) < self._most or times.get(key) is not None

    def _sweep(self, at_s: float) -> None:
        self._swept_at_s = at_s
        for key, time_s in self._times.copy().items():
            if time_s is not None and at_s - time_s >= WINDOW_S:
                self._times.pop(key, None)


class CountLately:
    """Admits events for as long as no more than `most` of them came within the last minute."""

    __slots__ = ("_places",)

    def __init__(self, most: int) -> None:
        """Every place is free. What it holds is when it was last taken."""
        self._places = deque([float("-inf")] * most)

    def admits(self, at_s: float) -> bool:
        """Whether there is a place that was taken no less than a minute ago; it is then taken now."""
        try:
            taken_at_s = self._places.popleft()
        except IndexError:  # no place at all, or all of them are in other threads' hands: then they are taken
            return False
        if at_s - taken_at_s >= WINDOW_S:
            self._places.append(at_s)
            return True
        self._places.appendleft(taken_at_s)
        return False
