"""One commit of many appends: the writer's view of the database, and what it writes.

A batch is one transaction. Each append in it is judged against the state that those before it leave, and only then
placed, so a refused one leaves no trace and disturbs nobody. If the commit fails, every append of the batch fails,
and the caches, which were ahead of the disk, are thrown away.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from rescind.errors import StoreFormatError
from rescind.journal.admission import Refusal, frees_slot, refusal_of
from rescind.journal.chain import entry_hash, genesis
from rescind.journal.codec import Prepared
from rescind.journal.port import Appended, Slot, SlotClaim
from rescind.journal.rows import HELD_COLUMNS, RUN_COLUMNS, SPAN_SHIFT, Held, row_of, run_of
from rescind.model.entry import CompensationEnded, Ended, Event, Intended, RunOpened
from rescind.model.step import RunInfo

_CACHED_MAX = 20_000  # Runs, or held keys, kept in memory: about 10 MB. Beyond it they are looked up again.

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
_CLAIM = "INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?, NULL)"
_SETTLE = "UPDATE slots SET outcome_sequence = ? WHERE tenant = ? AND key = ?"
_FREE = "DELETE FROM slots WHERE tenant = ? AND key = ?"

_EntryRow = tuple[int, int, int, int, str, bytes | None, bytes, bytes]


class _Head:
    """The end of a run's chain, as far as this batch has got."""

    __slots__ = ("hash", "keyed", "position", "run", "run_key", "sequence")

    def __init__(self, run: RunInfo, run_key: int, position: int, digest: bytes, *, keyed: bool) -> None:
        self.run, self.run_key, self.position, self.hash = run, run_key, position, digest
        self.keyed = keyed  # Whether any step of the run holds a key: most runs have none, and need no look-up.
        self.sequence = 0


