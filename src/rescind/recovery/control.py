"""Pause, resume and cancel of an undo in progress: events in the run of its plan, which whoever applies it reads.

PC1. *Durable.* What was ordered stands in the journal, and nowhere else: it reaches every process that applies the
    plan, on any machine, and the one that goes on after a crash.
PC2. *By selection.* A pause holds for every plan of the same selection, until somebody resumes or cancels, or until one
    such plan has been finished. The rest of a killed undo has another digest; its selection is the same.
PC3. *A cancel ends what was begun before it.* It holds for every application that was asked for before it, and for none
    that is asked for later: who wants what is left undone asks again.
PC4. *Nothing half-done.* Neither ends a step that is under way.
PC5. *Also what waits.* A plan that was left to workers is told before any of them has begun it.
"""

from collections.abc import Iterator

import msgspec

from rescind.clock import Clock
from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Draft, Journal, Query
from rescind.model.entry import Entry, PlanControlled, PlanFinished, PlanLeft, PlanStarted, PlanSubmitted
from rescind.model.step import canonical_json
from rescind.recovery.reading import every_run

UNDO_AGENT = "rescind-undo"
"""The agent name of the runs that plans are recorded in."""

CONTROLS = ("pause", "resume", "cancel")


def plan_run_id(digest: str) -> str:
    """The id of the run that holds the record of the plan with this digest, and its review tasks."""
    return f"undo_{digest[:16]}"


class Standing(msgspec.Struct):
    """What was ordered, as far as it was read.

    Attributes:
        pause: Who paused it and why; None if it is not paused.
        cancel: Who cancelled it last and why; None if nobody did.
        cancelled_at: Where in the journal that stands; 0 if it stands nowhere.
    """

    pause: PlanControlled | None = None
    cancel: PlanControlled | None = None
    cancelled_at: int = 0

    def take(self, entry: Entry) -> None:
        """Take in an entry of a plan's run; entries come in order of sequence."""
        match entry.event:
            case PlanControlled(what="pause"):
                self.pause = entry.event
            case PlanControlled(what="resume") | PlanFinished():
                self.pause = None
            case PlanControlled(what="cancel"):
                self.pause, self.cancel, self.cancelled_at = None, entry.event, entry.sequence
            case _:
                pass


class ControlReader:
    """Reads what was ordered about one application of a plan.

    Args:
        journal: Where it is ordered.
        digest: The plan.
        selection: What it was made for, as its `PlanStarted` says.
        asked_at: Where in the journal this application was asked for: a cancel before that is none of its own (PC3).
    """

    def __init__(self, journal: Journal, *, digest: str, selection: object, asked_at: int) -> None:
        self._journal, self._query, self._asked_at = journal, Query(run_id=plan_run_id(digest)), asked_at
        self._standing = Standing()
        # After the plan's own record is durable, so that an order given to an older plan of this selection is either
        # seen here, or given by somebody who sees that there is a newer plan (see `control_undo`).
        self._read_up_to = 0
        for entry in plan_entries_of_selection(journal, selection):
            self._standing.take(entry)
            if entry.run.run_id == self._query.run_id:
                self._read_up_to = entry.sequence

    def look(self) -> Standing:
        """What stands now. Cheap: one look for entries after the last one. `cancel` is None if it is not for us."""
        for entry in every_entry(self._journal, self._query, after=self._read_up_to):
            self._read_up_to = entry.sequence
            self._standing.take(entry)
        if self._standing.cancelled_at > self._asked_at:
            return self._standing
        return Standing(self._standing.pause)


def cancel_words(cancel: PlanControlled) -> str:
    """By whom it was cancelled, and why."""
    return f"by {cancel.actor}: {cancel.reason}" if cancel.reason else f"by {cancel.actor}"


