"""What the journal tells of a target in conflict besides the steps in scope: who wrote to it, and what was put back."""

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

import msgspec

from rescind.compensation.decision import PlanItem, Restore, Review, is_undo
from rescind.compensation.doubt import as_known
from rescind.compensation.planning.known import ForeignStep
from rescind.compensation.planning.nesting import end_of
from rescind.compensation.port import ReviewReason
from rescind.journal.pages import readable_entries
from rescind.journal.port import PAGE_LIMIT, Journal, Query
from rescind.model.entry import CompensationEnded, CompensationIntended, Disposition, Entry, Intended, StepRef
from rescind.model.history import StepRecord, fold_steps
from rescind.model.step import Target


def foreign_steps(
    journal: Journal, conflicts: Iterable[PlanItem], records: Iterable[StepRecord]
) -> dict[Target, list[ForeignStep]]:
    """Who besides these steps wrote to the targets in conflict; at most one page of each, after its oldest conflict."""
    ours = {record.ref for record in records}
    oldest: dict[Target, int] = {}
    for item in conflicts:
        if item.target is not None:
            oldest[item.target] = min(oldest.get(item.target, item.intended_sequence), item.intended_sequence)
    found: dict[Target, list[ForeignStep]] = {}
    for target, sequence in oldest.items():
        # What cannot be read of others explains nothing, and is no reason to leave a target as it is.
        page = islice(readable_entries(journal, Query(target=target), [], after=sequence), PAGE_LIMIT)
        found[target] = [
            ForeignStep(ref, entry.run.agent, entry.sequence)
            for entry in page
            if isinstance(entry.event, Intended)
            and (ref := StepRef(entry.run.run_id, entry.event.step.step_id)) not in ours
        ]
    return found


def put_back_before(
    journal: Journal, forced: Iterable[PlanItem], records: Iterable[StepRecord]
) -> dict[StepRef, Review]:
    """Steps to be forced whose targets an undo of an older step has put back since, and what that means (CF2)."""
    known = {record.ref: record for record in records}
    runs: dict[str, list[_PutBack]] = {}
    found: dict[StepRef, Review] = {}
    for item in forced:
        for run_id in _runs_before(journal, item):
            if run_id not in runs:
                runs[run_id] = _put_back(readable_entries(journal, Query(run_id=run_id), []))
            for each in runs[run_id]:
                if each.took_along(known[item.step], item):
                    words = f"the undo of {each.record.ref}, which is older, has put its target back since"
                    found[item.step] = Review(
                        ReviewReason.CONFLICT, f"{words}; to force this one would bring back what that had left"
                    )
    return found


def brought_back(journal: Journal, items: Iterable[PlanItem], records: Iterable[StepRecord]) -> dict[StepRef, Review]:
    """Steps whose restore would bring back what a superseded step had left, and what that means (CF5).

    Args:
        journal: Where others' steps are.
        items: The plan.
        records: All steps of the plan's runs.
    """
    undone = {item.step for item in items if is_undo(item.decision)}
    planned = {item.step.run_id for item in items}
    superseded = _Superseded(journal, records)
    found: dict[StepRef, Review] = {}
    for item in items:
        if not isinstance(item.decision, Restore) or item.target is None:
            continue
        under = superseded.under(item.target, item.intended_sequence, item.decision.leaves)
        if not under or under[0].ref in undone:
            continue
        missing = [run_id for run_id in dict.fromkeys(each.run.run_id for each in under) if run_id not in planned]
        add = f" (add {' '.join(f'--run {run_id}' for run_id in missing)})" if missing else ""
        found[item.step] = Review(
            ReviewReason.CONFLICT,
            f"it would bring back what {under[0].ref} had left, whose undo was skipped because of later changes; "
            f"undo both together{add}; if this one has a review task by now, resolve that with `retry` first",
        )
    return found


class _Superseded:
    """The superseded steps at each target, of all runs. A run is read once."""

    def __init__(self, journal: Journal, known: Iterable[StepRecord]) -> None:
        self._journal = journal
        self._of_run: dict[str, list[StepRecord]] = {}
        for record in known:
            here = self._of_run.setdefault(record.run.run_id, [])
            if record.disposition is Disposition.SUPERSEDED:
                here.append(record)
        self._at: dict[Target, list[StepRecord]] = {}

    def under(self, target: Target, sequence: int, version: str) -> list[StepRecord]:
        """The superseded step before this sequence that left this version there, the one under that, and so on."""
        found: list[StepRecord] = []
        for record in reversed(self._all_at(target)):
            before, left = record.step.before, as_known(record).after
            if record.intended_sequence < sequence and left is not None and left.version == version:
                found.append(record)
                sequence, version = record.intended_sequence, "" if before is None else before.version
        return found

    def _all_at(self, target: Target) -> list[StepRecord]:
        if target not in self._at:
            entries = readable_entries(self._journal, Query(target=target), [])
            run_ids = dict.fromkeys(entry.run.run_id for entry in entries)
            steps = [each for run_id in run_ids for each in self._of(run_id) if each.step.target == target]
            self._at[target] = sorted(steps, key=lambda each: each.intended_sequence)
        return self._at[target]

    def _of(self, run_id: str) -> list[StepRecord]:
        if run_id not in self._of_run:
            steps = fold_steps(readable_entries(self._journal, Query(run_id=run_id), []))
            self._of_run[run_id] = [each for each in steps if each.disposition is Disposition.SUPERSEDED]
        return self._of_run[run_id]


def _runs_before(journal: Journal, item: PlanItem) -> Sequence[str]:
    """The runs that wrote to the item's target before it."""
    if item.target is None:
        return []
    entries = readable_entries(journal, Query(target=item.target), [])
    older = takewhile(lambda entry: entry.sequence < item.intended_sequence, entries)
    return list(dict.fromkeys(entry.run.run_id for entry in older))


class _PutBack(msgspec.Struct, frozen=True):
    """A step that was restored, or may have been: where in the journal that stands, and whether it was forced."""

    record: StepRecord
    sequence: int
    forced: bool

    def took_along(self, later: StepRecord, item: PlanItem) -> bool:
        """Whether what this later step left went with it: they see the same thing, and it was put back after that."""
        older = self.record
        assert isinstance(item.decision, Restore)
        assert older.step.before is not None
        is_before = older.intended_sequence < later.intended_sequence and self.sequence > end_of(later)
        if not is_before or (older.step.action, older.step.target) != (later.step.action, later.step.target):
            return False
        if self.forced or older.step.before.version == item.decision.expects:
            return True
        found = later.step.before
        return older.after is not None and found is not None and older.after.version == found.version


def _put_back(entries: Iterable[Entry]) -> list[_PutBack]:
    """The steps of a run that were restored and not redone since, or whose restore was begun and has no end."""
    story = list(entries)
    last: dict[str, int] = {}
    forced: set[str] = set()
    for entry in story:
        match entry.event:
            case CompensationIntended(step_id=step_id, overwrites=overwrites):
                last[step_id] = entry.sequence
                (forced.add if overwrites else forced.discard)(step_id)
            case CompensationEnded(step_id=step_id):
                last[step_id] = entry.sequence
            case _:
                pass
    return [
        _PutBack(record, last[record.step.step_id], record.step.step_id in forced)
        for record in fold_steps(story)
        if record.step.before is not None and (record.disposition is Disposition.RESTORED or record.compensation_open)
    ]
