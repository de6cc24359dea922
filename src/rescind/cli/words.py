"""Small words that every command uses alike."""

from collections.abc import Iterable

from rescind.cli.safe import safe

LISTED_MAX = 5
"""Names that a sentence lists before it counts the rest."""


def count_of(number: int, noun: str, plural: str = "") -> str:
    """`1 step`, `1,200 steps`; `plural` where it is not the noun and an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def list_of(names: Iterable[object], *, most: int = LISTED_MAX) -> str:
    """`a, b, c and 7 more`, safe to print; `none` for no names."""
    every = [safe(name) for name in names]
    if not every:
        return "none"
    shown = ", ".join(every[:most])
    return shown if len(every) <= most else f"{shown} and {len(every) - most:,} more"
