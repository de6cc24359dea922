"""The intent of a call: the step as the journal has it from before the tool runs, for whoever undoes it one day."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from rescind.clock import from_us
from rescind.model.action import Action
from rescind.model.compact import KIND_OF_EFFECT_CLASS
from rescind.model.entry import StepRef
from rescind.model.step import Compensation, HeldUntil, Snapshot, Step

if TYPE_CHECKING:
    from datetime import datetime

    from rescind.guard.call import WriteCall


def intended_step(
    call: "WriteCall",
    *,
    declared: Action,
    parents: Sequence[StepRef],
    before: Snapshot | None,
    held_until: "datetime | None",
    now_us: int,
) -> Step:
    """The step of a call that has its number and its approval, if it needs one.

    Args:
        call: The call.
        declared: What is declared of its action.
        parents: Steps that it came of.
        before: The target as it was found.
        held_until: When it may be released, if it is held; None for when its run has ended.
        now_us: The time that its deadline counts from.
    """
    within = declared.undo_within
    return Step(
        step_id=call.step_id,
        action=call.action,
        effect_class=declared.effect_class,
        requested=call.recorded,
        target=call.target,
        causal_parents=tuple(_name_in(call.run.info.run_id, ref) for ref in parents),
        before=before,
        idempotency_key=call.idempotency_key,
        keyed=call.step_is_keyed,
        arguments_digest=call.arguments_digest,
        approval_id=msgspec.UNSET if call.approval is None else call.approval.approval_id,
        compensation=Compensation(
            kind=KIND_OF_EFFECT_CLASS[declared.effect_class],
            allowed_until=None if within is None else from_us(now_us) + within,
        ),
        engine_checkpoint=call.run.guard.engine_checkpoint() or msgspec.UNSET,
        held=HeldUntil(at=held_until) if call.is_held else msgspec.UNSET,
    )


def _name_in(run_id: str, ref: StepRef) -> str:
    return ref.step_id if ref.run_id == run_id else str(ref)
