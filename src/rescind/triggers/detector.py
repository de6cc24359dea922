"""The port of a detector: pure, quick, and asked at two moments of each call.

D1. A detector does no I/O and asks no clock: the same facts give the same findings, in the guard and in a replay.
D2. `asked` may be answered by a refusal of that call; `ended` never takes anything back.
D3. One watch sees the calls of one run, in the order in which they are made. Calls of one run may overlap in threads;
    a watch that counts survives that with a count that is off, and never with an exception or a lost refusal.
D4. A watch of an idle run is small: what grows is bounded, and made when it is first needed.
D5. A finding is said once when a bound is passed, and again only when it has become worse: a run that is wrong makes
    one signal, not one for each of its calls. What could be prevented in `asked` is found at every call that would do
    it, marked `again` where it makes no further signal, for a denied call must not get through by being repeated.
D6. A call that is too much in several ways is found in all of them: a limit in shadow hides none that is enforced.
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from rescind.model.signal import Finding
from rescind.model.step import RunInfo
from rescind.triggers.facts import Call, End


class Moment(enum.Enum):
    """When a watch is asked."""

    ASKED = "asked"
    PLAIN_END = "plain_end"  # a call that completed, and of which there is nothing else to say: see `End.is_plain`
    OTHER_END = "other_end"


ENDS = frozenset({Moment.PLAIN_END, Moment.OTHER_END})


def together(found: Sequence[Finding]) -> Finding | None:
    """All that was found at one call as one finding (law D6): the first, and the others besides it."""
    if len(found) < 2:
        return found[0] if found else None
    return msgspec.structs.replace(found[0], besides=tuple(found[1:]))


class Watch(Protocol):
    """One run, as one detector sees it.

    A watch that has nothing to say at some moment may say so by an attribute `skips`, a set of moments that is fixed
    when it begins. It is not asked then, which makes nearly every call of a healthy run cheaper.
    """

    def asked(self, call: Call) -> Finding | None:
        """A call is about to be made. What is found here can still be prevented."""
        ...

    def ended(self, end: End) -> Finding | None:
        """A call has ended."""
        ...


class Detector(Protocol):
    """Something that can go wrong, and how it shows."""

    def watch(self, run: RunInfo) -> Watch | None:
        """Begin to watch a run; None if this detector has nothing to say of it."""
        ...
