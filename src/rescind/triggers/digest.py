"""How often people hear of the same thing: at once, and then in digests whose intervals grow while it goes on.

The first signal of an incident is worth waking somebody for. The second one a second later is not: that somebody is
awake. So it is said once, then after a minute, five minutes, half an hour, and then every hour, each time with how many
signals there were; and of a quiet hour nothing is said. No clock is asked here: the time is an argument, in seconds.
"""

from collections import OrderedDict

import msgspec

INTERVALS_S = (60.0, 300.0, 1_800.0, 3_600.0)
"""How long after the first word comes the second, after the second the third, and so on; the last one from then on."""

SUBJECTS_MAX = 1_000
"""Subjects that a tally keeps apart. The one that was quiet for longest is forgotten, and would be news again."""


def due_at_s(said: int, last_s: float) -> float:
    """When people may hear of it again.

    Args:
        said: How often they have heard of it.
        last_s: When they did for the last time.
    """
    if said == 0:
        return last_s
    return last_s + INTERVALS_S[min(said, len(INTERVALS_S)) - 1]


class Word(msgspec.Struct, frozen=True):
    """Something to say.

    Attributes:
        subject: What it is about.
        is_first: Whether it is the first word of it; else a digest.
        more: Signals since the last word, this one's included.
        total: Signals in all.
        over_s: Over how long `more` came, in seconds.
    """

    subject: str
    is_first: bool
    more: int
    total: int
    over_s: float

    @property
    def text(self) -> str:
        """For people: `37 more signals in 5 min, 120 in all`; empty for the first word, which speaks for itself."""
        return "" if self.is_first else digest_text(self.more, self.total, self.over_s)


def digest_text(more: int, total: int, over_s: float) -> str:
    """A digest's line for people: `37 more signals in 5 min, 120 in all`."""
    what = "signal" if more == 1 else "signals"
    return f"{more:,} more {what} in {_span(over_s)}, {total:,} in all"


class _Subject(msgspec.Struct):
    said: int = 0
    last_s: float = 0.0
    more: int = 0
    total: int = 0


class Tally:
    """Counts signals by subject, and says when people should hear of one. Not for several threads."""

    def __init__(self) -> None:
        self._subjects: OrderedDict[str, _Subject] = OrderedDict()

    def heard(self, subject: str, at_s: float) -> Word | None:
        """One more signal about a subject. Returns: what is to be said now, if anything."""
        known = self._subjects.setdefault(subject, _Subject(last_s=at_s))
        self._subjects.move_to_end(subject)
        if len(self._subjects) > SUBJECTS_MAX:
            self._subjects.popitem(last=False)
        known.more += 1
        known.total += 1
        return self._said(subject, known, at_s) if at_s >= due_at_s(known.said, known.last_s) else None

    def due(self, now_s: float) -> tuple[Word, ...]:
        """The digests that are due now, of subjects with signals that nobody has heard of."""
        return tuple(
            self._said(subject, known, now_s)
            for subject, known in self._subjects.items()
            if known.more and now_s >= due_at_s(known.said, known.last_s)
        )

    def _said(self, subject: str, known: _Subject, now_s: float) -> Word:
        word = Word(subject, known.said == 0, known.more, known.total, now_s - known.last_s)
        known.said, known.last_s, known.more = known.said + 1, now_s, 0
        return word


def _span(duration_s: float) -> str:
    if duration_s < 90:
        return f"{max(1, round(duration_s))} s"
    return f"{round(duration_s / 60)} min" if duration_s < 5_400 else f"{round(duration_s / 3_600)} h"
