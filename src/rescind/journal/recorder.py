"""How a batch comes into a SQLite file: the writer's connection, the lock, the statements, one transaction a batch."""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rescind.clock import Clock
from rescind.errors import JournalUnavailable, RescindError
from rescind.journal.admission import Refusal
from rescind.journal.batch import Batch, Head, SlotChange
from rescind.journal.codec import Prepared
from rescind.journal.connection import retry_while_busy, translate, translating
from rescind.journal.port import Appended
from rescind.journal.rows import HELD_COLUMNS, RUN_COLUMNS, SPAN_SHIFT, Held, row_of, run_of
from rescind.journal.writer import Committed

_INSERT_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_RUN = "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_HEAD = "INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?)"
_INDEX_SPAN = (
    "INSERT OR IGNORE INTO run_entries SELECT run_key, sequence FROM entries"
    " WHERE sequence BETWEEN :first AND :last ORDER BY run_key, sequence",
    "INSERT OR IGNORE INTO target_entries SELECT target, sequence FROM entries"
    " WHERE sequence BETWEEN :first AND :last AND target IS NOT NULL ORDER BY target, sequence",
    "INSERT OR REPLACE INTO spans SELECT :span, min(recorded_at_us), max(recorded_at_us) FROM entries"
    " WHERE sequence BETWEEN :first AND :last",
)
_EXTENT = "SELECT (SELECT coalesce(max(sequence), 0) FROM entries), (SELECT coalesce(max(span), -1) + 1 FROM spans)"
_FIND_RUN = (
    f"SELECT {RUN_COLUMNS}, h.position, h.hash, EXISTS (SELECT 1 FROM slots s WHERE s.run_key = r.run_key)"  # noqa: S608  # put together from our own constants
    " FROM runs r JOIN heads h ON h.run_key = r.run_key WHERE r.run_id = ?"
)
_HELD = f"SELECT {HELD_COLUMNS} FROM slots s JOIN runs r ON r.run_key = s.run_key"  # noqa: S608  # put together from our own constants
_FIND_HELD = f"{_HELD} WHERE s.tenant = ? AND s.key = ?"
_FIND_HELD_BY = f"{_HELD} WHERE s.run_key = ? AND s.step_id = ?"
_FIND_BODY = "SELECT body FROM entries WHERE sequence = ?"
_CLAIM = "INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?, NULL)"
_SETTLE = "UPDATE slots SET outcome_sequence = ? WHERE tenant = ? AND key = ?"
_FREE = "DELETE FROM slots WHERE tenant = ? AND key = ?"


class Connect(Protocol):
    """Opens the connection that appends."""

    def __call__(self, path: Path) -> sqlite3.Connection:
        """May raise sqlite3.Error."""
        ...


class AfterCommit(Protocol):
    """Called on the writer's thread, between batches, when the waiters of a batch have been woken."""

    def __call__(self, connection: sqlite3.Connection, entries: int, *, last: bool) -> None:
        """`entries` is how many the batch had; `last`, that the writer is closing."""
        ...


