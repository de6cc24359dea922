"""A run's steps, folded from its events. The one place that knows what a sequence of events means."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    CompensationWithdrawn,
    Disposition,
    Ended,
    Entry,
    Intended,
    Overwrites,
    Probed,
    RedoEnded,
    RedoIntended,
    Released,
    ReviewNoted,
    ReviewOpened,
    ReviewResolved,
    StepRef,
    Verified,
)
from rescind.model.outcome import Outcome
from rescind.model.probe import Probe, ProbeResult
from rescind.model.step import HeldUntil, RunInfo, Snapshot, Step


class StepRecord(msgspec.Struct, kw_only=True, gc=False):
    """A step and all that the journal knows of it so far.

    Attributes:
        intended_sequence: Where in the journal it was intended; orders steps in time.
        released: Whether a held step was let go: its tool has begun since.
        released_at: When it was.
        ended_sequence: Where its outcome stands; None if it has none.
        outcome: None if no end was recorded: it is in flight, or its process died.
        after: What was seen at the target right after the effect.
        dropped_by: Who dropped it while it was held; empty if nobody did, or an older rescind.
        verified: Whether its postcondition held; None if it was not checked.
        compensation_attempts: Compensations intended so far.
        compensation_open: Whether the last compensation intent has no end.
        compensation_begun_at: When the last compensation was intended.
        overwriting: What that compensation replaces at the target, while it is open; None if no later change.
        found: What the target system said of the step, if it was asked and has found its effect.
        disposition: Where an undo left it; None if none has, or if a reviewer asked for another try.
        task_id: The review task it waits for or waited for.
        undone_by: The digest of the plan that restored or compensated it last; empty if none did.
        redone: How often a redo has put it in effect again.
        redo_open: Whether the last redo intent has no end, so that nobody knows whether it is in effect.
        redo_task: The review task that its redo ended in; it stays undone for that. None if there is none.
        redo_reason: Why that was.
    """

    run: RunInfo
    step: Step
    intended_sequence: int
    intended_at: datetime
    released: bool = False
    released_at: datetime | None = None
    ended_sequence: int | None = None
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    after: Snapshot | None = None
    dropped_by: str = ""
    verified: bool | None = None
    compensation_attempts: int = 0
    compensation_open: bool = False
    compensation_begun_at: datetime | None = None
    overwriting: Overwrites | None = None
    found: ProbeResult | None = None
    disposition: Disposition | None = None
    disposition_reason: str = ""
    task_id: str | None = None
    undone_by: str = ""
    redone: int = 0
    redo_open: bool = False
    redo_task: str | None = None
    redo_reason: str = ""
    _ref: StepRef | None = None

    def __post_init__(self) -> None:
        # Once and not at each look: a plan asks for it a dozen times.
        self._ref = StepRef(self.run.run_id, self.step.step_id)

    @property
    def is_held(self) -> bool:
        """Whether its tool has certainly not begun, and may still be let go."""
        return (
            isinstance(self.step.held, HeldUntil)
            and not self.released
            and self.outcome is None
            and self.disposition is None
        )

    @property
    def ref(self) -> StepRef:
        """The step's name outside its run."""
        assert self._ref is not None
        return self._ref


StepEvent = (
    Released
    | Ended
    | Verified
    | CompensationIntended
    | CompensationEnded
    | CompensationWithdrawn
    | Probed
    | RedoIntended
    | RedoEnded
)
"""What may happen to a step after its intent."""


def fold_steps(entries: Iterable[Entry]) -> list[StepRecord]:
    """The steps that the entries tell of, in order of intent. Entries come in order of sequence, of any runs."""
    records: dict[tuple[str, str], StepRecord] = {}
    for entry in entries:
        event, run_id = entry.event, entry.run.run_id
        if isinstance(event, Intended):
            records[run_id, event.step.step_id] = StepRecord(
                run=entry.run,
                step=event.step,
                intended_sequence=entry.sequence,
                intended_at=entry.recorded_at,
            )
        elif isinstance(event, StepEvent):
            record = records.get((run_id, event.step_id))
            if record is not None:
                _apply(record, event, entry)
    return list(records.values())


