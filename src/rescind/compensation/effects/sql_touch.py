"""One call that touches rows: the look before it, the look after it, and whose transaction lies between."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine

from rescind.compensation.effects.sql_selection import Selection
from rescind.compensation.effects.sql_table import NewestKey, Reference, Rows, RowTable, snapshot_of
from rescind.compensation.effects.sql_transaction import (
    begin,
    commit,
    driver_is_in_transaction,
    finish_deferred,
    is_refused,
    roll_back,
    shares_one_connection,
)
from rescind.errors import NothingChanged, UsageError
from rescind.model.step import Snapshot


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The rows that a call is about.

    Attributes:
        engine: The database.
        source: The table as the user declared it; the selection is about its columns.
        table: The table as the database has it.
        selection: Which rows.
        rows_max: How many may match.
    """

    engine: Engine
    source: sa.Table
    table: RowTable
    selection: Selection
    rows_max: int

    def look(self, connection: Connection, keys: Iterable[str]) -> Rows:
        """The rows that match now, and those with the keys, in one statement."""
        wanted = list(keys)
        where = self.selection.where
        if wanted:
            where = sa.or_(where, self.table.with_keys(wanted))
        found = self.table.read(connection, where, source=self.source, limit=self.rows_max + len(wanted))
        return dict.fromkeys(wanted) | cast("Rows", found)

    def snapshot(self, rows: Rows, **remarks: Any) -> Snapshot:
        """The snapshot of these rows."""
        return snapshot_of(self.table.name, rows, **remarks)


class Opening:
    """What was seen before the call, and what only that moment can tell."""

    def __init__(self, subject: Subject, connection: Connection) -> None:
        self._subject = subject
        table = subject.table
        self.rows = subject.look(connection, ())
        self.snapshot = subject.snapshot(self.rows)
        # A selection by the whole key needs no proof: what it did not find was not there.
        self._named = subject.selection.names_exactly(table.key)
        self._newest: NewestKey | None = None if self._named else table.newest_key(connection)
        self._holders = {
            (key, reference): self._count(connection, reference, key)
            for reference in table.references
            if reference.cascades
            for key in self.rows
        }

    def unproven(self, rows: Rows) -> list[str]:
        """The keys among `rows` that appeared since, and may have been there all the time without matching."""
        appeared = [key for key in rows if key not in self.rows]
        if self._named:
            return []
        return [key for key in appeared if self._newest is None or not self._newest.precedes(key)]

    def cascaded(self, connection: Connection, rows: Rows) -> dict[str, int]:
        """Rows that referred to deleted ones and do so no more, as table to number."""
        lost: dict[str, int] = {}
        for (key, reference), count in self._holders.items():
            if count and rows.get(key) is None:
                gone = count - self._count(connection, reference, key)
                lost[reference.table] = lost.get(reference.table, 0) + gone
        return {table: count for table, count in lost.items() if count > 0}

    def _count(self, connection: Connection, reference: Reference, key: str) -> int:
        row = self.rows[key]
        assert row is not None
        return self._subject.table.count_holders(connection, reference, row, apart_from=list(self.rows))


class ToolTouch:
    """See `Touch`. The tool's statements run in a transaction of its own; we look before and after."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        with subject.engine.connect() as connection:
            self._opening = Opening(subject, connection)

    @property
    def before(self) -> Snapshot:
        """See `Touch`."""
        return self._opening.snapshot

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`."""
        with self._subject.engine.connect() as connection:
            rows = self._subject.look(connection, self._opening.rows)
            return self._subject.snapshot(
                rows, unproven=self._opening.unproven(rows), cascaded=self._opening.cascaded(connection, rows)
            )

    def abandon(self) -> bool:
        """See `Touch`."""
        if self._subject.engine.dialect.name != "sqlite":
            return False  # a commit whose reply was lost may still arrive
        try:
            # With the write lock in hand, nobody has a change that is not yet to be seen.
            connection = begin(self._subject.engine)
            try:
                return self._subject.snapshot(self._subject.look(connection, self._opening.rows)) == self.before
            finally:
                connection.close()
        except (exc.SQLAlchemyError, UsageError):
            return False


open_touches: ContextVar[tuple["EffectTouch", ...]] = ContextVar("rescind_sql_touches", default=())
"""The calls in progress whose transaction is their effect's, innermost last."""


