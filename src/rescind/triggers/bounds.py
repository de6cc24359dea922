"""Limits as people write them: checked once, when a policy is read. And the words that findings are told in."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from rescind.model.scope import Scope, Term

NAME_LENGTH_MAX = 1_000
"""Characters of a name, a pattern or an id that rules look at. What is longer matches no pattern."""


SAID_MAX = 16
"""Different things that one detector tells of one run."""


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Raises: ValueError, if this is no whole number within these bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r:.60}; it must be a whole number from {least} to {most}")


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Raises: ValueError, if this is no number within these bounds; NaN is within none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r:.60}; it must be a number from {least:g} to {most:g}")


def check_texts(name: str, values: object, *, most: int = 1_000) -> None:
    """Raises: ValueError, if this is no list of texts, or one of them is empty, too long, or has blanks around it."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {values!r:.60}; it must be a list of texts")
    items = list(cast("Iterable[object]", values))
    if len(items) > most:
        raise ValueError(f"{name} has {len(items)} entries; at most {most} are looked through at each call")
    for item in items:
        if not isinstance(item, str) or not item or item != item.strip() or len(item) > NAME_LENGTH_MAX:
            raise ValueError(
                f"{name} holds {item!r:.60}; each entry is a text of 1 to {NAME_LENGTH_MAX} characters, "
                "without blanks around it"
            )


def is_news(said: dict[int, float], what: object, badness: float = 1.0) -> bool:
    """Whether a finding is to be said: never said of this before, or by now at least twice as bad (law D5).

    Args:
        said: What one run has been told of, and how bad it was; changed by this.
        what: What the finding is about; its hash is kept, and of at most `SAID_MAX` things.
        badness: How bad it is, more than 0.
    """
    key = hash(what)
    worst = said.get(key)
    if worst is None:
        if len(said) >= SAID_MAX:
            return False  # a run that finds ever new ways to be wrong has been told of often enough
    elif not badness >= 2 * worst:  # nor for NaN
        return False
    said[key] = badness
    return True


def about_run(run_id: str) -> Scope:
    """The scope of what one run has done."""
    return Scope((Term("run", run_id),))


def shown(value: object, length_max: int = 80) -> str:
    """A value from outside within a finding's line: short, in one line, and text that a journal can hold."""
    try:
        text = value if isinstance(value, str) else str(value)
    except (TypeError, ValueError):  # a target whose parts are no texts, a number of too many digits
        text = f"({type(value).__name__} that cannot be shown)"
    if len(text) > length_max:
        text = text[: length_max - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def ratio_of(value: Any) -> float:
    """A confidence as a tool reported it; 0 for what is none: who cannot say how sure he is, is not sure."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or math.isnan(value):
        return 0.0
    return float(value)
