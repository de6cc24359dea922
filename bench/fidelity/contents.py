"""What a mutable object holds, for judging. Written anew: a blind spot of the product must not be one of its judge."""

import array
import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import pathlib
import random
import re
import types
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PLAIN = (
    type(None), bool, int, float, complex, str, bytes, range, decimal.Decimal, fractions.Fraction, uuid.UUID,
    datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, enum.Enum, pathlib.PurePath, re.Pattern,
    type(Ellipsis), type(NotImplemented),
)  # fmt: skip
NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)

MISSING: Any = enum.Enum("Missing", "MISSING").MISSING  # type: ignore[attr-defined]


class NotJudged(Exception):
    """There is something that cannot be judged; the task is not scored rather than passed."""


@dataclass(frozen=True)
class Cells:
    """Keys with values: attributes, items, members."""

    of: dict[Any, Any]
    ordered: bool = True


@dataclass(frozen=True)
class Sequence:
    """Elements in an order."""

    of: list[Any]


Content = Cells | Sequence


def contents(value: Any) -> dict[str, Content]:
    """All that one mutable object holds, by aspect. Raises: NotJudged, if it is of a kind that hides what it holds."""
    found: dict[str, Content] = {}
    if isinstance(value, dict):
        found["items"] = Cells(dict(value.items()))
    elif isinstance(value, list | collections.deque):
        found["elements"] = Sequence(list(value))
    elif isinstance(value, set):
        found["members"] = Cells(dict.fromkeys(value, True), ordered=False)
    elif isinstance(value, random.Random):
        found["state"] = Cells({"state": value.getstate()})
    elif isinstance(value, bytearray | array.array):
        found["bytes"] = Cells({"bytes": bytes(value)})
    elif type(value).__module__ == "builtins" and type(value) is not object and not isinstance(value, BaseException):
        raise NotJudged(f"a {type(value).__qualname__}")
    if isinstance(value, random.Random):
        return found
    if getattr(type(value), "__dictoffset__", 0):
        found["attributes"] = Cells(dict(object.__getattribute__(value, "__dict__")))
    slots = dict(_slots(value))
    if slots:
        found["slots"] = Cells(slots)
    return found


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for name, member in _members(value):
        with contextlib.suppress(AttributeError):
            yield name, member.__get__(value)


def _members(value: Any) -> Iterator[tuple[str, types.MemberDescriptorType]]:
    for base in type(value).__mro__:
        for name, member in vars(base).items():
            if isinstance(member, types.MemberDescriptorType) and base.__module__ != "builtins":
                yield f"{base.__qualname__}.{name}", member


def inner(content: Content) -> Iterator[Any]:
    """What a content refers to."""
    if isinstance(content, Sequence):
        yield from content.of
    else:
        for key, value in content.of.items():
            yield key
            yield value


def is_leaf(value: Any) -> bool:
    """Whether it holds nothing that can change."""
    return isinstance(value, (*PLAIN, *NAMED, types.MethodType))


def alike(one: Any, other: Any) -> bool:
    """Whether two values of a cell are the same: identical, or leaves that nobody can tell apart."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return is_leaf(one) and repr(one) == repr(other)


def put(value: Any, aspect: str, content: Content) -> None:
    """Make this what an object holds under this aspect. For worlds of the judge's own."""
    held: Any = content.of
    match aspect:
        case "items":
            dict.clear(value)
            dict.update(value, held)
        case "elements":
            value.clear()
            value.extend(held)
        case "members":
            value.clear()
            value.update(held)
        case "state":
            value.setstate(held["state"])
        case "attributes":
            attributes = object.__getattribute__(value, "__dict__")
            attributes.clear()
            attributes.update(held)
        case "slots":
            for name, member in _members(value):
                if name in held:
                    member.__set__(value, held[name])
                elif name in dict(_slots(value)):
                    member.__delete__(value)
        case _:
            raise NotJudged(f"{aspect} of a {type(value).__qualname__}")
