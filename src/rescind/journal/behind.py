"""Appending right behind what was read: whoever decides by what a run holds, and is not alone in doing so.

BH1. *What was read decides.* The events stand right behind what was read of the run, or nothing is appended (J3).
BH2. *Anew, each time.* If somebody was first, he is read as well and it is decided anew: nothing is kept of the turn
    before. So what two do at once is done as if one had come after the other.
BH3. *Not for ever.* After so many turns it is said that others write there all the time; nothing was appended then.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import TypeVar

from rescind.errors import RescindError, SequenceConflict
from rescind.journal.port import Draft
from rescind.model.entry import Event

T = TypeVar("T")

TURNS_MAX = 20
"""Each means that somebody else wrote to the same run in between, and nobody writes much to a run that several do."""


def drafts_behind(run_id: str, events: Iterable[tuple[str, Event]], *, position: int, at_us: int) -> list[Draft]:
    """Drafts of these events, each for the run beside it, right behind what was read of one run or not at all.

    Args:
        run_id: The run that was read.
        events: What is to be appended, in order.
        position: The last position of that run that was read; -1 if there was none.
        at_us: Wall-clock microseconds since 1970, when it happened.
    """
    places = itertools.count(position + 1)
    return [
        Draft(
            run_id=each,
            event=event,
            recorded_at_us=at_us,
            expected_position=next(places) if each == run_id else None,
        )
        for each, event in events
    ]


def again(turn: Callable[[], T], *, busy: RescindError | None = None, turns: int = TURNS_MAX) -> T:
    """Read, decide and append until nobody was first (BH2).

    Args:
        turn: One turn of that. Its `SequenceConflict` says that somebody was first; all else that it raises is raised.
        busy: What is raised if somebody always was; by default the last conflict.
        turns: How often, at most, at least once.

    Returns: What the turn returned that came through.
    Raises: as said; `busy`, or SequenceConflict, after so many turns (BH3).
    """
    for left in reversed(range(turns)):
        try:
            return turn()
        except SequenceConflict as conflict:
            if left:
                continue
            if busy is None:
                raise
            raise busy from conflict
    raise AssertionError("there is at least one turn")
