"""What the flow of a step asks for, and how it ends: the words between the flows and the runner that drives them."""

import enum
from collections.abc import Generator
from typing import Any

import msgspec

from rescind.compensation.decision import Compensate, Restore, Settle
from rescind.compensation.port import ReviewReason
from rescind.model.action import OnConflict
from rescind.model.entry import CompensationIntended, Disposition, Event
from rescind.model.history import StepRecord
from rescind.model.step import Snapshot


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One step to undo, as planned.

    Attributes:
        record: The step.
        decision: What is to be done.
        plan_digest: The plan that says so.
        repeatable: Whether the compensation may be sent again although it may have happened.
        tries_max: How often to try, at least once.
        tried: Tries that were made before, in this application of the plan: the step is ours already.
        last_word: The action's policy, about a conflict that was not foreseen and that waiting has not resolved.
        actor: Who applies the plan.
        reason: Why.
    """

    record: StepRecord
    decision: Restore | Compensate | Settle
    plan_digest: str
    repeatable: bool
    tries_max: int
    tried: int = 0
    last_word: OnConflict = OnConflict.REVIEW
    actor: str = ""
    reason: str = ""


class Intend(msgspec.Struct, frozen=True):
    """Make the intent durable. Answer: whether to go on; a first try must be the first since the plan (U10)."""

    event: CompensationIntended
    is_first_try: bool


class Record(msgspec.Struct, frozen=True):
    """Make an event of the step's run durable. Answer: None."""

    event: Event


class Undo(msgspec.Struct, frozen=True):
    """Restore or compensate. Answer: None.

    `record` is the step as its handler is to see it: with what a probe has found, or, over a later change, with the
    image to put there as `before` and what is there now as `after`.
    """

    record: StepRecord
    idempotency_key: str


class Merge(msgspec.Struct, frozen=True):
    """Take the step's part out of what is at the target now. Answer: the `Snapshot` to put there."""

    record: StepRecord
    idempotency_key: str
    now: Snapshot


class Ask(msgspec.Struct, frozen=True):
    """Ask the target system about this key. Answer: `ProbeResult`."""

    idempotency_key: str


class Observe(msgspec.Struct, frozen=True):
    """Look at the step's target. Answer: `Snapshot | None`."""


class Go(enum.Enum):
    """What a step that has waited is to do."""

    ON = "on"
    LEAVE = "leave"  # the undo ends without it
    LATE = "late"  # it could be undone until a moment that has passed meanwhile


class Wait(msgspec.Struct, frozen=True):
    """Let time pass, and let others have the turn. Answer: `Go`."""

    duration_s: float


class Done(msgspec.Struct, frozen=True):
    """The step is accounted for, durably."""

    disposition: Disposition
    because: str = ""


class ForPerson(msgspec.Struct, frozen=True):
    """A person has to decide. Nothing of that is recorded yet.

    `may_be_restored`: of a conflict, whether an earlier try, which nobody knows the end of, may have restored it.
    """

    reason: ReviewReason
    detail: str
    may_be_restored: bool = False


class MovedOn(msgspec.Struct, frozen=True):
    """Somebody else took this step; it was left alone."""


class NotReached(msgspec.Struct, frozen=True):
    """The undo ends without having come to an end with this step; the next plan decides about it."""

    detail: str


Request = Intend | Record | Undo | Observe | Merge | Ask | Wait
Ending = Done | ForPerson | MovedOn | NotReached
UndoFlow = Generator[Request, Any, Ending]
