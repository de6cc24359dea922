"""What the journal's tests share: all stores, and one-line ways to look into them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builders import opened
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft, Journal, Query, SlotClaim
from rescind.journal.postgres import PostgresJournal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Entry
from servers import Postgres

CLAIM = SlotClaim("acme", "key-1", "digest-1")

_TEMPLATES: dict[int, str] = {}  # The name of a database with an empty journal, for each server by its port.


def keyed(claim: SlotClaim) -> dict[str, Any]:
    """The fields by which a step says that it claims; the guard writes both from one call."""
    return {"keyed": True, "idempotency_key": claim.key, "arguments_digest": claim.digest}


def new_journal(kind: str, place: Path | str) -> Journal:
    """A journal of this kind; `place` is a folder, or the URL of a database."""
    if kind == "memory":
        return MemoryJournal()
    return PostgresJournal(str(place)) if kind == "postgres" else SqliteJournal(Path(place) / "journal.db")


def journal_database(server: Postgres) -> str:
    """The URL of a database with an empty journal: made once, and copied, which takes a tenth of the time."""
    name = _TEMPLATES.get(server.port)
    if name is None:
        url = server.new_database()
        PostgresJournal(url).close()
        name = _TEMPLATES[server.port] = url.rpartition("/")[2]
    return server.new_database(like=name)


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
