"""Review tasks: what an undo left to a person, and what the person decided.

RV1. A task is resolved once. Of two people who resolve it at the same moment, one is told that it is done.
RV2. `done`, `compensated` and `not_needed` settle the task's steps for good; `retry` frees them for the next undo.
RV3. Nothing is kept besides the journal: tasks are folded from its entries.
RV4. Who has it, until when it is due and what was said decide nothing: a task that is assigned waits like any other,
    and one that is overdue stays open.
RV5. What cannot be read settles nothing: a task of whose plan an entry cannot be read stays as far as it can be read,
    and is not resolved as long as nobody knows whether it is resolved already.
RV6. What a task says already is not written down again: whose it is, until when it is due, and the last comment by the
    same person in the same words. So whoever has lost an answer may ask again.
"""

import enum
from collections.abc import Callable
from datetime import datetime

import msgspec

from rescind.clock import Clock, from_us
from rescind.errors import AlreadySettled, EntryUnreadable, UsageError
from rescind.journal.behind import again, drafts_behind
from rescind.journal.pages import readable_entries
from rescind.journal.port import ChainHead, Journal, Query
from rescind.model.entry import ReviewNoted, ReviewResolved
from rescind.model.history import ReviewTask, fold_reviews
from rescind.recovery.reading import the_one_meant

TEXT_MAX = 4_000
"""Characters of a comment, a note or a reference: what somebody reads who has to decide."""


class Resolution(enum.StrEnum):
    """What a person decided about a task."""

    DONE = "done"  # put right by hand
    COMPENSATED = "compensated"  # offset by hand, by something that has a name: a credit note, a booking
    NOT_NEEDED = "not_needed"  # it may stay as it is
    RETRY = "retry"  # the next undo shall try again


def list_tasks(
    journal: Journal, *, open_only: bool = True, gaps: list[EntryUnreadable] | None = None
) -> list[ReviewTask]:
    """The review tasks, oldest first.

    Args:
        journal: Where they are.
        open_only: Whether to leave out those that are resolved.
        gaps: Gets the entries that cannot be read (RV5).
    """
    tasks = fold_reviews(readable_entries(journal, Query(reviews=True), [] if gaps is None else gaps))
    return [task for task in tasks if task.resolution is None] if open_only else tasks


def find_task(journal: Journal, task_id: str) -> ReviewTask:
    """The task with this id, or the only one whose id begins so.

    Raises: UsageError, with the nearest id, if there is none or more than one.
    """
    tasks = {task.task_id: task for task in list_tasks(journal, open_only=False)}
    return tasks[the_one_meant(task_id, tasks, what="review task")]


def resolve_task(
    journal: Journal, task_id: str, resolution: str, *, actor: str, note: str = "", reference: str = "", clock: Clock
) -> ReviewTask:
    """Record what a person decided; durable on return.

    Args:
        journal: Where the task is.
        task_id: The task, or the beginning of its id.
        resolution: One of `Resolution`.
        actor: Who decided.
        note: Why, or what was done.
        reference: What was done elsewhere, by the name it has there; `compensated` needs one.
        clock: The time.

    Returns: The task as it is now.
    Raises: UsageError, for an unknown task or resolution, for a task that is resolved already (RV1) or may be (RV5),
        and for a compensation that nobody could find again.
    """
    wanted = _parse_resolution(resolution)
    if wanted is Resolution.COMPENSATED and not reference.strip():
        raise UsageError(
            "compensated by hand needs a reference: the credit note, the booking or the ticket that offsets it, so "
            "that an auditor finds it"
        )
    _refuse_long(note=note, reference=reference)

    def turn() -> ReviewTask:
        task = find_task(journal, task_id)
        # The end of the run is read before the task is: whatever is appended after this makes the append fail (RV1).
        head = journal.head(task.plan_run)
        gaps: list[EntryUnreadable] = []
        tasks = {each.task_id: each for each in list_tasks(journal, open_only=False, gaps=gaps)}
        task = tasks[task.task_id]
        if task.resolution is not None:
            raise AlreadySettled(
                f"review task {task.task_id} was resolved as {task.resolution} by {task.resolved_by or 'somebody'}; "
                "it cannot be resolved twice"
            )
        unread = next((gap for gap in gaps if gap.run_id == task.plan_run), None)
        if unread is not None:
            raise UsageError(f"review task {task.task_id} may be resolved already: {unread}") from unread
        assert head is not None, "the task is in that run"
        event = ReviewResolved(
            task_id=task.task_id, resolution=wanted.value, actor=actor, note=note, reference=reference.strip()
        )
        _append_behind(journal, head, event, clock)
        return find_task(journal, task.task_id)

    return again(turn, busy=_busy(task_id))