def _apply(record: StepRecord, event: StepEvent, entry: Entry) -> None:
    match event:
        case Released():
            record.released, record.released_at = True, entry.recorded_at
            if event.before is not None:
                record.step = msgspec.structs.replace(record.step, before=event.before)
        case Ended():
            record.outcome, record.after = event.outcome, event.after
            record.ended_sequence, record.ended_at = entry.sequence, entry.recorded_at
            record.dropped_by = event.dropped_by or ""
        case Verified():
            record.verified = event.holds
        case CompensationIntended():
            record.compensation_attempts += 1
            record.compensation_open, record.compensation_begun_at = True, entry.recorded_at
            record.overwriting = event.overwrites or None
        case CompensationWithdrawn():
            record.compensation_open, record.overwriting = False, None
        case Probed():
            if event.answer is Probe.FOUND and event.idempotency_key == record.step.idempotency_key:
                record.found = ProbeResult(answer=event.answer, result=event.result, after=event.after)
        case CompensationEnded():
            record.compensation_open, record.overwriting = False, None
            record.disposition = event.disposition
            record.disposition_reason = event.reason
            record.task_id = event.task_id
            record.redo_open, record.redo_task, record.redo_reason = False, None, ""
            if event.disposition in (Disposition.RESTORED, Disposition.COMPENSATED):
                record.undone_by = event.plan_digest
        case RedoIntended():
            # From here on nobody knows whether it is undone: whoever wants to know looks.
            record.compensation_attempts += 1
            record.redo_open, record.disposition = True, None
        case RedoEnded(redone=True):
            record.redone += 1
            record.disposition, record.disposition_reason, record.task_id = None, "", None
            record.redo_open, record.redo_task, record.redo_reason = False, None, ""
        case RedoEnded():
            if record.redo_open:
                record.disposition = Disposition.RESTORED
            record.redo_open, record.redo_task, record.redo_reason = False, event.task_id, event.reason


class Comment(msgspec.Struct, frozen=True):
    """What somebody said of a review task."""

    actor: str
    at: datetime
    text: str


class ReviewTask(msgspec.Struct, kw_only=True):
    """Something that a person has to decide.

    Attributes:
        resolution: None while the task is open, then `done`, `compensated`, `not_needed` or `retry`.
        reference: What was done elsewhere, by the name it has there; empty if nobody said.
        assignee: Whose it is; empty for nobody's.
        due_at: Until when it should be decided; None if nobody said.
        comments: What people said, oldest first.
        exported: Where it was told, and what of it: pairs of a place and `opened` or `resolved`.
    """

    task_id: str
    action: str
    reason: str
    detail: str
    steps: tuple[StepRef, ...]
    plan_run: str
    opened_at: datetime
    resolution: str | None = None
    resolved_by: str = ""
    resolved_at: datetime | None = None
    note: str = ""
    reference: str = ""
    assignee: str = ""
    due_at: datetime | None = None
    comments: tuple[Comment, ...] = ()
    exported: tuple[tuple[str, str], ...] = ()

    def is_overdue(self, now: datetime) -> bool:
        """Whether it should have been decided by now, and is not."""
        return self.resolution is None and self.due_at is not None and self.due_at <= now


def fold_reviews(entries: Iterable[Entry]) -> list[ReviewTask]:
    """The review tasks that the entries tell of, oldest first."""
    tasks: dict[str, ReviewTask] = {}
    for entry in entries:
        event = entry.event
        if isinstance(event, ReviewOpened):
            tasks[event.task_id] = ReviewTask(
                task_id=event.task_id,
                action=event.action,
                reason=event.reason,
                detail=event.detail,
                steps=event.steps,
                plan_run=entry.run.run_id,
                opened_at=entry.recorded_at,
            )
        elif isinstance(event, ReviewResolved) and event.task_id in tasks:
            task = tasks[event.task_id]
            task.resolution, task.resolved_by = event.resolution, event.actor
            task.resolved_at, task.note, task.reference = entry.recorded_at, event.note, event.reference
        elif isinstance(event, ReviewNoted) and event.task_id in tasks:
            _note(tasks[event.task_id], event, entry)
    return list(tasks.values())


def _note(task: ReviewTask, event: ReviewNoted, entry: Entry) -> None:
    match event.what:
        case "assigned":
            task.assignee = event.text
        case "comment":
            task.comments = (*task.comments, Comment(event.actor, entry.recorded_at, event.text))
        case "due":
            task.due_at = event.due_at
        case "exported":
            task.exported = (*task.exported, (event.text, event.state))
        case _:  # a newer version's; what it means does not change what was decided
            pass
