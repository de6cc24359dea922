"""How far an undo is, folded from the journal.

It is the same wherever the undo runs and whoever asks. An undo that is followed is read on from where it was read to:
100,000 steps are read once, however often somebody looks.
"""

from collections import Counter, deque
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    CompensationWithdrawn,
    Disposition,
    Entry,
    PlanFinished,
    PlanLeft,
    PlanStarted,
    PlanSubmitted,
    RedoEnded,
    RedoIntended,
    StepRef,
)
from rescind.recovery.control import Standing
from rescind.recovery.reading import last_entry

if TYPE_CHECKING:
    from rescind.errors import EntryUnreadable

RUNS_READ_ONE_BY_ONE = 16
"""Runs of a plan up to which each is asked for what is new. Of more, all that is new in the journal is read instead."""

RATE_OVER_S = 30.0
"""What the rate is taken over: long enough to be steady, short enough to show a system that has come to rest."""

_STEP_EVENTS = CompensationIntended | RedoIntended | CompensationWithdrawn | CompensationEnded | RedoEnded

ENDED = ("finished", "cancelled", "left", "continued")


class UndoStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far an undo is.

    Attributes:
        plan_run: The run that holds its plan, `undo_…`.
        plan_digest: The plan.
        selection: What was to be undone.
        state: `waiting` for workers to begin it, `running`, `paused`, `cancelling`; or, ended: `finished`,
            `cancelled`, `left` with steps that were not reached, `continued` by a later plan of the same selection.
            Whether the process of a running one still lives, the journal cannot say; `last_at` is its last sign.
        total: Steps that it had to account for.
        done: Those of them that are accounted for.
        by_disposition: The same, by disposition.
        actor, reason: Who applied it last, and why.
        begun_at, last_at: When that was, and when it recorded something last.
        rate_per_s: Steps per second lately; None if that cannot be said.
        eta_s: Seconds that the rest will take at that rate; None if that cannot be said.
        held_by, held_because: Who paused or cancelled it, and why.
        left_because, left_detail: Why it was left, as in `PlanLeft`.
        by_worker: Steps that are accounted for, by the worker that carried each out. Empty if it was done by no worker,
            and in a list of undos that have ended.
        unreadable: Sequences of entries of its steps' runs that cannot be read: more may be done than is counted.
    """

    plan_run: str
    plan_digest: str
    selection: dict[str, Any]
    state: str
    total: int
    done: int
    by_disposition: dict[str, int]
    actor: str
    reason: str
    begun_at: datetime
    last_at: datetime
    rate_per_s: float | None = None
    eta_s: float | None = None
    held_by: str = ""
    held_because: str = ""
    left_because: str = ""
    left_detail: str = ""
    by_worker: dict[str, int] = {}
    unreadable: tuple[int, ...] = ()

    @property
    def percent(self) -> float:
        """From 0 to 100; 100 if there was nothing to do."""
        return 100.0 if not self.total else 100.0 * self.done / self.total

    @property
    def has_ended(self) -> bool:
        """Whether nobody goes on with this plan."""
        return self.state in ENDED


class StepSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A step of an undo, as the journal tells of it.

    Attributes:
        step: The step.
        word: Its disposition, or `under_way`.
        by: The worker that has carried it out, or has it under way; empty if that was none.
        at: When that was recorded.
    """

    step: StepRef
    word: str
    by: str
    at: datetime


