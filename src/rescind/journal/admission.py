"""Whether an append may enter a journal: the rules that every store keeps, decided before anything is written.

A store shows itself as `Standing`; the answer is a value, so that one refused append never disturbs the others that
are being written with it.
"""

from collections.abc import Sequence
from typing import Protocol

from rescind.errors import SequenceConflict, UsageError
from rescind.journal.codec import Prepared
from rescind.journal.port import Draft, Slot, SlotClaim, SlotState, SlotTaken
from rescind.model.entry import CompensationEnded, Disposition, Ended, Event, Intended, RunOpened
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.model.step import RunInfo

Refusal = SlotTaken | SequenceConflict | UsageError


class Standing(Protocol):
    """What a store knows at the moment of an append."""

    def run_and_position(self, run_id: str) -> tuple[RunInfo, int] | None:
        """The run as first opened, and the position its next entry gets; None for an unknown run."""
        ...

    def held(self, claim: SlotClaim) -> Slot | None:
        """The slot that this claim would meet, or None if the key is free."""
        ...

    def holds_slot(self, run_id: str, step_id: str) -> bool:
        """Whether the step holds a slot."""
        ...


def refusal_of(drafts: Sequence[Prepared], standing: Standing) -> Refusal | None:
    """Why this append may not enter, or None if it may. The first draft with a problem decides."""
    opened: dict[str, RunInfo] = {}
    ahead: dict[str, int] = {}
    claimed: set[tuple[str, str] | tuple[str, str, str]] = set()
    for prepared in drafts:
        draft = prepared.draft
        run_id, event = draft.run_id, draft.event
        known = standing.run_and_position(run_id)
        run = opened.get(run_id) if known is None else known[0]
        if isinstance(event, RunOpened):
            contradiction = _contradiction(draft, event.run, run)
            if contradiction is not None:
                return contradiction
            opened.setdefault(run_id, event.run)
        elif run is None:
            return UsageError(
                f"run {run_id} is not open: the first entry of a run must open it, this one is {prepared.kind}"
            )
        before = ahead.get(run_id, 0)
        if draft.expected_position is not None:
            position = before + (0 if known is None else known[1])
            if position != draft.expected_position:
                return SequenceConflict(run_id=run_id, expected=draft.expected_position, actual=position)
        if draft.claim is not None:
            refusal = _claim_refusal(draft, draft.claim, standing, claimed)
            if refusal is not None:
                return refusal
        ahead[run_id] = before + 1
    return None


def _contradiction(draft: Draft, wanted: RunInfo, known: RunInfo | None) -> UsageError | None:
    if wanted.run_id != draft.run_id:
        return UsageError(f"a draft for run {draft.run_id} opens run {wanted.run_id}; give both the same run id")
    # A resumed run may come from a newer version and in another trace; the run stays what it was first opened as.
    if known is not None and (known.agent_name, known.tenant) != (wanted.agent_name, wanted.tenant):
        return UsageError(
            f"run {draft.run_id} belongs to {_owner(known)} and cannot be continued by {_owner(wanted)}; "
            "choose another run id"
        )
    return None


def _owner(run: RunInfo) -> str:
    return f"agent {run.agent_name} of tenant {run.tenant}" if run.tenant else f"agent {run.agent_name} of no tenant"


def _claim_refusal(
    draft: Draft, claim: SlotClaim, standing: Standing, claimed: set[tuple[str, str] | tuple[str, str, str]]
) -> SlotTaken | UsageError | None:
    if not isinstance(draft.event, Intended):
        return UsageError(f"run {draft.run_id} claims key {claim.key!r} without an intent; only an intent can claim")
    slot = standing.held(claim)
    if slot is not None:
        return SlotTaken(slot)
    step_id = draft.event.step.step_id
    names = ((claim.tenant, claim.key), ("step", draft.run_id, step_id))
    if standing.holds_slot(draft.run_id, step_id) or not claimed.isdisjoint(names):
        return UsageError(
            f"step {draft.run_id}/{step_id} claims key {claim.key!r}, but one append claims a key once, "
            "and a step holds one key; give each call its own step id"
        )
    claimed.update(names)
    return None


def frees_slot(event: Event) -> bool:
    """Whether the event shows that its step has no effect (any more), so that its key may be used again."""
    if isinstance(event, Ended):
        return isinstance(event.outcome, Failed)
    # What was superseded had its effect, and nobody has taken that back: a repeated key is answered as before.
    stays = (Disposition.REVIEW, Disposition.SUPERSEDED)
    return isinstance(event, CompensationEnded) and event.disposition not in stays


def slot_of(claim: SlotClaim, run_id: str, intent: Event, end: Event | None) -> Slot:
    """The slot that an intent claimed and, where there is one, an end settled."""
    assert isinstance(intent, Intended)
    state, completed, reason = SlotState.OPEN, None, ""
    if isinstance(end, Ended):
        match end.outcome:
            case Completed():
                state, completed = SlotState.COMPLETED, end.outcome
            case Unknown():
                state, reason = SlotState.UNKNOWN, end.outcome.reason
            case Failed():
                raise AssertionError("a failed step holds no slot")
    return Slot(
        claim=claim,
        run_id=run_id,
        step_id=intent.step.step_id,
        action=intent.step.action,
        state=state,
        completed=completed,
        reason=reason,
    )