class EffectTouch:
    """See `Touch`. The tool's statements run in our transaction, which ends with the call."""

    def __init__(self, subject: Subject, owner: object) -> None:
        """Begin. `owner` is the effect whose `connection()` finds this touch."""
        self.subject, self.owner = subject, owner
        self._handed_out = False
        self._ending = self._interfered = False
        self._connection = begin(subject.engine)
        try:
            self._opening = Opening(subject, self._connection)
            for name in ("commit", "rollback"):
                event.listen(self._connection, name, self._refuse_to_end)
        except BaseException:
            self._end()
            raise
        open_touches.set((*open_touches.get(), self))

    @property
    def before(self) -> Snapshot:
        """See `Touch`."""
        return self._opening.snapshot

    @property
    def is_over(self) -> bool:
        """Whether the call has ended: a task that it started has it in its context still."""
        return self._ending

    def hand_out(self) -> Connection:
        """The connection, for the tool."""
        self._handed_out = True
        return self._connection

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`.

        Raises: UsageError, if the tool went around the transaction, or a row cannot be proven to be new;
            NothingChanged, if the commit was refused; sqlalchemy's errors. The transaction is then rolled back, unless
            the connection was lost at the commit.
        """
        try:
            if not self._handed_out:
                return self._settle_unused()
            if self._interfered or not self._intact():
                raise UsageError(
                    f"the tool ended the transaction of its effect on {self._name}; leave that to the effect"
                )
            try:
                finish_deferred(self._connection)
                rows = self.subject.look(self._connection, self._opening.rows)
                self._refuse_moved(self._opening.unproven(rows))
                after = self.subject.snapshot(rows, cascaded=self._opening.cascaded(self._connection, rows))
                self._ending = True
                commit(self._connection)
            except exc.SQLAlchemyError as error:
                if is_refused(error):
                    raise NothingChanged(f"what the tool did was rolled back: {error}") from error
                raise
            return after
        finally:
            self._end()

    def abandon(self) -> bool:
        """See `Touch`."""
        try:
            intact = self._intact()
            self._roll_back()
            # A tool that did not take our connection may have written through another.
            return intact if self._handed_out else self._look_afresh() == self.before
        except (exc.SQLAlchemyError, UsageError):
            return False
        finally:
            self._end()

    @property
    def _name(self) -> str:
        return self.subject.table.name

    def _settle_unused(self) -> Snapshot:
        self._roll_back()
        after = self._look_afresh()
        if after.version != self.before.version:
            raise UsageError(
                f"rows of {self._name} changed during the call, but not through the effect's connection(); use that in "
                'the tool, or declare transaction="tool"'
            )
        return after

    def _look_afresh(self) -> Snapshot:
        with self.subject.engine.connect() as connection:
            return self.subject.snapshot(self.subject.look(connection, self._opening.rows))

    def _refuse_moved(self, unproven: list[str]) -> None:
        old = self._committed(unproven)
        if old:
            raise UsageError(
                f"rows {', '.join(old)} of {self._name} match only since the call, and may have been there before; "
                "let `rows` choose by columns that the tool does not change. The call was rolled back"
            )

    def _committed(self, keys: list[str]) -> list[str]:
        """Which of these rows others can see already; all of them, if nobody else can look."""
        if not keys or shares_one_connection(self.subject.engine):
            return keys
        with self.subject.engine.connect() as outside:
            found = self.subject.table.read_keys(outside, keys, limit=len(keys))
        return [key for key, row in found.items() if row is not None]

    def _intact(self) -> bool:
        """Whether everything since the beginning is still in one transaction."""
        usable = not (self._ending or self._connection.closed or self._connection.invalidated)
        return usable and driver_is_in_transaction(self._connection)

    def _refuse_to_end(self, _: Connection) -> None:
        if not self._ending:
            self._interfered = True
            raise UsageError(
                f"the transaction on {self._name} is the effect's; do not commit, roll back or close its connection"
            )

    def _roll_back(self) -> None:
        self._ending = True
        roll_back(self._connection)

    def _end(self) -> None:
        self._roll_back()
        open_touches.set(tuple(touch for touch in open_touches.get() if touch is not self))
        self._connection.close()
