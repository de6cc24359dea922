"""What a Python object holds, part by part: how each kind is copied, compared and put back.

A *part* is one mutable content of one object: the attributes of an instance, the items of a dictionary, the elements of
a list. An instance of a subclass of `dict` has two. Contents are compared by identity, which is a pointer in C; only
what is not the same object is looked at closer, and user code (`__eq__`, `__setattr__`) is never called.
"""

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import io
import logging
import operator
import pathlib
import random
import re
import threading
import types
import uuid
import weakref
from collections.abc import Iterable
from typing import Any, cast

import msgspec

# Everything in here is about values of which nothing is known, not even what they are made of.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

MISSING: Any = type("Missing", (), {})()
"""Stands for a cell that is not there. No value of anybody's."""

_VALUES: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, range, decimal.Decimal, fractions.Fraction, uuid.UUID,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, enum.Enum, pathlib.PurePath,
    re.Pattern, type(Ellipsis), type(NotImplemented),
)  # fmt: skip
_WITHOUT_CONTENT: tuple[Any, ...] = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType,
    property, staticmethod, classmethod, logging.Logger, type(threading.Lock()),
    type(threading.RLock()), weakref.ref, io.IOBase, types.GenericAlias, types.UnionType,
    msgspec.UnsetType,
)  # fmt: skip
_EQUAL_IS_SAME = frozenset({bool, int, str, bytes, fractions.Fraction})
_EXACT_VALUES = frozenset({bool, int, str, bytes, float, complex, type(None)})


class Kind:
    """How one kind of part is handled. `copy` gives a shallow copy that nobody else has in hand."""

    def copy(self, holder: Any) -> Any:
        """The content now."""
        raise NotImplementedError

    def is_same(self, holder: Any, copy: Any) -> bool:
        """Whether the content is identical to the copy, object by object."""
        raise NotImplementedError

    def values(self, copy: Any) -> Iterable[Any]:
        """What the content refers to."""
        raise NotImplementedError


class Items(Kind):
    """Dictionaries: cells by key, in an order."""

    def copy(self, holder: Any) -> dict[Any, Any]:
        """See `Kind`."""
        if isinstance(holder, collections.OrderedDict):  # whose order is not that of the dict below it
            return dict(collections.OrderedDict.items(holder))
        return dict.copy(holder)

    def is_same(self, holder: Any, copy: Any) -> bool:
        """See `Kind`."""
        if isinstance(holder, collections.OrderedDict):
            holder = self.copy(holder)
        return (
            dict.__len__(holder) == len(copy)
            and all(map(operator.is_, dict.values(holder), copy.values()))
            and all(map(operator.is_, dict.keys(holder), copy))
        )

    def values(self, copy: Any) -> Iterable[Any]:
        """See `Kind`."""
        return (*copy.values(), *(key for key in copy if type(key) not in _EXACT_VALUES))

    def set(self, holder: Any, key: Any, value: Any) -> None:
        """Set or delete a cell; twice is once."""
        of = collections.OrderedDict if isinstance(holder, collections.OrderedDict) else dict
        if value is not MISSING:
            of.__setitem__(holder, key, value)
        elif dict.__contains__(holder, key):
            of.__delitem__(holder, key)

    def put(self, holder: Any, items: dict[Any, Any]) -> None:
        """Make this its whole content, in this order."""
        of = collections.OrderedDict if isinstance(holder, collections.OrderedDict) else dict
        of.clear(holder)
        for key, value in items.items():
            of.__setitem__(holder, key, value)


class Attributes(Items):
    """Instances: what stands in `__dict__`, and slots, which have their descriptor for a key."""

    def copy(self, holder: Any) -> dict[Any, Any]:
        """See `Kind`."""
        found: dict[Any, Any] = dict.copy(_dict_of(holder))
        for slot in slots_of(type(holder)):
            value = _slot(slot, holder)
            if value is not MISSING:
                found[slot] = value
        return found

    def is_same(self, holder: Any, copy: Any) -> bool:
        """See `Kind`."""
        return Items.is_same(self, _dict_of(holder) if not slots_of(type(holder)) else self.copy(holder), copy)

    def set(self, holder: Any, key: Any, value: Any) -> None:
        """See `Kind`."""
        if isinstance(key, types.MemberDescriptorType):
            if value is not MISSING:
                key.__set__(holder, value)
            elif _slot(key, holder) is not MISSING:
                key.__delete__(holder)
        else:
            Items.set(self, _dict_of(holder), key, value)

    def put(self, holder: Any, items: dict[Any, Any]) -> None:
        """See `Kind`."""
        of_dict = {key: value for key, value in items.items() if not isinstance(key, types.MemberDescriptorType)}
        Items.put(self, _dict_of(holder), of_dict)


class Elements(Kind):
    """Lists and deques: elements in an order."""

    def copy(self, holder: Any) -> list[Any]:
        """See `Kind`."""
        return list.copy(holder) if isinstance(holder, list) else list(collections.deque.__iter__(holder))

    def is_same(self, holder: Any, copy: Any) -> bool:
        """See `Kind`."""
        own: Any = list if isinstance(holder, list) else collections.deque
        return own.__len__(holder) == len(copy) and all(map(operator.is_, own.__iter__(holder), copy))

    def values(self, copy: Any) -> Iterable[Any]:
        """See `Kind`."""
        return cast("list[Any]", copy)

    def put(self, holder: Any, elements: list[Any]) -> None:
        """Make these its elements."""
        if isinstance(holder, list):
            list.__setitem__(holder, slice(None), elements)
        else:
            collections.deque.clear(holder)
            collections.deque.extend(holder, elements)


