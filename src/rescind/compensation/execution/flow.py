"""The undo of one step, as a generator that does no I/O: it yields requests and is sent answers.

    in doubt: ask again, answer durable (DT4, DT5) ─▶ intent, durable, and the first since the plan
        ─▶ restore or compensate ─▶ restored: look again ─▶ end, durable

    over a later change (CF1-CF3): look ─▶ merge: make the image ─▶ intent that says what is replaced by what, durable
        ─▶ restore, if the target is still as it was seen ─▶ look again ─▶ end, durable

What the flow cannot end by itself it returns as `ForPerson`; the driver puts those of one kind into one review task.
The laws are those of `execute`, `conflict` and `doubt`.
"""

import enum
import hashlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.compensation.conflict import (
    MERGE_IN_DOUBT,
    MergeState,
    is_later_change,
    may_be_restored,
    merge_state,
)
from rescind.compensation.decision import Asks, Compensate, Restore, Settle
from rescind.compensation.doubt import answer_planned_by, as_completed, as_known
from rescind.compensation.port import ReviewReason, idempotency_key_of
from rescind.errors import Conflict, Transient
from rescind.model.action import OnConflict
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    CompensationWithdrawn,
    Disposition,
    Event,
    Overwrites,
    Probed,
)
from rescind.model.history import StepRecord
from rescind.model.probe import Probe
from rescind.model.step import Snapshot

if TYPE_CHECKING:
    from rescind.model.probe import ProbeResult

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 30.0
"""Short enough for a hiccup, long enough for a restart; a person waits for the end of it."""


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
            problem = yield from _try(job)
            return problem or (yield from _end(job, Disposition.COMPENSATED, note))
        case Restore(policy=OnConflict.FORCE):
            return (yield from _force(job, job.decision))
        case Restore(policy=OnConflict.MERGE):
            return (yield from _merge(job))
        case Restore():
            late = job.last_word in (OnConflict.SKIP, OnConflict.MERGE)
            return (yield from (_last_word if late else _restore)(job, job.decision))


def _restore(job: Job, decision: Restore) -> UndoFlow:
    problem = yield from _try(job)
    if isinstance(problem, MovedOn | NotReached):
        return problem
    problem = yield from _look_again(decision.leaves, problem)
    return problem or (yield from _end(job, Disposition.RESTORED, decision.note))


def _try(
    job: Job, overwrites: Overwrites | None = None
) -> Generator[Request, Any, ForPerson | MovedOn | NotReached | None]:
    """Undo, again if that may help and is safe. None if it went well."""
    problem: ForPerson | None = None
    harmless, in_doubt = not job.record.compensation_open, may_be_restored(job.record)
    for number in range(1, job.tries_max + 1):
        # Durable before anything happens: after a crash, an intent without an end says that it may have happened.
        mine = yield _intend(job, job.tried + number, overwrites)
        if not mine:
            return MovedOn()
        retry_after_s = 0.0
        try:
            yield Undo(job.record, idempotency_key_of(job.record))
        except Conflict as error:
            return ForPerson(ReviewReason.CONFLICT, _said(error), may_be_restored=in_doubt)
        except Transient as error:
            retry_after_s = error.retry_after_s
            problem = ForPerson(
                ReviewReason.FAILED, f"nothing happened in {number} tries; the last one: {_said(error)}"
            )
        except (ConnectionError, TimeoutError) as error:
            harmless, in_doubt = False, True
            problem = _raised(job, error)
            if not job.repeatable:
                return problem
        except Exception as error:  # noqa: BLE001  # handlers raise what they like, and it must end in the journal
            return _raised(job, error)
        else:
            return None
        if number < job.tries_max:
            go = yield Wait(max(backoff_s(job.record, number), retry_after_s))
            if go is not Go.ON:
                return (yield from _give_up(job, problem, go, harmless=harmless))
    return problem


def _give_up(
    job: Job, problem: ForPerson, go: Go, *, harmless: bool
) -> Generator[Request, Any, ForPerson | NotReached]:
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


def _raised(job: Job, error: Exception) -> ForPerson:
    if isinstance(job.decision, Restore):
        return ForPerson(ReviewReason.FAILED, f"the restore failed: {_said(error)}")
    hint = "; repeating it is safe, so the task may be resolved with `retry`" if job.repeatable else ""
    return ForPerson(ReviewReason.IN_DOUBT, f"the compensation may have happened: {_said(error)}{hint}")


def _look_again(leaves: str, problem: ForPerson | None) -> Generator[Request, Any, ForPerson | None]:
    """A restore is done when the target says so, whatever the handler said; a conflict has touched nothing."""
    if problem is not None and problem.reason is ReviewReason.CONFLICT:
        return problem
    seen = yield from _look()
    if isinstance(seen, ForPerson):
        return problem or seen
    if seen.version == leaves:
        return None
    return problem or ForPerson(ReviewReason.FAILED, "the restore ran, but the target is not as it should be after it")


def _settle(job: Job, decision: Settle) -> UndoFlow:
    words = decision.because
    if decision.expects:
        seen = yield from _look()
        if isinstance(seen, ForPerson):
            return seen
        if seen.version != decision.expects:
            return _SETTLED_TOO_EARLY[decision.disposition]
        if decision.disposition is Disposition.NEVER_TOOK_EFFECT:
            words = "checked: the target is as before"
    return (yield from _end(job, decision.disposition, words))


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


def _look() -> Generator[Request, Any, Snapshot | ForPerson]:
    """The target, with a version."""
    try:
        seen: Snapshot | None = yield Observe()
    except Exception as error:  # noqa: BLE001
        return ForPerson(ReviewReason.CANNOT_LOOK, f"looking at the target failed: {_said(error)}")
    if seen is None or not seen.version:
        return ForPerson(ReviewReason.CANNOT_LOOK, "its effect cannot tell the target's version")
    return seen


