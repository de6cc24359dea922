"""Review tasks: what an undo left to a person, and what the person decided.

R1. A task is resolved once. Of two people who resolve it at the same moment, one is told that it is done.
R2. `done` and `not_needed` settle the task's steps for good; `retry` frees them for the next undo.
R3. Nothing is kept besides the journal: tasks are folded from its entries.
"""

import enum

import msgspec

from rescind.clock import Clock
from rescind.errors import SequenceConflict, UsageError
from rescind.journal.port import Draft, Journal, Query
from rescind.model.entry import ReviewResolved
from rescind.model.history import ReviewTask, fold_reviews
from rescind.recovery.reading import every_entry, the_one_meant

_ATTEMPTS_MAX = 20  # Each means that somebody else wrote to the same plan's run in between.


class Resolution(enum.StrEnum):
    """What a person decided about a task."""

    DONE = "done"  # put right by hand
    NOT_NEEDED = "not_needed"  # it may stay as it is
    RETRY = "retry"  # the next undo shall try again


def list_tasks(journal: Journal, *, open_only: bool = True) -> list[ReviewTask]:
    """The review tasks, oldest first."""
    tasks = fold_reviews(every_entry(journal, Query(reviews=True)))
    return [task for task in tasks if task.resolution is None] if open_only else tasks


def find_task(journal: Journal, task_id: str) -> ReviewTask:
    """The task with this id, or the only one whose id begins so.

    Raises: UsageError, with the nearest id, if there is none or more than one.
    """
    tasks = {task.task_id: task for task in list_tasks(journal, open_only=False)}
    return tasks[the_one_meant(task_id, tasks, what="review task")]


def resolve_task(
    journal: Journal, task_id: str, resolution: str, *, actor: str, note: str = "", clock: Clock
) -> ReviewTask:
    """Record what a person decided; durable on return.

    Args:
        journal: Where the task is.
        task_id: The task, or the beginning of its id.
        resolution: One of `Resolution`.
        actor: Who decided.
        note: Why, or what was done.
        clock: The time.

    Returns: The task as it is now.
    Raises: UsageError, for an unknown task or resolution, and for a task that is resolved already (R1).
    """
    wanted = _parse_resolution(resolution)
    for _ in range(_ATTEMPTS_MAX):
        task = find_task(journal, task_id)
        # The end of the run is read before the task is: whatever is appended after this makes the append fail (R1).
        head = journal.head(task.plan_run)
        task = find_task(journal, task.task_id)
        if task.resolution is not None:
            raise UsageError(
                f"review task {task.task_id} was resolved as {task.resolution} by {task.resolved_by or 'somebody'}; "
                "it cannot be resolved twice"
            )
        assert head is not None, "the task is in that run"
        event = ReviewResolved(task_id=task.task_id, resolution=wanted.value, actor=actor, note=note)
        draft = Draft(
            run_id=task.plan_run, event=event, recorded_at_us=clock.now_us(), expected_position=head.position + 1
        )
        try:
            journal.append([draft])
        except SequenceConflict:
            continue
        return find_task(journal, task.task_id)
    raise UsageError(f"review task {task_id} is being written to by others all the time; try again")


class Resolved(msgspec.Struct, frozen=True):
    """Ids of the resolved tasks: those to be tried again, and those that are settled (R2)."""

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
