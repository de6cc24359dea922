"""A hash of everything that objects lead to: values, types, order, aliases, the states of random generators."""

import hashlib
import types
from typing import Any

from bench.fidelity.contents import NAMED, PLAIN, Cells, NotJudged, Sequence, contents


def hash_of(*values: Any) -> str:
    """Equal for graphs that nobody can tell apart, whatever their addresses. Raises: NotJudged."""
    return Likeness().of(values)


class Likeness:
    """One walk. Objects are numbered as they are met, and a second meeting is written as the number."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._numbers: dict[int, int] = {}
        self._held: list[Any] = []

    def of(self, value: Any) -> str:
        self._walk(value)
        return self._digest.hexdigest()

    def _say(self, *words: object) -> None:
        for word in words:
            text = str(word).encode("utf-8", "backslashreplace")
            self._digest.update(b"%d:" % len(text) + text)

    def _walk(self, value: Any) -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, NAMED):
            self._say("named", value.__name__)
        elif isinstance(value, types.MethodType):
            self._say("method", value.__name__)
            self._walk(value.__self__)
        elif isinstance(value, PLAIN):
            self._say(kind, repr(value))
        elif isinstance(value, tuple):
            self._say(kind, len(value))
            for each in value:
                self._walk(each)
        elif isinstance(value, frozenset):
            self._unordered(kind, value)
        elif id(value) in self._numbers:
            self._say("again", self._numbers[id(value)])
        else:
            self._numbers[id(value)] = len(self._numbers)
            self._held.append(value)
            self._say(kind)
            self._inside(value)

    def _inside(self, value: Any) -> None:
        for aspect, content in contents(value).items():
            self._say(aspect, len(content.of))
            if isinstance(content, Sequence):
                for each in content.of:
                    self._walk(each)
            elif content.ordered:
                self._cells(content)
            else:
                self._unordered("", content.of)

    def _cells(self, content: Cells) -> None:
        for key, value in content.of.items():
            self._walk(key)
            self._walk(value)

    def _unordered(self, kind: str, members: Any) -> None:
        if any(not isinstance(each, (*PLAIN, tuple)) for each in members):
            raise NotJudged("a set of objects that have no order")
        self._say(kind, *sorted(hash_of(each) for each in members))
