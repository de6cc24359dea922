"""What an undo does to a step: it asks, restores or compensates it, and accounts for it; a redo puts it back."""

import enum
from typing import Any

import msgspec

from rescind.model.probe import Probe
from rescind.model.step import Snapshot


class Disposition(enum.StrEnum):
    """Where a write ends after an undo; every write in scope has exactly one."""

    RESTORED = "restored"
    MERGED = "merged"  # its part was taken out of what others have made of the target since
    COMPENSATED = "compensated"
    SUPERSEDED = "superseded"  # a later change stands in its place, and its action says to leave that
    NEVER_TOOK_EFFECT = "never_took_effect"
    REVIEW = "review"


class Overwrites(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """That a restore is about to replace a later change of somebody else's.

    Attributes:
        policy: `force` or `merge`.
        version: What it replaces, and nothing else.
        leaves: The version that the target will be at.
        actor: Who forced it; empty for a merge, which the action itself provides for.
        reason: Why.
    """

    policy: str
    version: str
    leaves: str
    actor: str = ""
    reason: str = ""


class CompensationIntended(msgspec.Struct, frozen=True, gc=False, tag="compensation_intended", kw_only=True):
    """The compensation of a step is about to run. Durable before it starts.

    `attempt` counts from 1; the idempotency key is the same for all attempts of one step. `overwrites` is unset, and
    not written, unless the target is not as the step left it. `by` is the worker that has taken it; unset if none has.
    """

    step_id: str
    kind: str
    idempotency_key: str
    plan_digest: str
    attempt: int = 1
    overwrites: Overwrites | msgspec.UnsetType = msgspec.UNSET
    by: str | msgspec.UnsetType = msgspec.UNSET


class CompensationEnded(msgspec.Struct, frozen=True, gc=False, tag="compensation_ended", kw_only=True):
    """The step is accounted for. With disposition `review`, `reason` and `detail` say what a person has to decide.

    `by` is the worker that has carried it out; unset, and not written, if none has.
    """

    step_id: str
    disposition: Disposition
    plan_digest: str
    reason: str = ""
    detail: str = ""
    task_id: str | None = None
    by: str | msgspec.UnsetType = msgspec.UNSET


class CompensationWithdrawn(msgspec.Struct, frozen=True, gc=False, tag="compensation_withdrawn", kw_only=True):
    """The compensation that was intended has not happened, and this undo will not try it again.

    The step is as it was before that intent: the next plan decides about it anew.
    """

    step_id: str
    plan_digest: str
    detail: str = ""


class Probed(msgspec.Struct, frozen=True, gc=False, tag="probed", kw_only=True):
    """The target system was asked whether an effect took place, and the undo acts upon its answer.

    Attributes:
        step_id: The step in doubt.
        idempotency_key: What was asked about: the step's own key, or that of its compensation.
        answer: What the target system said.
        result, after: See `Found`.
        plan_digest: The plan that was made by this answer.
    """

    step_id: str
    idempotency_key: str
    answer: Probe
    result: Any = None
    after: Snapshot | None = None
    plan_digest: str = ""


class RedoIntended(msgspec.Struct, frozen=True, gc=False, tag="redo_intended", kw_only=True):
    """What an undo restored is about to be put back to what the step had left. Durable before it starts.

    `by`: as in `CompensationIntended`.
    """

    step_id: str
    idempotency_key: str
    plan_digest: str
    attempt: int = 1
    by: str | msgspec.UnsetType = msgspec.UNSET


class RedoEnded(msgspec.Struct, frozen=True, gc=False, tag="redo_ended", kw_only=True):
    """The redo of a step has ended. If it is not `redone`, it stays undone, and a person has to decide in the task.

    `by`: as in `CompensationEnded`.
    """

    step_id: str
    plan_digest: str
    redone: bool
    reason: str = ""
    detail: str = ""
    task_id: str | None = None
    by: str | msgspec.UnsetType = msgspec.UNSET
