"""The checkpoints of a run, and what was known at each: folded from the journal."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from rescind.errors import UsageError
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.model.action import EffectClass
from rescind.model.entry import Checkpointed, Disposition, Entry, StepRef
from rescind.model.history import StepRecord, fold_steps
from rescind.model.outcome import Completed, Failed
from rescind.model.step import RunInfo
from rescind.recovery.reading import every_run, the_one_meant
from rescind.recovery.review import Resolution, list_tasks

BEGINNING = "beginning"
"""What a person calls the boundary before a run's first step."""


class Boundary(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint in its place; or, without an id, the beginning of the run.

    Attributes:
        checkpoint: What was recorded.
        sequence: Where in the journal it stands; steps intended before it are what it builds on.
        at: When it was made.
    """

    checkpoint: Checkpointed
    sequence: int
    at: datetime

    @property
    def name(self) -> str:
        """What people call it."""
        return self.checkpoint.checkpoint_id or BEGINNING


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """A run as far as carrying it on is concerned.

    Attributes:
        run: The run.
        boundaries: Its beginning, and its checkpoints in the order in which they were made.
        records: Its steps, in order of intent.
        resolutions: What people decided of its steps' review tasks; empty for a task that is open.
        position: Where its chain goes on, when this was read.
    """

    run: RunInfo
    boundaries: tuple[Boundary, ...]
    records: tuple[StepRecord, ...]
    resolutions: dict[str, str]
    position: int

    def standing_of(self, record: StepRecord) -> str:
        """`stands`, `gone`, or in words why that cannot be said of the step."""
        if record.is_held:
            return STANDS
        if record.outcome is None or record.compensation_open:
            what = "it" if record.outcome is None else "its compensation"
            return f"{what} was begun and has no recorded end"
        if record.redo_open:
            return "its redo was begun and has no recorded end"
        if record.redo_task is not None:
            return _by_person_of_redo(self.resolutions.get(record.redo_task, ""), record.redo_task)
        match record.disposition:
            case Disposition.REVIEW:
                return _by_person(self.resolutions.get(record.task_id or "", ""), record.task_id)
            case None:
                return _by_outcome(record)
            case _:
                return GONE


STANDS, GONE = "stands", "gone"


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What was true of the world at a boundary, as far as its run had to do with it.

    Attributes:
        versions: Of each target that it had written to, the version it had left there; by the target's name.
        receipts: What its tools had returned, by step.
        irreversible: Steps that nobody can take back.
        undone: Steps that an undo has taken back since.
        waiting: Review tasks of its steps that are open now.
    """

    versions: dict[str, str]
    receipts: dict[str, Any]
    irreversible: tuple[StepRef, ...]
    undone: tuple[StepRef, ...]
    waiting: tuple[str, ...]


def read_story(journal: Journal, run_id: str) -> Story:
    """All that the journal knows of this run; the beginning of its id will do.

    Raises: UsageError, for an unknown run, with the nearest one.
    """
    run = journal.run(run_id)
    if run is None:
        known = (each.run_id for each in every_run(journal, Query()))
        run = journal.run(the_one_meant(run_id, known, what="run"))
        assert run is not None, "its name was just read"
    entries = list(every_entry(journal, Query(run_id=run.run_id)))
    records = tuple(fold_steps(entries))
    tasks = {task_id for record in records for task_id in (record.task_id, record.redo_task) if task_id}
    return Story(
        run=run,
        boundaries=(_beginning(entries), *_checkpoints(entries)),
        records=records,
        resolutions={
            task.task_id: task.resolution or ""
            for task in (list_tasks(journal, open_only=False) if tasks else [])
            if task.task_id in tasks
        },
        position=entries[-1].position + 1,
    )


def knowledge_at(story: Story, boundary: Boundary) -> Knowledge:
    """What was known at this boundary of the run."""
    before = [record for record in story.records if record.intended_sequence < boundary.sequence]
    done = [record for record in before if isinstance(record.outcome, Completed)]
    return Knowledge(
        versions={
            str(record.step.target): record.after.version
            for record in done
            if record.step.target is not None and record.after is not None and record.after.version
        },
        receipts={
            str(record.ref): record.outcome.result
            for record in done
            if isinstance(record.outcome, Completed) and record.outcome.result_recorded
        },
        irreversible=tuple(record.ref for record in done if record.step.effect_class is EffectClass.IRREVERSIBLE),
        undone=tuple(record.ref for record in done if story.standing_of(record) == GONE),
        waiting=tuple(
            sorted({str(each.task_id) for each in before if each.task_id and not story.resolutions.get(each.task_id)})
        ),
    )


def find_boundary(story: Story, text: str) -> Boundary:
    """The boundary that is meant: a checkpoint's id, or the beginning of one, or `beginning`.

    Raises: UsageError, with the nearest one.
    """
    named = {boundary.name: boundary for boundary in story.boundaries}
    return named[the_one_meant(text, named, what=f"checkpoint of run {story.run.run_id}")]


def _beginning(entries: Iterable[Entry]) -> Boundary:
    first = next(iter(entries), None)
    if first is None:
        raise UsageError("the run has no entries")
    made = Checkpointed(checkpoint_id="", name=BEGINNING, verified=True)
    return Boundary(checkpoint=made, sequence=first.sequence, at=first.recorded_at)


def _checkpoints(entries: Iterable[Entry]) -> list[Boundary]:
    return [
        Boundary(checkpoint=entry.event, sequence=entry.sequence, at=entry.recorded_at)
        for entry in entries
        if isinstance(entry.event, Checkpointed)
    ]


def _by_person(resolution: str, task_id: str | None) -> str:
    match resolution:
        case "":
            return f"it waits for a person in {task_id}"
        case Resolution.NOT_NEEDED:
            return STANDS
        case Resolution.DONE | Resolution.COMPENSATED:
            return GONE
        case _:
            return f"it is to be undone again ({task_id} was resolved as {resolution})"


def _by_person_of_redo(resolution: str, task_id: str) -> str:
    """Of a step that was undone, and whose redo was left to a person."""
    match resolution:
        case "":
            return f"its redo waits for a person in {task_id}"
        case Resolution.NOT_NEEDED:
            return GONE
        case Resolution.DONE | Resolution.COMPENSATED:
            return f"a person has put it in effect again by hand ({task_id}), and with which result is not on record"
        case _:
            return f"it is to be redone again ({task_id} was resolved as {resolution})"


def _by_outcome(record: StepRecord) -> str:
    match record.outcome:
        case Completed():
            return STANDS if record.verified is not False else "its postcondition did not hold"
        case Failed():
            return GONE
        case _:
            return "nobody knows whether it took effect"
