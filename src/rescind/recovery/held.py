"""Held effects from outside their run: which there are, which may go, and who drops one. Laws HE1-HE6: `guard.held`.

What is held is listed in runs of its own, one for each run that holds something, so that nobody has to read the whole
journal for it; what became of it stands in the run itself.
"""

import enum
from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec

from rescind.clock import Clock
from rescind.errors import EntryUnreadable, RescindError, UsageError
from rescind.guard.gate import Allow, AwaitApproval, Deny, Halt, Verdict
from rescind.guard.held import HELD_AGENT, HELD_RUN_PREFIX, HOLD_MAX
from rescind.journal.behind import again, drafts_behind
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import EffectHeld, Ended
from rescind.model.history import fold_steps
from rescind.model.outcome import Failed
from rescind.model.step import HeldUntil
from rescind.recovery.held_run import Held, HeldRun, RunEnd
from rescind.recovery.reading import last_sequence, the_one_meant

KEPT_MAX = HOLD_MAX + timedelta(days=5)
"""What nobody released within this time is dropped: a mail of last month does more harm than none."""

LOOKED_BACK = timedelta(days=90)


class Fate(enum.StrEnum):
    """What is to become of a held step now."""

    RELEASE = "release"
    WAIT = "wait"
    DROP = "drop"


class Decision(msgspec.Struct, frozen=True):
    """What is to become of a held step now, and why."""

    fate: Fate
    because: str


def list_held(journal: Journal, *, now: datetime, gaps: list[EntryUnreadable] | None = None) -> list[Held]:
    """The steps that are held, in the order of their intents; `gaps` gets what hides what a run holds (HE6)."""
    watch = HeldWatch(journal)
    found = watch.held(now=now)
    if gaps is not None:
        gaps += watch.unread.values()
    return found


