"""What earlier undos have left as superseded, and what would bring that back: law CF5.

Where such steps may be, the records of the undos say: few in a journal, and read once. So a plan in whose journal
nothing was ever skipped asks nothing of its targets, of which it may have a hundred thousand.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from rescind.compensation.decision import PlanItem, Restore, Review, is_undo
from rescind.compensation.doubt import as_known
from rescind.compensation.port import ReviewReason
from rescind.journal.pages import readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import Disposition, PlanFinished, PlanStarted, StepRef
from rescind.model.history import StepRecord, fold_steps
from rescind.model.step import Target
from rescind.recovery.control import UNDO_AGENT

if TYPE_CHECKING:
    from rescind.errors import EntryUnreadable


class Superseded:
    """The superseded steps at the targets of a plan, of all runs. A run is read once.

    Args:
        journal: Where others' steps are.
        known: All steps of the plan's runs.
        targets: How many the plan has, more or less: whether to read whole runs or to look at each target.
    """

    def __init__(self, journal: Journal, known: Iterable[StepRecord], *, targets: int) -> None:
        self._journal = journal
        self._at: defaultdict[Target, list[StepRecord]] = defaultdict(list)
        self._read: set[str] = set()
        self._looked_at: set[Target] = set()
        for record in known:
            self._read.add(record.run.run_id)
            self._note(record)
        skipping = _skipping_runs(journal)
        self._elsewhere: set[str] | None = None if skipping is None else skipping - self._read
        if self._elsewhere is not None and len(self._elsewhere) <= targets:
            self._read_runs(self._elsewhere)
            self._elsewhere.clear()

    def brought_back(self, items: Sequence[PlanItem]) -> dict[StepRef, Review]:
        """Steps of this plan whose restore would bring back what a superseded step had left, and what that means."""
        undone = {item.step for item in items if is_undo(item.decision)}
        planned = {item.step.run_id for item in items}
        found: dict[StepRef, Review] = {}
        for item in items:
            if not isinstance(item.decision, Restore) or item.target is None:
                continue
            under = self._under(item.target, item.intended_sequence, item.decision.leaves)
            if under and under[0].ref not in undone and not self._left_again(under[0], item):
                missing = [each for each in dict.fromkeys(step.run.run_id for step in under) if each not in planned]
                found[item.step] = _for_a_person(under[0].ref, missing)
        return found

    def _under(self, target: Target, sequence: int, version: str) -> list[StepRecord]:
        """The superseded step before this sequence that left this version there, the one under that, and so on."""
        found: list[StepRecord] = []
        for record in reversed(self._all_at(target)):
            before, left = record.step.before, as_known(record).after
            if record.intended_sequence < sequence and left is not None and left.version == version:
                found.append(record)
                sequence, version = record.intended_sequence, "" if before is None else before.version
        return found

    def _left_again(self, superseded: StepRecord, item: PlanItem) -> bool:
        """Whether another step, which stands, has brought the target to that version since, and before this item."""
        left = as_known(superseded).after
        assert left is not None
        since = superseded.intended_sequence
        entries = readable_entries(self._journal, Query(target=item.target), [], after=since)
        between = takewhile(lambda entry: entry.sequence < item.intended_sequence, entries)
        return any(
            record.step.target == item.target
            and since < record.intended_sequence < item.intended_sequence
            and record.disposition is None
            and record.after is not None
            and record.after.version == left.version
            and (record.step.before is None or record.step.before.version != record.after.version)
            for run_id in dict.fromkeys(entry.run.run_id for entry in between)
            for record in fold_steps(readable_entries(self._journal, Query(run_id=run_id), []))
        )

    def _all_at(self, target: Target) -> list[StepRecord]:
        """In order of intent."""
        may_be_elsewhere = self._elsewhere is None or self._elsewhere
        if may_be_elsewhere and target not in self._looked_at:
            self._looked_at.add(target)
            entries = readable_entries(self._journal, Query(target=target), [])
            wrote = {entry.run.run_id for entry in entries}
            self._read_runs(wrote if self._elsewhere is None else wrote & self._elsewhere)
        return sorted(self._at.get(target, []), key=lambda each: each.intended_sequence)

    def _read_runs(self, run_ids: Iterable[str]) -> None:
        for run_id in sorted(run_ids):
            if run_id not in self._read:
                self._read.add(run_id)
                for record in fold_steps(readable_entries(self._journal, Query(run_id=run_id), [])):
                    self._note(record)

    def _note(self, record: StepRecord) -> None:
        if record.disposition is Disposition.SUPERSEDED and record.step.target is not None:
            self._at[record.step.target].append(record)


def _for_a_person(superseded: StepRef, missing: Sequence[str]) -> Review:
    add = f" (add {' '.join(f'--run {run_id}' for run_id in missing)})" if missing else ""
    return Review(
        ReviewReason.CONFLICT,
        f"it would bring back what {superseded} had left, whose undo was skipped because of later changes; "
        f"undo both together{add}; if this one has a review task by now, resolve that with `retry` first",
    )


def _skipping_runs(journal: Journal) -> set[str] | None:
    """Runs in which an undo may have left steps as superseded; None if that is not known.

    An undo that was begun once and came to its end has counted what it left so. Of any other, all runs are meant.
    """
    gaps: list[EntryUnreadable] = []
    runs: dict[str, set[str]] = {}
    once, without = set[str](), set[str]()
    for entry in readable_entries(journal, Query(agent_name=UNDO_AGENT), gaps):
        undo = entry.run.run_id
        match entry.event:
            case PlanStarted(runs=named):
                (once.discard if undo in runs else once.add)(undo)
                runs[undo] = {*runs.get(undo, ()), *named}
            case PlanFinished(counts=counts):
                (without.discard if counts.get(Disposition.SUPERSEDED) else without.add)(undo)
            case _:
                pass
    if gaps:
        return None
    return {run_id for undo in runs.keys() - (once & without) for run_id in runs[undo]}