# --- in doubt ---


def _ask_again(job: Job) -> Generator[Request, Any, Job | ForPerson]:
    """Ask what the plan was made by (DT4). The job, with what was found, once that is durable (DT5)."""
    about_step = job.decision.asks is Asks.STEP
    key = job.record.step.idempotency_key if about_step else idempotency_key_of(job.record)
    try:
        probe: ProbeResult = yield Ask(key)
    except Exception as error:  # noqa: BLE001
        return ForPerson(ReviewReason.IN_DOUBT, f"asking its target system failed: {_said(error)}")
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


# --- over a later change ---


def _force(job: Job, decision: Restore) -> UndoFlow:
    """Replace the version that the plan showed, and no other (CF2)."""
    seen = yield from _look()
    if isinstance(seen, ForPerson):
        return seen
    if seen.version == decision.leaves:
        return (yield from _end(job, Disposition.RESTORED, "the target is as before already"))
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
    problem = yield from _try(over, overwrites)
    if isinstance(problem, MovedOn | NotReached):
        return problem
    problem = yield from _look_again(decision.leaves, problem)
    return problem or (yield from _end(job, Disposition.RESTORED, decision.note))


def _last_word(job: Job, decision: Restore) -> UndoFlow:
    """A conflict that turned out only now, and that waiting did not resolve: as the action's policy says (CF4)."""
    seen = yield from _look()
    if isinstance(seen, ForPerson):
        return seen
    if not is_later_change(job.record, seen):
        return (yield from _restore(job, decision))
    if job.last_word is OnConflict.MERGE:
        return (yield from _merge(job))
    return (yield from _end(job, Disposition.SUPERSEDED, "left as it is now, as its action says: it was changed since"))


class _Again(msgspec.Struct, frozen=True):
    """A merge that was not done, and may be done by another try of this job."""

    job: Job
    problem: ForPerson
    harmless: bool = True
    after_s: float = 0.0


def _is_merge(job: Job) -> bool:
    planned = isinstance(job.decision, Restore) and job.decision.policy is OnConflict.MERGE
    return planned or job.last_word is OnConflict.MERGE


def _merge(job: Job) -> UndoFlow:
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
            return (yield from _give_up(job, tried.problem, go, harmless=tried.harmless))
    raise AssertionError("there is at least one try")


def _merge_once(job: Job) -> Generator[Request, Any, Ending | _Again]:
    seen = yield from _look()
    if isinstance(seen, ForPerson):
        return seen
    match merge_state(job.record, seen.version):
        case MergeState.DONE:
            return (yield from _end(job, Disposition.MERGED, _MERGED))
        case MergeState.IN_DOUBT:
            return ForPerson(ReviewReason.IN_DOUBT, MERGE_IN_DOUBT)
        case MergeState.NOT_BEGUN:
            pass
    if job.record.step.before is not None and seen.version == job.record.step.before.version:
        return (yield from _end(job, Disposition.RESTORED, "the target is as before already"))
    try:
        made: Snapshot = yield Merge(job.record, idempotency_key_of(job.record), seen)
    except Conflict as error:
        return ForPerson(ReviewReason.CONFLICT, _said(error))
    except (Transient, ConnectionError, TimeoutError) as error:
        after_s = error.retry_after_s if isinstance(error, Transient) else 0.0
        failed = ForPerson(ReviewReason.FAILED, f"merging failed: {_said(error)}")
        return _Again(job, failed, harmless=job.record.overwriting is None, after_s=after_s)
    except Exception as error:  # noqa: BLE001  # a function of the application's, which has changed nothing
        return ForPerson(ReviewReason.FAILED, f"merging failed: {_said(error)}")
    if made.version == seen.version:
        return (yield from _end(job, Disposition.MERGED, "nothing of the step was left in what is there now"))
    return (yield from _put(job, seen, made))


def _put(job: Job, seen: Snapshot, made: Snapshot) -> Generator[Request, Any, Ending | _Again]:
    """Put there what was made of what was seen, if that is still there."""
    # On record first, with what it is to become: whoever comes after a crash can see whether it was done (CF3).
    overwrites = Overwrites(policy=OnConflict.MERGE, version=seen.version, leaves=made.version)
    mine = yield _intend(job, job.tried + 1, overwrites)
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
        conflict = ForPerson(ReviewReason.CONFLICT, _said(error))
        return _Again(job, conflict, harmless=job.record.overwriting is None)
    except Transient as error:
        failed = ForPerson(ReviewReason.FAILED, f"nothing happened: {_said(error)}")
        return _Again(job, failed, harmless=job.record.overwriting is None, after_s=error.retry_after_s)
    except Exception as error:  # noqa: BLE001
        may_help = isinstance(error, ConnectionError | TimeoutError)
        problem = _raised(job, error)
    problem = yield from _look_again(made.version, problem)
    if problem is None:
        return (yield from _end(job, Disposition.MERGED, _MERGED))
    return _Again(begun, problem, harmless=False) if may_help else problem


_MERGED = "its part was taken out of a later change"


def _end(job: Job, disposition: Disposition, because: str) -> UndoFlow:
    event = CompensationEnded(
        step_id=job.record.step.step_id, disposition=disposition, plan_digest=job.plan_digest, detail=because
    )
    yield Record(event)
    return Done(disposition, because)


def _intend(job: Job, number: int, overwrites: Overwrites | None = None) -> Intend:
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
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** (tries - 1)) * (1 - share / 2)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
