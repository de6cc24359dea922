"""The journal in a PostgreSQL database: for any number of machines.

Appends go through the process's one writer thread (see `rescind.journal.writer`) and its recorder, reads through
connections of their own. Everything stands in one schema, made and brought up to date when a journal is opened.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from rescind.clock import Clock, IdSource, SystemClock, SystemIds
from rescind.database import SCHEMA
from rescind.database.address import Address
from rescind.database.connecting import translating
from rescind.database.migrating import Part, ensure
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.codec import Prepared
from rescind.journal.conditions import Values, time_values
from rescind.journal.port import PAGE_LIMIT, ChainHead, Draft, Query, Slot
from rescind.journal.postgres.connection import Connection, check_schema, connect_journal
from rescind.journal.postgres.queries import BOUNDS, END, entries_plan, runs_plan
from rescind.journal.postgres.recorder import PostgresRecorder
from rescind.journal.queries import windows
from rescind.journal.readers import Readers
from rescind.journal.rows import HELD_COLUMNS, RUN_COLUMNS, Held, entry_of, run_of
from rescind.journal.threaded import RUNS_CACHED_MAX, ThreadedJournal
from rescind.journal.writer import Writer
from rescind.model.entry import CompensationEnded, Ended, Entry, Intended, RunOpened
from rescind.model.step import RunInfo

T = TypeVar("T")

JOURNAL = Part("journal", "0003", Path(__file__).parent / "versions")
"""The journal's tables and their revisions."""

_SLOT = (
    f"SELECT {HELD_COLUMNS}, i.body, o.body FROM slots s JOIN runs r ON r.run_key = s.run_key"  # noqa: S608  # put together from our own constants
    " JOIN entries i ON i.sequence = s.intent_sequence LEFT JOIN entries o ON o.sequence = s.outcome_sequence"
    " WHERE s.tenant = %s AND s.key = %s"
)
_RUN = f"SELECT {RUN_COLUMNS} FROM runs r WHERE r.run_id = %s"  # noqa: S608  # put together from our own constants
_RUNS_OF_KEYS = f"SELECT {RUN_COLUMNS} FROM runs r WHERE r.run_key = ANY(%s)"  # noqa: S608  # put together from our own constants
_HEAD = "SELECT h.position, h.hash FROM runs r JOIN heads h ON h.run_key = r.run_key WHERE r.run_id = %s"

_EntryRow = tuple[int, int, int, int, bytes, bytes]


