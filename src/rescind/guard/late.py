"""A journal that is opened when something is first asked of it: its database may be away when a guard begins.

Who begins while it is away reads, and is refused writes by the gate, which knows that the orders are not heard either.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from rescind.clock import Clock
from rescind.errors import JournalUnavailable
from rescind.journal.port import PAGE_LIMIT, Appended, ChainHead, Draft, Journal, Query, Slot, SlotTaken
from rescind.model.entry import Entry
from rescind.model.step import RunInfo

AGAIN_S = 5.0
"""How long records that nobody's safety depends on are dropped after an opening that failed: reads must not wait."""

_log = logging.getLogger(__name__)


class LateJournal:
    """See `Journal`. While it cannot be opened, every method raises JournalUnavailable; `submit` drops, and logs it."""

    def __init__(self, open_journal: Callable[[], Journal], clock: Clock) -> None:
        """A journal that is not open yet."""
        self._open, self._clock = open_journal, clock
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self._again_at_s = 0.0

    def opened(self) -> Journal:
        """The journal itself. Raises: JournalUnavailable; UsageError, for a store that is none of ours."""
        journal = self._journal
        if journal is None:
            with self._lock:
                journal = self._journal
                if journal is None:
                    try:
                        journal = self._journal = self._open()
                    except JournalUnavailable:
                        self._again_at_s = self._clock.monotonic_s() + AGAIN_S
                        raise
        return journal

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        return self.opened().append(drafts)

    async def append_async(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        journal = self._journal
        if journal is None:
            import asyncio  # there is a loop, so it is there already

            journal = await asyncio.to_thread(self.opened)
        return await journal.append_async(drafts)

    def submit(self, drafts: Sequence[Draft]) -> None:
        """See `Journal`."""
        if self._journal is None and self._clock.monotonic_s() < self._again_at_s:
            return
        try:
            journal = self.opened()
        except JournalUnavailable as error:
            _log.warning("records are dropped for %g s: %s", AGAIN_S, error)
        else:
            journal.submit(drafts)

    def slot(self, tenant: str, key: str) -> Slot | None:
        """See `Journal`."""
        return self.opened().slot(tenant, key)

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        """See `Journal`."""
        return self.opened().entries(query, after=after, limit=limit)

    def runs(self, query: Query, *, after_run: str = "", limit: int = PAGE_LIMIT) -> list[RunInfo]:
        """See `Journal`."""
        return self.opened().runs(query, after_run=after_run, limit=limit)

    def run(self, run_id: str) -> RunInfo | None:
        """See `Journal`."""
        return self.opened().run(run_id)

    def head(self, run_id: str) -> ChainHead | None:
        """See `Journal`."""
        return self.opened().head(run_id)

    def close(self) -> None:
        """See `Journal`."""
        with self._lock:
            journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    def after_fork(self) -> None:
        """In a forked child: make a new lock; whoever held it may not be here."""
        self._lock = threading.Lock()