def plan_entries_of_selection(journal: Journal, selection: object) -> list[Entry]:
    """The entries of all runs that hold a plan of this selection, in order of sequence.

    Raises: EntryUnreadable, if one of them cannot be read: it may be a pause. Plans of other selections do not matter.
    """
    wanted = canonical_json(selection)
    found: list[Entry] = []
    for run_id in plan_runs(journal):
        gaps: list[EntryUnreadable] = []
        entries = list(readable_entries(journal, Query(run_id=run_id), gaps))
        begun = (entry.event for entry in entries if isinstance(entry.event, PlanStarted | PlanSubmitted))
        if any(canonical_json(event.selection) == wanted for event in begun):
            if gaps:
                raise gaps[0]
            found += entries
    return sorted(found, key=lambda entry: entry.sequence)


def plan_runs(journal: Journal) -> Iterator[str]:
    """The ids of all runs that hold a plan."""
    return (run.run_id for run in every_run(journal, Query(agent_name=UNDO_AGENT)))


def control_undo(
    journal: Journal, plan_run: str, what: str, *, actor: str, reason: str = "", clock: Clock
) -> PlanControlled:
    """Order something about an undo in progress. On return it is durable, and will be obeyed within about a second.

    Args:
        journal: Where the plan is.
        plan_run: The run that holds the plan, `undo_…`.
        what: `pause`, `resume` or `cancel`.
        actor: Who orders it.
        reason: Why.
        clock: Says when.

    Raises: UsageError, if there is no such plan, or nothing of that kind to order.
    """
    if what not in CONTROLS:
        raise UsageError(f"{what!r} is nothing that an undo can be told; use one of {', '.join(CONTROLS)}")
    told: set[str] = set()
    order: PlanControlled | None = None
    # Whoever goes on with the undo meanwhile begins another plan, and reads orders before or after it has said so. In
    # the first case its record is there when ours is durable, so looking again finds it.
    while untold := [each for each in _plans_to_tell(journal, plan_run) if each[0] not in told]:
        for run_id, digest in untold:
            order = PlanControlled(plan_digest=digest, what=what, actor=actor, reason=reason)
            journal.append([Draft(run_id=run_id, event=order, recorded_at_us=clock.now_us())])
            told.add(run_id)
    if order is None:
        raise UsageError(f"the journal knows no undo {plan_run!r}; `rescind plan list` shows which there are")
    return order


def latest_plan(journal: Journal, plan_run: str) -> tuple[str, PlanStarted] | None:
    """The plan that was begun last of those with the same selection as this one; None if there is no such plan."""
    begun = [
        (entry.run.run_id, entry.event)
        for entry in _entries_beside(journal, plan_run)
        if isinstance(entry.event, PlanStarted)
    ]
    return begun[-1] if begun else None


def _entries_beside(journal: Journal, plan_run: str) -> list[Entry]:
    """The entries of all plans with the same selection as this one, in order of sequence; empty if there is none."""
    own = (entry.event for entry in every_entry(journal, Query(run_id=plan_run)))
    begun = next((event for event in own if isinstance(event, PlanStarted | PlanSubmitted)), None)
    return [] if begun is None else plan_entries_of_selection(journal, begun.selection)


def _plans_to_tell(journal: Journal, plan_run: str) -> list[tuple[str, str]]:
    """The runs and digests of the plan that was begun last, and of those of its selection that wait for workers."""
    latest: tuple[str, str] | None = None
    waiting: dict[str, str] = {}
    has_ended = False
    for entry in _entries_beside(journal, plan_run):
        run_id, event = entry.run.run_id, entry.event
        match event:
            case PlanSubmitted():
                waiting[run_id] = event.plan_digest
            case PlanStarted():
                waiting.pop(run_id, None)
                latest, has_ended = (run_id, event.plan_digest), False
            case PlanFinished() | PlanLeft():
                waiting.pop(run_id, None)
                has_ended = has_ended or (latest is not None and latest[0] == run_id)
            case _:
                pass
    return [*([latest] if latest is not None and not (has_ended and waiting) else []), *waiting.items()]
