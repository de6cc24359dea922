"""Carrying a run on: from which checkpoint, and what is done again.

CR1. *Safe or not at all.* A run is carried on from a verified checkpoint that builds on nothing which was undone, or is
     in doubt, and after which every call can be answered from the journal, or be made anew without being made twice.
     If none can be shown, it is refused, and each one is said why.
CR2. *The earliest.* Of several, the earliest: what was decided after it was decided by an agent that had to be stopped,
     and is decided again; what it did and stands costs nothing to answer.
CR3. *Only tighter.* What a resumed run may do is at most what it was allowed before.
CR4. *On record.* Who carried it on, from where and why stands in its chain before its first call.
CR5. *By one.* Of several who would carry it on at once, one does; and nobody does while a living process acts for it.
"""

from collections.abc import Iterable

import msgspec

from rescind.clock import Clock
from rescind.errors import SequenceConflict, UsageError
from rescind.guard.earlier import EarlierSteps, Resumption
from rescind.journal.behind import drafts_behind
from rescind.journal.port import Journal
from rescind.model.entry import Event, Resumed, RunOpened
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed
from rescind.model.step import HeldUntil
from rescind.recovery.checkpoint import GONE, STANDS, Boundary, Story

_REASONS_MAX = 3  # Steps named for one checkpoint; more are counted.


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """From where a run is carried on.

    Attributes:
        boundary: The checkpoint.
        refused: Earlier ones, and why each is not safe.
        answered: Steps after it that stand; their calls are answered.
        anew: Steps after it that are gone; their calls are made anew.
    """

    boundary: Boundary
    refused: tuple[tuple[Boundary, str], ...]
    answered: tuple[StepRecord, ...]
    anew: tuple[StepRecord, ...]


def choose(story: Story) -> Choice:
    """The earliest safe checkpoint (CR1, CR2); the bare beginning of a run is none that anybody has verified.

    Raises: UsageError, if there is none, with the reasons.
    """
    refused: list[tuple[Boundary, str]] = []
    for boundary in story.boundaries[1:]:
        why_not = problem_with(story, boundary)
        if not why_not:
            return _chosen(story, boundary, refused)
        refused.append((boundary, why_not))
    if not refused:
        raise UsageError(
            f"run {story.run.run_id} has no checkpoint, so nothing shows where it could be carried on safely; mark "
            "boundaries with run.checkpoint(state), or say --checkpoint beginning if it may be repeated as a whole"
        )
    earliest, why_not = refused[0]
    raise UsageError(
        f"none of the {len(refused)} checkpoints of run {story.run.run_id} is safe to carry on from; of the earliest, "
        f"{earliest.name}: {why_not}. `rescind checkpoints {story.run.run_id}` says why of each. Decide what is open "
        f"(`rescind review list`), or undo the steps after one of them (`rescind undo --to-checkpoint ID`)"
        f"{_or_all_over(story)}"
    )


def choose_this(story: Story, boundary: Boundary) -> Choice:
    """This very checkpoint, or the beginning. Raises: UsageError, if it is not safe."""
    why_not = problem_with(story, boundary)
    if why_not:
        raise UsageError(f"run {story.run.run_id} cannot be carried on from {boundary.name}: {why_not}")
    return _chosen(story, boundary, ())


def _or_all_over(story: Story) -> str:
    """That the run could be repeated as a whole, if that is so: after an undo of all of it this is what is left."""
    if problem_with(story, story.boundaries[0]):
        return ""
    return "; or repeat the run as a whole: nothing of it stands in the way of `--checkpoint beginning`"


def problem_with(story: Story, boundary: Boundary) -> str:
    """Why it is not safe to carry the run on from here; empty if it is."""
    if not boundary.checkpoint.verified:
        return f"it was not verified ({boundary.checkpoint.detail})"
    problems: list[str] = []
    for record in story.records:
        problem = (_before if record.intended_sequence < boundary.sequence else _after)(story, record)
        if problem:
            problems.append(f"step {record.step.step_id} ({record.step.action}): {problem}")
    more = len(problems) - _REASONS_MAX
    return "; ".join(problems[:_REASONS_MAX]) + (f"; and {more} more" if more > 0 else "")


def resumption_of(story: Story, choice: Choice, *, allow: Iterable[str] | None = None) -> Resumption:
    """What the guard needs to know to carry the run on."""
    return Resumption(
        run=story.run,
        checkpoint_id=choice.boundary.checkpoint.checkpoint_id,
        state=choice.boundary.checkpoint.state,
        earlier=EarlierSteps(choice.answered),
        allow=None if allow is None else frozenset(allow),
    )


def record_resumption(
    journal: Journal,
    story: Story,
    resumption: Resumption,
    *,
    guard_id: str,
    actor: str,
    reason: str,
    level: str = "",
    clock: Clock,
) -> None:
    """Write into the run's chain that it is carried on, and by which guard (CR4, CR5). Durable on return.

    Raises: UsageError, if the run has gone on since its story was read; nothing is recorded then.
    """
    run_id = resumption.run.run_id
    event = Resumed(
        checkpoint_id=resumption.checkpoint_id,
        actor=actor,
        reason=reason,
        level=level,
        allow=tuple(sorted(resumption.allow or ())),
    )
    # Opened at once and not with its first step: whoever wants to carry it on too sees that somebody acts for it.
    events: tuple[Event, ...] = (event, RunOpened(run=resumption.run, guard_id=guard_id))
    told = ((run_id, each) for each in events)
    drafts = drafts_behind(run_id, told, position=story.position - 1, at_us=clock.now_us())
    try:
        journal.append(drafts)
    except SequenceConflict as error:
        raise UsageError(
            f"run {run_id} has gone on since it was looked at: somebody carries it on, or decided about its steps; "
            "nothing was changed, look again"
        ) from error


def _before(story: Story, record: StepRecord) -> str:
    standing = story.standing_of(record)
    if standing == STANDS:
        return ""
    if standing != GONE:
        return standing
    if not isinstance(record.outcome, Failed):
        return "it builds on this step, which was undone"
    # One that failed by itself was known to the program when it made the checkpoint.
    return "it builds on this step, which was dropped" if isinstance(record.step.held, HeldUntil) else ""


def _after(story: Story, record: StepRecord) -> str:
    standing = story.standing_of(record)
    if standing == GONE or (standing == STANDS and (record.is_held or _is_answerable(record))):
        return ""
    return "its result is not on record, so its call could not be answered" if standing == STANDS else standing


def _is_answerable(record: StepRecord) -> bool:
    return isinstance(record.outcome, Completed) and record.outcome.result_recorded


def _chosen(story: Story, boundary: Boundary, refused: Iterable[tuple[Boundary, str]]) -> Choice:
    after = [record for record in story.records if record.intended_sequence > boundary.sequence]
    return Choice(
        boundary=boundary,
        refused=tuple(refused),
        answered=tuple(record for record in after if story.standing_of(record) == STANDS),
        anew=tuple(record for record in after if story.standing_of(record) == GONE),
    )
