"""The shape that a tool's result is declared to have, by its annotation or by a schema, and whether it has it.

What is declared becomes a type of msgspec's, which checks a result in a few microseconds.
"""

import inspect
import typing
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, cast

import msgspec

from rescind.triggers.bounds import shown
from rescind.triggers.json_schema import type_of

ITEMS_CHECKED = 100
"""Items of one list that are looked at. Lists hold their like; ten thousand would take 7 ms."""

_NOTHING = (None, type(None), Any, object, inspect.Signature.empty, typing.NoReturn, typing.Never)

_PLAIN = (str, int, float, bool, type(None))


class Shape:
    """What a result should look like."""

    __slots__ = ("_wrapped",)

    def __init__(self, kind: Any) -> None:
        """The shape of this type. Raises: TypeError or another error, if msgspec knows no such type."""
        # Within a struct, since the plan that msgspec makes of a struct is kept, and that of a bare type is not.
        self._wrapped = msgspec.defstruct("Result", [("value", kind)])
        self._check(None)

    def problem_with(self, result: Any) -> str:
        """What is wrong with a result; empty if nothing is, or nobody can tell. Never raises.

        Objects of the declared class are taken at their word. A list is looked at in its first `ITEMS_CHECKED` items.

        Args:
            result: What the tool returned, itself or as JSON values, before anything in it is blotted out.
        """
        try:
            trimmed = _trimmed(result)
            problem = self._check(trimmed)
            if problem and trimmed is not result:
                problem = self._check(result)  # lest it was the trimming
            if problem and type(result) not in _PLAIN:
                problem = self._check(msgspec.to_builtins(result, str_keys=True))  # objects, as JSON will show them
        except (TypeError, ValueError):
            # Without a JSON form. Of a collection of some library's own, nobody can tell whether it is as declared.
            if _is_ones_own(result):
                return ""
            problem = f"it is a {type(result).__name__}, and not as declared"
        except Exception as error:  # noqa: BLE001  # the call has happened, and whatever its result is must not undo that
            problem = f"it cannot be looked at: {type(error).__name__}"
        return problem

    def _check(self, value: object) -> str:
        try:
            msgspec.convert({"value": value}, self._wrapped)
        except msgspec.ValidationError as error:
            return shown(str(error).replace("$.value", "$").removesuffix(" - at `$`"), 200)
        return ""


def shape_of(declared: Any) -> Shape | None:
    """The shape that an annotation or a JSON Schema declares; None if it says nothing that could be checked.

    Raises: ValueError, for a schema with a keyword that is not understood. An annotation never raises.
    """
    if isinstance(declared, Mapping):
        try:
            return Shape(type_of(cast("object", declared)))
        except TypeError as error:
            raise ValueError(f"the schema has no type that could be checked: {error}") from error
    if any(declared is nothing for nothing in _NOTHING):
        return None
    try:
        return None if _is_abstract(declared) else Shape(declared)
    except Exception:  # noqa: BLE001  # annotations are for readers first; what msgspec makes nothing of says nothing
        return None


def _trimmed(result: Any) -> Any:
    """The result with no more than `ITEMS_CHECKED` items in its list, or in the lists that are its fields."""
    if _is(result, dict) and any(_first_items(value) is not value for value in result.values()):
        return {name: _first_items(value) for name, value in result.items()}
    return _first_items(result)


def _first_items(value: Any) -> Any:
    return value[:ITEMS_CHECKED] if _is(value, list) and len(value) > ITEMS_CHECKED else value


def _is(value: object, kind: type) -> bool:
    """Whether it is exactly of this type: a class of its own may do anything when it is asked."""
    return type(value) is kind


def _is_ones_own(result: object) -> bool:
    """Whether it is a collection of some library's own."""
    return isinstance(result, Iterable) and not isinstance(result, dict | list | tuple)


def _is_abstract(declared: Any) -> bool:
    """Whether it says what a result can do, and not what it is; or what it is before it is awaited."""
    if not isinstance(msgspec.inspect.type_info(declared), msgspec.inspect.CustomType):
        return False
    kind: Any = typing.get_origin(declared) or declared
    return inspect.isabstract(kind) or issubclass(kind, Awaitable)
