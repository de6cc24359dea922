"""Amounts in arguments: read exactly, or not at all. What cannot be read counts as over every limit.

An amount is a finite number, or a text that Python's `Decimal` reads as one. Its sign is left out: a limit of 500 is
one on moving 500 in either direction, or a run could pay out any sum in pieces by taking small ones back. A bool, a
NaN, a text such as `1,000.00 USD`, and None (the tool then chooses for itself) are no amounts.
"""

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, InvalidOperation
from typing import Any, cast

AMOUNT_MAX = Decimal(10) ** 18
"""Larger amounts are read as unreadable: they are over any limit, and exact sums stay short."""

VALUES_MAX = 1_000
"""Elements of a list that are looked at. What has more is not read at all."""

_TEXT_LENGTH_MAX = 64
_EXACT = Context(prec=60, traps=[])  # Our own: a program may have set its thread's to two digits, or to raise.


def values_at(arguments: Mapping[str, Any], path: tuple[str, ...]) -> list[Any]:
    """What stands at a path of names, through lists to each of their elements.

    Empty if there is no such argument. None stands for what cannot be followed further, such as an element without the
    name or a text that only the tool can take apart; and for all of it, if there is more than `VALUES_MAX`.
    """
    if path[0] not in arguments:
        return []
    values = _elements(arguments[path[0]])
    if len(path) == 1 and len(values) == 1:
        return values
    for name in path[1:]:
        found: list[Any] = []
        for value in values:
            found.extend(_elements(value[name]) if isinstance(value, dict) and name in value else (None,))
            if len(found) > VALUES_MAX:
                return [None]
        values = found
    return values if len(values) <= VALUES_MAX else [None]


def _elements(value: Any) -> list[Any]:
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]


def add(left: Decimal, right: Decimal) -> Decimal:
    """Their exact sum, if both are amounts."""
    return _EXACT.add(left, right)


def limit_of(value: float) -> Decimal:
    """A limit, as it was written."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def sum_of(values: Sequence[Any]) -> Decimal | None:
    """The sum of amounts; None if one of them cannot be read."""
    if len(values) == 1:
        return read_amount(values[0])
    total = Decimal(0)
    for value in values:
        amount = read_amount(value)
        if amount is None:
            return None
        total = add(total, amount)
    return total


def read_amount(value: Any) -> Decimal | None:
    """One amount without its sign; None if it cannot be read."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if value.bit_length() > 64 else _within(Decimal(value))
    if isinstance(value, float):
        return _within(Decimal(repr(value)))
    if isinstance(value, str):
        if len(value) > _TEXT_LENGTH_MAX:
            return None
        try:
            return _within(Decimal(value))
        except (InvalidOperation, ValueError):
            return None
    return _within(value) if isinstance(value, Decimal) else None


def _within(amount: Decimal) -> Decimal | None:
    if not amount.is_finite():
        return None
    size = amount.copy_abs()
    return size if size <= AMOUNT_MAX else None
