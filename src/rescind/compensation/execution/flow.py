"""The undo of one step, as a generator that does no I/O: it yields requests and is sent answers.

    in doubt: ask again, answer durable (DT4, DT5) ─▶ intent, durable, and the first since the plan
        ─▶ restore or compensate ─▶ restored: look again ─▶ end, durable

What the flow cannot end by itself it returns as `ForPerson`; the driver puts those of one kind into one review task.
What is tried is in `trying`, and over a later change in `over_later`; what is asked for, in `requests`. The laws are
those of `execute`, `conflict` and `doubt`.
"""

from collections.abc import Generator
from typing import Any

import msgspec

from rescind.compensation.conflict import MERGE_IN_DOUBT
from rescind.compensation.decision import Asks, Compensate, Restore, Settle
from rescind.compensation.doubt import answer_planned_by, as_completed, as_known
from rescind.compensation.execution.over_later import force, last_word, merge
from rescind.compensation.execution.requests import Ask, ForPerson, Job, Record, Request, UndoFlow
from rescind.compensation.execution.trying import end, look, restore, said, try_it
from rescind.compensation.port import ReviewReason, idempotency_key_of
from rescind.model.action import OnConflict
from rescind.model.entry import Disposition, Probed
from rescind.model.probe import Probe, ProbeResult


def undo_flow(job: Job) -> UndoFlow:
    """The undo of one step."""
    job = msgspec.structs.replace(job, record=as_known(job.record))
    if job.decision.asks is not Asks.NOTHING:
        answered = yield from _ask_again(job)
        if isinstance(answered, ForPerson):
            return answered
        job = answered
    match job.decision:
        case Settle():
            return (yield from _settle(job, job.decision))
        case Compensate(note):
            problem = yield from try_it(job)
            return problem or (yield from end(job, Disposition.COMPENSATED, note))
        case Restore(policy=OnConflict.FORCE):
            return (yield from force(job, job.decision))
        case Restore(policy=OnConflict.MERGE):
            return (yield from merge(job))
        case Restore():
            late = job.last_word in (OnConflict.SKIP, OnConflict.MERGE)
            return (yield from (last_word if late else restore)(job, job.decision))


def _settle(job: Job, decision: Settle) -> UndoFlow:
    words = decision.because
    if decision.expects:
        seen = yield from look()
        if isinstance(seen, ForPerson):
            return seen
        if seen.version != decision.expects:
            return _SETTLED_TOO_EARLY[decision.disposition]
        if decision.disposition is Disposition.NEVER_TOOK_EFFECT:
            words = "checked: the target is as before"
    return (yield from end(job, decision.disposition, words))


_SETTLED_TOO_EARLY = {
    Disposition.RESTORED: ForPerson(
        ReviewReason.CONFLICT, "the step that it was made inside of was to be put back, and is not"
    ),
    Disposition.MERGED: ForPerson(ReviewReason.IN_DOUBT, MERGE_IN_DOUBT),
    Disposition.NEVER_TOOK_EFFECT: ForPerson(
        ReviewReason.IN_DOUBT, "nobody knows whether it took effect, and the target is not as before it"
    ),
}
"""What a target means that is not as it was foreseen."""


def _ask_again(job: Job) -> Generator[Request, Any, Job | ForPerson]:
    """Ask what the plan was made by (DT4). The job, with what was found, once that is durable (DT5)."""
    about_step = job.decision.asks is Asks.STEP
    key = job.record.step.idempotency_key if about_step else idempotency_key_of(job.record)
    try:
        probe: ProbeResult = yield Ask(key)
    except Exception as error:  # noqa: BLE001
        return ForPerson(ReviewReason.IN_DOUBT, f"asking its target system failed: {said(error)}")
    planned = answer_planned_by(job.decision)
    if probe.answer is not planned:
        was, now = (each.replace("_", " ") for each in (planned, probe.answer))
        return ForPerson(ReviewReason.IN_DOUBT, f"its target system said {was!r} for the plan, and says {now!r} now")
    yield Record(
        Probed(
            step_id=job.record.step.step_id,
            idempotency_key=key,
            answer=probe.answer,
            result=probe.result,
            after=probe.after,
            plan_digest=job.plan_digest,
        )
    )
    if about_step and probe.answer is Probe.FOUND:
        return msgspec.structs.replace(job, record=as_completed(job.record, probe))
    return job
