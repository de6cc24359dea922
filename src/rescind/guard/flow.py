"""The life of one write, as a generator that does no I/O: it yields requests and is sent answers.

    gate ─▶ recorded outcome of the same key? ─▶ a person's approval, if it needs one ─▶ look at the target
         ─▶ intent, durable ─▶ gate again ─▶ the tool runs ─▶ look again ─▶ outcome, durable ─▶ postcondition

Laws, which the simulation tries to break by dying between any two requests:

W1. No effect without a durable intent.
W2. No effect after the orders that forbid it were bound, nor after the lease has run out: stamp, view and lease are
    read again once the intent is durable, and the step counts as in flight from before that reading until its outcome
    is durable. So it does not matter whether orders are read here or pushed by another thread.
W3. An exception that leaves the tool is `unknown`, unless the tool or its effect vouches that nothing changed.
W4. A step whose intent is durable and whose tool did not run says so (`failed`), if we live to say it.
W5. A halt cancels the tools of its run that were declared cancellable, and no others. Their outcome is as in W3, and
    the caller gets the halt; a cancellation of the caller's own stays what it is.
W6. What needs approval has no intent before a named person has approved it, and one approval has one intent. What is
    executed is what was approved: arguments that have changed since are refused, and the tool gets copies of those
    that have not. See `asking`.
W7. A run that is carried on makes no call again whose step stands: it is answered with what is on record.
"""

import contextlib
import inspect
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, assert_never

from rescind.errors import (
    IdempotencyConflict,
    JournalUnavailable,
    NothingChanged,
    OutcomeNotRecorded,
    RescindError,
    ResultNotRecorded,
    SequenceConflict,
    StepInDoubt,
    VerificationFailed,
)
from rescind.guard.asking import keep_to_approval, used_by_another, wait_for_approval
from rescind.guard.effect import Touch
from rescind.guard.request import Answer, Append, Boundary, LookUp, Perform, Request, Returned, Threw, WriteFlow
from rescind.journal.port import Appended, Slot, SlotState, SlotTaken
from rescind.model.entry import StepRef, Verified
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.step import Snapshot

if TYPE_CHECKING:
    from rescind.guard.call import WriteCall


REASON_LENGTH_MAX = 4_000
"""How much of an exception's text is recorded. Some carry whole documents."""


def write_flow(call: "WriteCall") -> WriteFlow:
    """The life of one write. Everything it needs to know or to touch comes through `call`."""
    try:
        call.admit()
        call.record()
        earlier = call.answered_before()
        if earlier is not None:
            return Returned(earlier.value)
        call.look_out()
        if call.step_is_keyed:
            slot = yield LookUp(call.run.info.tenant, call.idempotency_key)
            if slot is not None:
                return Returned(_answer_from(slot, call))
        if call.opening is not None:
            yield from _open_run(call)
        if call.awaits is not None:
            call.approval = yield from wait_for_approval(call, call.awaits)
        touch = yield Perform(call.open_target)
    except BaseException as error:  # noqa: BLE001  # handed on to the caller by the driver; nothing has happened yet
        return Threw(error)
    try:
        call.take_off()
        return (yield from _with_target(call, touch))
    finally:
        call.land()


def _open_run(call: "WriteCall") -> WriteFlow:
    # Only a run with an id of the caller's choosing: its steps are numbered after the place where it is continued.
    assert call.opening is not None
    appended = yield Append((call.opening,))
    assert isinstance(appended, Appended)
    call.opened(appended)
    return Returned(None)


def _with_target(call: "WriteCall", touch: Touch) -> WriteFlow:
    try:
        if call.approval is not None:
            yield from keep_to_approval(call, call.approval)
        answer = yield Append(call.intent(touch.before))
    except GeneratorExit:
        _drop(touch)
        raise
    except BaseException as error:  # noqa: BLE001
        # Whether the intent became durable or not: the tool has not run, and that is what the next line tries to say.
        yield from let_go(touch)
        if not isinstance(error, RescindError):
            yield from try_append(call, Failed(f"interrupted before the tool ran: {name_of(error)}"), error)
        if isinstance(error, SequenceConflict) and call.approval is not None:
            return Threw(used_by_another(call, call.approval))
        return Threw(error)
    if isinstance(answer, SlotTaken):
        yield from let_go(touch)
        try:
            return Returned(_answer_from(answer.slot, call))
        except RescindError as error:
            return Threw(error)
    call.intent_is_durable()
    if call.is_held:
        return Returned(call.held_effect())
    try:
        call.check_orders()
        call.check_unchanged()
        yield Boundary()
    except GeneratorExit:
        _drop(touch)
        raise
    except BaseException as error:  # noqa: BLE001
        yield from let_go(touch)
        yield from try_append(call, Failed(f"refused before the tool ran: {name_of(error)}"), error)
        return Threw(error)
    return (yield from invoke(call, touch))