class Recorder:
    """Places appends in the journal, one transaction at a time. Not thread-safe: it belongs to the writer.

    Use: `begin`, `append` as often as wanted, then `commit`; after any exception of these, `rollback`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._data_version = -1
        self._last_sequence = 0
        self._next_span = 0
        self._first_pending = 1
        self._begun = False  # Whether there is a batch under way.
        self._forget()

    def begin(self) -> None:
        """Take the write lock. What other processes wrote since the last commit is known after this."""
        if self._begun or self._connection.in_transaction:
            self.rollback()  # A Ctrl-C came into a rollback; it is made good here.
        self._connection.execute("BEGIN IMMEDIATE")
        self._begun = True
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._data_version:
            self._forget()
            self._data_version = version
            self._last_sequence, self._next_span = self._connection.execute(_EXTENT).fetchone()
        if len(self._heads) + len(self._held_by) > _CACHED_MAX:
            self._forget()
        self._first_pending = self._last_sequence + 1

    def append(self, drafts: Sequence[Prepared]) -> Appended | Refusal:
        """Place all drafts, or say why not and place none."""
        try:
            refusal = refusal_of(drafts, self)
        except StoreFormatError as unreadable:  # The slot it asks for cannot be read; that is its own trouble alone.
            return unreadable
        if refusal is not None:
            return refusal
        first = self._last_sequence + 1
        positions = tuple([self._place(prepared) for prepared in drafts])
        return Appended(tuple(range(first, first + len(positions))), positions)

    def commit(self) -> int:
        """Make the batch durable. How many entries it had."""
        rows, put_all = self._rows, self._connection.executemany
        if rows:
            put_all(_INSERT_ENTRY, rows)
            put_all(_PUT_HEAD, [(head.run_key, head.sequence, head.position, head.hash) for head in self._touched])
            while self._next_span < (self._last_sequence + 1) >> SPAN_SHIFT:
                self._index_span()
        for head in self._opened:
            self._connection.execute(_INSERT_RUN, row_of(head.run_key, head.run))
        for statement, values in self._slot_changes:
            self._connection.execute(statement, values)
        self._connection.execute("COMMIT")
        self._clear_pending()
        self._begun = False
        return len(rows)

    def rollback(self) -> None:
        """Forget the batch, and everything known from it."""
        self._forget()
        self._data_version = -1
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._begun = False

    # --- what `refusal_of` asks ---

    def run_and_position(self, run_id: str) -> tuple[RunInfo, int] | None:
        """See `admission.Standing`."""
        head = self._heads.get(run_id) or self._load_head(run_id)
        return None if head is None else (head.run, head.position + 1)

    def held(self, claim: SlotClaim) -> Slot | None:
        """See `admission.Standing`."""
        held = self._find_held(claim.tenant, claim.key)
        if held is None:
            return None
        return held.slot(self._body(held.intent), None if held.outcome is None else self._body(held.outcome))

    def holds_slot(self, run_id: str, step_id: str) -> bool:
        """See `admission.Standing`."""
        head = self._heads.get(run_id)
        return head is not None and head.keyed and self._find_held_by(head.run_key, step_id) is not None

    # --- placing ---

    def _place(self, prepared: Prepared) -> int:
        draft = prepared.draft
        event, at_us = draft.event, draft.recorded_at_us
        self._last_sequence = sequence = self._last_sequence + 1
        head = self._heads.get(draft.run_id)
        if head is None:
            assert isinstance(event, RunOpened)
            head = self._open(event.run, sequence)
        head.position = position = head.position + 1
        head.hash = digest = entry_hash(head.hash, position, at_us, prepared.body)
        head.sequence = sequence
        self._touched.add(head)
        self._rows.append(
            (sequence, head.run_key, position, at_us, prepared.kind, prepared.target, digest, prepared.body)
        )
        if draft.claim is not None:
            self._claim(draft.claim, head, event, sequence)
        elif head.keyed:
            self._settle(head.run_key, event, sequence)
        return position

    def _open(self, run: RunInfo, sequence: int) -> _Head:
        head = _Head(run, sequence, -1, genesis(run.run_id), keyed=False)
        self._heads[run.run_id] = head
        self._opened.append(head)
        return head

    def _claim(self, claim: SlotClaim, head: _Head, event: Event, sequence: int) -> None:
        assert isinstance(event, Intended)
        step_id = event.step.step_id
        held = Held(claim.tenant, claim.key, claim.digest, head.run_key, head.run.run_id, step_id, sequence)
        values = (held.tenant, held.key, held.digest, held.run_key, held.step_id, held.intent)
        self._slot_changes.append((_CLAIM, values))
        self._remember(held)
        head.keyed = True

    def _settle(self, run_key: int, event: Event, sequence: int) -> None:
        if not isinstance(event, Ended | CompensationEnded):
            return
        held = self._find_held_by(run_key, event.step_id)
        if held is None:
            return
        if frees_slot(event):
            self._slot_changes.append((_FREE, (held.tenant, held.key)))
            self._held[held.tenant, held.key] = None
            self._held_by[run_key, event.step_id] = None
        elif isinstance(event, Ended):
            self._slot_changes.append((_SETTLE, (sequence, held.tenant, held.key)))
            self._remember(msgspec.structs.replace(held, outcome=sequence))

    def _index_span(self) -> None:
        first = self._next_span << SPAN_SHIFT
        span = {"span": self._next_span, "first": first, "last": first + (1 << SPAN_SHIFT) - 1}
        for statement in _INDEX_SPAN:
            self._connection.execute(statement, span)
        self._next_span += 1

    # --- looking up, through the caches ---

    def _load_head(self, run_id: str) -> _Head | None:
        row = self._connection.execute(_FIND_RUN, (run_id,)).fetchone()
        if row is None:
            return None
        run_key, run = run_of(row)
        position, digest, keyed = row[9:]
        head = self._heads[run_id] = _Head(run, run_key, position, digest, keyed=bool(keyed))
        return head

    def _find_held(self, tenant: str, key: str) -> Held | None:
        # A change of this batch is in the caches and not yet in the tables, so whatever is not cached is as on disk.
        try:
            return self._held[tenant, key]
        except KeyError:
            return _held_of(self._connection.execute(_FIND_HELD, (tenant, key)).fetchone())

    def _find_held_by(self, run_key: int, step_id: str) -> Held | None:
        try:
            return self._held_by[run_key, step_id]
        except KeyError:
            return _held_of(self._connection.execute(_FIND_HELD_BY, (run_key, step_id)).fetchone())

    def _remember(self, held: Held) -> None:
        self._held[held.tenant, held.key] = held
        self._held_by[held.run_key, held.step_id] = held

    def _body(self, sequence: int) -> bytes:
        if sequence >= self._first_pending:
            return self._rows[sequence - self._first_pending][7]
        body: bytes = self._connection.execute("SELECT body FROM entries WHERE sequence = ?", (sequence,)).fetchone()[0]
        return body

    def _forget(self) -> None:
        self._heads: dict[str, _Head] = {}
        self._held: dict[tuple[str, str], Held | None] = {}
        self._held_by: dict[tuple[int, str], Held | None] = {}
        self._clear_pending()

    def _clear_pending(self) -> None:
        self._rows: list[_EntryRow] = []
        self._touched: set[_Head] = set()
        self._opened: list[_Head] = []
        self._slot_changes: list[tuple[str, tuple[object, ...]]] = []


def _held_of(row: tuple[str, str, str, int, str, str, int, int | None] | None) -> Held | None:
    return None if row is None else Held(*row)
