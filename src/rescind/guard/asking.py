"""A write asks a person, and waits: the part of its flow between its arguments and its target.

    what was asked before? ─▶ nothing that is left: ask, durable ─▶ look ─▶ approved: go on
                                                              ▲      │──▶ denied, expired, stopped: refused
                                                              └ wait ┘

What is asked is durable and has an id that follows from the call (AP1), so a process that is killed while it waits
finds it again when its run is continued and makes the same call, and so does a call that did not want to wait for long.

The approved arguments are those that are executed: right before the intent they are recorded once more, and if they
differ, the approval is withdrawn and the call refused. The intent and the use of the approval are one append, at the
place in the approval's run that was read (AP2): of two processes that hold one approval, one begins the write.
"""

from collections.abc import Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from rescind.clock import from_us
from rescind.errors import ApprovalDenied, ApprovalPending, ApprovalVoid, SequenceConflict
from rescind.guard.request import Append, ReadRun, Request, Wait
from rescind.journal.behind import drafts_behind
from rescind.journal.port import Draft
from rescind.model.approval import (
    APPROVAL_AGENT,
    WITHDRAWN,
    Approval,
    ApprovalState,
    fold_approvals,
)
from rescind.model.entry import ApprovalAsked, ApprovalDecided, ApprovalUsed, Event, RunOpened, StepRef
from rescind.model.step import RunInfo

if TYPE_CHECKING:
    from rescind.guard.call import WriteCall
    from rescind.guard.gate import AwaitApproval

POLL_MIN_S, POLL_MAX_S = 0.02, 0.5
"""How often a waiting call looks. A person takes seconds at best; a look costs some 20 µs, and it notices a stop."""

_GROWTH = 1.5


class Decider(Protocol):
    """Who says what was decided, where the journal of this machine may not: whoever has that could approve itself."""

    def decision(self, asked: ApprovalAsked) -> ApprovalDecided | None:
        """What a person has decided about it, as far as it is known here; None while it waits.

        See to it that it is asked. Does no I/O: a write that waits calls this again and again.
        """
        ...


Asking = Generator[Request, Any, Approval | None]


def wait_for_approval(call: "WriteCall", awaits: "AwaitApproval") -> Asking:
    """Ask for this call, unless it was asked for, and wait until somebody has decided.

    Returns: The approval to begin the write with; None, if it needs none any more.

    Raises:
        ApprovalDenied, ApprovalVoid, ApprovalPending: A person said no; nobody decided before it expired, or before
            this call had waited for as long as it may.
        CallDenied, RunHalted: The run was stopped while it waited.
        JournalUnavailable: It could not be asked.
    """
    call.hash_arguments()
    clock = call.run.guard.clock
    until_s = clock.monotonic_s() + call.run.guard.approval.wait_s
    number = yield from _last_number(call)
    approval = (yield from _read(call, number)) if number else None
    has_waited, pause_s = False, POLL_MIN_S
    while True:
        approval = approval and _as_decided(call, approval)
        state = ApprovalState.WITHDRAWN if approval is None else approval.state(from_us(clock.now_us()))
        if approval is None or state not in _STANDS:
            if approval is not None and has_waited and state is ApprovalState.EXPIRED:
                raise _void(call, approval, "nobody decided in time")
            number += 1
            approval = yield from _ask(call, number, awaits)
            continue
        if state is ApprovalState.APPROVED:
            return approval
        if state is ApprovalState.DENIED:
            raise _denied(call, approval)
        left_s = until_s - clock.monotonic_s()
        if left_s <= 0:
            raise ApprovalPending(
                action=call.action,
                approval_id=approval.approval_id,
                because=approval.asked.because,
                level=awaits.level,
                order_ids=tuple(order.order_id for order in awaits.orders),
            )
        has_waited = True
        yield Wait(clock, min(pause_s, left_s))
        pause_s = min(pause_s * _GROWTH, POLL_MAX_S)
        still = call.check_waiting()
        if still is None and (yield from _withdraw(call, approval, "it needs no approval any more")):
            return None
        awaits = still or awaits
        approval = (yield from _read(call, number, approval.position)) or approval


_STANDS = (ApprovalState.WAITING, ApprovalState.APPROVED, ApprovalState.DENIED)
"""States in which the same call has its answer, or its question, already (AP3)."""


def keep_to_approval(call: "WriteCall", approval: Approval) -> Generator[Request, Any, None]:
    """Right before the intent: is the call still what was approved?

    Raises: ApprovalVoid; the approval is then withdrawn, if an argument was changed.
    """
    if from_us(call.run.guard.clock.now_us()) >= approval.asked.expires_at:
        raise _void(call, approval, "it expired before the call could begin")
    if call.is_as_recorded():
        return
    yield from _withdraw(call, approval, "an argument was changed after it was asked for")
    raise _void(call, approval, "an argument was changed after it was asked for; pass the call a copy")


