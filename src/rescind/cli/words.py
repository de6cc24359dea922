"""Small words that every command uses alike."""

from collections.abc import Iterable

from rescind.cli.safe import safe

LISTED_MAX = 5
"""Names that a sentence lists before it counts the rest."""


def count_of(number: int, noun: str, plural: str = "") -> str:
    """`1 step`, `1,200 steps`; `plural` where it is not the noun and an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


_WHY_LEFT = {
    "cancelled": "cancelled",
    "interrupted": "interrupted where it ran",
    "out_of_time": "its time was over",
    "unavailable": "a target system did not answer",
    "overtaken": "somebody else took some of its steps",
    "stale": "it was not as it had been shown, so nothing was done",
    "failed": "no worker could look after it",
    "incomplete": "the workers did not get to the end of every step",
}


def why_left(why: str, detail: str = "") -> str:
    """Why an undo was left before its end, from what `PlanLeft` says; safe."""
    words = _WHY_LEFT.get(why) or safe(why).replace("_", " ")
    return f"{words}: {safe(detail)}" if detail and detail != words else words


def list_of(names: Iterable[object], *, most: int = LISTED_MAX) -> str:
    """`a, b, c and 7 more`, safe to print; `none` for no names."""
    every = [safe(name) for name in names]
    if not every:
        return "none"
    shown = ", ".join(every[:most])
    return shown if len(every) <= most else f"{shown} and {len(every) - most:,} more"
