"""A journal on a disk that fails when it is told to."""

from collections.abc import Callable, Sequence

from rescind.errors import JournalUnavailable
from rescind.journal.port import PAGE_LIMIT, Appended, ChainHead, Draft, Journal, Query, Slot, SlotTaken
from rescind.model.entry import Entry
from rescind.model.step import RunInfo


class FaultyJournal:
    """Passes everything on to a real journal, and refuses the appends that `fails` says True to (law J7)."""

    def __init__(self, journal: Journal, fails: Callable[[Sequence[Draft]], bool]) -> None:
        self._journal, self._fails = journal, fails

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        self._perhaps_fail(drafts)
        return self._journal.append(drafts)

    async def append_async(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        self._perhaps_fail(drafts)
        return await self._journal.append_async(drafts)

    def submit(self, drafts: Sequence[Draft]) -> None:
        """See `Journal`. What fails here is lost, as it would be on a real disk."""
        if not self._fails(drafts):
            self._journal.submit(drafts)

    def slot(self, tenant: str, key: str) -> Slot | None:
        """See `Journal`."""
        return self._journal.slot(tenant, key)

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        """See `Journal`."""
        return self._journal.entries(query, after=after, limit=limit)

    def runs(self, query: Query, *, after_run: str = "", limit: int = PAGE_LIMIT) -> list[RunInfo]:
        """See `Journal`."""
        return self._journal.runs(query, after_run=after_run, limit=limit)

    def run(self, run_id: str) -> RunInfo | None:
        """See `Journal`."""
        return self._journal.run(run_id)

    def head(self, run_id: str) -> ChainHead | None:
        """See `Journal`."""
        return self._journal.head(run_id)

    def close(self) -> None:
        """See `Journal`."""
        self._journal.close()

    def _perhaps_fail(self, drafts: Sequence[Draft]) -> None:
        if self._fails(drafts):
            raise JournalUnavailable("the simulated disk is full; nothing was recorded")
