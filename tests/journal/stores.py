"""What the journal's tests share: both stores, and one-line ways to look into them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builders import opened
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft, Journal, Query, SlotClaim
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Entry

CLAIM = SlotClaim("acme", "key-1", "digest-1")


def keyed(claim: SlotClaim) -> dict[str, Any]:
    """The fields by which a step says that it claims; the guard writes both from one call."""
    return {"keyed": True, "idempotency_key": claim.key, "arguments_digest": claim.digest}


def new_journal(kind: str, folder: Path) -> Journal:
    return MemoryJournal() if kind == "memory" else SqliteJournal(folder / "journal.db")


def everything(journal: Journal, query: Query | None = None, *, limit: int = 1_000) -> list[Entry]:
    """All pages of a query."""
    return list(_pages(journal, query or Query(), limit))


def _pages(journal: Journal, query: Query, limit: int) -> Iterator[Entry]:
    after = 0
    while page := journal.entries(query, after=after, limit=limit):
        yield from page
        after = page[-1].sequence


def sequences(journal: Journal, query: Query, **page: int) -> list[int]:
    return [entry.sequence for entry in journal.entries(query, **page)]


def run_ids(journal: Journal, query: Query, **page: object) -> list[str]:
    return [run.run_id for run in journal.runs(query, **page)]  # type: ignore[arg-type]  # pages take a str and an int


def open_runs(journal: Journal, *names: str) -> None:
    drafts: list[Draft] = [opened(name) for name in names]
    journal.append(drafts)
