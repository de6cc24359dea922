"""What the journal tells of a target in conflict besides the steps in scope: who wrote to it, and what was put back."""

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

import msgspec

from rescind.compensation.decision import PlanItem, Restore, Review
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
