"""What one call changed in a graph of objects, and how to take just that back.

A change is made of cells (an attribute, a key, a member of a set), each with the value before and after, and of lists,
each with its elements before and after. It is taken back cell by cell: who wrote to other cells meanwhile keeps it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from rescind.compensation.effects.object_lists import merged
from rescind.compensation.effects.object_parts import (
    ATTRIBUTES,
    ELEMENTS,
    MEMBERS,
    MISSING,
    WHOLE,
    Elements,
    Items,
    Kind,
    Members,
    Whole,
    same,
)
from rescind.compensation.effects.object_shadow import Part, Shadow

Move = Callable[[], None]
"""Puts something where it belongs; twice is once."""

Edit = tuple[Part, Any, Any]
"""A part with its content before and after."""

Contents = list[tuple[Part, Any]]


class Way:
    """One part's way from a content to another: from what the step left to what it found, or the other way round."""

    def __init__(self, part: Part, source: Any, target: Any, *, gone: bool, counters: frozenset[str]) -> None:
        """`gone` says that it has been gone already: a list alone does not tell, since others may have edited it."""
        self.part, self._source, self._target, self._gone = part, source, target, gone
        self._counters = counters if part.kind is ATTRIBUTES else frozenset[str]()
        self.now = part.kind.copy(part.holder)
        self.final = self._final()

    def _final(self) -> Any:
        """The content at the end of the way; None if there is no way."""
        if self.part.kind is WHOLE:
            # None also for a buffer that was closed: nobody can open it again.
            return self._target if self.now in (self._source, self._target) else None
        if self.part.kind is ELEMENTS:
            return self.now if self.is_back() else merged(self._source, self._target, self.now)
        pending = self._pending()
        kept = {key: pending.get(key, value) for key, value in self.now.items()} | pending
        final = {key: value for key, value in kept.items() if value is not MISSING}
        return _in_order(final, self._target, self._source) if isinstance(self.part.kind, Items) else final

    def conflicts(self) -> Iterator[str]:
        """The cells that somebody else has written to since."""
        if self.final is None:
            yield self.part.name()
        elif self.part.kind not in (WHOLE, ELEMENTS):
            keys = self.cells()
            for key in keys:
                now = self.now.get(key, MISSING)
                if key not in self._counters and not (same(now, self._of(key)) or same(now, self._to(key))):
                    yield self.part.name(key)
            if not keys and not (self._is_ordered_as(self._source) or self._is_ordered_as(self._target)):
                yield self.part.name()

    def is_there(self) -> bool:
        """Whether everything is as it was left."""
        if self.part.kind is WHOLE:
            return bool(self.now == self._source)
        if self.part.kind is ELEMENTS:
            return self.final is not None and not self.is_back()
        return self._is_at(self._source)

    def is_back(self) -> bool:
        """Whether everything is where it belongs already."""
        if self.part.kind is WHOLE:
            return bool(self.now == self._target)
        if self.part.kind is ELEMENTS:
            return self._gone or _alike(self.now, self._target)
        return self._is_at(self._target)

    def _is_at(self, content: Any) -> bool:
        keys = self.cells()
        if not keys:
            return self._is_ordered_as(content)
        # A counter that others have moved on is neither here nor there, and nothing is demanded of it.
        return all(
            same(self.now.get(key, MISSING), content.get(key, MISSING)) for key in keys if not self._has_gone_on(key)
        )

    def _has_gone_on(self, key: Any) -> bool:
        now = self.now.get(key, MISSING)
        return key in self._counters and not (same(now, self._of(key)) or same(now, self._to(key)))

    def _is_ordered_as(self, content: Any) -> bool:
        # By what the keys are: 1, 1.0 and True are one cell, and still not the same.
        return _alike([key for key in self.now if key in content], [key for key in content if key in self.now])

    def moves(self) -> Iterator[Move]:
        """What there is to do, computed now, so that it can be repeated however far it came."""
        holder, kind, final = self.part.holder, self.part.kind, self.final
        if self.is_back():
            return
        if isinstance(kind, Whole | Elements):
            yield lambda: kind.put(holder, final)
            return
        cells = cast("Items | Members", kind)
        for key, value in self._pending().items():
            yield _setting(cells, holder, key, value)
        if isinstance(cells, Items):
            without_order = {**{key: None for key in self.now if key in final}, **dict.fromkeys(final)}
            if not _alike(list(without_order), list(final)):
                yield lambda: cells.put(holder, final)

    def _pending(self) -> dict[Any, Any]:
        """The cells to write: those that are as the step left them."""
        return {key: self._to(key) for key in self.cells() if same(self.now.get(key, MISSING), self._of(key))}

    def cells(self) -> list[Any]:
        """The cells that differ between both ends."""
        return cells_between(self._source, self._target)

    def _of(self, key: Any) -> Any:
        return self._source.get(key, MISSING)

    def _to(self, key: Any) -> Any:
        return self._target.get(key, MISSING)


