"""Values of database columns as JSON values, and back, without loss.

`None`, booleans, text, finite floats and integers that every JSON reader keeps stand for themselves. Everything else is
an object with one tag: `{"$decimal": "1.10"}`, `{"$bytes": "3q0="}`. No column value is an object by itself, for those
out of JSON columns are tagged as well, so a tag cannot be forged by data.
"""

import base64
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from rescind.errors import UsageError

INTEGER_MAX = 2**53  # beyond it, readers that keep numbers as doubles lose digits


class Inexact(UsageError):
    """A value has a type of which no exact copy can be kept."""


def encode(value: Any) -> Any:
    """One column value as JSON values. Equal results mean the same type and the same value.

    Raises: Inexact, which names the type.
    """
    kind = type(cast("object", value))
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -INTEGER_MAX <= value <= INTEGER_MAX else {"$int": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    known = _TAGS.get(kind)
    if known is None:
        raise Inexact(f"a value of type {kind.__module__}.{kind.__qualname__} cannot be kept exactly")
    tag, write, _ = known
    return {tag: write(value)}


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if not isinstance(value, dict):
        return value
    ((tag, content),) = cast("dict[str, Any]", value).items()
    return _READERS[tag](content)


def _write_delta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _read_delta(content: list[int]) -> timedelta:
    return timedelta(*content)


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _write_list(value: list[Any]) -> list[Any]:
    return [encode(item) for item in value]


def _read_list(content: list[Any]) -> list[Any]:
    return [decode(item) for item in content]


def _write_dict(value: dict[Any, Any]) -> dict[str, Any]:
    for key in value:
        if type(key) is not str:
            raise Inexact(f"an object with the key {key!r}, which is no text, cannot be kept exactly")
    return {key: encode(item) for key, item in value.items()}


def _read_dict(content: dict[str, Any]) -> dict[str, Any]:
    return {key: decode(item) for key, item in content.items()}


_Tag = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]

_TAGS: dict[type, _Tag] = {
    Decimal: ("$decimal", str, Decimal),
    datetime: ("$datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("$date", date.isoformat, date.fromisoformat),
    time: ("$time", time.isoformat, time.fromisoformat),
    timedelta: ("$timedelta", _write_delta, _read_delta),
    bytes: ("$bytes", _write_bytes, base64.b64decode),
    UUID: ("$uuid", str, UUID),
    list: ("$list", _write_list, _read_list),
    dict: ("$dict", _write_dict, _read_dict),
}

_READERS: dict[str, Callable[[Any], Any]] = {
    "$int": int,
    "$float": float,
    **{tag: read for tag, _, read in _TAGS.values()},
}