class Members(Kind):
    """Sets: each member is a cell that is there or not."""

    def copy(self, holder: Any) -> dict[Any, Any]:
        """See `Kind`."""
        return dict.fromkeys(set.__iter__(holder), True)

    def is_same(self, holder: Any, copy: Any) -> bool:
        """See `Kind`."""
        return set.__len__(holder) == len(copy) and all(map(operator.is_, set.__iter__(holder), copy))

    def values(self, copy: Any) -> Iterable[Any]:
        """See `Kind`."""
        return cast("dict[Any, Any]", copy)

    def set(self, holder: Any, key: Any, value: Any) -> None:
        """Add or discard a member."""
        (set.discard if value is MISSING else set.add)(holder, key)


class Whole(Kind):
    """What has one value inside: bytes, a buffer that is written like a file, a generator of random numbers."""

    def copy(self, holder: Any) -> Any:
        """See `Kind`. None for a buffer that is closed."""
        if isinstance(holder, _BUFFERS):
            return None if holder.closed else (holder.getvalue(), holder.tell())
        if isinstance(holder, random.Random):
            return random.Random.getstate(holder)
        return bytes(holder)

    def is_same(self, holder: Any, copy: Any) -> bool:
        """See `Kind`."""
        return bool(self.copy(holder) == copy)

    def values(self, copy: Any) -> Iterable[Any]:
        """See `Kind`."""
        return ()

    def put(self, holder: Any, value: Any) -> None:
        """Make this its value."""
        if isinstance(holder, random.Random):
            random.Random.setstate(holder, value)
        elif isinstance(holder, _BUFFERS):
            content, at = value
            holder.seek(0)
            holder.truncate()
            holder.write(content)
            holder.seek(at)
        elif isinstance(holder, array.array):
            replacement: array.array[Any] = array.array(holder.typecode, value)
            holder[:] = replacement
        else:
            cast("bytearray", holder)[:] = value


ITEMS, ATTRIBUTES, ELEMENTS, MEMBERS, WHOLE = Items(), Attributes(), Elements(), Members(), Whole()


_BUFFERS = (io.BytesIO, io.StringIO)


def kinds_of(value: Any) -> tuple[Kind, ...] | None:
    """The parts of an object; empty for one that cannot change, None for one that we cannot look into."""
    if isinstance(value, _BUFFERS):
        return (WHOLE,)
    if type(value) in _EXACT_VALUES:
        return ()
    if isinstance(value, (*_VALUES, *_WITHOUT_CONTENT, tuple, frozenset)):
        return (ATTRIBUTES,) if _is_value_with_attributes(value) else ()
    found: list[Kind] = []
    if isinstance(value, dict):
        found.append(ITEMS)
    elif isinstance(value, list | collections.deque):
        found.append(ELEMENTS)
    elif isinstance(value, set):
        found.append(MEMBERS)
    elif isinstance(value, bytearray | array.array) or (
        isinstance(value, random.Random) and not isinstance(value, random.SystemRandom)
    ):
        found.append(WHOLE)
    elif type(value).__flags__ & _HEAP_TYPE == 0 or _is_opaque(type(value)):
        return None
    if _has_attributes(value) and not isinstance(value, random.Random):
        found.append(ATTRIBUTES)
    return tuple(found)


_HEAP_TYPE = 1 << 9
_CACHING = (enum.Enum, datetime.tzinfo, pathlib.PurePath)
"""Whose attributes are constants, or the class's own business."""


def _is_value_with_attributes(value: Any) -> bool:
    """Whether it is of a class of the user's that adds attributes to a value: `class Money(Decimal)`."""
    if not isinstance(value, (*_VALUES, tuple, frozenset)) or isinstance(value, _CACHING):
        return False
    return type(value).__flags__ & _HEAP_TYPE != 0 and _has_dict(value)


def _is_opaque(kind: type) -> bool:
    """Whether it has a base written in C that may hold what we cannot see: anything that is not plain `object`."""
    if issubclass(kind, BaseException):
        return False
    return any(base.__flags__ & _HEAP_TYPE == 0 and base is not object for base in kind.__mro__)


def _has_attributes(value: Any) -> bool:
    return hasattr(type(value), "__dict__") and (_has_dict(value) or bool(slots_of(type(value))))


def _has_dict(value: Any) -> bool:
    return type(value).__dictoffset__ != 0


def _dict_of(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", object.__getattribute__(value, "__dict__")) if _has_dict(value) else {}


def slots_of(kind: Any) -> tuple[types.MemberDescriptorType, ...]:
    """The slots of a class, those of its bases too."""
    return _slots_of(kind)


@functools.lru_cache(maxsize=1024)
def _slots_of(kind: Any) -> tuple[types.MemberDescriptorType, ...]:
    found = [
        each
        for base in kind.__mro__
        if base.__flags__ & _HEAP_TYPE
        for each in vars(base).values()
        if isinstance(each, types.MemberDescriptorType) and each.__name__ not in ("__weakref__", "__dict__")
    ]
    return tuple(found)


def _slot(slot: types.MemberDescriptorType, holder: Any) -> Any:
    try:
        return slot.__get__(holder)
    except AttributeError:
        return MISSING


def same(one: Any, other: Any) -> bool:
    """Whether it makes no difference which of the two is there. Never calls the user's code."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) is tuple:
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) in _EQUAL_IS_SAME:  # also because of large integers, which have no text
        return bool(one == other)
    return isinstance(one, _VALUES) and type(one).__flags__ & _HEAP_TYPE == 0 and repr(one) == repr(other)


def key_of(element: Any) -> Any:
    """Equal for elements that are `same`, and only for them."""
    exact = type(element) in _EXACT_VALUES
    return (type(element), repr(element) if type(element) in (float, complex) else element) if exact else id(element)
