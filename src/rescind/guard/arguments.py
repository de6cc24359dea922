"""A call's arguments and result on their way into the journal and back.

Into the journal go JSON values, without the redacted ones. Back come values in the types of the tool's annotations.
"""

import copy
import functools
import inspect
import math
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec

from rescind.errors import DeclarationError, NotSerialisable
from rescind.model.step import REDACTED, Arguments

RECORD_BYTES_MAX = 1 << 20
"""Bound on one call's recorded arguments. A journal of documents is a store of documents; pass a reference instead."""

SECRET_LENGTH_MIN = 4
"""Shorter redacted values are not searched for in texts: every other word would match."""

_PLAIN = (str, int, bool, type(None))


class Signature:
    """A tool's parameters: binds calls, and remembers the annotated types."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """The parameters of `function`.

        Raises: DeclarationError for a generator, whose effects would begin after its outcome was recorded.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise DeclarationError(
                f"{function.__qualname__} is a generator; guard a function that does its work at once"
            )
        self._function = function
        self._signature = inspect.signature(function)
        self.names = tuple(self._signature.parameters)
        self._simple = all(
            parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            for parameter in self._signature.parameters.values()
        )
        self._hints: dict[str, Any] | None = None

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by parameter name, defaults filled in.

        Raises: TypeError, as the tool itself would for such a call.
        """
        # Most calls name or place every parameter; they skip the general machinery, which costs three times as much.
        if self._simple and len(args) + len(kwargs) == len(self.names):
            bound = dict(zip(self.names, args, strict=False))
            if not kwargs:
                return bound
            bound.update(kwargs)
            if len(bound) == len(self.names) and all(name in bound for name in self.names):
                return {name: bound[name] for name in self.names}
        general = self._signature.bind(*args, **kwargs)
        general.apply_defaults()
        return dict(general.arguments)

    @property
    def hints(self) -> dict[str, Any]:
        """The annotations that can be resolved; `return` is the result's."""
        if self._hints is None:
            try:
                self._hints = typing.get_type_hints(self._function, include_extras=True)
            except (NameError, TypeError, AttributeError):
                # A name that exists only for type checkers. The tool works; its values come back as JSON values.
                self._hints = {}
        return self._hints

    def typed_arguments(self, arguments: Arguments) -> dict[str, Any]:
        """Recorded arguments in the types of their annotations, where those can be had."""
        return {name: self._typed(name, value) for name, value in arguments.items() if value != REDACTED}

    def typed_result(self, value: Any) -> Any:
        """A recorded result in the type of the return annotation, where that can be had."""
        return self._typed("return", value)

    def misfit(self, arguments: Arguments) -> str:
        """Which recorded argument is no value of its parameter's type as it is now; empty if none, as far as is known.

        A default that its own annotation does not allow, such as `note: str = None`, is one.
        """
        for name, value in arguments.items():
            parameter = self._signature.parameters.get(name)
            default = value if parameter is None else parameter.default
            is_default = parameter is not None and type(default) is type(value) and default == value
            problem = "" if is_default or value == REDACTED else self._misfit(name, value)
            if problem:
                return f"takes another {name} now: {problem}"
        return ""

    def misfit_result(self, value: Any) -> str:
        """Why a recorded result is no value of the return type as that is now; empty if it is, as far as is known."""
        return "" if value is None else self._misfit("return", value)

    def _misfit(self, name: str, value: Any) -> str:
        hint = self.hints.get(name)
        if hint is None:
            return ""
        try:
            typed = msgspec.convert(value, hint, str_keys=True)
            again = msgspec.to_builtins(typed, str_keys=True)
        except msgspec.ValidationError as error:
            return str(error)
        except (TypeError, ValueError):
            return ""  # a type that msgspec cannot describe: nobody can tell
        lost = _lost_field(value, again)
        return f"it was recorded with a field {lost!r}, which there is no more" if lost else ""

    @functools.cached_property
    def unrecordable_result(self) -> str:
        """The annotated result type, if the journal could never hold it; empty if it can or nobody knows."""
        hint = self.hints.get("return")
        if hint is None or hint is typing.NoReturn:
            return ""
        try:
            info = msgspec.inspect.type_info(hint)
        except Exception:  # noqa: BLE001  # a type that msgspec cannot even describe is one that it cannot encode
            return str(hint)
        return str(hint) if isinstance(info, msgspec.inspect.CustomType) and hint not in (object,) else ""

    def _typed(self, name: str, value: Any) -> Any:
        hint = self.hints.get(name)
        if hint is None or (isinstance(value, str) and hint is str):
            return value
        try:
            return msgspec.convert(value, hint, strict=False)
        except (msgspec.ValidationError, TypeError):
            return value


