"""Undos as the journal tells of them: which there are, how far each is, and who holds it.

Everything here is folded from the journal, so it is the same wherever the undo runs and whoever asks. An undo that is
followed is read on from where it was read to: 100,000 steps are read once, however often somebody looks.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from rescind.clock import Clock
from rescind.errors import EngineUnavailable, EntryUnreadable, NameUnknown, UsageError
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
from rescind.model.step import canonical_json
from rescind.recovery.appliers import Appliers
from rescind.recovery.control import Standing, latest_plan, plan_run_id, plan_runs
from rescind.recovery.reading import PREFIX_MIN, last_entry, the_one_meant

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


class OpenUndo(msgspec.Struct, frozen=True, kw_only=True):
    """An undo that has not ended, as the run of its plan tells it.

    Attributes: as of `UndoStatus`, and
        holder: Who goes on with it: `process`, or `workers`; `nobody`, if the process that applied it has died;
            `no_worker`, if none lives of those that it was left to; `unknown`, if nobody can tell.
        heard_at: If that is none that lives: when something was recorded last in its runs, as far as that is known.
    """

    plan_run: str
    plan_digest: str
    selection: dict[str, Any]
    state: str
    total: int
    actor: str
    reason: str
    begun_at: datetime
    held_by: str
    held_because: str
    holder: str = "unknown"
    heard_at: datetime | None = None

    @property
    def is_held(self) -> bool:
        """Whether somebody who lives goes on with it."""
        return self.holder in ("process", "workers")


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


def list_undos(journal: Journal, *, gaps: list[EntryUnreadable] | None = None) -> list[UndoStatus]:
    """All undos, by when they were begun last, the newest last. Steps are counted for those that have not ended.

    Args:
        journal: Where they are.
        gaps: Gets the entries of plans that cannot be read, whose undos are left out; without it, they raise. What
            cannot be read of the runs of their steps, each undo says itself (`unreadable`).
    """
    begun = _begun(journal, gaps)
    for fold in begun:
        if not fold.status().has_ended:
            fold.read_steps()
    return [fold.status() for fold in begun]


def open_undos(
    journal: Journal,
    *,
    gaps: list[EntryUnreadable] | None = None,
    appliers: Appliers | None = None,
    has_workers: Callable[[], bool] | None = None,
) -> list[OpenUndo]:
    """The undos that have not ended, by when they were begun last, the newest last. No step is folded.

    Args:
        journal: Where they are.
        gaps: As `list_undos`.
        appliers: Who applies plans of this store; None, if that cannot be told.
        has_workers: Looks whether a worker of this store lives; None likewise.
    """
    begun = [fold for fold in _begun(journal, gaps) if not fold.status().has_ended]
    holders = _holders(begun, appliers, has_workers)
    return [
        _open_undo(journal, fold, holder)
        for fold, holder in zip(begun, holders, strict=True)
        if not fold.status().has_ended  # as it is by now
    ]


def _holders(folds: "list[_UndoFold]", appliers: Appliers | None, has_workers: Callable[[], bool] | None) -> list[str]:
    """Who goes on with each: see `OpenUndo`. What has died is read once more (AL1)."""
    shown = [fold.run_id for fold in folds if fold.is_shown]
    try:
        living = None if appliers is None else appliers.living(shown) if shown else frozenset[str]()
    except EngineUnavailable:
        living = None
    holders: list[str] = []
    for fold in folds:
        if fold.is_left_to_workers:
            holders.append(_workers_word(has_workers))
        elif not fold.is_shown or living is None:
            holders.append("unknown")
        elif fold.run_id in living:
            holders.append("process")
        else:
            before = fold.started_sequence
            fold.read_plan()
            # Begun anew since: whoever did lives, or did a moment ago.
            holders.append("nobody" if fold.started_sequence == before else "process")
    return holders


def _workers_word(has_workers: Callable[[], bool] | None) -> str:
    try:
        return "unknown" if has_workers is None else "workers" if has_workers() else "no_worker"
    except EngineUnavailable:
        return "unknown"


def _open_undo(journal: Journal, fold: "_UndoFold", holder: str) -> OpenUndo:
    status = fold.status()
    undo = OpenUndo(
        plan_run=status.plan_run,
        plan_digest=status.plan_digest,
        selection=status.selection,
        state=status.state,
        total=status.total,
        actor=status.actor,
        reason=status.reason,
        begun_at=status.begun_at,
        held_by=status.held_by,
        held_because=status.held_because,
        holder=holder,
    )
    return undo if undo.is_held else msgspec.structs.replace(undo, heard_at=fold.heard_at())


def _begun(journal: Journal, gaps: list[EntryUnreadable] | None) -> "list[_UndoFold]":
    """What the runs of all plans that were begun say, in order of their beginnings."""
    folds = [_UndoFold(journal, run_id) for run_id in plan_runs(journal)]
    for fold in list(folds):
        try:
            fold.read_plan()
        except EntryUnreadable as gap:
            if gaps is None:
                raise
            gaps.append(gap)
            folds.remove(fold)
    begun = sorted((fold for fold in folds if fold.started is not None), key=lambda fold: fold.started_sequence)
    last: dict[bytes, _UndoFold] = {}
    for fold in begun:
        assert fold.started is not None
        if fold.is_waiting:  # what it is to go on with may be under way
            continue
        before = last.get(key := canonical_json(fold.started.selection))
        if before is not None:
            before.is_continued = not before.is_finished
        last[key] = fold
    return begun


def undo_status(journal: Journal, plan: str) -> UndoStatus:
    """How far one undo is. Args: as `follow`. Raises: as `follow`."""
    return UndoFollower(journal, plan).look()


def undo_steps(journal: Journal, plan: str) -> tuple[UndoStatus, list[StepSeen]]:
    """As `undo_status`, and its steps: those that are accounted for, in order of their ends, then those under way."""
    follower = UndoFollower(journal, plan)
    return follower.look(), follower.steps()


def follow(journal: Journal, plan: str, clock: Clock, *, every_s: float = 0.5) -> Iterator[UndoStatus]:
    """How far an undo is, again and again until it has ended; the last one says how.

    A plan that is continued by a later one of the same selection is followed to that one.

    Args:
        journal: Where it is recorded; it may run anywhere.
        plan: Its run, its digest, or the beginning of either.
        clock: The time between two looks.
        every_s: Seconds between two looks.

    Raises: UsageError, if there is no such undo, with the nearest name.
    """
    follower = UndoFollower(journal, plan)
    while True:
        status = follower.look()
        yield status
        if status.state == "continued" and (later := continuation_of(journal, status)) is not None:
            follower = UndoFollower(journal, later)
            continue
        if status.has_ended:
            return
        clock.sleep(every_s)


def continuation_of(journal: Journal, status: UndoStatus) -> str | None:
    """The run of the later plan that goes on with this one; None if there is none."""
    latest = latest_plan(journal, status.plan_run)
    return None if latest is None or latest[0] == status.plan_run else latest[0]


class UndoFollower:
    """Looks at one undo again and again, and reads only what is new. Args and errors: as `follow`."""

    def __init__(self, journal: Journal, plan: str) -> None:
        self._journal = journal
        self._turn_to(plan)

    def _turn_to(self, plan: str) -> None:
        self._fold = _UndoFold(self._journal, plan_run_meant(self._journal, plan))
        self._plans_seen: list[str] = []
        self._is_superseded = False

    def look_on(self) -> UndoStatus:
        """As `look`, and how far the later plan is, as soon as one goes on with this."""
        status = self.look()
        while status.state == "continued" and (later := continuation_of(self._journal, status)) is not None:
            self._turn_to(later)
            status = self.look()
        return status

    def look(self) -> UndoStatus:
        """How far it is now."""
        self._fold.read_plan()
        plans = list(plan_runs(self._journal))
        if plans != self._plans_seen:  # else nobody can have gone on with another one
            self._plans_seen = plans
            latest = latest_plan(self._journal, self._fold.run_id)
            self._is_superseded = latest is not None and latest[0] != self._fold.run_id
        self._fold.is_continued = self._is_superseded and not self._fold.is_finished and not self._fold.is_waiting
        self._fold.read_steps()
        return self._fold.status()

    def steps(self) -> list[StepSeen]:
        """What the last look has seen of its steps: see `undo_steps`."""
        return self._fold.steps()


def plan_run_meant(journal: Journal, text: str) -> str:
    """The run of the plan that somebody means by its id, its digest, or the beginning of either.

    Raises: UsageError, with the nearest one.
    """
    digits = text.removeprefix("undo_").lower()
    if not digits or not set(digits) <= set("0123456789abcdef"):
        raise UsageError(f"{text!r} names no undo: give the digest of its plan, or the beginning of that")
    if len(digits) < PREFIX_MIN:
        raise UsageError(f"{text!r} is too short to mean one undo; give {PREFIX_MIN} or more digits of its plan")
    name = plan_run_id(digits)
    known = list(plan_runs(journal))
    if not known:
        raise NameUnknown(f"there is no undo {text!r}: none was ever applied in this store")
    return the_one_meant(name, known, what="undo")


class _UndoFold:
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
        return isinstance(self._end, PlanFinished)

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
