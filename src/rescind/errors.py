"""One tree of errors. Whatever a caller may sensibly catch derives from `RescindError`.

A message says what happened and what to do; the data is on the error. `UsageError` and its children are mistakes in a
call, a declaration, a file or a command line: nothing was changed, and the command line leaves with status 2.
"""

from collections.abc import Sequence
from typing import Any

from rescind.model.level import Level


class RescindError(Exception):
    """Anything that rescind reports."""


# --- mistakes: nothing was changed ---


class UsageError(RescindError):
    """Something was asked for in a way that cannot be served. The message names the place and the remedy."""


class NameUnknown(UsageError):
    """Something was named that there is not. The message says what is nearest to it."""


class AlreadySettled(UsageError):
    """It has ended, or was decided, or waits for something else: there is nothing of that kind to do. Nothing was."""


class ConfigError(UsageError):
    """`rescind.yaml` or an environment variable cannot be used as it is."""


class DeclarationError(UsageError):
    """An action is declared in a way that cannot be guarded: no effect class, a name used twice, a missing handler."""


class NotSerialisable(UsageError):
    """An argument or a result cannot be written to the journal. `name` says which; the tool did not run."""

    def __init__(self, *, action: str, name: str, problem: str) -> None:
        super().__init__(f"{action}: {name} cannot be recorded in the journal, so the tool was not run: {problem}")
        self.action, self.name, self.problem = action, name, problem


class NoRun(UsageError):
    """A guarded tool was called outside any run, where nobody could be stopped or undone."""

    def __init__(self, action: str) -> None:
        super().__init__(
            f'{action} was called outside a run; call it inside `with guard.run(agent="name@version"):`. '
            "In a thread of your own, enter `with run.activate():` first"
        )
        self.action = action


class StoreFormatError(UsageError):
    """A store was written by a newer rescind, or is not a store of ours. It was left alone."""


class EntryUnreadable(StoreFormatError):
    """An entry of the journal is there and cannot be read: of a newer rescind, or changed since.

    Attributes:
        sequence: The entry.
        run_id: Its run; empty where that is not known.
    """

    def __init__(self, *, sequence: int, run_id: str, problem: str) -> None:
        of = f"; it is of run {run_id}" if run_id else ""
        super().__init__(
            f"entry {sequence} of the journal cannot be read ({problem}){of}. If a newer rescind wrote it, upgrade; "
            "if not, `rescind audit verify` says what was changed"
        )
        self.sequence, self.run_id = sequence, run_id


# --- refusals: the guard said no, and the effect did not happen ---


