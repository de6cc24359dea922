"""The journal in one SQLite file: for one machine, any number of processes.

Appends go through the process's one writer thread (see `writer`), reads through connections of their own, which see
what is committed and never wait for a writer. Beside the file are SQLite's `-wal` and `-shm`, and the seals.
"""

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec

from rescind.clock import Clock, IdSource, SystemClock, SystemIds, from_us
from rescind.journal.codec import decode_event, prepare
from rescind.journal.connection import connect_reader, connect_writer, open_store, translating
from rescind.journal.port import PAGE_LIMIT, Appended, ChainHead, Draft, Query, Slot, SlotTaken
from rescind.journal.queries import BOUNDS, EXTENT, Plan, Values, entries_plan, runs_plan, time_values, windows
from rescind.journal.recorder import Connect, SqliteRecorder
from rescind.journal.rows import HELD_COLUMNS, RUN_COLUMNS, Held, run_of
from rescind.journal.seal import SEAL_EVERY, seal
from rescind.journal.writer import Writer
from rescind.model.entry import Entry
from rescind.model.step import RunInfo

_RUNS_CACHED_MAX = 10_000  # Some 5 MB. A page names few runs, and the next page mostly the same.

_SLOT = (
    f"SELECT {HELD_COLUMNS}, i.body, o.body FROM slots s JOIN runs r ON r.run_key = s.run_key"  # noqa: S608  # put together from our own constants
    " JOIN entries i ON i.sequence = s.intent_sequence LEFT JOIN entries o ON o.sequence = s.outcome_sequence"
    " WHERE s.tenant = ? AND s.key = ?"
)
_RUN = f"SELECT {RUN_COLUMNS} FROM runs r WHERE r.run_id = ?"  # noqa: S608  # put together from our own constants
_RUN_OF_KEY = f"SELECT {RUN_COLUMNS} FROM runs r WHERE r.run_key = ?"  # noqa: S608  # put together from our own constants
_HEAD = "SELECT h.position, h.hash FROM runs r JOIN heads h ON h.run_key = r.run_key WHERE r.run_id = ?"


class SqliteJournal:
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
        self.path = Path(path).absolute()
        clock = clock or SystemClock()
        open_store(self.path, clock=clock, ids=ids or SystemIds(), timeout_s=busy_timeout_s)
        self._readers = Readers(self.path, timeout_s=busy_timeout_s)
        sealer = _Sealer(self.path, clock)
        recorder = SqliteRecorder(
            self.path, connect=connect, after_commit=sealer, clock=clock, busy_timeout_s=busy_timeout_s
        )
        self._writer = Writer(recorder)
        self._runs: dict[int, RunInfo] = {}
        # Whoever forgets to close still gets his submitted entries recorded, when the journal or the process ends.
        self._finalizer = weakref.finalize(self, _close, self._writer, self._readers)
        _OPEN.add(self)

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        return self._writer.append(prepare(drafts)) if drafts else Appended((), ())

    async def append_async(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        return await self._writer.append_async(prepare(drafts)) if drafts else Appended((), ())

    def submit(self, drafts: Sequence[Draft]) -> None:
        """See `Journal`. What cannot be recorded is logged and dropped."""
        self._writer.submit(prepare(drafts))

    def slot(self, tenant: str, key: str) -> Slot | None:
        """See `Journal`."""
        with self._readers.reading() as connection:
            row = connection.execute(_SLOT, (tenant, key)).fetchone()
        return None if row is None else Held(*row[:8]).slot(row[8], row[9])

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        """See `Journal`."""
        with self._readers.reading() as connection:
            return [self._entry(connection, row) for row in _entry_rows(connection, query, after, limit)]

    def runs(self, query: Query, *, after_run: str = "", limit: int = PAGE_LIMIT) -> list[RunInfo]:
        """See `Journal`."""
        sql, values = runs_plan(query)
        with self._readers.reading() as connection:
            extent = _extent(connection, query)
            page: Values = {"after": extent.first - 1, "upto": extent.last, "tail": extent.indexed}
            page |= {"after_run": after_run, "limit": max(0, limit)}
            return [run_of(row)[1] for row in connection.execute(sql, values | page)]

    def run(self, run_id: str) -> RunInfo | None:
        """See `Journal`."""
        with self._readers.reading() as connection:
            row = connection.execute(_RUN, (run_id,)).fetchone()
        return None if row is None else run_of(row)[1]

    def head(self, run_id: str) -> ChainHead | None:
        """See `Journal`."""
        with self._readers.reading() as connection:
            row = connection.execute(_HEAD, (run_id,)).fetchone()
        return None if row is None else ChainHead(run_id, row[0], row[1].hex())

    def close(self) -> None:
        """See `Journal`. What was written since the last seal is sealed."""
        self._finalizer()

    def before_fork(self) -> None:
        """Come to rest without any connection. Called by the interpreter, as are the next two."""
        self._writer.before_fork()
        self._readers.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._readers.after_fork_in_parent()
        self._writer.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Begin anew, on connections of the child's own."""
        self._readers.after_fork_in_child()
        self._writer.after_fork_in_child()

    def _entry(self, connection: sqlite3.Connection, row: tuple[int, int, int, int, bytes, bytes]) -> Entry:
        sequence, position, run_key, at_us, digest, body = row
        return Entry(
            sequence=sequence,
            position=position,
            run=self._runs.get(run_key) or self._load_run(connection, run_key),
            recorded_at=from_us(at_us),
            event=decode_event(sequence, body),
            hash=digest.hex(),
        )

    def _load_run(self, connection: sqlite3.Connection, run_key: int) -> RunInfo:
        run = run_of(connection.execute(_RUN_OF_KEY, (run_key,)).fetchone())[1]
        if len(self._runs) >= _RUNS_CACHED_MAX:
            self._runs = {}
        self._runs[run_key] = run
        return run


class Readers:
    """Connections that only read: one to a caller at a time, a few kept for the next. Thread-safe."""

    _IDLE_MAX = 8  # More readers than this at once are rare, and opening one costs 0.2 ms.

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._closed = False
        self._begin_anew()

    @contextlib.contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """A connection in a transaction of its own: all that is read in the block is of one moment."""
        with translating(self._path):
            connection = self._take()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._give_back(connection)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._changed:
            self._closed = True
            self._close_idle()

    def before_fork(self) -> None:
        """Wait until nobody reads, let nobody begin, and close all."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._in_use == 0)
        self._close_idle()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the lock may be known to threads that are not here."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._idle: list[sqlite3.Connection] = []
        self._in_use = 0

    def _take(self) -> sqlite3.Connection:
        with self._changed:
            self._in_use += 1
            if self._idle:
                return self._idle.pop()
        try:
            return connect_reader(self._path, timeout_s=self._timeout_s)
        except BaseException:
            with self._changed:
                self._in_use -= 1
                self._changed.notify_all()
            raise

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._changed:
            self._in_use -= 1
            if self._closed or len(self._idle) >= self._IDLE_MAX:
                connection.close()
            else:
                self._idle.append(connection)
            self._changed.notify_all()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


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


def _close(writer: Writer, readers: Readers) -> None:
    writer.close()
    readers.close()


_OPEN: weakref.WeakSet[SqliteJournal] = weakref.WeakSet()


# Those that came to rest before the fork under way; others may be opened or dropped meanwhile.
_RESTING: list[SqliteJournal] = []


def _before_fork() -> None:
    for journal in list(_OPEN):
        journal.before_fork()
        _RESTING.append(journal)


def _after_fork_in_parent() -> None:
    while _RESTING:
        _RESTING.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    while _RESTING:
        _RESTING.pop().after_fork_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
