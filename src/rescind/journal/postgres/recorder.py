"""How a batch comes into PostgreSQL: one call of the function `append_batch`, and what is done when its answer is lost.

Sequences are given in the order of commits, without gaps, over the writers of all machines (J1). So all batches pass
through the lock of one row, and what counts is how little is done while somebody has it. A batch is judged without the
lock, by what this writer knows or has just looked up, and sent together with what it was judged by: the heads of its
runs and the slots it asked for. `append_batch` takes the lock, sees whether all that is as it was, and gives the
entries their sequences; if anything is not, it does nothing. So a batch costs one journey, however many others write,
as long as nobody else writes to its runs or takes its keys. Where somebody did, it is judged anew, now with the lock
held from the first look to the commit: nobody can come between twice.

In a batch, entries have numbers that no entry has, from 2^62 upwards, until the answer says which they got.

A request whose connection breaks may have been recorded, or may be on its way still. Whoever waits for it must be told
which (J7), so the writer connects again and asks `resolve_batch`: it is there, or from now on it never will be, because
`append_batch` does nothing for a batch that was voided. Only if the server cannot be asked in time is the doubt handed
on, in words; it is settled before the next batch. What was handed on as doubtful may then turn out to be recorded: to
an undo, an intent whose effect never ran is a step in doubt, which is looked at, and never a reason to do anything.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import psycopg

from rescind.clock import Clock, IdSource
from rescind.database.address import Address
from rescind.errors import JournalUnavailable, RescindError
from rescind.journal.admission import Refusal
from rescind.journal.batch import Batch, Head, SlotChange
from rescind.journal.codec import Prepared
from rescind.journal.port import Appended
from rescind.journal.postgres.connection import explain
from rescind.journal.rows import HELD_COLUMNS, RUN_COLUMNS, Held, row_of, run_of
from rescind.journal.seal import SEAL_EVERY
from rescind.journal.writer import Committed, Overtaken

_LOG = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]

_DOUBT_PAUSE_S = (
    0.1  # Between two attempts to ask what became of a batch: a server that restarts takes a second or two.
)
_TIDY_EVERY_S = 3_600.0  # How often to look whether a partition is missing; they are made two months ahead.

_UNNUMBERED = 1 << 62  # Where the numbers of entries begin that have no sequence yet.

_BEGIN = "BEGIN; SELECT lock_journal()"
_APPEND = (
    "SELECT append_batch(%s, %s::bigint, %b::bigint[], %b::bytea[], %b::text[], %s::json, %b::bigint[], %b::bigint[],"
    " %b::bigint[], %b::text[], %b::bytea[], %b::bytea[], %b::bytea[], %s::json, %s::json, %s::json)"
)
_FIND_HEADS = (
    f"SELECT {RUN_COLUMNS}, h.position, h.hash, EXISTS (SELECT 1 FROM slots s WHERE s.run_key = r.run_key)"  # noqa: S608  # our own constants
    " FROM runs r JOIN heads h ON h.run_key = r.run_key WHERE r.run_id = ANY(%s)"
)
_HELD = f"SELECT {HELD_COLUMNS} FROM slots s JOIN runs r ON r.run_key = s.run_key"  # noqa: S608  # our own constants
_FIND_HELD = f"{_HELD} JOIN unnest(%s::text[], %s::text[]) AS asked (of, name) ON of = s.tenant AND name = s.key"
_FIND_HELD_BY = (
    f"{_HELD} JOIN unnest(%s::bigint[], %s::text[]) AS asked (run, step) ON run = s.run_key AND step = s.step_id"
)
_FIND_BODY = "SELECT body FROM entries WHERE sequence = %s"

_RUN_NAMES = tuple(column.removeprefix("r.") for column in RUN_COLUMNS.split(", "))


class PostgresRecorder:
    """A `Recorder` over one database. Not thread-safe: it belongs to the writer."""

    def __init__(
        self,
        address: Address,
        *,
        connect: Callable[[], Connection],
        clock: Clock,
        ids: IdSource,
        doubt_timeout_s: float,
    ) -> None:
        self.name = str(address)
        self._address, self._connect = address, connect
        self._clock, self._ids, self._doubt_timeout_s = clock, ids, doubt_timeout_s
        self._batch = Batch(self)
        self._batch.last_sequence = _UNNUMBERED
        self._connection: Connection | None = None
        self._writer = ids.new_id("wrt")
        self._number = 0  # Of the last batch that was sent.
        self._doubted: int | None = None  # The number of a batch that could not be settled yet.
        self._overtaken = False  # Whether what the last batch was judged by had changed: the next one takes the lock.
        self._tidied_s: float | None = None
        self._unsealed = 0  # Entries of this process since it has last sealed.

    def begin(self) -> None:
        """See `Recorder`. Takes the lock only if somebody came between the last time."""
        if self._connection is None:
            self._connection = self._connect()
        try:
            if self._doubted is not None:
                self._settle_old_doubt(self._doubted)
            if self._overtaken:
                self._ask_here().execute(_BEGIN)
        except psycopg.Error as error:
            self._raise_overtaken_if_lost(error)
            raise
        self._batch.begin()

    def look_ahead(self, drafts: Sequence[Prepared]) -> None:
        """See `Recorder`. At most two questions, however many drafts there are."""
        try:
            self._look_up(drafts)
        except psycopg.Error as error:
            self._raise_overtaken_if_lost(error)
            raise

    def append(self, drafts: Sequence[Prepared]) -> Appended | Refusal:
        """See `Recorder`."""
        try:
            return self._batch.append(drafts)
        except psycopg.Error as error:
            self._raise_overtaken_if_lost(error)
            raise

    def commit(self) -> Committed:
        """See `Recorder`. If this raises something else than `JournalUnavailable`, nothing was recorded for certain."""
        self._number += 1
        try:
            before = self._send()
            self._overtaken = before is None
        except psycopg.Error as error:
            if not self._is_lost():
                raise  # The server itself said no, and has rolled it back.
            self.disconnect()
            before = self._resolve_in_time(self._number, error)
            if before is None:
                raise Overtaken from error
        if before is None:
            raise Overtaken
        moved_by = before - self._start()
        return Committed(self._batch.committed(moved_by=moved_by), moved_by)

    def rollback(self) -> None:
        """See `Recorder`."""
        self._batch.forget()
        if self._connection is None:
            return
        try:
            if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self._connection.rollback()
        except psycopg.Error:
            self.disconnect()
        if self._is_lost():
            self.disconnect()

    def disconnect(self) -> None:
        """See `Recorder`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abandon(self) -> None:
        """See `Recorder`. The child is a writer of its own."""
        self._connection, self._overtaken, self._tidied_s = None, False, None
        self._writer, self._number, self._doubted, self._unsealed = self._ids.new_id("wrt"), 0, None, 0
        self._batch.forget()

    def explain(self, error: BaseException) -> RescindError | None:
        """See `Recorder`."""
        return explain(error, self._address)

    def tidy(self, entries: int, *, last: bool) -> None:
        """See `Recorder`. Makes partitions ahead, and seals every so many entries of this process and what is left."""
        self._unsealed += entries
        if self._connection is None:
            return
        try:
            if not last:
                self._make_partitions()
            if self._unsealed >= SEAL_EVERY or (last and self._unsealed):
                self._unsealed = 0
                self._one("SELECT seal_journal()", ())
        except psycopg.Error as error:
            raise self.explain(error) or error from error

    def _make_partitions(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._tidied_s is None or now_s >= self._tidied_s + _TIDY_EVERY_S:
            self._tidied_s = now_s
            self._ask_here().execute("SELECT make_partitions()")

    # --- one batch ---

    def _raise_overtaken_if_lost(self, error: Exception) -> None:
        """A connection that broke before a batch was sent, as idle ones do: another is tried, and nobody notices."""
        if self._is_lost():
            raise Overtaken from error

    def _look_up(self, drafts: Sequence[Prepared]) -> None:
        runs = self._batch.unknown_runs(drafts)
        if runs:
            self._batch.learn_heads(runs, self._find_heads(list(runs)))
        keys, steps = self._batch.unknown_slots(drafts)
        found: list[Held] = []
        if keys or steps:
            tenants, names = zip(*keys, strict=True) if keys else ((), ())
            run_keys, step_ids = zip(*steps, strict=True) if steps else ((), ())
            found = self._find_slots(f"{_FIND_HELD} UNION ALL {_FIND_HELD_BY}", tenants, names, run_keys, step_ids)
        self._batch.learn_slots(keys, steps, found)

    def _start(self) -> int:
        """The number before the first of this batch."""
        return self._batch.last_sequence - len(self._batch.rows)

    def _send(self) -> int | None:
        """The last sequence before the batch; None, if it is to be judged anew."""
        connection = self._ask_here()
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            return self._number_of(_APPEND, self._arguments())
        before: int | None = self._start()
        if self._batch.rows:  # A batch of refusals has nothing to write, and was judged with the lock held.
            before = self._number_of(_APPEND, self._arguments())
        connection.execute("COMMIT")
        return before

    def _arguments(self) -> tuple[Any, ...]:
        batch, start = self._batch, self._start()
        known = [seen for seen in batch.seen_heads.values() if seen is not None]
        unknown = [run_id for run_id, seen in batch.seen_heads.items() if seen is None]
        columns: list[list[Any]] = (
            [list(column) for column in zip(*batch.rows, strict=True)] if batch.rows else [[]] * 8
        )
        run_keys = [_relative(run_key, start) for run_key in columns[1]]
        return (
            self._writer, self._number, [run_key for run_key, _ in known], [digest for _, digest in known], unknown,
            _seen_json(batch.seen_slots), run_keys, *columns[2:], _runs_json(batch.opened, start),
            *_slots_json(batch.slot_changes, start),
        )  # fmt: skip

    def _resolve_in_time(self, number: int, cause: Exception) -> int | None:
        """What became of a batch whose answer was lost, as `_resolve` says it.

        Raises: JournalUnavailable, if the server cannot be asked: then nobody knows.
        """
        give_up_s = self._clock.monotonic_s() + self._doubt_timeout_s
        while True:
            try:
                self._connection = self._connect()
                return self._resolve(number)
            except psycopg.Error as error:
                self.disconnect()
                if self._clock.monotonic_s() >= give_up_s:
                    self._doubted = number
                    raise JournalUnavailable(
                        f"the connection to the journal {self.name} broke while a batch was being recorded, and the "
                        f"server cannot be asked what became of it ({self._address.scrub(str(cause))}): whether it was "
                        "recorded is not known. Take it for not recorded, and look again when the server is back"
                    ) from error
                self._clock.sleep(_DOUBT_PAUSE_S)

    def _settle_old_doubt(self, number: int) -> None:
        recorded = self._resolve(number) is not None
        self._doubted = None
        outcome = "is recorded" if recorded else "is not recorded, and never will be"
        _LOG.warning("the journal %s: a batch that was in doubt %s", self.name, outcome)

    def _resolve(self, number: int) -> int | None:
        """The last sequence before a batch that is recorded; None for one that is not, and then never will be."""
        return self._number_of("SELECT resolve_batch(%s, %s)", (self._writer, number))

    def _is_lost(self) -> bool:
        return self._connection is None or self._connection.closed

    def _number_of(self, sql: str, values: tuple[Any, ...]) -> int | None:
        number = self._one(sql, values)
        return None if number is None else int(number)

    def _one(self, sql: str, values: tuple[Any, ...]) -> Any:
        """The one value that a question is answered with."""
        row = self._ask_here().execute(sql.encode(), values, binary=True).fetchone()
        assert row is not None
        return row[0]

    def _ask_here(self) -> Connection:
        assert self._connection is not None
        return self._connection

    # --- what the batch asks ---

    def find_head(self, run_id: str) -> Head | None:
        """See `Tables`."""
        return next(iter(self._find_heads([run_id])), None)

    def find_held(self, tenant: str, key: str) -> Held | None:
        """See `Tables`."""
        return next(iter(self._find_slots(_FIND_HELD, [tenant], [key])), None)

    def find_held_by(self, run_key: int, step_id: str) -> Held | None:
        """See `Tables`."""
        return next(iter(self._find_slots(_FIND_HELD_BY, [run_key], [step_id])), None)

    def find_body(self, sequence: int) -> bytes:
        """See `Tables`."""
        return bytes(self._one(_FIND_BODY, (sequence,)))

    def _find_heads(self, run_ids: list[str]) -> list[Head]:
        rows = self._ask_here().execute(_FIND_HEADS.encode(), (run_ids,), binary=True).fetchall()
        return [Head(run, run_key, row[9], row[10], keyed=row[11]) for row in rows for run_key, run in [run_of(row)]]

    def _find_slots(self, sql: str, *columns: Sequence[Any]) -> list[Held]:
        rows = self._ask_here().execute(sql.encode(), [list(column) for column in columns], binary=True).fetchall()
        return [Held(*row) for row in rows]


def _relative(number: int, start: int) -> int:
    """A sequence, or the number of an entry in the batch that begins after `start`, below 0."""
    return start - number if number > start else number


def _runs_json(opened: Sequence[Head], start: int) -> str | None:
    rows = [dict(zip(_RUN_NAMES, row_of(_relative(head.run_key, start), head.run), strict=True)) for head in opened]
    return _json_or_none(rows)


def _seen_json(seen: Mapping[tuple[str, str], Held | None]) -> str | None:
    rows: list[dict[str, Any]] = [
        {"tenant": tenant, "key": key}
        | ({} if held is None else {"intent_sequence": held.intent, "outcome_sequence": held.outcome})
        for (tenant, key), held in seen.items()
    ]
    return _json_or_none(rows)


def _slots_json(changes: Sequence[tuple[SlotChange, Held]], start: int) -> tuple[str | None, str | None]:
    """Which slots are to be removed, and then which are to be as they stand here."""
    freed: set[tuple[str, str]] = set()
    put: dict[tuple[str, str], Held] = {}
    for change, held in changes:
        name = (held.tenant, held.key)
        if change is SlotChange.FREE:
            freed.add(name)
            put.pop(name, None)
        else:
            put[name] = held
    free_rows = [{"tenant": tenant, "key": key} for tenant, key in freed]
    put_rows = [
        {
            "tenant": held.tenant, "key": held.key, "digest": held.digest, "step_id": held.step_id,
            "run_key": _relative(held.run_key, start), "intent_sequence": _relative(held.intent, start),
            "outcome_sequence": None if held.outcome is None else _relative(held.outcome, start),
        }
        for held in put.values()
    ]  # fmt: skip
    return _json_or_none(free_rows), _json_or_none(put_rows)


def _json_or_none(rows: list[dict[str, Any]]) -> str | None:
    return msgspec.json.encode(rows).decode() if rows else None
