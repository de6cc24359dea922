"""What is sent and answered, where the values of the rooms below do not say it themselves.

Unknown fields of a request are refused: they are a slip of somebody's finger.
"""

from datetime import datetime
from typing import Annotated, Any

import msgspec

from rescind.compensation.planning.impact import Affected, Reach, Reader
from rescind.compensation.planning.selection import Selection
from rescind.model.entry import StepRef
from rescind.model.history import ReviewTask
from rescind.model.step import RunInfo
from rescind.recovery.undo_status import UndoStatus

STEPS_SHOWN = 100
"""Steps of a review task that are named one by one; all are counted."""


# --- undos ---


class Reason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why something is ordered; kept in the journal."""

    reason: str


class UndoDoc(msgspec.Struct, frozen=True, kw_only=True):
    """How far an undo is. `ended`: nobody goes on with this plan."""

    undo: UndoStatus
    percent: float
    ended: bool

    @classmethod
    def of(cls, status: UndoStatus) -> "UndoDoc":
        """The status as it is answered."""
        return cls(undo=status, percent=round(status.percent, 1), ended=status.has_ended)


class UndoPage(msgspec.Struct, frozen=True, kw_only=True):
    """Undos, by when they were begun last, the newest last.

    Attributes:
        after: What to ask for to get the next page; empty if this is the last one.
        unreadable: Sequences of entries that cannot be read, whose undos are left out.
    """

    undos: tuple[UndoDoc, ...]
    after: str = ""
    unreadable: tuple[int, ...] = ()


class ShareDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A share of a plan that was left to workers.

    Attributes:
        number: From 0.
        steps: How many.
        actions: What a worker needs for it.
        state: `waiting`, `running`, `ended`, `cancelled` or `given_up`; empty if nobody knows.
        worker_id: Who carries it out, or did last.
        attempts: How often it was begun.
    """

    number: int
    steps: int
    actions: tuple[str, ...]
    state: str = ""
    worker_id: str = ""
    attempts: int = 0


class OneUndo(UndoDoc, frozen=True, kw_only=True):
    """How far one undo is, and who carries it out.

    Attributes:
        shares: Of a plan that was left to workers, its shares; else none.
        unknown_because: Why nobody knows who holds the shares; empty if it is known.
    """

    shares: tuple[ShareDoc, ...] = ()
    unknown_because: str = ""


class WorkerDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A worker. `state` is `works`, `leaving`, `stuck` or `dead`; `actions` are what it can undo."""

    worker_id: str
    state: str
    silent_s: float | None
    module: str = ""
    version: str = ""
    host: str = ""
    pid: int | None = None
    actions: tuple[str, ...] = ()


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of the store, by id."""

    workers: tuple[WorkerDoc, ...]


# --- selections ---


class SelectionDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which steps. All conditions that are given must hold; the fields are those of `rescind undo`.

    Attributes:
        run_ids: The runs, or the only ones whose ids begin so.
        trace_id: The trace, or the only one whose id begins so.
        agent: `name`, or `name@version`.
        tenant: The tenant.
        since, until: Moments with a zone: from, and up to and without.
        actions, targets: Only steps of these actions; at these targets, `SYSTEM/KIND/ID` or the beginning of one.
        exclude: Not these: steps (`RUN/STEP`), actions or targets.
        to_checkpoint: Only what was done since this checkpoint.
        cascade: With them the later steps that depend on them.
    """

    run_ids: tuple[str, ...] = ()
    trace_id: str | None = None
    agent: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    actions: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    to_checkpoint: str | None = None
    cascade: bool = False

    def selection(self) -> Selection:
        """What is meant. Raises: UsageError, as `Selection`."""
        return Selection(**{name: getattr(self, name) for name in Selection.__struct_fields__})


class ImpactDoc(msgspec.Struct, frozen=True, kw_only=True):
    """Who acted on what the chosen steps wrote.

    Attributes:
        roots: The chosen steps that wrote something.
        affected: Later steps that depend on them; at most as many as were asked for, `affected_total` of them in all.
        readers: Reads of it, likewise.
        reach: What they touch.
        runs: The runs of all of them.
        reads_missing: Runs whose reads are known to be missing in the journal.
        unclosed: Runs that have not ended, so that their last reads may be missing.
    """

    roots: tuple[StepRef, ...]
    roots_total: int
    affected: tuple[Affected, ...]
    affected_total: int
    readers: tuple[Reader, ...]
    readers_total: int
    reach: Reach
    runs: tuple[RunInfo, ...]
    reads_missing: tuple[str, ...]
    unclosed: tuple[str, ...]


# --- plans by workers ---


class PlanAsked(SelectionDoc, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be undone: the conditions of a selection, and how.

    Attributes:
        request_id: Chosen by whoever asks, so that the same request may be sent twice; 1 to 64 letters, digits, `_.-`.
        reason: Why; kept in the journal.
        force: Whether later changes may be overwritten where their action says `force`; an approver's, with a reason.
        parallel: Steps at once.
        within_s: Begin no step later than so many seconds after it is applied.
    """

    request_id: str = ""
    reason: str = ""
    force: bool = False
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    within_s: Annotated[float, msgspec.Meta(ge=1, le=604_800)] | None = None


