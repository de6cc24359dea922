"""What only people decide: review tasks that an undo leaves to them, and approvals that a write waits for."""

from datetime import datetime

import msgspec

from rescind.model.step import Arguments, RunInfo, StepRef, Target


class ReviewOpened(msgspec.Struct, frozen=True, gc=False, tag="review_opened", kw_only=True):
    """A person has to decide about these steps: one task for all steps of one action with one reason."""

    task_id: str
    action: str
    reason: str
    detail: str
    steps: tuple[StepRef, ...]


class ReviewNoted(msgspec.Struct, frozen=True, gc=False, tag="review_noted", kw_only=True):
    """Something was said of a review task before or after it was decided.

    Attributes:
        what: `assigned` (`text` is to whom; empty: to nobody any more), `comment` (`text`), `due` (`due_at`; None: at
            no time any more), or `exported` (`text` is where to, `state` what was told there: `opened` or `resolved`).
        actor: Who said it.
    """

    task_id: str
    what: str
    actor: str
    text: str = ""
    state: str = ""
    due_at: datetime | None = None


class ReviewResolved(msgspec.Struct, frozen=True, gc=False, tag="review_resolved", kw_only=True):
    """A person decided. `resolution` is `done`, `compensated`, `not_needed` or `retry`.

    `reference` names what was done elsewhere: a ticket, a credit note, a booking.
    """

    task_id: str
    resolution: str
    actor: str
    note: str = ""
    reference: str = ""


class ApprovalAsked(msgspec.Struct, frozen=True, gc=False, tag="approval_asked", kw_only=True):
    """A write waits for a person. In the approval's own run; `arguments_digest` covers action and arguments.

    Attributes:
        approval_id: The run that holds this approval's events.
        run: Who asks; the step has no intent yet.
        arguments: As they would be executed and recorded, redacted ones blotted out.
        because: Why it needs one: the order, or the rule.
        expires_at: Until when a decision counts.
    """

    approval_id: str
    run: RunInfo
    action: str
    arguments: Arguments
    arguments_digest: str
    target: Target | None = None
    because: str = ""
    expires_at: datetime


class ApprovalDecided(msgspec.Struct, frozen=True, gc=False, tag="approval_decided", kw_only=True):
    """A named person decided: `approved` or `denied`. Or who asked does not want it any more: `withdrawn`.

    `arguments_digest` is of what was decided about. Only of a withdrawal, `actor` is a guard.
    """

    approval_id: str
    decision: str
    actor: str
    arguments_digest: str
    note: str = ""


class ApprovalUsed(msgspec.Struct, frozen=True, gc=False, tag="approval_used", kw_only=True):
    """The approved write was begun: an approval is good for one execution. Together with the step's intent."""

    approval_id: str
    step: StepRef
