"""What the journal tells of a target in conflict besides the steps in scope: who wrote to it, and what was put back."""

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

import msgspec

from rescind.compensation.decision import PlanItem, Restore, Review
from rescind.compensation.planning.known import ForeignStep
from rescind.compensation.planning.nesting import end_of
from rescind.compensation.port import ReviewReason
from rescind.journal.port import PAGE_LIMIT, Journal, Query
from rescind.model.entry import CompensationEnded, Disposition, Entry, Intended, StepRef
from rescind.model.history import StepRecord, fold_steps
from rescind.model.step import Target
from rescind.recovery.reading import readable_entries


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
    ends = {record.ref: end_of(record) for record in records}
    runs: dict[str, list[_PutBack]] = {}
    found: dict[StepRef, Review] = {}
    for item in forced:
        assert isinstance(item.decision, Restore)
        for run_id in _runs_before(journal, item):
            if run_id not in runs:
                runs[run_id] = _put_back(readable_entries(journal, Query(run_id=run_id), []))
            for each in runs[run_id]:
                if (
                    each.record.step.target == item.target
                    and each.record.intended_sequence < item.intended_sequence
                    and each.leaves == item.decision.expects
                    and each.sequence > ends[item.step]
                ):
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
    """A step that was restored, the version that this left, and where that stands in the journal."""

    record: StepRecord
    leaves: str
    sequence: int


def _put_back(entries: Iterable[Entry]) -> list[_PutBack]:
    """The steps of a run that were restored, and not redone since."""
    story = list(entries)
    ended = {entry.event.step_id: entry.sequence for entry in story if isinstance(entry.event, CompensationEnded)}
    return [
        _PutBack(record, record.step.before.version, ended[record.step.step_id])
        for record in fold_steps(story)
        if record.disposition is Disposition.RESTORED and record.step.before is not None
    ]