class PlanDoc(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request for a plan.

    Attributes:
        request_id: Its name.
        state: `waiting` for a worker, or `taken` by one; `shown`: look at the plan, and apply it by its digest;
            `submitted`: it is under way, as an undo; `settled`: nothing is left to do. Or why not: `lacking` (no worker
            has the tools), `outdated` (it is another plan by now), `live` (a run may still write), `refused`.
        detail: Why, for people.
        selection: What was asked for.
        asked_by: Who asked last.
        worker_id: Who answers, or did.
        digest: The plan that was shown last; empty if none was.
        facts: What there is to know of it: steps, counts by decision, reviews by reason, runs, dependents, forces.
        items: Some of its steps in the order of the plan, each with what is to be done about it.
        next_item: The number to ask for to get more of them; null if there are none.
    """

    request_id: str
    state: str
    detail: str
    selection: dict[str, Any]
    asked_by: str
    worker_id: str
    digest: str
    facts: dict[str, Any]
    items: tuple[dict[str, Any], ...] = ()
    next_item: int | None = None


# --- review tasks ---


class Assignee(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose a task is to be; an empty name makes it nobody's."""

    assignee: str


class Due(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Until when a task should be decided: a moment with a zone; null for at no time."""

    due_at: datetime | None


class CommentDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something to say about a task."""

    text: str


class ResolutionDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was decided: `done`, `compensated` (by what `reference` names), `not_needed` or `retry`."""

    resolution: str
    note: str = ""
    reference: str = ""


class ReviewDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A review task; its first steps by name, `steps_total` in all."""

    task: ReviewTask
    steps_total: int
    overdue: bool

    @classmethod
    def of(cls, task: ReviewTask, now: datetime) -> "ReviewDoc":
        """The task as it is answered."""
        shown = msgspec.structs.replace(task, steps=task.steps[:STEPS_SHOWN])
        return cls(task=shown, steps_total=len(task.steps), overdue=task.is_overdue(now))


class OneReview(ReviewDoc, frozen=True, kw_only=True):
    """A review task, and what the journal knows of the steps that it names."""

    records: tuple[dict[str, Any], ...] = ()


class ReviewPage(msgspec.Struct, frozen=True, kw_only=True):
    """Review tasks, oldest first. `after` and `unreadable` as in a page of undos."""

    tasks: tuple[ReviewDoc, ...]
    after: str = ""
    unreadable: tuple[int, ...] = ()


# --- incidents ---


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which plan may begin, by its digest or 8 and more of its digits; and why."""

    digest: str
    note: str = ""


class IncidentPage(msgspec.Struct, frozen=True, kw_only=True):
    """Incidents, oldest first, without their timelines. `after` as in a page of undos.

    `unreadable` are entries that cannot be read: an incident may be missing for them, or be closed already.
    """

    incidents: tuple[dict[str, Any], ...]
    after: str = ""
    unreadable: tuple[int, ...] = ()


class OneIncident(msgspec.Struct, frozen=True, kw_only=True):
    """An incident with its timeline, and where its course stands.

    Attributes:
        next_stage: The stage to do now; empty if all are done.
        waits: Whether a person has to let that stage begin.
        digest: The plan that would be approved; empty if none was made.
    """

    incident: dict[str, Any]
    next_stage: str = ""
    waits: bool = False
    digest: str = ""


# --- the server ---


class CallerDoc(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the server takes you for, and what you may."""

    name: str
    role: str
    may_undo: bool
    may_approve: bool


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the journal can be read now; `trouble` says why not."""

    readable: bool
    trouble: str = ""