class UndoFold:
    """What was read of one plan's run, and of the runs whose steps it undoes."""

    def __init__(self, journal: Journal, run_id: str) -> None:
        self._journal, self.run_id = journal, run_id
        self.started: PlanStarted | PlanSubmitted | None = None
        self.started_sequence = 0
        self.is_waiting = False
        """Whether it was left to workers, and none has begun it."""
        self.is_left_to_workers = self.is_shown = False
        """Whether workers go on with it; whether whoever applies it shows that it lives (`recovery.appliers`)."""
        self.is_continued = False
        self._begun_at: datetime | None = None
        self._last_at: datetime | None = None
        self._standing = Standing()
        self._end: PlanFinished | PlanLeft | None = None
        self._plan_read_to = 0
        self._steps_read_to: dict[str | None, int] = {}
        self._runs_of_steps: frozenset[str] = frozenset()
        self._unreadable: list[int] = []
        self._total = 0
        self._ended: dict[StepRef, StepSeen] = {}
        self._begun: dict[StepRef, StepSeen] = {}
        self._lately: deque[tuple[datetime, int]] = deque()

    @property
    def is_finished(self) -> bool:
        """Whether its own end says that every step is accounted for."""
        return isinstance(self._end, PlanFinished)

    @property
    def has_own_end(self) -> bool:
        """Whether its run says how it ended. One that was killed and then continued by a later plan has no end."""
        return self._end is not None

    def read_plan(self) -> None:
        """Read on in the run of the plan."""
        for entry in every_entry(self._journal, Query(run_id=self.run_id), after=self._plan_read_to):
            self._plan_read_to, self._last_at = entry.sequence, entry.recorded_at
            self._standing.take(entry)
            match entry.event:
                case PlanSubmitted():
                    self.started, self._begun_at, self._end = entry.event, entry.recorded_at, None
                    self.started_sequence, self.is_waiting = entry.sequence, True
                    self.is_left_to_workers, self.is_shown = True, False
                    self._total = entry.event.steps - sum(entry.event.settled.values())
                case PlanStarted():
                    # Begun again under the same digest, nothing had been done: what it has to do is the same.
                    self.started, self._begun_at, self._end = entry.event, entry.recorded_at, None
                    if not self.is_waiting:  # else it was asked for by then, and a cancel since counts
                        self.started_sequence = entry.sequence
                    self.is_waiting = False
                    self.is_shown = entry.event.shown is True
                    self.is_left_to_workers = self.is_left_to_workers and not self.is_shown
                    self._runs_of_steps = frozenset(entry.event.runs)
                    queried = self._queried(entry.event)
                    self._steps_read_to = self._steps_read_to or dict.fromkeys(queried, entry.sequence)
                    pending = entry.event.pending
                    self._total = entry.event.steps if isinstance(pending, msgspec.UnsetType) else pending
                    self._total += len(self._ended)
                case PlanFinished() | PlanLeft():
                    self._end, self.is_waiting, self.is_left_to_workers = entry.event, False, False
                case _:
                    pass

    def _queried(self, started: PlanStarted) -> tuple[str | None, ...]:
        return started.runs if len(started.runs) <= RUNS_READ_ONE_BY_ONE else (None,)

    def read_steps(self) -> None:
        """Read on in the runs of the steps, past what cannot be read: that must keep nobody from a pause."""
        for run_id, after in self._steps_read_to.items():
            gaps: list[EntryUnreadable] = []
            for entry in readable_entries(self._journal, Query(run_id=run_id), gaps, after=after):
                self._steps_read_to[run_id] = entry.sequence
                self._take_step(entry)
            for gap in gaps:
                self._steps_read_to[run_id] = max(self._steps_read_to[run_id], gap.sequence)
                # Of many runs everything is read that anybody wrote; what is known to be of others is none of its own.
                if not gap.run_id or gap.run_id in self._runs_of_steps:
                    self._unreadable.append(gap.sequence)

    def _take_step(self, entry: Entry) -> None:
        event = entry.event
        if not isinstance(event, _STEP_EVENTS) or self.started is None:
            return
        if event.plan_digest == self.started.plan_digest:
            step = StepRef(entry.run.run_id, event.step_id)
            self._begun.pop(step, None)
            if isinstance(event, CompensationWithdrawn):
                return
            seen = StepSeen(step=step, word=_word_of(event), by=event.by or "", at=entry.recorded_at)
            if isinstance(event, CompensationIntended | RedoIntended):
                self._begun[step] = seen
                return
            self._ended[step] = seen
            self._last_at = max(self._last_at or entry.recorded_at, entry.recorded_at)
            self._lately.append((entry.recorded_at, len(self._ended)))
            while (entry.recorded_at - self._lately[0][0]).total_seconds() > RATE_OVER_S:
                self._lately.popleft()

    def heard_at(self) -> datetime | None:
        """When something was recorded last in its run and in those of its steps; of many runs, only of its own."""
        found = self._last_at
        few = [run_id for run_id in self._steps_read_to if run_id is not None]
        for run_id in few:
            last = last_entry(self._journal, Query(run_id=run_id), after=self.started_sequence)
            if last is not None and (found is None or last.recorded_at > found):
                found = last.recorded_at
        return found

    def status(self) -> UndoStatus:
        """What all of that says."""
        assert self.started is not None
        assert self._begun_at is not None
        assert self._last_at is not None
        counts = Counter(seen.word for seen in self._ended.values())
        done = sum(counts.values())
        if self._end is not None and not counts:  # not read: what it said at its end is enough
            counts = Counter({word: count for word, count in self._end.counts.items() if _is_ours(word)})
            done = min(sum(counts.values()), self._total)
        rate = self._rate()
        held = self._standing.pause or (self._standing.cancel if self._is_cancelled else None)
        left = self._end if isinstance(self._end, PlanLeft) else None
        return UndoStatus(
            plan_run=self.run_id,
            plan_digest=self.started.plan_digest,
            selection=self.started.selection,
            state=self._state(),
            total=self._total,
            done=done,
            by_disposition=dict(sorted(counts.items())),
            actor=self.started.actor,
            reason=self.started.reason,
            begun_at=self._begun_at,
            last_at=self._last_at,
            rate_per_s=rate,
            eta_s=(self._total - done) / rate if rate and self._end is None else None,
            held_by="" if held is None else held.actor,
            held_because="" if held is None else held.reason,
            left_because="" if left is None else left.why,
            left_detail="" if left is None else left.detail,
            by_worker=dict(sorted(Counter(seen.by for seen in self._ended.values() if seen.by).items())),
            unreadable=tuple(self._unreadable),
        )

    def steps(self) -> list["StepSeen"]:
        """What was read of its steps: in the order of their ends, and then those under way."""
        return [*self._ended.values(), *self._begun.values()]

    @property
    def _is_cancelled(self) -> bool:
        return self._standing.cancelled_at > self.started_sequence

    def _state(self) -> str:
        match self._end:
            case PlanFinished():
                return "finished"
            case PlanLeft(why="cancelled"):
                return "continued" if self.is_continued else "cancelled"
            case PlanLeft():
                return "continued" if self.is_continued else "left"
            case None:
                pass
        if self.is_continued:
            return "continued"
        if self._is_cancelled:
            return "cancelling"
        if self._standing.pause is not None:
            return "paused"
        return "waiting" if self.is_waiting else "running"

    def _rate(self) -> float | None:
        if len(self._lately) < 2:
            return None
        (first_at, first), (last_at, last) = self._lately[0], self._lately[-1]
        passed_s = (last_at - first_at).total_seconds()
        return (last - first) / passed_s if passed_s > 0 else None


def _word_of(event: "CompensationIntended | RedoIntended | CompensationEnded | RedoEnded") -> str:
    if isinstance(event, CompensationIntended | RedoIntended):
        return "under_way"
    if isinstance(event, CompensationEnded):
        return event.disposition.value
    return (Disposition.RESTORED if event.redone else Disposition.REVIEW).value


def _is_ours(word: str) -> bool:
    return word not in ("already_undone", "not_reached")
