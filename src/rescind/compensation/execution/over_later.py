"""The undo of a step whose target somebody has changed since: replace that, or take the step's part out of it.

    look ─▶ merge: make the image ─▶ intent that says what is replaced by what, durable
        ─▶ restore, if the target is still as it was seen ─▶ look again ─▶ end, durable

The laws are CF1-CF4 of `conflict`.
"""

from collections.abc import Generator
from typing import Any

import msgspec

from rescind.compensation.conflict import MERGE_IN_DOUBT, MergeState, is_later_change, merge_state, superseded
from rescind.compensation.decision import Restore
from rescind.compensation.execution.requests import (
    Ending,
    ForPerson,
    Go,
    Job,
    Merge,
    MovedOn,
    NotReached,
    Request,
    Undo,
    UndoFlow,
    Wait,
)
from rescind.compensation.execution.trying import (
    backoff_s,
    end,
    give_up,
    intend,
    look,
    look_again,
    raised,
    restore,
    said,
    try_it,
)
from rescind.compensation.port import ReviewReason, idempotency_key_of
from rescind.errors import Conflict, Transient
from rescind.model.action import OnConflict
from rescind.model.entry import Disposition, Overwrites
from rescind.model.step import Snapshot


def force(job: Job, decision: Restore) -> UndoFlow:
    """Replace the version that the plan showed, and no other (CF2)."""
    seen = yield from look()
    if isinstance(seen, ForPerson):
        return seen
    if seen.version == decision.leaves:
        return (yield from end(job, Disposition.RESTORED, "the target is as before already"))
    if seen.version != decision.expects:
        return ForPerson(ReviewReason.CONFLICT, "the target was changed again since the plan was shown; plan again")
    overwrites = Overwrites(
        policy=OnConflict.FORCE,
        version=decision.expects,
        leaves=decision.leaves,
        actor=job.actor,
        reason=job.reason,
    )
    over = msgspec.structs.replace(job, record=msgspec.structs.replace(job.record, after=seen))
    problem = yield from try_it(over, overwrites)
    if isinstance(problem, MovedOn | NotReached):
        return problem
    problem = yield from look_again(decision.leaves, problem)
    return problem or (yield from end(job, Disposition.RESTORED, decision.note))


def last_word(job: Job, decision: Restore) -> UndoFlow:
    """A conflict that turned out only now, and that waiting did not resolve: as the action's policy says (CF4)."""
    seen = yield from look()
    if isinstance(seen, ForPerson):
        return seen
    if not is_later_change(job.record, seen):
        return (yield from restore(job, decision))
    if job.last_word is OnConflict.MERGE:
        return (yield from merge(job))
    left = superseded()
    return (yield from end(job, left.disposition, left.because))


class _Again(msgspec.Struct, frozen=True):
    """A merge that was not done, and may be done by another try of this job."""

    job: Job
    problem: ForPerson
    harmless: bool = True
    after_s: float = 0.0


def merge(job: Job) -> UndoFlow:
    """Take the step's part out of what is there now; from the first look again, if somebody was quicker (CF2)."""
    for number in range(1, job.tries_max + 1):
        tried = yield from _merge_once(job)
        if not isinstance(tried, _Again):
            return tried
        job = tried.job
        if number == job.tries_max:
            return tried.problem
        go = yield Wait(max(backoff_s(job.record, number), tried.after_s))
        if go is not Go.ON:
            return (yield from give_up(job, tried.problem, go, harmless=tried.harmless))
    raise AssertionError("there is at least one try")


def _merge_once(job: Job) -> Generator[Request, Any, Ending | _Again]:
    seen = yield from look()
    if isinstance(seen, ForPerson):
        return seen
    match merge_state(job.record, seen.version):
        case MergeState.DONE:
            return (yield from end(job, Disposition.MERGED, _MERGED))
        case MergeState.IN_DOUBT:
            return ForPerson(ReviewReason.IN_DOUBT, MERGE_IN_DOUBT)
        case MergeState.NOT_BEGUN:
            pass
    if job.record.step.before is not None and seen.version == job.record.step.before.version:
        return (yield from end(job, Disposition.RESTORED, "the target is as before already"))
    try:
        made: Snapshot = yield Merge(job.record, idempotency_key_of(job.record), seen)
    except Conflict as error:
        return ForPerson(ReviewReason.CONFLICT, said(error))
    except (Transient, ConnectionError, TimeoutError) as error:
        after_s = error.retry_after_s if isinstance(error, Transient) else 0.0
        failed = ForPerson(ReviewReason.FAILED, f"merging failed: {said(error)}")
        return _Again(job, failed, harmless=job.record.overwriting is None, after_s=after_s)
    except Exception as error:  # noqa: BLE001  # a function of the application's, which has changed nothing
        return ForPerson(ReviewReason.FAILED, f"merging failed: {said(error)}")
    if made.version == seen.version:
        return (yield from end(job, Disposition.MERGED, "nothing of the step was left in what is there now"))
    return (yield from _put(job, seen, made))


def _put(job: Job, seen: Snapshot, made: Snapshot) -> Generator[Request, Any, Ending | _Again]:
    """Put there what was made of what was seen, if that is still there."""
    # On record first, with what it is to become: whoever comes after a crash can see whether it was done (CF3).
    overwrites = Overwrites(policy=OnConflict.MERGE, version=seen.version, leaves=made.version)
    mine = yield intend(job, job.tried + 1, overwrites)
    if not mine:
        return MovedOn()
    job = msgspec.structs.replace(job, tried=job.tried + 1)
    begun = msgspec.structs.replace(job, record=msgspec.structs.replace(job.record, overwriting=overwrites))
    step = msgspec.structs.replace(job.record.step, before=made)
    problem: ForPerson | None = None
    may_help = False
    try:
        yield Undo(msgspec.structs.replace(job.record, step=step, after=seen), idempotency_key_of(job.record))
    except Conflict as error:
        conflict = ForPerson(ReviewReason.CONFLICT, said(error))
        return _Again(job, conflict, harmless=job.record.overwriting is None)
    except Transient as error:
        failed = ForPerson(ReviewReason.FAILED, f"nothing happened: {said(error)}")
        return _Again(job, failed, harmless=job.record.overwriting is None, after_s=error.retry_after_s)
    except Exception as error:  # noqa: BLE001
        may_help = isinstance(error, ConnectionError | TimeoutError)
        problem = raised(job, error)
    problem = yield from look_again(made.version, problem)
    if problem is None:
        return (yield from end(job, Disposition.MERGED, _MERGED))
    return _Again(begun, problem, harmless=False) if may_help else problem


_MERGED = "its part was taken out of a later change"
