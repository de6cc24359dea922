"""The submissions that somebody has to look after, for whoever looks again and again: only what is new is read."""

import logging
from typing import TYPE_CHECKING

from rescind.compensation.sharing.submission import Submission, SubmissionFold
from rescind.journal.pages import readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import PlanSubmitted
from rescind.recovery.control import UNDO_AGENT

if TYPE_CHECKING:
    from rescind.errors import EntryUnreadable

_log = logging.getLogger("rescind.worker")


class OpenSubmissions:
    """The submissions under way, folded from all entries of the runs of plans, each entry read once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._after = 0
        self._open: dict[str, SubmissionFold] = {}
        # What is kept of a run without an open submission: a few bytes, since its next one counts on from there.
        self._numbers: dict[str, int] = {}
        self._unread: dict[str, EntryUnreadable] = {}

    def read(self) -> list[Submission]:
        """Those that are under way now, by the name of their run."""
        gaps: list[EntryUnreadable] = []
        for entry in readable_entries(self._journal, Query(agent_name=UNDO_AGENT), gaps, after=self._after):
            self._after = entry.sequence
            run_id = entry.run.run_id
            if isinstance(entry.event, PlanSubmitted) and run_id not in self._open:
                self._open[run_id] = SubmissionFold(earlier=self._numbers.pop(run_id, 0))
            fold = self._open.get(run_id)
            if fold is not None:
                fold.take(entry)
                if fold.is_over:
                    self._close(run_id)
        for gap in gaps:
            self._after = max(self._after, gap.sequence)
            self._unread[gap.run_id] = gap
            _log.error("what was left to the workers there cannot be told: %s", gap)
        self._leave_alone()
        found = (fold.submission for _, fold in sorted(self._open.items()))
        return [each for each in found if each is not None]

    def _leave_alone(self) -> None:
        """Let go of those of which nobody can tell how far they are: the others need not wait for that."""
        for run_id in [each for each in self._open if each in self._unread]:
            told = "the undo of %s is left alone, since nobody can tell how far it is: %s"
            _log.error(told, run_id, self._unread[run_id])
            self._close(run_id)

    def _close(self, run_id: str) -> None:
        self._numbers[run_id] = self._open.pop(run_id).number
