"""What a person orders about one undo, whoever asks in which way: found by its plan, refused where it means nothing."""

from rescind.clock import Clock
from rescind.errors import AlreadySettled
from rescind.journal.port import Journal
from rescind.recovery.control import control_undo
from rescind.recovery.undo_status import UndoStatus
from rescind.recovery.undos import continuation_of, undo_status

_SO_ALREADY = {"pause": ("paused",), "resume": ("running", "waiting"), "cancel": ("cancelling", "cancelled")}
"""States in which an order has been obeyed, or is being."""

_ALREADY = {"pause": ("paused", "is paused already"), "cancel": ("cancelling", "is being cancelled already")}


def order_undo(
    journal: Journal, plan: str, what: str, *, actor: str, reason: str, clock: Clock, sent_again: bool = False
) -> UndoStatus:
    """Pause, resume or cancel the undo of this plan, or of the one that goes on with it. Durable on return.

    Args:
        journal: Where it is.
        plan: Its run, its digest, or the beginning of either.
        what: `pause`, `resume` or `cancel`.
        actor: Who orders it.
        reason: Why.
        clock: Says when.
        sent_again: Whether the same order may have been given before, and its answer lost: then nothing is recorded
            where it is so already.

    Returns: How far it is now.
    Raises: UsageError, if there is no such undo; AlreadySettled, if it has ended, or there is nothing of that kind to
        order.
    """
    status = undo_status(journal, plan)
    while status.state == "continued" and (later := continuation_of(journal, status)) is not None:
        status = undo_status(journal, later)
    if sent_again and status.state in _SO_ALREADY.get(what, ()):
        return status
    _refuse_pointless(what, status)
    control_undo(journal, status.plan_run, what, actor=actor, reason=reason, clock=clock)
    return undo_status(journal, status.plan_run)


def _refuse_pointless(what: str, status: UndoStatus) -> None:
    name = status.plan_digest[:16]
    if status.has_ended:
        raise AlreadySettled(f"the undo of plan {name} has ended ({status.state}); there is nothing to {what}")
    if what == "resume" and status.state != "paused":
        raise AlreadySettled(f"the undo of plan {name} is {status.state}, not paused; there is nothing to resume")
    state, words = _ALREADY.get(what, ("", ""))
    if status.state == state:
        raise AlreadySettled(f"the undo of plan {name} {words}, by {status.held_by}")
