"""Who came first: law U10 of `execute`."""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rescind.compensation.selection import read_run
from rescind.journal.port import Journal, Query
from rescind.model.entry import CompensationIntended, StepRef
from rescind.recovery.reading import every_entry

if TYPE_CHECKING:
    from rescind.model.history import StepRecord


class Claims:
    """The runs of a plan as they stand when it begins, and who intended which of their steps first since then."""

    def __init__(self, journal: Journal, run_ids: Iterable[str]) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._read_up_to: dict[str, int] = {}
        self._first: dict[StepRef, int] = {}
        self.records: dict[StepRef, StepRecord] = {}
        for run_id in run_ids:
            records, self._read_up_to[run_id] = read_run(journal, run_id)
            self.records.update({record.ref: record for record in records})

    def is_first(self, ref: StepRef, sequence: int) -> bool:
        """Whether the intent at this sequence, which is durable, is the first of its step since the beginning.

        Whatever stands before it is visible by now (law J1), so every runner comes to the same answer.
        """
        with self._lock:
            self._read_on(ref.run_id)
            return self._first[ref] == sequence

    def _read_on(self, run_id: str) -> None:
        for entry in every_entry(self._journal, Query(run_id=run_id), after=self._read_up_to[run_id]):
            self._read_up_to[run_id] = entry.sequence
            if isinstance(entry.event, CompensationIntended):
                self._first.setdefault(StepRef(run_id, entry.event.step_id), entry.sequence)