def use_of(call: "WriteCall", approval: Approval) -> tuple[Draft, ...]:
    """The drafts that use the approval up; together with the intent, or not at all."""
    step = StepRef(call.run.info.run_id, call.step_id)
    used = ApprovalUsed(approval_id=approval.approval_id, step=step)
    if call.run.guard.decider is None:
        return _next(call, approval, used)
    assert approval.decided is not None
    return _next(call, approval, approval.decided, used)  # what was decided elsewhere is told here too


def used_by_another(call: "WriteCall", approval: Approval) -> ApprovalVoid:
    """The refusal of a call whose approval was used, or withdrawn, in the same moment."""
    return _void(call, approval, "another call of this run used it in the same moment, or did not want it any more")


def _last_number(call: "WriteCall") -> Generator[Request, Any, int]:
    """How often this very call was asked for: there are no gaps, so doubling and halving finds it."""
    known, beyond = 0, 1
    while (yield ReadRun(call.approval_id(beyond))):
        known, beyond = beyond, beyond * 2
    while beyond - known > 1:
        middle = (known + beyond) // 2
        if (yield ReadRun(call.approval_id(middle))):
            known = middle
        else:
            beyond = middle
    return known


def _read(call: "WriteCall", number: int, position: int = -1) -> Asking:
    folded = fold_approvals((yield ReadRun(call.approval_id(number), position)))
    if not folded:
        return None
    if folded[0].asked.arguments_digest != call.arguments_digest:  # its id says otherwise; nothing of ours does that
        raise _void(call, folded[0], "the journal says that it was asked for something else")
    return folded[0]


def _ask(call: "WriteCall", number: int, awaits: "AwaitApproval") -> Asking:
    info, guard = call.run.info, call.run.guard
    approval_id, now_us = call.approval_id(number), guard.clock.now_us()
    asked = ApprovalAsked(
        approval_id=approval_id,
        run=info,
        action=call.action,
        arguments=call.recorded,
        arguments_digest=call.arguments_digest,
        target=call.target,
        because=awaits.because,
        expires_at=from_us(now_us) + timedelta(seconds=guard.approval.expire_s),
    )
    own = RunInfo(run_id=approval_id, agent_name=APPROVAL_AGENT, tenant=info.tenant)
    events: tuple[Event, ...] = (RunOpened(run=own, guard_id=guard.guard_id), asked)
    told = ((approval_id, event) for event in events)
    drafts = tuple(drafts_behind(approval_id, told, position=-1, at_us=now_us))
    # The asking run is opened with it: somebody will look at who asks, and may have to stop it.
    opening = call.run.opening_with_intent()
    try:
        yield Append(drafts if opening is None else (opening, *drafts))
    except SequenceConflict:
        pass  # another call like this one, in another thread or process, has asked in the same moment
    else:
        call.run.mark_open(None)
    return (yield from _read(call, number))


def _withdraw(call: "WriteCall", approval: Approval, note: str) -> Generator[Request, Any, bool]:
    """Take back what was asked; False, if something else became of it in the same moment."""
    withdrawn = ApprovalDecided(
        approval_id=approval.approval_id,
        decision=WITHDRAWN,
        actor=call.run.guard.guard_id,
        arguments_digest=approval.asked.arguments_digest,
        note=note,
    )
    try:
        yield Append(_next(call, approval, withdrawn))
    except SequenceConflict:
        return False
    return True


def _as_decided(call: "WriteCall", approval: Approval) -> Approval:
    """The approval with the decision that counts: the journal's own, unless somebody else is the one to say it."""
    decider = call.run.guard.decider
    if decider is None or (approval.decided is not None and approval.decided.decision == WITHDRAWN):
        return approval
    return msgspec.structs.replace(approval, decided=decider.decision(approval.asked))


def _next(call: "WriteCall", approval: Approval, *events: Event) -> tuple[Draft, ...]:
    now_us = call.run.guard.clock.now_us()
    return tuple(
        Draft(run_id=approval.approval_id, event=event, recorded_at_us=now_us, expected_position=position)
        for position, event in enumerate(events, start=approval.position + 1)
    )


def _denied(call: "WriteCall", approval: Approval) -> ApprovalDenied:
    decided = approval.decided
    assert decided is not None
    return ApprovalDenied(action=call.action, approval_id=approval.approval_id, actor=decided.actor, note=decided.note)


def _void(call: "WriteCall", approval: Approval, problem: str) -> ApprovalVoid:
    return ApprovalVoid(action=call.action, approval_id=approval.approval_id, problem=problem)
