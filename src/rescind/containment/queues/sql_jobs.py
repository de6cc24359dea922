"""The SQL job table that the user has, as a queue whose jobs can wait. For SQLite and PostgreSQL.

    jobs = SqlJobs(engine, JobTable(name="jobs", run="run_id", tenant="tenant_id", workflow="kind"))

A pending job that an order covers gets the status `held`, by one conditional UPDATE … WHERE status = 'pending', in the
transaction that writes down which order holds it. So a worker has begun a job or does not get it: whether it takes jobs
by UPDATE … RETURNING, by SELECT … FOR UPDATE SKIP LOCKED, or by an UPDATE of its own that looks at the status. One that
first reads a pending job and then marks it without looking again could run a job twice without us as well.

What comes in after the pause is held by the next sweep of the keeper (QU2). A worker that must not get it even once in
between adds `jobs.may_begin(table)` to its WHERE clause.

Every transaction of ours begins by writing one row of `rescind_queue_locks`, so that keepers take turns: two releases
of two orders at once would each see the other's hold, and the job would stay held for good.
"""

import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    import sqlalchemy as sa
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("SqlJobs needs SQLAlchemy: pip install 'rescind[sql]'", name=missing.name) from missing
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rescind.containment.queues.port import CannotHold, QueueUnavailable
from rescind.containment.queues.sql_tables import KINDS, JobTable, OurTables
from rescind.errors import UsageError
from rescind.model.scope import Scope, Term

_COLUMN = {"tree": "run=…, lineage"}

BATCH = 500
"""Jobs held or given free in one transaction. The table's own work waits for no more than some milliseconds."""

_TIMES_MAX = 100_000
"""Batches in one call, 50 million jobs. Only an UPDATE that changes nothing could ever reach it."""


