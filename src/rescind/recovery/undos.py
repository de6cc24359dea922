"""Undos as the journal tells of them: which there are, how far each is, and who holds it.

Everything here is folded from the journal, so it is the same wherever the undo runs and whoever asks. An undo that is
followed is read on from where it was read to: 100,000 steps are read once, however often somebody looks.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from rescind.clock import Clock
from rescind.errors import EngineUnavailable, EntryUnreadable, NameUnknown, UsageError
from rescind.journal.port import Journal
from rescind.model.step import canonical_json
from rescind.recovery.appliers import Appliers
from rescind.recovery.control import latest_plan, plan_run_id, plan_runs
from rescind.recovery.reading import PREFIX_MIN, the_one_meant
from rescind.recovery.undo_status import StepSeen, UndoFold, UndoStatus


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


def list_undos(
    journal: Journal, *, gaps: list[EntryUnreadable] | None = None, past_too: bool = False
) -> list[UndoStatus]:
    """All undos, by when they were begun last, the newest last. Steps are counted for those that have not ended.

    Args:
        journal: Where they are.
        gaps: Gets the entries of plans that cannot be read, whose undos are left out; without it, they raise. What
            cannot be read of the runs of their steps, each undo says itself (`unreadable`).
        past_too: Count the steps of those, too, that never said how far they came: killed, and continued since.
    """
    begun = _begun(journal, gaps)
    for fold in begun:
        if not fold.status().has_ended or (past_too and not fold.has_own_end):
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


def _holders(folds: list[UndoFold], appliers: Appliers | None, has_workers: Callable[[], bool] | None) -> list[str]:
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


def _open_undo(journal: Journal, fold: UndoFold, holder: str) -> OpenUndo:
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


def _begun(journal: Journal, gaps: list[EntryUnreadable] | None) -> list[UndoFold]:
    """What the runs of all plans that were begun say, in order of their beginnings."""
    folds = [UndoFold(journal, run_id) for run_id in plan_runs(journal)]
    for fold in list(folds):
        try:
            fold.read_plan()
        except EntryUnreadable as gap:
            if gaps is None:
                raise
            gaps.append(gap)
            folds.remove(fold)
    begun = sorted((fold for fold in folds if fold.started is not None), key=lambda fold: fold.started_sequence)
    last: dict[bytes, UndoFold] = {}
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
        self._fold = UndoFold(self._journal, plan_run_meant(self._journal, plan))
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
