"""The tries of one step: what they have in common, whatever is tried (U8-U11, U18, U20).

intent, durable, and the first since the plan ─▶ restore or compensate ─▶ restored: look again ─▶ end, durable
"""

import hashlib
from collections.abc import Generator
from typing import Any

import msgspec

from rescind.compensation.conflict import may_be_restored
from rescind.compensation.decision import Compensate, Restore
from rescind.compensation.execution.requests import (
    Done,
    ForPerson,
    Go,
    Intend,
    Job,
    MovedOn,
    NotReached,
    Observe,
    Record,
    Request,
    Undo,
    UndoFlow,
    Wait,
)
from rescind.compensation.port import ReviewReason, idempotency_key_of
from rescind.errors import Conflict, Transient
from rescind.guard.flow import name_of
from rescind.model.action import OnConflict
from rescind.model.entry import CompensationEnded, CompensationIntended, CompensationWithdrawn, Disposition, Overwrites
from rescind.model.history import StepRecord
from rescind.model.step import Snapshot

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 30.0
"""Short enough for a hiccup, long enough for a restart; a person waits for the end of it."""

_DOUBLINGS_MAX = 32  # More than lie between these two.


def restore(job: Job, decision: Restore) -> UndoFlow:
    """Put back what was there, and look whether it is (U11)."""
    problem = yield from try_it(job)
    if isinstance(problem, MovedOn | NotReached):
        return problem
    problem = yield from look_again(decision.leaves, problem)
    return problem or (yield from end(job, Disposition.RESTORED, decision.note))


def try_it(
    job: Job, overwrites: Overwrites | None = None
) -> Generator[Request, Any, ForPerson | MovedOn | NotReached | None]:
    """Undo, again if that may help and is safe. None if it went well."""
    problem: ForPerson | None = None
    harmless, in_doubt = not job.record.compensation_open, may_be_restored(job.record)
    for number in range(1, job.tries_max + 1):
        # Durable before anything happens: after a crash, an intent without an end says that it may have happened.
        mine = yield intend(job, job.tried + number, overwrites)
        if not mine:
            return MovedOn()
        retry_after_s = 0.0
        try:
            yield Undo(job.record, idempotency_key_of(job.record))
        except Conflict as error:
            return ForPerson(ReviewReason.CONFLICT, said(error), may_be_restored=in_doubt)
        except Transient as error:
            retry_after_s = error.retry_after_s
            problem = ForPerson(ReviewReason.FAILED, f"nothing happened in {number} tries; the last one: {said(error)}")
        except (ConnectionError, TimeoutError) as error:
            harmless, in_doubt = False, True
            problem = raised(job, error)
            if not job.repeatable:
                return problem
        except Exception as error:  # noqa: BLE001  # handlers raise what they like, and it must end in the journal
            return raised(job, error)
        else:
            return None
        if number < job.tries_max:
            go = yield Wait(max(backoff_s(job.record, number), retry_after_s))
            if go is not Go.ON:
                return (yield from give_up(job, problem, go, harmless=harmless))
    return problem


def give_up(job: Job, problem: ForPerson, go: Go, *, harmless: bool) -> Generator[Request, Any, ForPerson | NotReached]:
    """Try no more, although another try was to come. `harmless`: nothing has happened in any of them."""
    if go is Go.LATE:
        return (
            ForPerson(ReviewReason.PAST_DEADLINE, f"{late_words(job.record)}; {problem.detail}")
            if harmless
            else problem
        )
    # An intent without an end means that it may have happened. The target of a restore can be looked at, and what is
    # repeatable is repeated; of all others, the next plan would have to ask a person for no reason.
    # A merge that was not made would be looked for, too.
    if harmless and (isinstance(job.decision, Compensate) or _is_merge(job)):
        yield Record(
            CompensationWithdrawn(step_id=job.record.step.step_id, plan_digest=job.plan_digest, detail=problem.detail)
        )
    return NotReached(problem.detail)


def late_words(record: StepRecord) -> str:
    """Until when the step could be undone."""
    until = record.step.compensation.allowed_until if record.step.compensation else None
    return f"it could be undone until {until.isoformat() if until else 'now'}"


def raised(job: Job, error: Exception) -> ForPerson:
    """What a handler's error, which may have come after its effect, leaves to a person (U9)."""
    if isinstance(job.decision, Restore):
        return ForPerson(ReviewReason.FAILED, f"the restore failed: {said(error)}")
    hint = "; repeating it is safe, so the task may be resolved with `retry`" if job.repeatable else ""
    return ForPerson(ReviewReason.IN_DOUBT, f"the compensation may have happened: {said(error)}{hint}")


def look_again(leaves: str, problem: ForPerson | None) -> Generator[Request, Any, ForPerson | None]:
    """A restore is done when the target says so, whatever the handler said; a conflict has touched nothing."""
    if problem is not None and problem.reason is ReviewReason.CONFLICT:
        return problem
    seen = yield from look()
    if isinstance(seen, ForPerson):
        return problem or seen
    if seen.version == leaves:
        return None
    return problem or ForPerson(ReviewReason.FAILED, "the restore ran, but the target is not as it should be after it")


def _is_merge(job: Job) -> bool:
    planned = isinstance(job.decision, Restore) and job.decision.policy is OnConflict.MERGE
    return planned or job.last_word is OnConflict.MERGE


def look() -> Generator[Request, Any, Snapshot | ForPerson]:
    """The target, with a version."""
    try:
        seen: Snapshot | None = yield Observe()
    except Exception as error:  # noqa: BLE001
        return ForPerson(ReviewReason.CANNOT_LOOK, f"looking at the target failed: {said(error)}")
    if seen is None or not seen.version:
        return ForPerson(ReviewReason.CANNOT_LOOK, "its effect cannot tell the target's version")
    return seen


def end(job: Job, disposition: Disposition, because: str) -> UndoFlow:
    """Account for the step, durably."""
    event = CompensationEnded(
        step_id=job.record.step.step_id, disposition=disposition, plan_digest=job.plan_digest, detail=because
    )
    yield Record(event)
    return Done(disposition, because)


def intend(job: Job, number: int, overwrites: Overwrites | None = None) -> Intend:
    """The intent of the try with this number, from 1, in this flow (U8)."""
    event = CompensationIntended(
        step_id=job.record.step.step_id,
        kind="restore" if isinstance(job.decision, Restore) else "compensate",
        idempotency_key=idempotency_key_of(job.record),
        plan_digest=job.plan_digest,
        attempt=job.record.compensation_attempts + number,
        overwrites=overwrites or msgspec.UNSET,
    )
    return Intend(event, number == 1)


def backoff_s(record: StepRecord, tries: int) -> float:
    """Seconds to wait after that many tries: twice as long each time, less a share of up to half.

    The share follows from the step, so that many steps that fail together do not come back together, and the same step
    always waits as long.
    """
    digest = hashlib.sha256(f"{record.ref}#{tries}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return doubled_s(tries - 1) * (1 - share / 2)


def doubled_s(times: int) -> float:
    """Seconds of the first wait, doubled so often, and bounded."""
    # Who lets an undo try all night comes to more doublings than a float can hold.
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(times, _DOUBLINGS_MAX))


def said(error: Exception) -> str:
    """An error in words that can be recorded, whatever its text is."""
    return name_of(error)