def _append_behind(journal: Journal, head: ChainHead, event: ReviewNoted | ReviewResolved, clock: Clock) -> None:
    run_id = head.run_id
    journal.append(drafts_behind(run_id, [(run_id, event)], position=head.position, at_us=clock.now_us()))


def _busy(task_id: str) -> UsageError:
    return UsageError(f"review task {task_id} is being written to by others all the time; try again")


def assign_task(journal: Journal, task_id: str, assignee: str, *, actor: str, clock: Clock) -> ReviewTask:
    """Say whose the task is; an empty `assignee` makes it nobody's. Durable on return.

    Raises: UsageError, for an unknown task, and for one that is resolved.
    """
    _refuse_long(assignee=assignee)

    def note(task: ReviewTask) -> ReviewNoted | None:
        _refuse_resolved(task)
        if task.assignee == assignee:
            return None
        return ReviewNoted(task_id=task.task_id, what="assigned", actor=actor, text=assignee)

    return _noted(journal, task_id, note, clock)


def set_due(journal: Journal, task_id: str, due_at: datetime | None, *, actor: str, clock: Clock) -> ReviewTask:
    """Say until when the task should be decided, by an aware moment; None for at no time. Durable on return.

    Raises: UsageError, for an unknown task, one that is resolved, and a moment without a zone or in the past.
    """
    if due_at is not None and due_at.tzinfo is None:
        raise UsageError(f"the deadline {due_at.isoformat()} has no time zone; add one, such as {due_at.isoformat()}Z")
    if due_at is not None and due_at <= from_us(clock.now_us()):
        raise UsageError(f"the deadline {due_at.isoformat()} has passed already; give one that is still to come")

    def note(task: ReviewTask) -> ReviewNoted | None:
        _refuse_resolved(task)
        if task.due_at == due_at:
            return None
        return ReviewNoted(task_id=task.task_id, what="due", actor=actor, due_at=due_at)

    return _noted(journal, task_id, note, clock)


def comment_on(journal: Journal, task_id: str, text: str, *, actor: str, clock: Clock) -> ReviewTask:
    """Say something about the task, also about one that is resolved. Durable on return.

    Raises: UsageError, for an unknown task, and for no text.
    """
    if not text.strip():
        raise UsageError("a comment needs a text")
    _refuse_long(comment=text)

    def note(task: ReviewTask) -> ReviewNoted | None:
        last = task.comments[-1] if task.comments else None
        if last is not None and (last.actor, last.text) == (actor, text):
            return None
        return ReviewNoted(task_id=task.task_id, what="comment", actor=actor, text=text)

    return _noted(journal, task_id, note, clock)


def _refuse_resolved(task: ReviewTask) -> None:
    if task.resolution is not None:
        raise AlreadySettled(
            f"review task {task.task_id} was resolved as {task.resolution} by {task.resolved_by or 'somebody'}; "
            "there is nothing left to decide, but it can be commented on"
        )


def _noted(
    journal: Journal, task_id: str, note: Callable[[ReviewTask], ReviewNoted | None], clock: Clock
) -> ReviewTask:
    """Append what is to be said of the task as it is; nothing, if it says so already (RV6)."""

    def turn() -> ReviewTask:
        task = find_task(journal, task_id)
        head = journal.head(task.plan_run)
        task = find_task(journal, task.task_id)  # not before its run's end was read: see `resolve_task`
        event = note(task)
        if event is None:
            return task
        assert head is not None, "the task is in that run"
        _append_behind(journal, head, event, clock)
        return find_task(journal, task.task_id)

    return again(turn, busy=_busy(task_id))


def _refuse_long(**texts: str) -> None:
    for name, text in texts.items():
        if len(text) > TEXT_MAX:
            raise UsageError(f"the {name} has {len(text):,} characters; at most {TEXT_MAX:,} are kept with a task")


class Resolved(msgspec.Struct, frozen=True):
    """Ids of the resolved tasks: those to be tried again, and those that are settled (RV2)."""

    retried: frozenset[str]
    settled: frozenset[str]


def resolved_tasks(journal: Journal) -> Resolved:
    """What people have decided so far."""
    tasks = list_tasks(journal, open_only=False)
    retried = {task.task_id for task in tasks if task.resolution == Resolution.RETRY}
    settled = {task.task_id for task in tasks if task.resolution is not None} - retried
    return Resolved(frozenset(retried), frozenset(settled))


def _parse_resolution(text: str) -> Resolution:
    try:
        return Resolution(text.strip().replace("-", "_"))
    except ValueError:
        known = ", ".join(Resolution)
        raise UsageError(f"unknown resolution {text!r}; it is one of: {known}") from None