def _lost_field(recorded: Any, again: Any) -> str:
    """A field of recorded JSON values that was ignored when they were read; empty if none was."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        old, new = cast("dict[str, Any]", recorded), cast("dict[str, Any]", again)
        gone = (name for name in old if name not in new)
        return next(gone, "") or next(filter(None, (_lost_field(old[name], new[name]) for name in old)), "")
    if isinstance(recorded, list) and isinstance(again, list | tuple):
        pairs = zip(_items_of(recorded), _items_of(again), strict=False)
        return next(filter(None, (_lost_field(*pair) for pair in pairs)), "")
    return ""


def record_arguments(action: str, arguments: Mapping[str, Any], redact: frozenset[str]) -> Arguments:
    """The arguments as JSON values, redacted ones replaced.

    Raises: NotSerialisable, which names the argument.
    """
    return {
        name: REDACTED if name in redact else _json_value(action, f"argument {name!r}", value)
        for name, value in arguments.items()
    }


def own_copy(value: Any) -> Any:
    """A copy that shares nothing with the value; the value itself, if it cannot be copied."""
    if type(value) in _PLAIN:
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001  # what a value's own code raises is anybody's guess
        return value


def record_value(action: str, name: str, value: Any) -> Any:
    """One value as JSON values.

    Raises: NotSerialisable, which carries the given name.
    """
    return _json_value(action, name, value)


def secrets_of(arguments: Mapping[str, Any], redact: frozenset[str]) -> tuple[str, ...]:
    """The texts that must not reach the journal, longest first."""
    if not redact:
        return ()
    texts = {text for name in redact for text in _texts_of(arguments.get(name))}
    return tuple(text for text in texts if len(text) >= SECRET_LENGTH_MIN)


def _texts_of(value: Any) -> Iterator[str]:
    """Every text in which a value could turn up: its own, those within it, and what bytes look like as JSON."""
    if isinstance(value, bytes | bytearray):
        yield value.decode(errors="replace")
    try:
        plain = msgspec.to_builtins(value, str_keys=True)
    except (TypeError, ValueError, RecursionError):
        plain = str(value)  # a type of its own, such as a secret string that hides itself: what it shows is all we know
    if isinstance(plain, dict):
        for item in _items_of(cast("dict[str, Any]", plain).values()):
            yield from _texts_of(item)
    elif isinstance(plain, list | tuple):
        for item in _items_of(plain):
            yield from _texts_of(item)
    elif plain is not None and not isinstance(plain, bool):
        yield str(plain)


def refuse_secrets(action: str, name: str, value: Any, secrets: Collection[str]) -> None:
    """Refuse what must go into the journal as it is, and holds what must not.

    Raises: NotSerialisable, which carries the given name.
    """
    if secrets and scrub(value, secrets) != value:
        problem = "it holds the value of a redacted argument; leave that out of it"
        raise NotSerialisable(action=action, name=name, problem=problem)


def scrub(value: Any, secrets: Collection[str]) -> Any:
    """JSON values with every secret text replaced, also within longer texts, keys and numbers."""
    if not secrets:
        return value
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, "[redacted]")
        return value
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {scrub(key, secrets): scrub(item, secrets) for key, item in fields.items()}
    if isinstance(value, list | tuple):
        return [scrub(item, secrets) for item in _items_of(value)]
    if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in secrets:
        return REDACTED
    return value


def _json_value(action: str, name: str, value: Any) -> Any:
    if type(value) in _PLAIN:
        plain = value
    else:
        try:
            # Sorted, or one set of arguments would have another digest in each process.
            plain = msgspec.to_builtins(value, str_keys=True, order="deterministic")
        except (TypeError, ValueError, RecursionError) as error:
            remedy = "pass JSON values, dataclasses or the like, or keep it out with redact="
            raise NotSerialisable(action=action, name=name, problem=f"{error}; {remedy}") from error
        problem = _not_finite(plain)
        if problem:
            raise NotSerialisable(action=action, name=name, problem=problem)
    _check_text_and_size(action, name, plain)
    return plain


def _check_text_and_size(action: str, name: str, plain: Any) -> None:
    if isinstance(plain, str) and len(plain) < RECORD_BYTES_MAX // 4 and plain.isascii():
        return
    try:
        size = len(msgspec.json.encode(plain))
    except (UnicodeEncodeError, OverflowError, ValueError, RecursionError, TypeError) as error:
        raise NotSerialisable(action=action, name=name, problem=str(error)) from error
    if size > RECORD_BYTES_MAX:
        problem = f"{size:,} bytes are more than {RECORD_BYTES_MAX:,}; pass a reference to it instead"
        raise NotSerialisable(action=action, name=name, problem=problem)


def _not_finite(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is not a JSON number"
    if isinstance(value, dict):
        return _first_problem(cast("dict[str, Any]", value).values())
    if isinstance(value, list | tuple):
        return _first_problem(cast("list[Any]", value))
    return ""


def _items_of(values: Any) -> list[Any]:
    return list(values)


def _first_problem(values: Iterable[Any]) -> str:
    return next((problem for problem in map(_not_finite, values) if problem), "")
