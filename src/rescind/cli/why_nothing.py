"""Why a selection holds no step. Two names that the journal knows may still have nothing in common."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from rescind.cli.safe import safe
from rescind.compensation.planning.selection import Selection, select_steps
from rescind.errors import UsageError
from rescind.journal.port import Journal

Condition = tuple[str, dict[str, Any]]
"""A condition as it was typed, and the same as a part of a selection."""


def why_nothing(journal: Journal, selection: Selection) -> str:
    """Which condition, or which two of them, nothing meets; in safe words.

    Args:
        journal: As it was asked.
        selection: One of which no step was found. Its names are known to the journal.
    """
    conditions = list(_conditions(selection))
    for words, part in conditions:
        if not _meets(journal, part):
            return f"{words}: nothing was done"
    for (words, part), (other_words, other) in combinations(conditions, 2):
        if not _meets(journal, part | other):
            return f"{words} and {other_words} exclude each other: no step meets both"
    if selection.exclude:
        return f"{' '.join(f'--exclude {safe(text)}' for text in selection.exclude)} leaves out every step"
    return f"no step meets all of {', '.join(words for words, _ in conditions)}"


def _conditions(selection: Selection) -> Iterator[Condition]:
    if selection.run_ids:
        yield " ".join(f"--run {safe(run_id)}" for run_id in selection.run_ids), {"run_ids": selection.run_ids}
    for option, name in (("trace", "trace_id"), ("agent", "agent"), ("tenant", "tenant")):
        value = getattr(selection, name)
        if value is not None:
            yield f"--{option} {safe(value)}", {name: value}
    for name in ("since", "until"):
        moment = getattr(selection, name)
        if moment is not None:
            yield f"--{name} {moment.isoformat()}", {name: moment}
    for option, name in (("action", "actions"), ("target", "targets")):
        for value in getattr(selection, name):
            yield f"--{option} {safe(value)}", {name: (value,)}


def _meets(journal: Journal, part: dict[str, Any]) -> bool:
    try:
        return bool(select_steps(journal, Selection(**part)))
    except UsageError:  # the runs that meet one condition have nothing of the name in the other
        return False