class SqlJobs:
    """A `QueuePort` over a job table."""

    def __init__(self, engine: Engine, table: JobTable, *, name: str = "") -> None:
        """The queue. Makes our tables beside the user's, if they are not there yet.

        Args:
            engine: The database of the table.
            table: What it is called, and its columns.
            name: Of the queue; the table's by default.

        Raises: UsageError, if the table or a column is not there; QueueUnavailable.
        """
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise UsageError(f"SqlJobs knows SQLite and PostgreSQL, and not {engine.dialect.name}")
        self._engine, self._table = engine, table
        self._name = name or table.name
        self._ours = OurTables(table.schema)
        self._jobs = self._found()
        self._id_text = sa.cast(self._jobs.c[table.id], sa.String)
        self._status = self._jobs.c[table.status]
        try:
            self._make_ours()
        except QueueUnavailable:  # another keeper may have begun in the same moment; then they are there by now
            self._make_ours()

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._name

    def hold(self, scope: Scope, order_id: str) -> int:
        """As the port says. In batches of `BATCH`, oldest key first; what is held is held once its batch is committed.

        Raises: CannotHold; QueueUnavailable.
        """
        covered = self._covered(scope)
        with self._turn() as connection:
            self._insert_once(connection, self._ours.pauses, self._pause(scope, order_id))
            # Jobs that others hold already are held by this one too, or their release would free them (QU4).
            self._write_down(connection, covered)
        held = 0
        for _ in range(_TIMES_MAX):
            with self._turn() as connection:
                ids = self._some_pending(connection, covered)
                held += self._hold_some(connection, ids)
            if len(ids) < BATCH:
                return held
        raise QueueUnavailable(f"queue {self._name} gives pending jobs without an end; its status column does not keep")

    def release(self, order_id: str) -> int:
        """As the port says. First the order is no longer in force, then its jobs are free, in batches.

        Raises: QueueUnavailable.
        """
        pauses = self._ours.pauses
        with self._turn() as connection:
            connection.execute(sa.delete(pauses).where(pauses.c.queue == self._name, pauses.c.order_id == order_id))
        freed = 0
        for _ in range(_TIMES_MAX):
            with self._turn() as connection:
                job_ids = self._some_held(connection, order_id)
                freed += self._free_some(connection, job_ids, order_id)
            if len(job_ids) < BATCH:
                return freed
        raise QueueUnavailable(f"queue {self._name} holds jobs of {order_id} without an end; {freed:,} are free")

    def held(self) -> Mapping[str, int]:
        """As the port says. Raises: QueueUnavailable."""
        held, pauses = self._ours.held, self._ours.pauses
        counted = (
            sa.select(held.c.order_id, sa.func.count())
            .select_from(held.join(self._jobs, self._id_text == held.c.job_id))
            .where(held.c.queue == self._name, self._status == self._table.held)
            .group_by(held.c.order_id)
        )
        known = sa.union(
            sa.select(pauses.c.order_id).where(pauses.c.queue == self._name),
            sa.select(held.c.order_id).where(held.c.queue == self._name),
        )
        with self._connection() as connection:
            orders = dict.fromkeys(connection.execute(known).scalars(), 0)
            return orders | {row[0]: row[1] for row in connection.execute(counted)}

    def may_begin(self, jobs: sa.FromClause) -> sa.ColumnElement[bool]:
        """That no order in force covers the job: a condition for a worker's own query of the job table.

        It needs no keeper, and costs a look at a table that is empty as long as nothing is paused.

        Args:
            jobs: The job table as that query has it, with the columns that are named in `JobTable`.

        Raises: UsageError, if it lacks one of them.
        """
        missing = [name for name in self._table.columns if name not in jobs.c]
        if missing:
            raise UsageError(f"the table in the worker's query of {self._name} has no column {missing[0]!r}")
        return ~sa.exists().where(*self._paused(jobs)).correlate(jobs)

    # --- what covers a job ---

    def _covered(self, scope: Scope) -> list[sa.ColumnElement[bool]]:
        for term in scope.terms:
            if not self._knows(term):
                why = (
                    f"no column for the {term.kind} of a job is named (JobTable({_COLUMN.get(term.kind, term.kind)}=…))"
                )
                if term.kind == "action":
                    why = "a job is no single action; leave out `action:…`"
                raise CannotHold(queue=self._name, scope=scope, why=why)
        pause = self._pause(scope, "")
        return [self._meets(kind, sa.literal(pause[kind]), self._jobs) for kind in KINDS if pause[kind]]

    def _knows(self, term: Term) -> bool:
        if term.kind == "tree":
            return self._table.run is not None and self._table.lineage is not None
        return term.kind != "action" and getattr(self._table, term.kind) is not None

    def _paused(self, jobs: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """That a row of `rescind_paused_queues` covers a row of the job table."""
        pauses = self._ours.pauses
        of_kinds = [sa.or_(pauses.c[kind] == "", self._meets(kind, pauses.c[kind], jobs)) for kind in KINDS]
        return [pauses.c.queue == self._name, *of_kinds]

    def _meets(self, kind: str, value: sa.ColumnElement[str], jobs: sa.FromClause) -> sa.ColumnElement[bool]:
        """That a job has this value; False where the table has no column for it."""
        table = self._table
        if kind in ("agent", "version"):
            agent = _text(jobs, table.agent)
            if agent is None:
                return sa.false()
            # `name` is met by `name` and by `name@version`; `name@version` only by itself.
            begins = sa.func.substr(agent, 1, sa.func.length(value) + 1) == value + "@"
            return agent == value if kind == "version" else sa.or_(agent == value, begins)
        if kind == "tree":
            run, lineage = _text(jobs, table.run), _text(jobs, table.lineage)
            if run is None or lineage is None:
                return sa.false()
            # Ids in a list are found as text between commas, never as a pattern: an id may hold `_` and `%`.
            among = "," + sa.func.coalesce(lineage, "") + ","
            return sa.or_(run == value, sa.func.replace(among, "," + value + ",", "") != among)
        column = _text(jobs, getattr(table, kind))
        return sa.false() if column is None else column == value

    def _pause(self, scope: Scope, order_id: str) -> dict[str, str]:
        pause: dict[str, str] = dict.fromkeys(KINDS, "")
        for term in scope.terms:
            kind = "version" if term.kind == "agent" and "@" in term.value else term.kind
            if pause.get(kind):
                why = f"it names two of a kind ({pause[kind]}, {term.value}); place an order for each"
                raise CannotHold(queue=self._name, scope=scope, why=why)
            pause[kind] = term.value
        return {"queue": self._name, "order_id": order_id, "scope": str(scope), **pause}

    # --- steps within a turn ---

    def _some_pending(self, connection: Connection, covered: list[sa.ColumnElement[bool]]) -> list[Any]:
        key = self._jobs.c[self._table.id]
        query = sa.select(key).where(self._status == self._table.pending, *covered).order_by(key).limit(BATCH)
        # A job that a worker is taking just now is locked by it: it has begun, or the next sweep will see it.
        return list(connection.execute(query.with_for_update(skip_locked=True)).scalars())

    def _hold_some(self, connection: Connection, ids: list[Any]) -> int:
        if not ids:
            return 0
        among = self._jobs.c[self._table.id].in_(ids)
        change = sa.update(self._jobs).where(among, self._status == self._table.pending)
        changed = connection.execute(change.values({self._table.status: self._table.held})).rowcount
        self._write_down(connection, [among])
        return changed

    def _write_down(self, connection: Connection, which: list[sa.ColumnElement[bool]]) -> None:
        """Which orders in force hold those jobs that are held: every order that covers a job, each once."""
        held, pauses = self._ours.held, self._ours.pauses
        known = sa.exists().where(
            held.c.queue == self._name, held.c.order_id == pauses.c.order_id, held.c.job_id == self._id_text
        )
        rows = sa.select(sa.literal(self._name), pauses.c.order_id, self._id_text).select_from(pauses, self._jobs)
        rows = rows.where(*self._paused(self._jobs), self._status == self._table.held, *which, ~known)
        connection.execute(sa.insert(held).from_select(["queue", "order_id", "job_id"], rows))

    def _some_held(self, connection: Connection, order_id: str) -> list[str]:
        held = self._ours.held
        query = sa.select(held.c.job_id).where(held.c.queue == self._name, held.c.order_id == order_id)
        return list(connection.execute(query.order_by(held.c.job_id).limit(BATCH)).scalars())

    def _free_some(self, connection: Connection, job_ids: list[str], order_id: str) -> int:
        if not job_ids:
            return 0
        held = self._ours.held
        mine = held.c.queue == self._name, held.c.order_id == order_id, held.c.job_id.in_(job_ids)
        connection.execute(sa.delete(held).where(*mine))
        others = sa.exists().where(held.c.queue == self._name, held.c.job_id == self._id_text)
        change = sa.update(self._jobs).where(self._among(job_ids), self._status == self._table.held, ~others)
        return connection.execute(change.values({self._table.status: self._table.pending})).rowcount

    def _among(self, job_ids: list[str]) -> sa.ColumnElement[bool]:
        """That a job's key is one of these texts, by the key's own type, so that its index serves."""
        key = self._jobs.c[self._table.id]
        try:
            kind: Any = key.type.python_type
        except NotImplementedError:  # a type that SQLAlchemy does not know
            kind = None
        if kind not in (int, str, uuid.UUID):
            return self._id_text.in_(job_ids)
        return key.in_([kind(job_id) for job_id in job_ids])

    # --- the database ---

    @contextmanager
    def _turn(self) -> Generator[Connection]:
        """A transaction in which no other keeper works on this queue. It writes first: SQLite can then wait for it."""
        locks = self._ours.locks
        with self._connection() as connection:
            connection.execute(sa.update(locks).where(locks.c.queue == self._name).values(turns=locks.c.turns + 1))
            yield connection

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except exc.SQLAlchemyError as error:
            cause = str(error.__cause__ or error).strip().splitlines()[0]
            raise QueueUnavailable(f"queue {self._name} cannot be used: {cause}") from error

    def _insert_once(self, connection: Connection, table: sa.Table, values: Mapping[str, Any]) -> None:
        same = [table.c[column.name] == values[column.name] for column in table.primary_key]
        columns = list(values)
        row = sa.select(*(sa.literal(values[name]).label(name) for name in columns))
        row = row.where(~sa.exists().where(*same))
        connection.execute(sa.insert(table).from_select(columns, row))

    def _make_ours(self) -> None:
        with self._connection() as connection:
            self._ours.metadata.create_all(connection)
            self._insert_once(connection, self._ours.locks, {"queue": self._name, "turns": 0})

    def _found(self) -> sa.TableClause:
        """The user's table with the columns that we use, as the database has them."""
        table = self._table
        try:
            columns = sa.inspect(self._engine).get_columns(table.name, schema=table.schema)
        except exc.NoSuchTableError as error:
            raise UsageError(f"there is no table {table.name!r} in this database") from error
        except exc.SQLAlchemyError as error:
            raise QueueUnavailable(f"queue {self._name} cannot be used: {error}") from error
        found = {column["name"]: column["type"] for column in columns}
        missing = [name for name in table.columns if name not in found]
        if missing:
            raise UsageError(f"job table {table.name} has no column {missing[0]!r}; it has: {', '.join(sorted(found))}")
        return sa.table(table.name, *(sa.column(name, found[name]) for name in table.columns), schema=table.schema)


def _text(jobs: sa.FromClause, name: str | None) -> sa.ColumnElement[str] | None:
    """A column as text. One that is text is left as it is, so that its index serves."""
    if name is None:
        return None
    column = jobs.c[name]
    return column if isinstance(column.type, sa.String) else sa.cast(column, sa.String)
