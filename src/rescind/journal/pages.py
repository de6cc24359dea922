"""Reading a journal to its end, page by page; also past what cannot be read."""

from collections.abc import Iterator

from rescind.errors import EntryUnreadable
from rescind.journal.port import PAGE_LIMIT, Journal, Query
from rescind.model.entry import Entry


def every_entry(journal: Journal, query: Query, *, after: int = 0) -> Iterator[Entry]:
    """All matching entries after the sequence `after`, in order."""
    while page := journal.entries(query, after=after):
        yield from page
        after = page[-1].sequence


def readable_entries(journal: Journal, query: Query, gaps: list[EntryUnreadable], *, after: int = 0) -> Iterator[Entry]:
    """As `every_entry`, past what cannot be read: for who reads what others did, and can say what it may have missed.

    Args:
        journal: Where they are.
        query: Which.
        gaps: Gets what could not be read, in order. It is there when the entry after it is given.
        after: The sequence to go on after.
    """
    limit = PAGE_LIMIT
    while True:
        try:
            page = journal.entries(query, after=after, limit=limit)
        except EntryUnreadable as gap:
            if limit > 1:  # what stands before it in the page can be read
                limit //= 2
                continue
            gaps.append(gap)
            after, limit = gap.sequence, PAGE_LIMIT
            continue
        if not page:
            return
        yield from page
        after = page[-1].sequence