class SqliteRecorder:
    """A `Recorder` over one file. Not thread-safe: it belongs to the writer."""

    def __init__(
        self, path: Path, *, connect: Connect, after_commit: AfterCommit, clock: Clock, busy_timeout_s: float
    ) -> None:
        self.name = str(path)
        self._path, self._connect, self._after_commit = path, connect, after_commit
        self._clock, self._busy_timeout_s = clock, busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._placing: _Placing | None = None
        self._identity: tuple[int, int] | None = None  # Of the file that the connection has open.

    def begin(self) -> None:
        """See `Recorder`. Waits for the lock that other processes may have."""
        retry_while_busy(self._begin, clock=self._clock, timeout_s=self._busy_timeout_s)

    def look_ahead(self, drafts: Sequence[Prepared]) -> None:
        """See `Recorder`. In a file each question takes microseconds, so they are asked when they come up."""

    def append(self, drafts: Sequence[Prepared]) -> Appended | Refusal:
        """See `Recorder`."""
        assert self._placing is not None
        return self._placing.batch.append(drafts)

    def commit(self) -> Committed:
        """See `Recorder`."""
        assert self._placing is not None
        return Committed(self._placing.commit())

    def rollback(self) -> None:
        """See `Recorder`."""
        if self._placing is None:
            return
        try:
            self._placing.rollback()
        except sqlite3.Error:
            # A connection that cannot even roll back is of no use; a new one starts from what is on disk.
            self.disconnect()

    def disconnect(self) -> None:
        """See `Recorder`."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._placing = None

    def abandon(self) -> None:
        """See `Recorder`. The parent has closed its connection before the fork."""
        self._connection = self._placing = None

    def explain(self, error: BaseException) -> RescindError | None:
        """See `Recorder`."""
        return translate(error, self._path) if isinstance(error, sqlite3.Error) else None

    def tidy(self, entries: int, *, last: bool) -> None:
        """See `Recorder`."""
        if self._connection is not None:
            with translating(self._path):
                self._after_commit(self._connection, entries, last=last)

    def _begin(self) -> None:
        if self._placing is None:
            self._connection = self._connect(self._path)
            self._placing = _Placing(self._connection)
            self._identity = _identity(self._path)
        elif _identity(self._path) != self._identity:
            # SQLite would go on writing to a file that has no name any more, and no undo would ever find it.
            raise JournalUnavailable(
                f"the journal {self._path} was deleted or replaced while it was in use, and nothing was recorded; "
                "put it back, or restart this program to begin a new one"
            )
        self._placing.begin()


class _Placing:
    """One connection, and the batches that go through it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.batch = Batch(self)
        self._data_version = -1
        self._next_span = 0
        self._begun = False  # Whether there is a batch under way.

    def begin(self) -> None:
        """Take the write lock. What other processes wrote since the last commit is known after this."""
        if self._begun or self._connection.in_transaction:
            self.rollback()  # A Ctrl-C came into a rollback; it is made good here.
        self._connection.execute("BEGIN IMMEDIATE")
        self._begun = True
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version:
            self.batch.forget()
            self._data_version = version
            self.batch.last_sequence, self._next_span = self._connection.execute(_EXTENT).fetchone()
        self.batch.begin()

    def commit(self) -> int:
        """Make the batch durable. How many entries it had."""
        batch, put_all = self.batch, self._connection.executemany
        if batch.rows:
            put_all(_INSERT_ENTRY, batch.rows)
            put_all(_PUT_HEAD, [(head.run_key, head.sequence, head.position, head.hash) for head in batch.touched])
            while self._next_span < (batch.last_sequence + 1) >> SPAN_SHIFT:
                self._index_span()
        for head in batch.opened:
            self._connection.execute(_INSERT_RUN, row_of(head.run_key, head.run))
        for change, held in batch.slot_changes:
            self._change_slot(change, held)
        self._connection.execute("COMMIT")
        entries = batch.committed()
        self._begun = False
        return entries

    def rollback(self) -> None:
        """Forget the batch, and everything known from it."""
        self.batch.forget()
        self._data_version = -1
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._begun = False

    def _change_slot(self, change: SlotChange, held: Held) -> None:
        match change:
            case SlotChange.CLAIM:
                values = (held.tenant, held.key, held.digest, held.run_key, held.step_id, held.intent)
                self._connection.execute(_CLAIM, values)
            case SlotChange.SETTLE:
                self._connection.execute(_SETTLE, (held.outcome, held.tenant, held.key))
            case SlotChange.FREE:
                self._connection.execute(_FREE, (held.tenant, held.key))

    def _index_span(self) -> None:
        first = self._next_span << SPAN_SHIFT
        span = {"span": self._next_span, "first": first, "last": first + (1 << SPAN_SHIFT) - 1}
        for statement in _INDEX_SPAN:
            self._connection.execute(statement, span)
        self._next_span += 1

    # --- what the batch asks ---

    def find_head(self, run_id: str) -> Head | None:
        """See `Tables`."""
        row = self._connection.execute(_FIND_RUN, (run_id,)).fetchone()
        if row is None:
            return None
        run_key, run = run_of(row)
        position, digest, keyed = row[9:]
        return Head(run, run_key, position, digest, keyed=bool(keyed))

    def find_held(self, tenant: str, key: str) -> Held | None:
        """See `Tables`."""
        return _held_of(self._connection.execute(_FIND_HELD, (tenant, key)).fetchone())

    def find_held_by(self, run_key: int, step_id: str) -> Held | None:
        """See `Tables`."""
        return _held_of(self._connection.execute(_FIND_HELD_BY, (run_key, step_id)).fetchone())

    def find_body(self, sequence: int) -> bytes:
        """See `Tables`."""
        body: bytes = self._connection.execute(_FIND_BODY, (sequence,)).fetchone()[0]
        return body


def _held_of(row: tuple[str, str, str, int, str, str, int, int | None] | None) -> Held | None:
    return None if row is None else Held(*row)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
