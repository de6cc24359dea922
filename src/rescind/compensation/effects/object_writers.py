"""Who wrote to which cell of a graph after whom, among the calls whose changes stand.

A cell that holds what a step left there may have been somebody else's in between: money that one run has taken and put
back, after which the other took some. Equal values do not tell that, so the order of the writes does.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from rescind.compensation.effects.object_change import Change, cells_between
from rescind.compensation.effects.object_parts import ATTRIBUTES, ELEMENTS, WHOLE
from rescind.compensation.effects.object_shadow import Part

Related = Callable[[str, str], bool]
"""Whether one of two calls, by their tokens, was part of the other."""

Cell = tuple[int, Any, Any]


class Writers:
    """The standing changes of each cell, oldest first. Lists are not in here: they are merged, element by element."""

    def __init__(self, counters: frozenset[str]) -> None:
        self._counters = counters
        self._of: dict[Cell, list[tuple[int, str]]] = {}
        self._count = 0
        self._since: dict[str, int] = {}
        self._found: dict[str, dict[Cell, str]] = {}  # by call, whose writing it found in a cell when it was made

    def add(self, token: str, change: Change) -> None:
        """It has been made, or put there again; twice is once."""
        self._drop(token, change)
        self._count += 1
        self._since[token] = self._count
        found = None if token in self._found else self._found.setdefault(token, {})
        for cell, _ in self._cells(change):
            entries = self._of.setdefault(cell, [])
            if found is not None and entries:
                found[cell] = entries[-1][1]
            entries.append((self._count, token))

    def take_out(self, token: str, change: Change) -> None:
        """It has been taken back; twice is once."""
        self._drop(token, change)
        self._since[token] = self._count

    def forget(self, token: str, change: Change) -> None:
        """Nobody needs to know of it any more."""
        self._drop(token, change)
        self._since.pop(token, None)
        self._found.pop(token, None)

    def _drop(self, token: str, change: Change) -> None:
        entry = (self._since.get(token, 0), token)
        for cell, _ in self._cells(change) if entry[0] else ():
            entries = self._of.get(cell, [])
            at = bisect_left(entries, entry)
            if at < len(entries) and entries[at] == entry:
                del entries[at]
            if not entries:
                self._of.pop(cell, None)

    def after(self, token: str, change: Change, are_related: Related) -> Iterator[str]:
        """The cells of this change that another call has written to since it was made, or taken back.

        Not if they are those whose writings it had found there: those were taken back too, and put there again.
        """
        since = self._since.get(token, 0)
        for cell, place in self._cells(change):
            found = self._found_in(cell, token)
            for count, other in reversed(self._of.get(cell, ())):
                if count <= since:
                    break
                if other == found:
                    found = self._found_in(cell, other)
                elif not are_related(token, other):
                    yield place()
                    break

    def _found_in(self, cell: Cell, token: str) -> str:
        return self._found.get(token, {}).get(cell, "")

    def _cells(self, change: Change) -> Iterator[tuple[Cell, Callable[[], str]]]:
        for part, old, new in change.edits:
            if part.kind is WHOLE:
                yield (id(part.holder), WHOLE, None), part.name
            elif part.kind is not ELEMENTS:
                counters = self._counters if part.kind is ATTRIBUTES else frozenset[str]()
                for key in cells_between(old, new):
                    if key not in counters:
                        yield (id(part.holder), part.kind, key), _naming(part, key)


def _naming(part: Part, key: Any) -> Callable[[], str]:
    return lambda: part.name(key)