class PostgresJournal(ThreadedJournal[Connection]):
    """A `Journal` in a database. Make one per database and process, and share it between threads and tasks."""

    def __init__(
        self,
        url: str,
        *,
        schema: str = SCHEMA,
        timeout_s: float = 5.0,
        doubt_timeout_s: float = 10.0,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        """Open the journal in the database at `url`; if there is none, make one.

        Args:
            url: `postgresql://user@host/db`, as libpq reads it.
            schema: Where its tables stand.
            timeout_s: How long an append waits for another writer's lock before it fails; twice that for a statement.
            doubt_timeout_s: How long to try to find out what became of a batch whose connection broke.
            clock: Says how long something is waited for; the times of append are the server's.
            ids: Names this writer.

        Raises:
            StoreFormatError: The journal there is of a newer rescind. It was left alone.
            JournalUnavailable: The database cannot be reached, or does not let us.
            UsageError: The address or the schema cannot be one, or the extra `postgres` is not installed.
        """
        self.address, self.schema = Address.parse(url), check_schema(schema)
        address = self.address
        self._open(timeout_s)

        def connect(name: str, *, writes: bool) -> Connection:
            return connect_journal(address, schema, name=name, timeout_s=timeout_s, writes=writes)

        recorder = PostgresRecorder(
            address,
            connect=lambda: connect("journal writer", writes=True),
            clock=clock or SystemClock(),
            ids=ids or SystemIds(),
            doubt_timeout_s=doubt_timeout_s,
        )
        super().__init__(Writer(recorder), Readers(lambda: connect("journal reader", writes=False)))

    def slot(self, tenant: str, key: str) -> Slot | None:
        """See `Journal`."""
        rows = self._ask(lambda connection: _rows(connection, _SLOT, (tenant, key)))
        return Held(*rows[0][:8]).slot(rows[0][8], rows[0][9]) if rows else None

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        """See `Journal`."""
        return self._ask(lambda connection: self._page(connection, query, after, max(0, limit)))

    def runs(self, query: Query, *, after_run: str = "", limit: int = PAGE_LIMIT) -> list[RunInfo]:
        """See `Journal`."""
        sql, values = runs_plan(query)

        def page(connection: Connection) -> list[RunInfo]:
            first, last = _extent(connection, query)
            bounds: Values = {"after": first - 1, "upto": last, "after_run": after_run, "limit": max(0, limit)}
            return [run_of(row)[1] for row in _rows(connection, sql, values | bounds)]

        return self._ask(page)

    def run(self, run_id: str) -> RunInfo | None:
        """See `Journal`."""
        rows = self._ask(lambda connection: _rows(connection, _RUN, (run_id,)))
        return run_of(rows[0])[1] if rows else None

    def head(self, run_id: str) -> ChainHead | None:
        """See `Journal`."""
        rows = self._ask(lambda connection: _rows(connection, _HEAD, (run_id,)))
        return ChainHead(run_id, rows[0][0], rows[0][1].hex()) if rows else None

    def _prepare(self, drafts: Sequence[Draft]) -> list[Prepared]:
        prepared = super()._prepare(drafts)
        for draft in drafts:
            if any("\0" in text for text in _columns_of(draft)):
                raise UsageError(
                    f"run {draft.run_id!r}: a name or an id holds a zero character, which PostgreSQL cannot store in a "
                    "text"
                )
        return prepared

    def _open(self, timeout_s: float) -> None:
        with translating(self.address, JournalUnavailable, what="the journal"):
            connection = connect_journal(self.address, self.schema, name="journal", timeout_s=timeout_s, writes=False)
            with connection:
                encoding = connection.info.parameter_status("server_encoding")
                if encoding != "UTF8":
                    raise UsageError(
                        f"the database {self.address} is encoded as {encoding}, which cannot hold every text; "
                        "name one that is encoded as UTF8"
                    )
                ensure(connection, self.address, JOURNAL, schema=self.schema)

    def _ask(self, question: Callable[[Connection], T]) -> T:
        """An answer of the database. What is read can be asked twice, so a lost connection is tried once more."""
        with translating(self.address, JournalUnavailable, what="the journal"):
            asked: Connection | None = None
            try:
                with self._readers.lent() as asked:
                    return question(asked)
            except psycopg.OperationalError:
                if asked is None or not asked.broken:
                    raise
                self._readers.close_idle()  # The others are of the same age.
            with self._readers.lent() as connection:
                return question(connection)

    def _page(self, connection: Connection, query: Query, after: int, limit: int) -> list[Entry]:
        plan = entries_plan(query)
        first, last = _extent(connection, query)
        begin = max(after, first - 1)
        rows: list[_EntryRow] = []
        for window_begin, upto in windows(begin, last) if plan.windowed else [(begin, last)]:
            if len(rows) >= limit:
                break
            bounds: Values = {"after": window_begin, "upto": upto, "limit": limit - len(rows)}
            rows += _rows(connection, plan.sql, plan.values | bounds)
        runs = self._runs_of(connection, {row[2] for row in rows})
        return [_entry(row, runs[row[2]]) for row in rows]

    def _runs_of(self, connection: Connection, run_keys: Iterable[int]) -> dict[int, RunInfo]:
        """These runs, and perhaps others: the caller's own, since other threads replace what is remembered."""
        known = self._runs
        missing = [run_key for run_key in run_keys if run_key not in known]
        if not missing:
            return known
        found = dict(run_of(row) for row in _rows(connection, _RUNS_OF_KEYS, (missing,)))
        self._runs = found if len(known) >= RUNS_CACHED_MAX else known | found
        return known | found


def _entry(row: _EntryRow, run: RunInfo) -> Entry:
    sequence, position, _, at_us, digest, body = row
    return entry_of(run, sequence, position, at_us, digest, body)


def _rows(connection: Connection, sql: str, values: Any) -> list[Any]:
    return connection.execute(sql.encode(), values, binary=True).fetchall()


def _extent(connection: Connection, query: Query) -> tuple[int, int]:
    """The first and the last sequence of what may match."""
    times = time_values(query)
    first, last = _rows(connection, END if times is None else BOUNDS, times)[0]
    return first, last


def _columns_of(draft: Draft) -> Iterable[str]:
    """What becomes text of its own in the database."""
    yield draft.run_id
    event = draft.event
    if draft.claim is not None:
        yield from (draft.claim.tenant, draft.claim.key, draft.claim.digest)
    if isinstance(event, RunOpened):
        run = event.run
        yield from (run.agent_name, run.agent_version, run.tenant, run.workflow, run.session, run.trace_id)
    elif isinstance(event, Intended):
        yield event.step.step_id
    elif isinstance(event, Ended | CompensationEnded):
        yield event.step_id
