"""A journal that counts what is read of it."""

from rescind.journal.memory import MemoryJournal
from rescind.journal.port import PAGE_LIMIT, Query
from rescind.model.entry import Entry


class CountingJournal(MemoryJournal):
    """Counts the pages that are asked for, and the entries that are given."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = 0
        self.given: list[Entry] = []

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        page = super().entries(query, after=after, limit=limit)
        self.pages += 1
        self.given += page
        return page

    def forget(self) -> None:
        """Count from here."""
        self.pages = 0
        self.given.clear()
