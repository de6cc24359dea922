"""Approvals: one write of one run, which waits for a person. Folded from the entries of the approval's own run.

        ┌────────── expires ──────────┐
    waiting ─▶ approved ─▶ used       ▼
        │          └─────────────▶ expired
        ├─▶ denied
        └─▶ withdrawn (also from approved): who asked does not want it any more, or wants something else by now

AP1. An approval is about one call: its run, its action, its target and its recorded arguments make its id. Another
    argument is another call, and needs another approval.
AP2. It is decided once, by a named person, before it expires; and good for one intent, before it expires.
AP3. The same call asks again with the next number, and only when nothing is left of the last: it was used, it has
    expired, or it was withdrawn. A denial stands until it expires, so nobody is asked the same question all day.
AP4. Agents may only tighten: they ask, use and withdraw. Whoever decides is somebody else.
"""

import enum
import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from rescind.model.entry import ApprovalAsked, ApprovalDecided, ApprovalUsed, Entry, StepRef
from rescind.model.step import REDACTED, Target, canonical_json, digest_of

APPROVAL_AGENT = "rescind-approval"
"""The agent name of the runs that approvals are recorded in."""

EXPIRE_MAX = timedelta(days=7)
"""The longest that anybody may be given to decide. Who looks for what is waiting need not look further back."""

APPROVED, DENIED, WITHDRAWN = "approved", "denied", "withdrawn"
"""What may be decided: the first two by a person, the last by who asked."""


class ApprovalState(enum.StrEnum):
    """Where an approval stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    USED = "used"
    WITHDRAWN = "withdrawn"


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """One approval, and all that the journal knows of it so far.

    Attributes:
        asked: What is asked.
        position: Where its run's chain ends; whatever is decided or used next stands at the one after.
        decided: What was decided; None while it waits.
        decided_at: When; aware, UTC.
        used: The step that it was used for.
    """

    asked: ApprovalAsked
    asked_at: datetime
    position: int
    decided: ApprovalDecided | None = None
    decided_at: datetime | None = None
    used: StepRef | None = None
    used_at: datetime | None = None

    @property
    def approval_id(self) -> str:
        """Its id, which is its run's id."""
        return self.asked.approval_id

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Arguments that are kept out of the record, so that nobody has seen or approved their values."""
        return tuple(name for name, value in self.asked.arguments.items() if value == REDACTED)

    @property
    def is_sound(self) -> bool:
        """Whether the arguments that a person is shown are those that the digest covers."""
        shown = {name: value for name, value in self.asked.arguments.items() if value != REDACTED}
        return digest_of(self.asked.action, shown) == self.asked.arguments_digest

    def state(self, now: datetime) -> ApprovalState:
        """Where it stands at an aware moment. A decision that came too late decides nothing."""
        if self.used is not None:
            return ApprovalState.USED
        decision = "" if self.decided is None else self.decided.decision
        if decision == WITHDRAWN:
            return ApprovalState.WITHDRAWN
        if now >= self.asked.expires_at:
            return ApprovalState.EXPIRED
        return ApprovalState(decision) if decision else ApprovalState.WAITING

    def closed_because(self, now: datetime) -> str:
        """Why nobody can decide it at an aware moment; empty if somebody can. For people, with what to do."""
        by = "somebody" if self.decided is None else self.decided.actor
        match self.state(now):
            case ApprovalState.WAITING if self.is_sound:
                return ""
            case ApprovalState.WAITING:
                return (
                    f"{self.approval_id} shows other arguments than those it is about, so no guard of ours wrote it; "
                    "look where it comes from: `rescind audit verify`"
                )
            case ApprovalState.EXPIRED:
                return f"{self.approval_id} has expired; if the call is still wanted, it asks again"
            case ApprovalState.USED:
                return f"{self.approval_id} was approved, and used by step {self.used}; it cannot be decided again"
            case ApprovalState.WITHDRAWN:
                return f"{self.approval_id} was withdrawn by who asked for it; there is nothing left to decide"
            case state:
                return f"{self.approval_id} was {state.value} by {by} already; it cannot be decided twice"


def approval_id_of(run_id: str, arguments_digest: str, target: Target | None, number: int) -> str:
    """The id of the approval that a call asks for (AP1).

    Args:
        run_id: Whose call it is.
        arguments_digest: Over its action and recorded arguments.
        target: What it touches.
        number: Which approval of this very call, from 1.
    """
    named = canonical_json([run_id, arguments_digest, target, number])
    return "approval_" + hashlib.sha256(named).hexdigest()[:20]


def fold_approvals(entries: Iterable[Entry]) -> list[Approval]:
    """The approvals that the entries tell of, oldest first. Entries come in order of sequence, of any runs."""
    approvals: dict[str, Approval] = {}
    for entry in entries:
        event, run_id = entry.event, entry.run.run_id
        if isinstance(event, ApprovalAsked):
            # Of two askings in one run, the first counts: nobody may change what somebody is looking at.
            approvals.setdefault(run_id, Approval(asked=event, asked_at=entry.recorded_at, position=entry.position))
        elif run_id in approvals:
            approvals[run_id] = _after(approvals[run_id], entry)
    return list(approvals.values())


def _after(approval: Approval, entry: Entry) -> Approval:
    event = entry.event
    changes: dict[str, object] = {"position": entry.position}
    if isinstance(event, ApprovalUsed) and approval.used is None:
        changes |= {"used": event.step, "used_at": entry.recorded_at}
    elif isinstance(event, ApprovalDecided) and _counts(event, approval, entry.recorded_at):
        changes |= {"decided": event, "decided_at": entry.recorded_at}
    return msgspec.structs.replace(approval, **changes)


def _counts(decided: ApprovalDecided, approval: Approval, at: datetime) -> bool:
    if decided.decision == WITHDRAWN:
        return True
    # AP2; and whoever decided about other arguments has decided nothing here.
    is_about_this = decided.arguments_digest == approval.asked.arguments_digest
    return approval.decided is None and is_about_this and at < approval.asked.expires_at