class HeldWatch:
    """What is held, for whoever looks again and again: each entry of the journal is read once.

    Thousands of runs may hold something for days. To ask each of them for news costs a query for each, whether or not
    anything happens; to follow the journal costs one, and what is new.

    Attributes:
        unread: Of runs that may hold something, which cannot be told: the first entry that hides it (HE6).
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._followed = self._listed = 0  # up to where the journal was followed, and what is held was listed
        self._holding: dict[str, HeldRun] = {}
        self.unread: dict[str, EntryUnreadable] = {}

    def held(self, *, now: datetime) -> list[Held]:
        """The steps that are held now, in the order of their intents."""
        found = [held for _, held_ones in self.by_run(now=now) for held in held_ones]
        return sorted(found, key=lambda each: each.record.intended_sequence)

    def by_run(self, *, now: datetime) -> list[tuple[HeldRun, list[Held]]]:
        """The runs that hold something now, each with what it holds, in the order of the intents."""
        if self._holding:
            self._follow()
        else:
            self._list_anew(now)
        found = [(run, run.held_so_far()) for run in self._holding.values()]
        self._holding = {run.run_id: run for run, held in found if held}
        return [(run, held) for run, held in found if held]

    def _list_anew(self, now: datetime) -> None:
        """Nothing is held, as far as is known: then only what is listed matters, and not what others do."""
        end = last_sequence(self._journal, at_least=self._followed)  # first: what is listed after it, is followed
        listed, runs = self._listed, dict[str, None]()
        query, gaps = Query(agent_name=HELD_AGENT, since=now - LOOKED_BACK), list[EntryUnreadable]()
        for entry in readable_entries(self._journal, query, gaps, after=listed):
            listed = entry.sequence
            if isinstance(entry.event, EffectHeld):
                runs[entry.event.step.run_id] = None
        for run_id in [*runs, *map(_holder_of, gaps)]:
            self._read(run_id)
        self._followed, self._listed = end, listed

    def _follow(self) -> None:
        gaps: list[EntryUnreadable] = []
        for entry in readable_entries(self._journal, Query(), gaps, after=self._followed):
            self._mind(gaps)
            if isinstance(entry.event, EffectHeld):
                self._read(entry.event.step.run_id)
                self._listed = max(self._listed, entry.sequence)
            elif entry.run.run_id in self._holding:
                self._holding[entry.run.run_id].take([entry])
            self._followed = entry.sequence
        self._mind(gaps)

    def _read(self, run_id: str) -> None:
        """From here on it is followed, unless what it holds cannot be told."""
        if run_id in self._holding or run_id in self.unread:
            return
        run = HeldRun(self._journal, run_id)
        try:
            run.read_on()
        except EntryUnreadable as gap:
            self.unread[run_id] = gap
        else:
            self._holding[run_id] = run

    def _mind(self, gaps: list[EntryUnreadable]) -> None:
        """What these hide: what a run did, or that it holds something, which the run itself tells as well."""
        for gap in gaps:
            self._followed = gap.sequence
            if gap.run_id in self._holding:
                del self._holding[gap.run_id]
                self.unread[gap.run_id] = gap
            elif gap.run_id.startswith(HELD_RUN_PREFIX):
                self._read(_holder_of(gap))
        gaps.clear()


def _holder_of(gap: EntryUnreadable) -> str:
    """The run about which this entry, in the list of what it holds, says something."""
    return gap.run_id.removeprefix(HELD_RUN_PREFIX)


def held_of_run(journal: Journal, run_id: str) -> list[Held]:
    """The steps that this run holds, in the order of their intents."""
    return HeldRun(journal, run_id).held()


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
    return _by_gate(verdict, was_approved=isinstance(held.record.step.approval_id, str))


def _by_gate(verdict: Verdict, *, was_approved: bool) -> Decision:
    match verdict:
        case AwaitApproval() if was_approved:  # by a named person, before it was held
            return Decision(Fate.RELEASE, "it is its turn, and was approved")
        case Allow():
            return Decision(Fate.RELEASE, "it is its turn")
        case AwaitApproval(because):
            return Decision(Fate.WAIT, f"writes wait for approval: {because}")
        case Deny(reason=reason) | Halt(reason):
            return Decision(Fate.WAIT, f"writes are refused: {reason}")


def drop_held(
    journal: Journal, run_id: str, step_ids: Collection[str], *, because: str, actor: str, clock: Clock
) -> frozenset[str]:
    """Drop held steps of one run: each fails, with the reason, and its idempotency key is free again.

    Args:
        journal: Where they are.
        run_id: Their run.
        step_ids: The steps; those that are held no more are left alone.
        because: Why, for the record.
        actor: Who drops them, for the record.
        clock: The time.

    Returns: The steps that were dropped here, durably.
    Raises: RescindError, if others write to the run all the time; nothing was dropped then.
    """

    def turn() -> frozenset[str]:
        held = [each for each in held_of_run(journal, run_id) if each.ref.step_id in step_ids]
        if not held:
            return frozenset()
        outcome = Failed(f"dropped while it was held: {because}")
        ends = [(run_id, Ended(step_id=each.ref.step_id, outcome=outcome, dropped_by=actor)) for each in held]
        journal.append(drafts_behind(run_id, ends, position=held[0].position - 1, at_us=clock.now_us()))
        return frozenset(each.ref.step_id for each in held)

    busy = f"run {run_id} is being written to by others all the time; what it holds is still held"
    return again(turn, busy=RescindError(busy))


def find_held(journal: Journal, text: str, *, now: datetime) -> Held:
    """The held step that is meant by `RUN/STEP`, or by the beginning of it.

    Raises: UsageError, with the nearest one, if there is none or more than one.
    """
    gaps: list[EntryUnreadable] = []
    known = {str(held.ref): held for held in list_held(journal, now=now, gaps=gaps)}
    hidden = next((gap for gap in gaps if text not in known and text.startswith(gap.run_id)), None)
    if hidden is not None:
        raise UsageError(
            f"what run {hidden.run_id} holds cannot be told, so nothing of it is done: {hidden}"
        ) from hidden
    if text not in known and (fate := _what_became_of(journal, text)):
        raise UsageError(f"{text} is held no more: {fate}")
    return known[the_one_meant(text, known, what="held effect")]


def _what_became_of(journal: Journal, text: str) -> str:
    """What became of a step that was held once; empty if none has exactly this name. Nobody means another one then."""
    run_id, _, step_id = text.rpartition("/")
    records = fold_steps(every_entry(journal, Query(run_id=run_id))) if run_id else ()
    for record in records:
        if record.step.step_id == step_id and isinstance(record.step.held, HeldUntil):
            by = f" (by {record.dropped_by})" if record.dropped_by else ""
            return record.outcome.reason + by if isinstance(record.outcome, Failed) else "it was released"
    return ""
