"""What a run does: it opens, intends and ends steps, reads, holds, comes to boundaries, and closes."""

from typing import Any

import msgspec

from rescind.model.outcome import Outcome
from rescind.model.step import RunInfo, Snapshot, Step, StepRef, Target


class RunOpened(msgspec.Struct, frozen=True, gc=False, tag="run_opened", kw_only=True):
    """A process began to act for the run. The first event of every run; a continued run has several."""

    run: RunInfo
    guard_id: str


class RunClosed(msgspec.Struct, frozen=True, gc=False, tag="run_closed", kw_only=True):
    """The process will not act for the run again. `how` is `ended`, `failed` or `halted`.

    `reads` counts the reads that it gave to the journal; unset, and not written, if none. Fewer `Read` events mean that
    some were lost.
    """

    guard_id: str
    how: str
    detail: str = ""
    reads: int | msgspec.UnsetType = msgspec.UNSET


class Intended(msgspec.Struct, frozen=True, gc=False, tag="intended"):
    """The step is about to run. Durable before the tool starts."""

    step: Step


class EffectHeld(msgspec.Struct, frozen=True, gc=False, tag="effect_held", kw_only=True):
    """A step was intended and held. In the run that lists what its run holds, together with the intent."""

    step: StepRef
    action: str


class Released(msgspec.Struct, frozen=True, gc=False, tag="released", kw_only=True):
    """A held step is about to run. Durable before its tool starts; there is at most one for a step.

    `before` is the target as it was found then; `releaser` the guard that does it.
    """

    step_id: str
    releaser: str
    before: Snapshot | None = None


class Ended(msgspec.Struct, frozen=True, gc=False, tag="ended", kw_only=True):
    """The step has an outcome. `after` is what was seen at the target right after the effect.

    `dropped_by` is who dropped it while it was held; unset, and not written, if nobody did.
    """

    step_id: str
    outcome: Outcome
    after: Snapshot | None = None
    dropped_by: str | msgspec.UnsetType = msgspec.UNSET


class Read(msgspec.Struct, frozen=True, gc=False, tag="read", kw_only=True):
    """The run has read a target. Recorded after the read, without waiting; the same read again may stand for many."""

    action: str
    target: Target


class Verified(msgspec.Struct, frozen=True, gc=False, tag="verified", kw_only=True):
    """The step's postcondition was checked. `detail` says what does not hold."""

    step_id: str
    holds: bool
    detail: str = ""


class Refused(msgspec.Struct, frozen=True, gc=False, tag="refused", kw_only=True):
    """The gate refused a call. Recorded once per run, action and change of orders, not once per attempt."""

    action: str
    level: str
    reason: str
    order_ids: tuple[str, ...] = ()


class Checkpointed(msgspec.Struct, frozen=True, gc=False, tag="checkpointed", kw_only=True):
    """The run is at a boundary that it may be carried on from.

    Attributes:
        checkpoint_id: Unique.
        name: What people call it; may be empty.
        state: What the program needs to go on from here, as JSON values.
        verified: Whether its postconditions held, when it was made.
        detail: If not, what does not.
    """

    checkpoint_id: str
    name: str = ""
    state: Any = None
    verified: bool
    detail: str = ""


class Resumed(msgspec.Struct, frozen=True, gc=False, tag="resumed", kw_only=True):
    """A person decided to carry the run on from a checkpoint; empty for its beginning.

    `level` and `allow` are what it is held at and limited to from here; empty if it is not.
    """

    checkpoint_id: str
    actor: str
    reason: str
    level: str = ""
    allow: tuple[str, ...] = ()