def invoke(call: "WriteCall", touch: Touch) -> WriteFlow:
    """From the tool on, of a step whose intent is durable and which is in flight."""
    try:
        result = yield Perform(call.invoke)
    except GeneratorExit:
        _drop(touch)
        raise
    except BaseException as error:  # noqa: BLE001
        unchanged = (yield from let_go(touch)) or isinstance(error, NothingChanged)
        reason = call.scrub(call.cut_short or name_of(error))
        outcome = Failed(reason) if unchanged else Unknown(reason)
        yield from try_append(call, outcome, error)
        return Threw(error)
    try:
        after = yield Perform(lambda: touch.settle(result))
    except GeneratorExit:  # of a handler that is a coroutine, and was closed with the call
        raise
    except BaseException as error:  # noqa: BLE001
        reason = f"the tool returned, settling its effect did not: {call.scrub(name_of(error))}"
        outcome = Failed(reason) if isinstance(error, NothingChanged) else Unknown(reason)
        yield from try_append(call, outcome, error)
        return Threw(error)
    return (yield from _completed(call, result, after))


def let_go(touch: Touch) -> Generator[Request, Answer, bool]:
    """Abandon the effect; whether it vouches that nothing changed."""
    try:
        return bool((yield Perform(touch.abandon)))
    except BaseException:  # noqa: BLE001  # a target that cannot even be let go of vouches for nothing
        return False


def _drop(touch: Touch) -> None:
    """Let go of the effect's locks and connections where nobody goes on: a coroutine was closed as it waited."""
    with contextlib.suppress(BaseException):
        answer: Any = touch.abandon()
        if inspect.isawaitable(answer):
            getattr(answer, "close", lambda: None)()  # there is nobody left to await it


def _completed(call: "WriteCall", result: Any, after: Snapshot | None) -> WriteFlow:
    call.had_effect()
    outcome = call.completed(result)
    try:
        yield Append((call.ended(outcome, after),))
    except JournalUnavailable as error:
        info = call.run.info
        return Threw(
            OutcomeNotRecorded(
                action=call.action, run_id=info.run_id, step_id=call.step_id, cause=str(error), result=result
            )
        )
    except BaseException as error:  # noqa: BLE001  # an interrupt while waiting: the draft is on its way all the same
        return Threw(error)
    if call.verify is not None:
        problem = yield from _verify(call, result, outcome, after)
        if problem is not None:
            return Threw(problem)
    return Returned(result)


def _verify(
    call: "WriteCall", result: Any, outcome: Completed, after: Snapshot | None
) -> Generator[Request, Answer, BaseException | None]:
    detail = ""
    try:
        holds = yield Perform(lambda: call.check_postcondition(result, outcome, after))
        if holds is False:
            detail = "the verification said no"
    except Exception as error:  # noqa: BLE001  # a verification that fails has not verified
        detail = call.scrub(name_of(error))
    except BaseException as error:  # noqa: BLE001
        return error
    verified = Verified(step_id=call.step_id, holds=not detail, detail=detail)
    call.verified = verified.holds
    try:
        yield Append((call.draft(verified),))
    except BaseException as error:  # noqa: BLE001
        return error
    if not detail:
        return None
    info = call.run.info
    return VerificationFailed(
        action=call.action, run_id=info.run_id, step_id=call.step_id, detail=detail, result=result
    )


def try_append(call: "WriteCall", outcome: Outcome, error: BaseException) -> Generator[Request, Answer, None]:
    """Record the outcome on the way out with this error."""
    # On the way out with an error of the caller's. If the outcome cannot be recorded either, the intent without an end
    # says "go and look", which is right; the caller's own error is what he has to see.
    if isinstance(outcome, Unknown):
        call.had_effect()
    try:
        yield Append((call.ended(outcome, None),))
    except BaseException:  # noqa: BLE001
        error.add_note(f"rescind: the outcome of step {call.step_id} could not be recorded; the step is in doubt")


def _answer_from(slot: Slot, call: "WriteCall") -> Any:
    """What a repeated key is answered with: the recorded result, or an error that says why there is none."""
    if slot.claim.digest != call.arguments_digest:
        raise IdempotencyConflict(key=slot.claim.key, action=call.action, recorded_action=slot.action)
    match slot.state:
        case SlotState.COMPLETED:
            if slot.completed is None or not slot.completed.result_recorded:
                raise ResultNotRecorded(key=slot.claim.key, action=call.action)
            return call.typed_result(slot.completed.result)
        case SlotState.OPEN if call.is_held:
            return call.held_effect(StepRef(slot.run_id, slot.step_id))
        case SlotState.OPEN:
            reason = "it was begun and has no recorded end: it still runs, or its process died"
        case SlotState.UNKNOWN:
            reason = slot.reason or "its outcome is unknown"
        case _:
            assert_never(slot.state)
    raise StepInDoubt(key=slot.claim.key, action=call.action, run_id=slot.run_id, step_id=slot.step_id, reason=reason)


def name_of(error: BaseException) -> str:
    """An exception in words, for the journal."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # an exception that cannot even be shown is still one
        text = "(its text cannot be shown)"
    text = text[:REASON_LENGTH_MAX].encode(errors="replace").decode()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
