"""What a target system says when it is asked whether the effect of an idempotency key took place."""

import enum
from typing import Any

import msgspec

from rescind.model.step import Snapshot


class Probe(enum.StrEnum):
    """Whether the effect of a step took place, asked of its target. The third is no kind of the second."""

    FOUND = "found"  # it certainly happened
    NOT_FOUND = "not_found"  # it certainly has not happened, so far; whether it still may is for the undo to know
    CANNOT_TELL = "cannot_tell"  # anything else


class Answer(enum.StrEnum):
    """What is known of a step in doubt after its target system was asked, if that could be."""

    FOUND = "found"
    NOT_FOUND = "not_found"  # and nothing of it can arrive any more
    NOT_YET = "not_yet"  # not there so far, and it may still arrive: to be asked again later
    CANNOT_TELL = "cannot_tell"  # for a person
    NOT_ASKED = "not_asked"  # the application at hand does not know the action, or knows another one by its name


_NOT_GIVEN: Any = object()


class Found:
    """What a probe returns that has found the effect, and knows more about it.

    Attributes:
        result: What the call would have returned, as JSON values; `PastStep.result` of the compensation.
        after: What the call left at its target; None if that is not known.
    """

    def __init__(self, result: Any = None, *, after: Any = _NOT_GIVEN) -> None:
        """It took place.

        Args:
            result: What the call would have returned.
            after: The image that `.snapshot` would have returned right after the call, or a `Snapshot`. Without it,
                nobody can tell whether the target is still as the call left it, so nothing is restored.
        """
        self.result = result
        self.after: Snapshot | None = None
        if after is not _NOT_GIVEN:
            self.after = after if isinstance(after, Snapshot) else Snapshot.of(after, absent=after is None)


class ProbeResult(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a probe has returned, in one form. `detail` is for people; else see `Probe` and `Found`."""

    answer: Probe
    result: Any = None
    after: Snapshot | None = None
    detail: str = ""

    @classmethod
    def read(cls, answer: object) -> "ProbeResult":
        """What a probe has returned: a `Probe`, a `Found`, or True for found and False for not found.

        Anything else, such as the None of a forgotten `return`, tells nothing.
        """
        match answer:
            case Probe():
                return cls(answer=answer)
            case Found():
                return cls(answer=Probe.FOUND, result=answer.result, after=answer.after)
            case bool():
                return cls(answer=Probe.FOUND if answer else Probe.NOT_FOUND)
            case _:
                words = f"its probe returned {type(answer).__name__}; return a bool, a rescind.Probe or a rescind.Found"
                return cls(answer=Probe.CANNOT_TELL, detail=words)
