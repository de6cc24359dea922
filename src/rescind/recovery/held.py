"""Held effects from outside their run: which there are, which may go, and who drops one. Laws HE1-HE5: `guard.held`.

What is held is listed in runs of its own, one for each run that holds something, so that nobody has to read the whole
journal for it; what became of it stands in the run itself.
"""

import enum
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

import msgspec

from rescind.clock import Clock
from rescind.errors import RescindError, SequenceConflict
from rescind.guard.gate import Allow, AwaitApproval, Deny, Halt, Verdict
from rescind.guard.held import HELD_AGENT, HOLD_MAX
from rescind.journal.port import Draft, Journal, Query
from rescind.model.entry import EffectHeld, Ended, Entry, Resumed, RunClosed, RunOpened, StepRef
from rescind.model.history import StepRecord, fold_steps
from rescind.model.outcome import Failed
from rescind.model.step import HeldUntil
from rescind.recovery.reading import every_entry, the_one_meant

KEPT_MAX = HOLD_MAX + timedelta(days=5)
"""What nobody released within this time is dropped: a mail of last month does more harm than none."""

LOOKED_BACK = timedelta(days=90)

_ATTEMPTS_MAX = 20  # Each means that somebody else wrote to the same run in between.


class RunEnd(enum.StrEnum):
    """How a run stands, as far as its journal tells."""

    OPEN = "open"  # somebody acts for it, or died without saying so
    ENDED = "ended"
    FAILED = "failed"
    HALTED = "halted"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is held.

    Attributes:
        record: The step.
        run_end: How its run stands.
        position: Where its run's chain goes on, when this was read.
    """

    record: StepRecord
    run_end: RunEnd
    position: int

    @property
    def ref(self) -> StepRef:
        """The step's name."""
        return self.record.ref

    @property
    def until(self) -> datetime | None:
        """From when on it may go; None: once its run has ended."""
        held = self.record.step.held
        return held.at if isinstance(held, HeldUntil) else None


class Fate(enum.StrEnum):
    """What is to become of a held step now."""

    RELEASE = "release"
    WAIT = "wait"
    DROP = "drop"


class Decision(msgspec.Struct, frozen=True):
    """What is to become of a held step now, and why."""

    fate: Fate
    because: str


def list_held(journal: Journal, *, now: datetime) -> list[Held]:
    """The steps that are held, in the order of their intents."""
    return HeldWatch(journal).held(now=now)


