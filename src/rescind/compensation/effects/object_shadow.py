"""Shallow copies of everything that can be reached from some objects, and what has changed since they were made.

A look costs a pass over the copies, in C for each cell (see docs/decisions on the measurement); Python has no write
barrier for its containers, and whatever knows of a change without looking can be gone around by a reference that
somebody else holds. What is *kept* of a call is only what changed.
"""

from collections.abc import Iterator
from operator import is_
from types import MethodType
from typing import Any

from rescind.compensation.effects.object_parts import ATTRIBUTES, ELEMENTS, ITEMS, WHOLE, Kind, kinds_of
from rescind.errors import UsageError

# The values in here may be anything.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false


class Part:
    """One mutable content of one object, as it was last seen.

    Attributes:
        holder: The object. Held, so that its id is nobody else's.
        kind: How its content is handled.
        copy: The content as last seen. Never changed in place: changes share it.
        place: Where it was first found, for messages.
    """

    __slots__ = ("copy", "holder", "kind", "place")

    def __init__(self, holder: Any, kind: Kind, place: "tuple[Part, Any] | str") -> None:
        self.holder, self.kind, self.place = holder, kind, place
        self.copy = kind.copy(holder)

    def name(self, key: Any = None) -> str:
        """`bank.accounts['ann'].balance`: the path to a cell of it as it was when it was first found."""
        keys: list[str] = [_step(self.kind, key)] if key is not None else []
        part, place = self, self.place
        while not isinstance(place, str) and len(keys) < _PATH_MAX:
            part, key = place
            keys.append(_step(part.kind, key))
            place = part.place
        return (place if isinstance(place, str) else "…") + "".join(reversed(keys))


_PATH_MAX = 20  # steps of a path in a message


def _step(kind: Kind, key: Any) -> str:
    if kind is ATTRIBUTES:
        return f".{getattr(key, '__name__', key)}"
    return f"[{key!r:.60}]" if isinstance(key, str | int) else f"[a {type(key).__name__}]"


Seen = dict[tuple[int, Kind], Part]


class Shadow:
    """The copies."""

    def __init__(self, root: Any, name: str, *, objects_max: int, ignore: tuple[type, ...]) -> None:
        """Copy everything that `root` leads to. Raises: UsageError, see `_adopt`."""
        self._root, self._name = root, name
        self._objects_max, self._ignore = objects_max, ignore
        self._parts: Seen = {}
        self._opaque = ""
        self._rebuild()

    def refresh(self) -> None:
        """Right after a look: see to it that everything can be looked at.

        Raises: UsageError, if there is too much, or something that cannot be looked into.
        """
        if len(self._parts) > 2 * self._live + 100:  # what was let go of is still looked at; not for ever
            self._rebuild()
        if self._opaque:
            problem, self._opaque = self._opaque, ""
            self._rebuild()  # unless it is gone by now
            if self._opaque:
                raise UsageError(problem)

    def changed(self) -> tuple[list[tuple[Part, Any, Any]], list[Part]]:
        """The parts that are not as last seen, with their content then and now; and the parts that are new."""
        found: list[tuple[Part, Any, Any]] = []
        new: list[Part] = []
        for part in list(self._parts.values()):
            holder, copy = part.holder, part.copy
            if type(holder) is dict:  # nearly all of what there is: without a call for each
                intact = len(holder) == len(copy) and all(map(is_, holder.values(), copy.values()))
                intact = intact and all(map(is_, holder, copy))
            elif type(holder) is list:
                intact = len(holder) == len(copy) and all(map(is_, holder, copy))
            else:
                intact = part.kind.is_same(holder, copy)
            if not intact:
                old, part.copy = part.copy, part.kind.copy(part.holder)
                found.append((part, old, part.copy))
        for part, _, _ in found:
            new += self._adopt_content(part)
        return found, new

    def below(self, value: Any) -> list[Part]:
        """All parts that a value leads to, looked at now."""
        apart = Shadow.__new__(Shadow)
        apart._parts, apart._opaque, apart._name = {}, "", self._name
        apart._objects_max, apart._ignore = self._objects_max, self._ignore
        return apart._adopt(value, self._name)

    def _rebuild(self) -> None:
        self._parts = {}
        self._opaque = ""
        self._adopt(self._root, self._name)
        self._live = len(self._parts)
        if self._opaque:
            raise UsageError(self._opaque)

    def _adopt_content(self, part: Part) -> list[Part]:
        found: list[Part] = []
        for key, value in _cells(part):
            found += self._adopt(value, (part, key))
        return found

    def _adopt(self, value: Any, place: tuple[Part, Any] | str) -> list[Part]:
        """Take a value and all that it leads to into the shadow. Returns: the parts that were not there yet."""
        found: list[Part] = []
        waiting: list[tuple[Any, tuple[Part, Any] | str]] = [(value, place)]
        while waiting:
            value, place = waiting.pop()
            if type(value) in _PLAIN:
                continue
            if isinstance(value, tuple | frozenset):
                waiting += [(each, place) for each in value]  # pyright: ignore[reportUnknownVariableType]
                if type(value) in _BARE:
                    continue
            elif isinstance(value, MethodType):
                waiting.append((value.__self__, place))  # perhaps nothing else leads to it
                continue
            kinds = kinds_of(value)
            if kinds is None:
                self._note_opaque(value, place)
                continue
            for kind in kinds:
                key = (id(value), kind)
                if key not in self._parts:
                    part = self._parts[key] = Part(value, kind, place)
                    found.append(part)
                    waiting += [(inner, (part, key)) for key, inner in _cells(part)]
                    if len(self._parts) > self._objects_max:
                        raise UsageError(
                            f"{self._name} leads to more than {self._objects_max:,} objects; guard a smaller part "
                            "of it, or raise objects_max"
                        )
        return found

    def _note_opaque(self, value: Any, place: tuple[Part, Any] | str) -> None:
        if isinstance(value, self._ignore) or type(value) is object or self._opaque:
            return
        where = place if isinstance(place, str) else place[0].name(place[1])
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        self._opaque = (
            f"{where} is a {kind}, whose changes nobody can see from outside; if it does not matter to an undo, "
            f"declare ObjectGraph(…, ignore=({type(value).__qualname__},))"
        )


_BARE = frozenset({tuple, frozenset})
_PLAIN = frozenset({bool, int, str, bytes, float, complex, type(None)})


def _cells(part: Part) -> Iterator[tuple[Any, Any]]:
    if part.kind is WHOLE:
        return iter(())
    if part.kind is ELEMENTS:
        return enumerate(part.copy)
    if part.kind is ITEMS:
        keys = ((key, key) for key in part.copy if type(key) not in _PLAIN)
        return (cell for cells in (part.copy.items(), keys) for cell in cells)
    if part.kind is ATTRIBUTES:
        return iter(part.copy.items())
    return ((key, key) for key in part.copy)
