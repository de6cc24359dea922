"""The undo of one step, as a generator that does no I/O: it yields requests and is sent answers.

    intent, durable, and the first since the plan ─▶ restore or compensate ─▶ restored: look again ─▶ end, durable

What the flow cannot end by itself it returns as `ForPerson`; the driver puts those of one kind into one review task.
The laws are those of `execute`.
"""

import enum
import hashlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.compensation.decision import Compensate, Restore, Settle
from rescind.compensation.port import ReviewReason
from rescind.errors import Conflict, Transient
from rescind.model.entry import CompensationEnded, CompensationIntended, CompensationWithdrawn, Disposition, Event
from rescind.model.history import StepRecord

if TYPE_CHECKING:
    from rescind.model.step import Snapshot

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
    """

    record: StepRecord
    decision: Restore | Compensate | Settle
    plan_digest: str
    repeatable: bool
    tries_max: int
    tried: int = 0


class Intend(msgspec.Struct, frozen=True):
    """Make the intent durable. Answer: whether to go on; a first try must be the first since the plan (U10)."""

    event: CompensationIntended
    is_first_try: bool


class Record(msgspec.Struct, frozen=True):
    """Make an event of the step's run durable. Answer: None."""

    event: Event


class Undo(msgspec.Struct, frozen=True):
    """Restore or compensate. Answer: None."""

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
    """A person has to decide. Nothing of that is recorded yet."""

    reason: ReviewReason
    detail: str


class MovedOn(msgspec.Struct, frozen=True):
    """Somebody else took this step; it was left alone."""


class NotReached(msgspec.Struct, frozen=True):
    """The undo ends without having come to an end with this step; the next plan decides about it."""

    detail: str


Request = Intend | Record | Undo | Observe | Wait
Ending = Done | ForPerson | MovedOn | NotReached
UndoFlow = Generator[Request, Any, Ending]


def idempotency_key_of(record: StepRecord) -> str:
    """The key of the step's compensation: the same in every attempt, by whomever; after a redo it is another effect."""
    again = f":{record.redone}" if record.redone else ""
    return f"undo:{record.run.run_id}:{record.step.step_id}{again}"


def undo_flow(job: Job) -> UndoFlow:
    """The undo of one step."""
    if isinstance(job.decision, Settle):
        return (yield from _settle(job, job.decision))
    problem = yield from _try(job)
    if isinstance(problem, MovedOn | NotReached):
        return problem
    if isinstance(job.decision, Restore):
        problem = yield from _look_again(job.decision, problem)
    if problem is not None:
        return problem
    restored = isinstance(job.decision, Restore)
    return (yield from _end(job, Disposition.RESTORED if restored else Disposition.COMPENSATED, job.decision.note))


def _try(job: Job) -> Generator[Request, Any, ForPerson | MovedOn | NotReached | None]:
    """Undo, again if that may help and is safe. None if it went well."""
    problem: ForPerson | None = None
    harmless = not job.record.compensation_open
    for number in range(1, job.tries_max + 1):
        # Durable before anything happens: after a crash, an intent without an end says that it may have happened.
        mine = yield Intend(_intent(job, job.tried + number), job.tried + number == 1)
        if not mine:
            return MovedOn()
        retry_after_s = 0.0
        try:
            yield Undo(idempotency_key_of(job.record))
        except Conflict as error:
            return ForPerson(ReviewReason.CONFLICT, _said(error))
        except Transient as error:
            retry_after_s = error.retry_after_s
            problem = ForPerson(
                ReviewReason.FAILED, f"nothing happened in {number} tries; the last one: {_said(error)}"
            )
        except (ConnectionError, TimeoutError) as error:
            harmless = False
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
    if harmless and isinstance(job.decision, Compensate):
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


def _look_again(decision: Restore, problem: ForPerson | None) -> Generator[Request, Any, ForPerson | None]:
    """A restore is done when the target says so, whatever the handler said; a conflict has touched nothing."""
    if problem is not None and problem.reason is ReviewReason.CONFLICT:
        return problem
    seen = yield from _look()
    if isinstance(seen, ForPerson):
        return problem or seen
    if seen == decision.leaves:
        return None
    return problem or ForPerson(ReviewReason.FAILED, "the restore ran, but the target is not as it was before the step")


def _settle(job: Job, decision: Settle) -> UndoFlow:
    restored = decision.disposition is Disposition.RESTORED
    seen = yield from _look()
    if isinstance(seen, ForPerson):
        return seen
    if seen == decision.expects:
        words = decision.because if restored else "checked: the target is as before"
        return (yield from _end(job, decision.disposition, words))
    if restored:
        return ForPerson(ReviewReason.CONFLICT, "the step that it was made inside of was to be put back, and is not")
    return ForPerson(ReviewReason.IN_DOUBT, "nobody knows whether it took effect, and the target is not as before it")


def _look() -> Generator[Request, Any, str | ForPerson]:
    """The version at the target."""
    try:
        seen: Snapshot | None = yield Observe()
    except Exception as error:  # noqa: BLE001
        return ForPerson(ReviewReason.CANNOT_LOOK, f"looking at the target failed: {_said(error)}")
    if seen is None or not seen.version:
        return ForPerson(ReviewReason.CANNOT_LOOK, "its effect cannot tell the target's version")
    return seen.version


def _end(job: Job, disposition: Disposition, because: str) -> UndoFlow:
    event = CompensationEnded(
        step_id=job.record.step.step_id, disposition=disposition, plan_digest=job.plan_digest, detail=because
    )
    yield Record(event)
    return Done(disposition, because)


def _intent(job: Job, number: int) -> CompensationIntended:
    return CompensationIntended(
        step_id=job.record.step.step_id,
        kind="restore" if isinstance(job.decision, Restore) else "compensate",
        idempotency_key=idempotency_key_of(job.record),
        plan_digest=job.plan_digest,
        attempt=job.record.compensation_attempts + number,
    )


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