def _setting(cells: "Items | Members", holder: Any, key: Any, value: Any) -> Move:
    return lambda: cells.set(holder, key, value)


class Change:
    """What one call changed.

    Attributes:
        edits: Each part that changed, with its content before and after. Once a list has gone one way, what it was
            then counts: others may have edited it since the call.
        made: Each part that the call made, with its content as it left it: who changed what a call made would lose
            that with it. Looked at before anything is put back.
        unmade: The same for the way there again: what was detached, as it was when the undo put it back.
        is_out: Whether it has been taken back.
        around: The token of the call that this one was part of; with that call this one has come and gone.
    """

    def __init__(self, edits: Iterable[Edit], made: Contents, counters: frozenset[str]) -> None:
        self._counters = counters
        self.edits = [(part, old, new) for part, old, new in edits if differ(part.kind, old, new)]
        self.made, self.unmade = made, Contents()
        self.is_out = False
        self.around = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is different."""
        return not self.edits

    def ways(self, *, back: bool) -> list[Way]:
        """The way back, or there again, of each part, from how it is now."""
        gone = self.is_out is back
        return [
            Way(part, *((new, old) if back else (old, new)), gone=gone, counters=self._counters)
            for part, old, new in self.edits
        ]

    def overwritten(self, *, back: bool) -> Iterator[str]:
        """What somebody else has changed in objects that this way lets go of."""
        for part, content in self.made if back else self.unmade:
            if differ(part.kind, content, part.kind.copy(part.holder)):
                yield part.name()

    def went(self, ways: list[Way], shadow: Shadow, *, back: bool) -> None:
        """It has been taken back, or put there again."""
        for number, way in enumerate(ways):
            if way.part.kind is ELEMENTS:
                self.edits[number] = (way.part, *((way.final, way.now) if back else (way.now, way.final)))
        if back:
            self.unmade = [(part, part.copy) for value in self._unmade() for part in shadow.below(value)]
        self.is_out = back

    def _unmade(self) -> Iterator[Any]:
        for part, old, new in self.edits:
            if part.kind is not WHOLE:
                stay = set(map(id, part.kind.values(new)))
                yield from (value for value in part.kind.values(old) if id(value) not in stay)

    def places(self, count_max: int) -> list[str]:
        """Where the changes are, for people; no values."""
        found: list[str] = []
        for part, old, new in self.edits:
            if part.kind in (ELEMENTS, WHOLE, MEMBERS):
                found.append(part.name())
            else:
                way = Way(part, new, old, gone=False, counters=frozenset())
                found += [part.name(key) for key in way.cells()] or [part.name()]
            if len(found) > count_max:
                break
        return found[:count_max]


def differ(kind: Kind, old: Any, new: Any) -> bool:
    """Whether two contents are not the same."""
    if kind is WHOLE:
        return bool(old != new)
    if kind is ELEMENTS:
        return not _alike(old, new)
    if kind is MEMBERS:
        return bool(old.keys() != new.keys())
    return not (_alike(list(old), list(new)) and all(map(same, old.values(), new.values())))


def cells_between(one: dict[Any, Any], other: dict[Any, Any]) -> list[Any]:
    """The cells that differ between two contents."""
    return [key for key in {**one, **other} if not same(one.get(key, MISSING), other.get(key, MISSING))]


def _alike(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def _in_order(final: dict[Any, Any], target: dict[Any, Any], source: dict[Any, Any]) -> dict[Any, Any]:
    """The cells with those that come back in their old place: behind the nearest that was before them and still is."""
    returning = [key for key in target if key not in source and key in final]
    if not returning:
        return _as_target(final, target, source)
    order = [key for key in final if key not in set(returning)]
    old = list(target)
    for key in returning:
        before = old[: old.index(key)]
        anchor = next((each for each in reversed(before) if each in final and each in order), None)
        order.insert(0 if anchor is None else order.index(anchor) + 1, key)
    return {key: final[key] for key in order}


def _as_target(final: dict[Any, Any], target: dict[Any, Any], source: dict[Any, Any]) -> dict[Any, Any]:
    """The same cells in the old order, if it is the step that moved them and nobody has added any since."""
    if final.keys() == target.keys() and [key for key in source if key in final] == list(final):
        return {key: final[key] for key in target}
    return final
