"""Who wrote what, seen from outside: after each call the whole state is compared with what it was before.

With it, what must be there once one of two runs is undone can be said without knowing anything of how it is undone:
every cell with what was last written to it by anybody else, and each list without the elements that the run put there
and with those that it took away.
"""

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from bench.fidelity.contents import MISSING, Cells, Content, Sequence, alike, contents, inner, is_leaf, put

START = ""
"""Stands for whoever made the world."""


@dataclass
class Tagged:
    """An element of a list, present or gone: who put it there, who took it away."""

    value: Any
    put_by: str
    taken_by: str | None = None


class Part:
    """One content of one object, with its history."""

    def __init__(self, content: Content, maker: str) -> None:
        self.maker = maker
        self.now = content
        self.written: dict[Any, list[tuple[str, Any]]] = {}
        self.tagged: list[Tagged] = []
        self.order: list[Any] = []  # of all keys that there ever were
        if isinstance(content, Cells):
            self.written = {key: [(maker, value)] for key, value in content.of.items()}
            self.order = list(content.of)
        else:
            self.tagged = [Tagged(each, maker) for each in content.of]

    def note(self, content: Content, actor: str) -> bool:
        """Take a look. Returns: whether something is different."""
        before, self.now = self.now, content
        if isinstance(content, Cells):
            assert isinstance(before, Cells)
            keys = [
                key
                for key in {**before.of, **content.of}
                if not alike(before.of.get(key, MISSING), content.of.get(key, MISSING))
            ]
            for key in keys:
                self.written.setdefault(key, [(START, MISSING)]).append((actor, content.of.get(key, MISSING)))
            self._note_order(list(before.of), list(content.of))
            return bool(keys)
        return self._note_elements(content.of, actor)

    def _note_order(self, before: list[Any], after: list[Any]) -> None:
        """A key that has come, or come back, stands behind the one that is before it, and behind what has gone there.

        One that has gone stays, so it stands where it would be had nobody taken it: before whatever came later.
        """
        known, present = set(before), set(after)
        for at, key in enumerate(after):
            if key not in known:
                if key in self.order:
                    self.order.remove(key)
                place = self.order.index(after[at - 1]) + 1 if at else 0
                while place < len(self.order) and self.order[place] not in present:
                    place += 1
                self.order.insert(place, key)

    def _note_elements(self, elements: list[Any], actor: str) -> bool:
        present = [each for each in self.tagged if each.taken_by is None]
        if len(present) == len(elements) and all(
            alike(old.value, new) for old, new in zip(present, elements, strict=True)
        ):
            return False
        matcher = SequenceMatcher(
            None, [_key(each.value) for each in present], [_key(each) for each in elements], False
        )
        for tag, start, end, new_start, new_end in reversed(matcher.get_opcodes()):
            if tag == "equal":
                continue
            for each in present[start:end]:
                each.taken_by = actor
            at = self.tagged.index(present[end - 1]) + 1 if end else 0
            self.tagged[at:at] = [Tagged(each, actor) for each in elements[new_start:new_end]]
        return True

    def writers(self, key: Any) -> set[str]:
        return {actor for actor, _ in self.written[key][1:]}

    def is_by(self, actor: str) -> bool:
        """Whether this one has written to it since it was made."""
        return any(actor in self.writers(key) for key in self.written) or any(
            each.taken_by == actor or (each.put_by == actor and self.maker != actor) for each in self.tagged
        )

    def is_contended(self, undone: str, other: str) -> bool:
        """Whether the undo of the one would take what the other wrote.

        It wrote to a cell that the one had written to before, or to what it had made, or both edited a list at one
        place. What the one wrote over the other is no such case: that can be put back.
        """
        if self.maker == undone:
            return self.is_by(other)
        if any(self._is_lost(key, undone, other) for key in self.written):
            return True
        return self._is_list_contended(undone, other)

    def _is_lost(self, key: Any, undone: str, other: str) -> bool:
        """Whether the other one wrote to a cell after the undone one."""
        actors = [actor for actor, _ in self.written[key][1:]]
        return undone in actors and other in actors[actors.index(undone) :]

    def _is_list_contended(self, one: str, other: str) -> bool:
        if any({each.put_by, each.taken_by} == {one, other} for each in self.tagged):
            return True
        marks = [each.taken_by or each.put_by for each in self.tagged]
        taken = [each.taken_by is not None for each in self.tagged]
        return any(
            {marks[at], marks[at + 1]} == {one, other} and (taken[at] or taken[at + 1]) for at in range(len(marks) - 1)
        )

    def without(self, actor: str) -> Content:
        """What it would hold if just what this one wrote were not there."""
        if isinstance(self.now, Sequence):
            return Sequence(
                [each.value for each in self.tagged if each.put_by != actor and each.taken_by in (None, actor)]
            )
        left = {
            key: next(value for writer, value in reversed(self.written[key]) if writer != actor or self.maker == actor)
            for key in self.order
        }
        return Cells({key: value for key, value in left.items() if value is not MISSING}, ordered=self.now.ordered)

    def is_kept_in(self, content: Content, actor: str) -> bool:
        """Whether what only this one wrote is in there."""
        if isinstance(content, Sequence):
            left = {_key(each) for each in content.of}
            return all(
                _key(each.value) in left for each in self.tagged if each.put_by == actor and each.taken_by is None
            )
        return all(
            alike(content.of.get(key, MISSING), history[-1][1])
            for key, history in self.written.items()
            if self.writers(key) == {actor}
        )


class Ownership:
    """Watches one state."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self._objects: dict[int, tuple[Any, dict[str, Part]]] = {}
        self._adopt([state], START)

    def note(self, actor: str) -> None:
        """A call of this one has ended."""
        for value, parts in list(self._objects.values()):
            found = contents(value)
            for aspect, content in found.items():
                if aspect not in parts:
                    parts[aspect] = Part(content, actor)
                elif parts[aspect].note(content, actor):
                    self._adopt(list(inner(content)), actor)

    def _adopt(self, waiting: list[Any], maker: str) -> None:
        while waiting:
            value = waiting.pop()
            if isinstance(value, tuple | frozenset):
                waiting += value
            elif not is_leaf(value) and id(value) not in self._objects:
                parts = {aspect: Part(content, maker) for aspect, content in contents(value).items()}
                self._objects[id(value)] = (value, parts)
                waiting += [each for part in parts.values() for each in inner(part.now)]

    def is_contended(self, undone: str, other: str) -> bool:
        """See `Part`."""
        return any(part.is_contended(undone, other) for _, parts in self._objects.values() for part in parts.values())

    def touched(self, actor: str) -> set[int]:
        """The objects that this one wrote to, besides those it made."""
        return {number for number, (_, parts) in self._objects.items() for part in parts.values() if part.is_by(actor)}

    def take_out(self, actor: str) -> None:
        """Make the state what it must be once this one is undone. For a world of the judge's own."""
        for value, parts in self._objects.values():
            for aspect, part in parts.items():
                wanted = part.without(actor)
                if part.is_by(actor) and part.maker != actor:
                    put(value, aspect, wanted)

    def keeps(self, actor: str) -> bool:
        """Whether all cells that only this one wrote to hold what it wrote, and its elements are in their lists."""
        return all(
            parts[aspect].is_kept_in(content, actor)
            for value, parts in self._objects.values()
            for aspect, content in contents(value).items()
            if aspect in parts
        )


def _key(value: Any) -> Any:
    return (type(value), repr(value)) if is_leaf(value) else id(value)
