"""What waits for a person's approval on this machine, and what was decided; the laws are in `model.approval`."""

from datetime import datetime, timedelta

from rescind.clock import Clock, from_us
from rescind.errors import EntryUnreadable, SequenceConflict, UsageError
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Draft, Journal, Query
from rescind.model.approval import (
    APPROVAL_AGENT,
    APPROVED,
    DENIED,
    EXPIRE_MAX,
    Approval,
    ApprovalState,
    fold_approvals,
)
from rescind.model.entry import ApprovalDecided
from rescind.recovery.reading import every_run, the_one_meant

_CLOCKS_APART = timedelta(days=1)  # Who asks and who looks may be on machines whose clocks do not agree.

WHAT_CAN_BE_DECIDED = (APPROVED, DENIED)


def list_approvals(
    journal: Journal, *, now: datetime, waiting_only: bool = True, gaps: list[EntryUnreadable] | None = None
) -> list[Approval]:
    """The approvals, oldest first.

    Args:
        journal: Where they are.
        now: An aware moment; decides which have expired.
        waiting_only: Leave out what nobody has to decide any more.
        gaps: Gets the entries that cannot be read, whose approvals are left out; without it, they raise.
    """
    since = now - EXPIRE_MAX - _CLOCKS_APART if waiting_only else None
    query = Query(agent_name=APPROVAL_AGENT, since=since)
    approvals = fold_approvals(every_entry(journal, query) if gaps is None else readable_entries(journal, query, gaps))
    # One of which an entry cannot be read may be decided already: nobody is asked to decide it again.
    hidden = {gap.run_id for gap in gaps or ()}
    told = [each for each in approvals if each.approval_id not in hidden]
    if not waiting_only:
        return told
    return [each for each in told if each.state(now) is ApprovalState.WAITING]


def find_approval(journal: Journal, approval_id: str) -> Approval:
    """The approval with this id, or the only one whose id begins so.

    Raises: UsageError, with the nearest id, if there is none or more than one.
    """
    exact = read_approval(journal, approval_id)
    if exact is not None:
        return exact
    known = (run.run_id for run in every_run(journal, Query(agent_name=APPROVAL_AGENT)))
    found = read_approval(journal, the_one_meant(approval_id, known, what="approval"))
    if found is None:
        raise UsageError(f"run {approval_id} holds no approval")
    return found


def read_approval(journal: Journal, approval_id: str) -> Approval | None:
    """The approval with exactly this id."""
    folded = fold_approvals(journal.entries(Query(run_id=approval_id)))
    return folded[0] if folded else None


def decide(journal: Journal, approval_id: str, decision: str, *, actor: str, note: str = "", clock: Clock) -> Approval:
    """Record what a person decided; durable on return.

    Args:
        journal: Where the approval is.
        approval_id: The approval, or the beginning of its id.
        decision: `approved` or `denied`.
        actor: Who decided.
        note: Why. Who asked is told, if it was denied.
        clock: The time.

    Returns: The approval as it is now.
    Raises: UsageError, for an unknown approval or decision, and if there is nothing to decide any more (AP2): of two
        people who decide in the same moment, one is told what the other has decided.
    """
    if decision not in WHAT_CAN_BE_DECIDED:
        raise UsageError(f"unknown decision {decision!r}; it is one of: {', '.join(WHAT_CAN_BE_DECIDED)}")
    if not actor.strip():
        raise UsageError("a decision needs the name of who decides")
    approval = find_approval(journal, approval_id)
    _refuse_closed(approval, now=from_us(clock.now_us()))
    event = ApprovalDecided(
        approval_id=approval.approval_id,
        decision=decision,
        actor=actor,
        arguments_digest=approval.asked.arguments_digest,
        note=note,
    )
    draft = Draft(
        run_id=approval.approval_id,
        event=event,
        recorded_at_us=clock.now_us(),
        expected_position=approval.position + 1,
    )
    try:
        journal.append([draft])
    except SequenceConflict:
        # Whatever has come in between, it has decided, or withdrawn what was asked.
        _refuse_closed(find_approval(journal, approval.approval_id), now=from_us(clock.now_us()))
        raise
    return find_approval(journal, approval.approval_id)


def _refuse_closed(approval: Approval, *, now: datetime) -> None:
    closed = approval.closed_because(now)
    if closed:
        raise UsageError(closed)