class CallDenied(RescindError):
    """This call was refused and did not happen; the run goes on.

    `str(error)` is text for a language model: what is refused, and what to do instead.
    """

    def __init__(self, message: str, *, action: str, level: Level | None = None, order_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.action, self.level, self.order_ids = action, level, tuple(order_ids)


class RunHalted(RescindError):
    """A standing order halts this run. Clean up and leave; every later call is refused.

    Without `order_ids` it is a silence of all switches that holds the run at `halted`, for as long as it lasts.
    `fallback` is what to show to the user instead of an answer; `fallback_json` is the same for programs, if there is
    more to say than the text, and `retry_after_s` when asking again may help, if anybody knows.
    """

    def __init__(
        self,
        message: str,
        *,
        fallback: str,
        run_id: str,
        order_ids: Sequence[str] = (),
        fallback_json: dict[str, Any] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.fallback, self.run_id, self.order_ids = fallback, run_id, tuple(order_ids)
        self.fallback_json, self.retry_after_s = fallback_json, retry_after_s


class LeaseRevoked(CallDenied):
    """The run's lease is void: an order revoked its right to act. The call did not happen.

    Its fencing number has moved on, so gateways and tools that ask refuse it too. A run gets its right back when every
    order that revoked it is lifted, and then with a higher number.
    """

    def __init__(self, *, action: str, run_id: str, fencing_number: int, why: str, order_ids: Sequence[str]) -> None:
        super().__init__(
            f"{action} was not run: the right of this run to act was revoked. Reason: {why}. Do not retry and do not "
            "try another way; stop here and report what was done",
            action=action,
            level=Level.PAUSED,
            order_ids=order_ids,
        )
        self.run_id, self.fencing_number, self.why = run_id, fencing_number, why


class BreakerOpen(CallDenied):
    """A circuit breaker has tripped, and the call did not happen. Reads go on.

    `retry_after_s` says when the next probes are admitted; None if nobody knows.
    """

    def __init__(
        self,
        message: str,
        *,
        action: str,
        level: Level | None = None,
        order_ids: Sequence[str] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, action=action, level=level, order_ids=order_ids)
        self.retry_after_s = retry_after_s


class BreakerForcedOpen(CallDenied):
    """A person has opened this breaker, and the call did not happen. Nothing but a lift closes it."""


class FanOutBlocked(CallDenied):
    """This run may start no further runs, and nothing that starts some. What it would have started did not start.

    `started` names what was asked for: a child run, a webhook, a follow-up agent.
    """

    def __init__(self, *, action: str, run_id: str, started: str, why: str, order_ids: Sequence[str]) -> None:
        super().__init__(
            f"{started} was not started: this run may start nothing further. Reason: {why}. Do not retry; go on with "
            "what you can do yourself, and tell the user what was left out",
            action=action,
            level=Level.NORMAL,
            order_ids=order_ids,
        )
        self.run_id, self.started, self.why = run_id, started, why


class RunQuarantined(RunHalted):
    """The run is in quarantine: it is neither retried nor resumed until a person releases it.

    Whoever schedules runs puts it aside: another attempt is refused too. `rescind resume ORDER` releases it.
    """

    @staticmethod
    def text(*, action: str, run_id: str, why: str) -> str:
        """The message of such an error.

        Args:
            action: What was to be done: an action's name, or `resuming it`.
            run_id: The run.
            why: The order's reason, id and actor.
        """
        return (
            f"run {run_id} is in quarantine ({why}); {action} was not run. Do not retry and do not resume this run: "
            "every attempt is refused until a person releases it. End it now"
        )


class ApprovalPending(CallDenied):
    """The call waits for a person's approval, and did not happen. The same call goes through once it is approved."""

    def __init__(self, *, action: str, approval_id: str, because: str, level: Level, order_ids: Sequence[str]) -> None:
        super().__init__(
            f"{action} was not run: it waits for a person's approval ({approval_id}). Reason: {because}. Tell the user "
            "that it has to be approved. Once it is, the very same call goes through; with other arguments it would "
            "have to be approved anew, so do not change them, and do not look for another way",
            action=action,
            level=level,
            order_ids=order_ids,
        )
        self.approval_id, self.because = approval_id, because


class ApprovalDenied(CallDenied):
    """A person has denied this call, and it did not happen. It is denied until the approval that was asked expires."""

    def __init__(self, *, action: str, approval_id: str, actor: str, note: str) -> None:
        why = f": {note}" if note else ""
        super().__init__(
            f"{action} was not run: {actor} has denied it ({approval_id}){why}. Do not make this call again and do "
            "not look for another way; tell the user that it was denied",
            action=action,
        )
        self.approval_id, self.actor, self.note = approval_id, actor, note


class ApprovalVoid(CallDenied):
    """The call is not, or not any more, what was or could be approved, and did not happen. It may be asked for anew."""

    def __init__(self, *, action: str, approval_id: str, problem: str) -> None:
        super().__init__(
            f"{action} was not run: approval {approval_id} is void, because {problem}. Nothing was changed. The call "
            "can be made again, and then asks for a new approval",
            action=action,
        )
        self.approval_id, self.problem = approval_id, problem


class IdempotencyConflict(RescindError):
    """The idempotency key belongs to a call with another action or other arguments. Nothing was done."""

    def __init__(self, *, key: str, action: str, recorded_action: str) -> None:
        super().__init__(
            f"idempotency key {key!r} was already used for another call ({recorded_action}); {action} was not run. "
            "Use one key for one call, or drop the key"
        )
        self.key, self.action, self.recorded_action = key, action, recorded_action


class StepInDoubt(RescindError):
    """A call with this idempotency key was begun, and nobody knows how it ended; it was not run again."""

    def __init__(self, *, key: str, action: str, run_id: str, step_id: str, reason: str) -> None:
        super().__init__(
            f"{action} with idempotency key {key!r} is in doubt ({reason}) and was not run again; look at step "
            f"{run_id}/{step_id}, then settle it with `rescind undo --run {run_id}` or use a new key"
        )
        self.key, self.action, self.run_id, self.step_id, self.reason = key, action, run_id, step_id, reason


class ResultNotRecorded(RescindError):
    """The call with this key took effect, but its result could not be recorded, so it cannot be given again."""

    def __init__(self, *, key: str, action: str) -> None:
        super().__init__(f"{action} with idempotency key {key!r} took effect once; its result was not recordable")
        self.key, self.action = key, action


class NothingChanged(RescindError):
    """Raised *by a tool* to vouch that its call changed nothing: the step is then failed and not unknown."""


class StaleLease(NothingChanged):
    """Raised *by a tool* behind a fence: the run's fencing number is too low, so its lease was revoked meanwhile."""

    def __init__(self, *, run_id: str, fencing_number: int, highest: int, full: bool = False) -> None:
        if full:
            why = "this fence knows as many runs as it may and takes no new one; let it forget runs that have ended"
        elif fencing_number < 1:
            why = "a fencing number is at least 1; ask for the run's lease"
        else:
            why = f"{highest} was seen, so the lease was revoked since; end this worker"
        super().__init__(f"fencing number {fencing_number} of run {run_id} was refused: {why}. Nothing was changed")
        self.run_id, self.fencing_number, self.highest = run_id, fencing_number, highest


class VerificationFailed(RescindError):
    """The tool ran, and its postcondition does not hold. The step stays completed, and can be undone."""

    def __init__(self, *, action: str, run_id: str, step_id: str, detail: str, result: Any) -> None:
        super().__init__(f"{action} ran, but its postcondition does not hold (step {run_id}/{step_id}): {detail}")
        self.action, self.run_id, self.step_id, self.detail, self.result = (
            action,
            run_id,
            step_id,
            detail,
            result,
        )


# --- faults: the machinery could not do its part ---


class JournalUnavailable(RescindError):
    """The journal could not make something durable: a full, read-only or failing disk, or a lock held too long.

    Before an effect: the effect did not happen. After one: see `OutcomeNotRecorded`.
    """


class OutcomeNotRecorded(JournalUnavailable):
    """The effect took place, but its outcome could not be made durable. The journal shows the step as in doubt."""

    def __init__(self, *, action: str, run_id: str, step_id: str, cause: str, result: Any) -> None:
        super().__init__(
            f"{action} ran, but its outcome could not be recorded ({cause}); step {run_id}/{step_id} is now in doubt. "
            "Do not repeat the call; mend the journal's disk, then undo or review the step"
        )
        self.action, self.run_id, self.step_id, self.result = action, run_id, step_id, result


class SequenceConflict(RescindError):
    """Someone appended first. Read again from `actual`, decide again, append again."""

    def __init__(self, *, run_id: str, expected: int, actual: int) -> None:
        super().__init__(f"run {run_id} is at position {actual}, this append expected {expected}")
        self.run_id, self.expected, self.actual = run_id, expected, actual


class OrdersUnavailable(RescindError):
    """The standing orders cannot be read or written. Guards refuse writes until they can."""


# --- undo ---


class Conflict(RescindError):
    """Raised by a restore: the target is not as the agent left it, so it was not touched."""


class Transient(RescindError):
    """Raised *by a compensation* to vouch that nothing happened and that trying again may help.

    `retry_after_s`, from a header such as Retry-After, holds back everything for the same target system for so long.
    """

    def __init__(self, *args: object, retry_after_s: float = 0.0) -> None:
        super().__init__(*args)
        self.retry_after_s = retry_after_s


class RunStillLive(RescindError):
    """A selected run may still write. Stop it first; an undo of a moving target is none."""

    def __init__(self, run_ids: Sequence[str], *, remedy: str) -> None:
        named = ", ".join(run_ids[:5]) + (f" and {len(run_ids) - 5} more" if len(run_ids) > 5 else "")
        super().__init__(
            f"{'a selected run' if len(run_ids) == 1 else 'selected runs'} may still write: {named}. {remedy}"
        )
        self.run_ids = tuple(run_ids)


class PlanOutdated(RescindError):
    """The journal or a target has moved on since the plan was shown. Look at the new plan, then apply that."""

    def __init__(self, *, shown: str, current: str) -> None:
        super().__init__(
            f"the plan has changed since it was shown (shown {shown[:12]}, now {current[:12]}); "
            "nothing was done. Look at the new plan and apply that one"
        )
        self.shown, self.current = shown, current


class PlanUnknown(UsageError):
    """A plan was named that is not known where it was to be applied: of another store, or mistyped."""

    def __init__(self, *, named: str, current: str, known_by: str) -> None:
        super().__init__(
            f"no plan {named[:16]} {known_by}; is it of another store? The plan here is {current[:16]}. "
            "Nothing was done"
        )
        self.named, self.current = named, current


class UndoBusy(RescindError):
    """Another process is applying an undo on this journal."""


class EngineUnavailable(RescindError):
    """The file or the database that holds the workers' jobs cannot be read or written now. Nothing is lost."""


class PlanStale(RescindError):
    """The workers found a submitted plan not to be as it was shown, so nothing of it was done."""
