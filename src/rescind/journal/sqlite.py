"""The journal in one SQLite file: for one machine, any number of processes.

Appends go through the process's one writer thread (see `writer`), reads through connections of their own, which see
what is committed and never wait for a writer. Beside the file are SQLite's `-wal` and `-shm`, and the seals.
"""

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

import msgspec

from rescind.clock import Clock, IdSource, SystemClock, SystemIds
from rescind.journal.conditions import Values, time_values
from rescind.journal.connection import connect_reader, connect_writer, open_store, translating
from rescind.journal.port import PAGE_LIMIT, ChainHead, Query, Slot
from rescind.journal.queries import BOUNDS, EXTENT, Plan, entries_plan, runs_plan, windows
from rescind.journal.readers import Readers
from rescind.journal.recorder import Connect, SqliteRecorder
from rescind.journal.rows import HELD_COLUMNS, RUN_COLUMNS, Held, entry_of, run_of
from rescind.journal.seal import SEAL_EVERY, seal
from rescind.journal.threaded import RUNS_CACHED_MAX, ThreadedJournal
from rescind.journal.writer import Writer
from rescind.model.entry import Entry
from rescind.model.step import RunInfo

_SLOT = (
    f"SELECT {HELD_COLUMNS}, i.body, o.body FROM slots s JOIN runs r ON r.run_key = s.run_key"  # noqa: S608  # put together from our own constants
    " JOIN entries i ON i.sequence = s.intent_sequence LEFT JOIN entries o ON o.sequence = s.outcome_sequence"
    " WHERE s.tenant = ? AND s.key = ?"
)
_RUN = f"SELECT {RUN_COLUMNS} FROM runs r WHERE r.run_id = ?"  # noqa: S608  # put together from our own constants
_RUN_OF_KEY = f"SELECT {RUN_COLUMNS} FROM runs r WHERE r.run_key = ?"  # noqa: S608  # put together from our own constants
_HEAD = "SELECT h.position, h.hash FROM runs r JOIN heads h ON h.run_key = r.run_key WHERE r.run_id = ?"


class SqliteJournal(ThreadedJournal[sqlite3.Connection]):
    """A `Journal` in a file. Make one per file and process, and share it between threads and tasks."""

    def __init__(
        self,
        path: str | Path,
        *,
        busy_timeout_s: float = 5.0,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        connect: Connect = connect_writer,
    ) -> None:
        """Open the journal at `path`; if there is none, make one that only its owner can read.

        Args:
            path: The file. Its folder is made if needed.
            busy_timeout_s: How long to wait for another process's lock before an append fails.
            clock: Says when a seal was made, and how long a lock is waited for.
            ids: Names a new journal.
            connect: Opens the connection that appends; tests use it to break disks.

        Raises:
            StoreFormatError: The file is of a newer rescind, or no journal. It was left alone.
            JournalUnavailable: The file cannot be opened or made.
        """
        self.path = path = Path(path).absolute()
        clock = clock or SystemClock()
        open_store(self.path, clock=clock, ids=ids or SystemIds(), timeout_s=busy_timeout_s)
        sealer = _Sealer(self.path, clock)
        recorder = SqliteRecorder(
            self.path, connect=connect, after_commit=sealer, clock=clock, busy_timeout_s=busy_timeout_s
        )
        super().__init__(Writer(recorder), Readers(lambda: connect_reader(path, timeout_s=busy_timeout_s)))

    def slot(self, tenant: str, key: str) -> Slot | None:
        """See `Journal`."""
        with self._reading() as connection:
            row = connection.execute(_SLOT, (tenant, key)).fetchone()
        return None if row is None else Held(*row[:8]).slot(row[8], row[9])

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        """See `Journal`."""
        with self._reading() as connection:
            return [self._entry(connection, row) for row in _entry_rows(connection, query, after, limit)]

    def runs(self, query: Query, *, after_run: str = "", limit: int = PAGE_LIMIT) -> list[RunInfo]:
        """See `Journal`."""
        sql, values = runs_plan(query)
        with self._reading() as connection:
            extent = _extent(connection, query)
            page: Values = {"after": extent.first - 1, "upto": extent.last, "tail": extent.indexed}
            page |= {"after_run": after_run, "limit": max(0, limit)}
            return [run_of(row)[1] for row in connection.execute(sql, values | page)]

    def run(self, run_id: str) -> RunInfo | None:
        """See `Journal`."""
        with self._reading() as connection:
            row = connection.execute(_RUN, (run_id,)).fetchone()
        return None if row is None else run_of(row)[1]

    def head(self, run_id: str) -> ChainHead | None:
        """See `Journal`."""
        with self._reading() as connection:
            row = connection.execute(_HEAD, (run_id,)).fetchone()
        return None if row is None else ChainHead(run_id, row[0], row[1].hex())

    @contextlib.contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        """A connection in a transaction of its own: all that is read in the block is of one moment."""
        with translating(self.path), self._readers.lent() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _entry(self, connection: sqlite3.Connection, row: tuple[int, int, int, int, bytes, bytes]) -> Entry:
        sequence, position, run_key, at_us, digest, body = row
        run = self._runs.get(run_key) or self._load_run(connection, run_key)
        return entry_of(run, sequence, position, at_us, digest, body)

    def _load_run(self, connection: sqlite3.Connection, run_key: int) -> RunInfo:
        run = run_of(connection.execute(_RUN_OF_KEY, (run_key,)).fetchone())[1]
        if len(self._runs) >= RUNS_CACHED_MAX:
            self._runs = {}
        self._runs[run_key] = run
        return run


class _Sealer:
    """Seals every so many entries of this process, and at the end what is left."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock, self._unsealed = path, clock, 0

    def __call__(self, connection: sqlite3.Connection, entries: int, *, last: bool) -> None:
        self._unsealed += entries
        if self._unsealed >= SEAL_EVERY or (last and self._unsealed):
            seal(connection, self._path, now_us=self._clock.now_us())
            self._unsealed = 0


class _Extent(msgspec.Struct, frozen=True):
    """Where matching entries can be: from `first` to `last`, and after `indexed` to `end`."""

    first: int
    last: int
    indexed: int
    end: int


def _entry_rows(
    connection: sqlite3.Connection, query: Query, after: int, limit: int
) -> list[tuple[int, int, int, int, bytes, bytes]]:
    plan = entries_plan(query)
    extent = _extent(connection, query)
    begin = max(after, extent.first - 1)
    legs = [(plan.indexed, *window) for window in _indexed_windows(plan, begin, extent.last)]
    rows: list[tuple[int, int, int, int, bytes, bytes]] = []
    for sql, begin, upto in [*legs, (plan.tail, max(after, extent.indexed), extent.end)]:
        if len(rows) >= limit:
            break
        page: Values = {"after": begin, "upto": upto, "limit": limit - len(rows)}
        rows += connection.execute(sql, plan.values | page)
    return rows


def _indexed_windows(plan: Plan, begin: int, last: int) -> list[tuple[int, int]]:
    if begin >= last:
        return []
    return list(windows(begin, last)) if plan.windowed else [(begin, last)]


def _extent(connection: sqlite3.Connection, query: Query) -> _Extent:
    indexed, end = connection.execute(EXTENT).fetchone()
    times = time_values(query)
    first, last = (1, indexed) if times is None else connection.execute(BOUNDS, times).fetchone()
    return _Extent(first, last, indexed, end)