class HeldWatch:
    """What is held, for whoever looks again and again: only runs that still hold something are read each time."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._read_up_to = journal, 0
        self._holding: dict[str, None] = {}

    def held(self, *, now: datetime) -> list[Held]:
        """The steps that are held now, in the order of their intents."""
        query = Query(agent_name=HELD_AGENT, since=now - LOOKED_BACK)
        for entry in every_entry(self._journal, query, after=self._read_up_to):
            self._read_up_to = entry.sequence
            if isinstance(entry.event, EffectHeld):
                self._holding[entry.event.step.run_id] = None
        found: list[Held] = []
        for run_id in list(self._holding):
            held = held_of_run(self._journal, run_id)
            found += held
            if not held:
                del self._holding[run_id]
        return sorted(found, key=lambda each: each.record.intended_sequence)


def held_of_run(journal: Journal, run_id: str) -> list[Held]:
    """The steps that this run holds, in the order of their intents."""
    entries = list(every_entry(journal, Query(run_id=run_id)))
    if not entries:
        return []
    end, position = _end_of(entries), entries[-1].position + 1
    return [Held(record=record, run_end=end, position=position) for record in fold_steps(entries) if record.is_held]


def decide(held: Held, verdict: Verdict, *, now: datetime, behind: str = "") -> Decision:
    """What is to become of a held step: a pure function (HE4, HE5).

    Args:
        held: The step.
        verdict: What the gate says to its write now.
        now: An aware moment.
        behind: An earlier held step of its run that waits; empty if there is none.
    """
    if held.run_end is RunEnd.HALTED or (isinstance(verdict, Halt) and verdict.latches):
        return Decision(Fate.DROP, "its run was halted")
    if now - held.record.intended_at > KEPT_MAX:
        return Decision(Fate.DROP, f"nobody released it within {KEPT_MAX.days} days")
    if held.until is not None and now < held.until:
        return Decision(Fate.WAIT, f"its time is {held.until.isoformat(timespec='seconds')}")
    if held.run_end is RunEnd.FAILED:
        return Decision(Fate.WAIT, "its run failed; a person has to release or drop it")
    if held.until is None and held.run_end is RunEnd.OPEN:
        return Decision(Fate.WAIT, "its run has not ended")
    if behind:
        return Decision(Fate.WAIT, f"step {behind} of its run was held before it and waits")
    return _by_gate(verdict)


def _by_gate(verdict: Verdict) -> Decision:
    match verdict:
        case Allow():
            return Decision(Fate.RELEASE, "it is its turn")
        case AwaitApproval(because):
            return Decision(Fate.WAIT, f"writes wait for approval: {because}")
        case Deny(reason=reason) | Halt(reason):
            return Decision(Fate.WAIT, f"writes are refused: {reason}")


def drop_held(
    journal: Journal, run_id: str, step_ids: Collection[str], *, because: str, clock: Clock
) -> frozenset[str]:
    """Drop held steps of one run: each fails, with the reason, and its idempotency key is free again.

    Args:
        journal: Where they are.
        run_id: Their run.
        step_ids: The steps; those that are held no more are left alone.
        because: Why, for the record.
        clock: The time.

    Returns: The steps that were dropped here, durably.
    Raises: RescindError, if others write to the run all the time; nothing was dropped then.
    """
    for _ in range(_ATTEMPTS_MAX):
        held = [each for each in held_of_run(journal, run_id) if each.ref.step_id in step_ids]
        if not held:
            return frozenset()
        outcome = Failed(f"dropped while it was held: {because}")
        drafts = [
            Draft(
                run_id=run_id,
                event=Ended(step_id=each.ref.step_id, outcome=outcome),
                recorded_at_us=clock.now_us(),
                expected_position=position,
            )
            for position, each in enumerate(held, start=held[0].position)
        ]
        try:
            journal.append(drafts)
        except SequenceConflict:
            continue
        return frozenset(each.ref.step_id for each in held)
    raise RescindError(f"run {run_id} is being written to by others all the time; what it holds is still held")


def find_held(journal: Journal, text: str, *, now: datetime) -> Held:
    """The held step that is meant by `RUN/STEP`, or by the beginning of it.

    Raises: UsageError, with the nearest one, if there is none or more than one.
    """
    known = {str(held.ref): held for held in list_held(journal, now=now)}
    return known[the_one_meant(text, known, what="held effect")]


def _end_of(entries: Iterable[Entry]) -> RunEnd:
    acting: set[str] = set()
    how = RunEnd.OPEN
    for entry in entries:
        if isinstance(entry.event, RunOpened):
            if not acting and how is not RunEnd.HALTED:
                how = RunEnd.OPEN  # it is continued: how it ended before is settled by how it ends now
            acting.add(entry.event.guard_id)
        elif isinstance(entry.event, Resumed):
            # A person has looked at how it ended, or at the process that died without a word, and has it go on.
            acting, how = set(), RunEnd.OPEN
        elif isinstance(entry.event, RunClosed):
            acting.discard(entry.event.guard_id)
            # Halted once is halted; of several processes that acted for it, one that failed is a failure.
            said = RunEnd(entry.event.how) if entry.event.how in RunEnd._value2member_map_ else RunEnd.FAILED
            how = max(how, said, key=_WORSE.index) if how is not RunEnd.OPEN else said
    if how is RunEnd.HALTED or not acting:
        return how
    return RunEnd.OPEN


_WORSE = (RunEnd.OPEN, RunEnd.ENDED, RunEnd.FAILED, RunEnd.HALTED)
