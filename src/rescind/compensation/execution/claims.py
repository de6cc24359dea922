"""Who came first: law U10 of `execute`."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from rescind.compensation.way import BACK, Way
from rescind.journal.pages import every_entry
from rescind.journal.port import Appended, Draft, Journal, Query
from rescind.model.entry import CompensationEnded, CompensationIntended, RedoEnded, RedoIntended, StepRef
from rescind.model.history import fold_steps

if TYPE_CHECKING:
    from rescind.model.history import StepRecord


class Claims:
    """The runs of a plan as they stand when it begins, and who intended which of their steps first since then.

    Whoever appends in one thread, and says so here in the same order, need not read what he wrote himself: positions of
    a run have no gaps (law J5), so an entry at the position after the last known one has nobody else's before it.
    """

    def __init__(self, journal: Journal, run_ids: Iterable[str], way: Way = BACK) -> None:
        self._journal = journal
        self._known: dict[str, tuple[int, int]] = {}
        self._first: dict[StepRef, int] = {}
        self._mine: set[StepRef] = set()
        self._ended: set[StepRef] = set()
        self.records: dict[StepRef, StepRecord] = {}
        for run_id in run_ids:
            entries = list(every_entry(journal, Query(run_id=run_id)))
            self._known[run_id] = (entries[-1].sequence, entries[-1].position) if entries else (0, -1)
            self.records.update({record.ref: way.see(record) for record in fold_steps(entries)})

    def note(self, drafts: Sequence[Draft], appended: Appended) -> None:
        """These drafts were appended there."""
        for draft, sequence, position in zip(drafts, appended.sequences, appended.positions, strict=True):
            known = self._known.get(draft.run_id)
            if known is None:  # the run of the plan itself
                continue
            if position == known[1] + 1:
                self._known[draft.run_id] = (sequence, position)
                self._take(draft.run_id, draft.event, sequence)
            elif position > known[1]:
                self._read_on(draft.run_id, after=known[0])

    def is_first(self, ref: StepRef, sequence: int) -> bool:
        """Whether the intent at this sequence, durable and noted, is the first of its step since the beginning.

        Whatever stands before it is visible by now (law J1), so every runner comes to the same answer.
        """
        mine = self._first[ref] == sequence
        if mine:
            self._mine.add(ref)
        return mine

    def taken_by_others(self, refs: Collection[StepRef]) -> set[StepRef]:
        """Those of these steps that others have intended, or brought to an end, by now; the journal is looked at."""
        left = [ref for ref in refs if ref not in self._mine]
        for run_id in {ref.run_id for ref in left}:
            self._read_on(run_id, after=self._known[run_id][0])
        return {ref for ref in left if ref in self._first or ref in self._ended}

    def _read_on(self, run_id: str, *, after: int) -> None:
        for entry in every_entry(self._journal, Query(run_id=run_id), after=after):
            self._known[run_id] = (entry.sequence, entry.position)
            self._take(run_id, entry.event, entry.sequence)

    def _take(self, run_id: str, event: object, sequence: int) -> None:
        if isinstance(event, CompensationIntended | RedoIntended):
            self._first.setdefault(StepRef(run_id, event.step_id), sequence)
        elif isinstance(event, CompensationEnded | RedoEnded):
            self._ended.add(StepRef(run_id, event.step_id))
