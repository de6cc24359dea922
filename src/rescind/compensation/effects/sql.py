"""Rows of one SQL table as an effect."""

import threading
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Literal

try:
    import sqlalchemy as sa
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("SqlRows needs SQLAlchemy: pip install 'rescind[sql]'", name=missing.name) from missing
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rescind.compensation.effects.sql_restore import restore_rows
from rescind.compensation.effects.sql_selection import select
from rescind.compensation.effects.sql_table import RowTable, rows_in, schema_version, snapshot_of
from rescind.compensation.effects.sql_touch import EffectTouch, Subject, ToolTouch, open_touches
from rescind.compensation.effects.sql_transaction import check, is_transient, transaction_on
from rescind.errors import Conflict, DeclarationError, Transient, UsageError
from rescind.guard.binding import Binding, MissingArgument
from rescind.guard.effect import Call, PastStep, Probe, Touch, probe_by_version
from rescind.model.action import EffectClass
from rescind.model.step import Snapshot, Target

RowsOf = Callable[..., "Mapping[str, Any] | list[dict[str, Any]] | sa.ColumnElement[bool]"]


class SqlRows:
    """Rows of one table, before and after a call; the undo puts them back, if they are still as the call left them.

        subscriptions = SqlRows(engine, "subscriptions", rows=lambda customer_id: {"customer_id": customer_id})

        @guard.write("subscription.reactivate", effect=subscriptions)
        def reactivate(customer_id: str) -> None:
            subscriptions.connection().execute(
                update(table).where(table.c.customer_id == customer_id).values(status="active"))

    The rows in question are those that match `rows` before the call and those that match after it, by primary key. So
    one declaration serves insertions, updates and deletions, also where the database assigns the key. All of them
    count: if somebody later changes one that the call left as it was, the undo is a conflict. Choose few.

    `transaction` says whose transaction the tool's statements run in.

    `"effect"`, the default, is exact. The effect begins a transaction before the call, and commits it after the tool
    has returned; the tool gets its connection from `connection()`, executes statements, and neither commits nor closes
    it (savepoints are fine). If the tool raises, or the database refuses the commit, everything is rolled back, and
    the step is *failed*; if the connection is lost at the commit, it is unknown. On SQLite the database is locked for
    writing meanwhile, so nothing else in the call may write to that file, the journal included. If the tool changes
    the rows without asking for the connection, the call raises UsageError, and its outcome is unknown.

    `"tool"` is for tools with a connection of their own. The rows are read before the call and after it, each time
    in a short transaction; a change by somebody else in between is taken for the tool's. If the tool raises, the
    step is *failed* only on SQLite, and if the rows are unchanged and nobody holds the write lock; elsewhere a
    commit whose reply was lost may still arrive, and the step is unknown.

    A row that matches only after the call was inserted, or it was there and was changed so that it matches. It is taken
    for inserted (and deleted by the undo) if `rows` names the whole primary key, if its key is a number higher than
    all before, or, in the effect's transaction, if others cannot see it yet. What remains is refused there, and
    is a conflict at the undo with `transaction="tool"`.

    The rows go into the journal with all their columns; do not guard tables that hold secrets.

    Not undone: rows of other tables that the database deleted or changed in cascade (the undo of such a deletion is a
    conflict that names them), sequences, and what triggers did elsewhere.
    """

    def __init__(
        self,
        engine: Engine,
        table: sa.Table | str,
        *,
        rows: RowsOf,
        transaction: Literal["effect", "tool"] = "effect",
        system: str = "",
        rows_max: int = 1000,
    ) -> None:
        """Guard rows of `table`.

        Args:
            engine: The database: SQLite, or PostgreSQL.
            table: The table, or its name; it is looked up at the first use and needs a primary key.
            rows: Which rows, as a function of those of the tool's arguments that it names. It returns column names with
                the values they equal, a list of such mappings, or a condition on the table.
            transaction: Whose transaction the tool's statements run in; see above.
            system: What targets call the database; by default its name.
            rows_max: How many rows one call may concern. More are refused: their images go into the journal.

        Raises: DeclarationError.
        """
        self.engine = check(engine)
        if transaction not in ("effect", "tool"):
            raise DeclarationError(f'transaction is "effect" or "tool", not {transaction!r}')
        if isinstance(table, sa.Table) and not table.primary_key.columns:
            raise DeclarationError(f"table {table.name} has no primary key, so its rows cannot be told apart; add one")
        self.transaction = transaction
        self.rows_max = rows_max
        self._rows = Binding(rows, role="rows")
        self._declared = table
        self._system = system or PurePath(engine.url.database or "").name or engine.dialect.name
        self._lock = threading.Lock()
        self._table: sa.Table | None = table if isinstance(table, sa.Table) else None
        self._row_table: RowTable | None = None

    @property
    def effect_class(self) -> EffectClass:
        """Reversible: the rows are put back."""
        return EffectClass.REVERSIBLE

    @property
    def parameters(self) -> frozenset[str]:
        """The tool's parameters that the declaration names."""
        return self._rows.parameters

    @property
    def table(self) -> sa.Table:
        """The table, for statements; looked up in the database at first use if it was given by name."""
        with self._lock:
            if self._table is None:
                name = str(self._declared)
                try:
                    self._table = sa.Table(name, sa.MetaData(), autoload_with=self.engine, resolve_fks=False)
                except exc.NoSuchTableError as error:
                    raise DeclarationError(f"the database {self.engine.url!r} has no table {name}") from error
            return self._table

    def connection(self) -> Connection:
        """The connection of the call in progress, for the tool. Do not commit, roll back or close it.

        Raises: UsageError outside such a call, and with `transaction="tool"`.
        """
        for touch in reversed(open_touches.get()):
            if touch.owner is self and not touch.is_over:
                return touch.hand_out()
        remedy = (
            'with transaction="tool" the tool uses a connection of its own'
            if self.transaction == "tool"
            else "it is there only while a guarded call with this effect runs"
        )
        raise UsageError(f"no connection to {self._system} is open for a call: {remedy}")

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of a call with these arguments: the database, the table, and the values that choose the rows."""
        return Target(self._system, str(self.table.name), select(self.table, self._rows(arguments)).label)

    def open(self, call: Call) -> Touch:
        """See `Effect`.

        Raises: UsageError, if too many rows match or one cannot be kept exactly; sqlalchemy's errors.
        """
        subject = self._subject(call.arguments, self._look_up())
        if self.transaction == "tool":
            return ToolTouch(subject)
        around = (touch for touch in open_touches.get() if not touch.is_over)
        if self.engine.dialect.name == "sqlite" and any(touch.subject.engine is self.engine for touch in around):
            raise UsageError(
                f"{call.action} runs inside another write to {self._system}, which is locked until that one ends; "
                "call one after the other, or do both in one tool"
            )
        return EffectTouch(subject, owner=self)

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`. Where no end was recorded, rows that match now count too."""
        table = self._look_up(fresh=True)
        keys = rows_in(step.before_snapshot) | rows_in(step.after_snapshot)
        with self.engine.connect() as connection:
            if step.after_snapshot is not None:
                return snapshot_of(table.name, table.read_keys(connection, keys, limit=self.rows_max))
            try:
                subject = self._subject(step.arguments, table)
            except MissingArgument:  # it was left out of the journal, so the rows cannot be found again
                return None
            return subject.snapshot(subject.look(connection, keys))

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`: `rows` by key, None for one that is not to be there."""
        return snapshot_of(step.before["table"], image["rows"])

    def probe(self, step: PastStep) -> Probe:
        """See `Probing`: the rows as the step left them, as it found them, or neither."""
        return probe_by_version(step, self.observe(step))

    def restore(self, step: PastStep) -> None:
        """See `Effect`.

        Raises: Conflict, Transient; after either, nothing was changed. A Transient whose connection broke at the
            commit may have changed everything; the next attempt then finds that there is nothing to do.
        """
        before, after = step.before_snapshot, step.after_snapshot
        if before is None or not before.image:
            raise Conflict("no rows from before the call were recorded, so there is nothing to put back")
        if after is None or not after.image:
            self._refuse_unless_undone(step, before)
            return
        try:
            table = self._look_up(fresh=True)
            with transaction_on(self.engine) as connection:
                restore_rows(connection, table, before, after)
        except DeclarationError as error:
            raise Conflict(str(error)) from error
        except exc.IntegrityError as error:  # a constraint that is checked at the commit
            raise Conflict(f"the rows cannot be put back, so nothing was changed: {error.orig}") from error
        except exc.SQLAlchemyError as error:
            if is_transient(error):
                raise Transient(f"{self._system}: {error}") from error
            raise

    def _subject(self, arguments: Mapping[str, Any], table: RowTable) -> Subject:
        selection = select(self.table, self._rows(arguments))
        return Subject(engine=self.engine, source=self.table, table=table, selection=selection, rows_max=self.rows_max)

    def _look_up(self, *, fresh: bool = False) -> RowTable:
        """The table as the database has it; `fresh` asks whether that is still so."""
        known = self._row_table
        if known is not None and not fresh:
            return known
        with self.engine.connect() as connection:
            version = schema_version(connection)
            if known is None or version is None or version != known.schema_version:
                known = RowTable(connection, self.table.name, self.table.schema)
        self._row_table = known
        return known

    def _refuse_unless_undone(self, step: PastStep, before: Snapshot) -> None:
        now = self.observe(step)
        if now is None or now.version != before.version:
            raise Conflict(f"how the step left the rows of {self._system} was not recorded, so they were not touched")
