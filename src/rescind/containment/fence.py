"""A fence in front of a target: it keeps the highest fencing number that it saw of each run, and refuses lower ones.

It needs no switch and no network, so it holds where nobody can be asked: once one call with the new number has come
through, no worker with the old one ever does. For a database the fence is a table beside the data, moved in the very
transaction that makes the change:

    with engine.begin() as connection:
        admit(connection, run_id, fencing_number)              # StaleLease: nothing was changed
        connection.execute(update(accounts)…)

The statement is one conditional write, `FENCE_SQL`. On PostgreSQL (at read committed, its default) and on SQLite (which
has one writer at a time) a stale transaction waits for the one before it, sees its number, and writes no row. Who uses
another driver than SQLAlchemy runs the statement itself: one row written means admitted, none means stale.
"""

import threading
from typing import TYPE_CHECKING

from rescind.errors import StaleLease

if TYPE_CHECKING:
    from sqlalchemy import Connection

RUNS_MAX = 1_000_000
"""Runs that a fence in memory knows, about 150 MiB. Forgetting one by itself would open it; it refuses new ones."""

FENCES_SQL = """CREATE TABLE IF NOT EXISTS rescind_fences (
    run_id VARCHAR(200) NOT NULL PRIMARY KEY,
    fencing_number BIGINT NOT NULL
)"""
"""The table. Create it once, with the schema of the data."""

FENCE_SQL = """INSERT INTO rescind_fences (run_id, fencing_number) VALUES (:run_id, :fencing_number)
ON CONFLICT (run_id) DO UPDATE SET fencing_number = excluded.fencing_number
WHERE rescind_fences.fencing_number <= excluded.fencing_number"""
"""Writes one row if the number is not stale, and none if it is. For SQLite from 3.24 and PostgreSQL."""


class FencedTarget:
    """A fence in the memory of one process, for a tool that keeps its state there too. Safe in threads."""

    def __init__(self, *, runs_max: int = RUNS_MAX) -> None:
        """An open fence.

        Args:
            runs_max: How many runs it knows; from 1.
        """
        if runs_max < 1:
            raise ValueError(f"runs_max is {runs_max}; it must be at least 1")
        self._highest: dict[str, int] = {}
        self._runs_max = runs_max
        self._lock = threading.Lock()

    def admit(self, run_id: str, fencing_number: int) -> None:
        """Let a call of this run pass, and from now on none with a lower number.

        Raises: StaleLease, if a higher one has passed, or the fence is full; nothing was changed.
        """
        with self._lock:
            highest = self._highest.get(run_id, 0)
            if fencing_number < max(1, highest):
                raise StaleLease(run_id=run_id, fencing_number=fencing_number, highest=highest)
            if not highest and len(self._highest) >= self._runs_max:
                raise StaleLease(run_id=run_id, fencing_number=fencing_number, highest=0, full=True)
            self._highest[run_id] = fencing_number

    def forget(self, run_id: str) -> None:
        """Open the fence for a run that has ended for good, as its journal says."""
        with self._lock:
            self._highest.pop(run_id, None)


def admit(connection: "Connection", run_id: str, fencing_number: int) -> None:
    """Let this transaction pass, if its number is not stale. It counts once the transaction is committed.

    Raises: StaleLease; roll the transaction back. SQLAlchemy's own errors, if the table is not there.
    """
    from sqlalchemy import text  # an extra: who has no database has no fence in one

    if fencing_number < 1:
        raise StaleLease(run_id=run_id, fencing_number=fencing_number, highest=0)
    given = {"run_id": run_id, "fencing_number": fencing_number}
    if connection.execute(text(FENCE_SQL), given).rowcount != 1:
        query = text("SELECT fencing_number FROM rescind_fences WHERE run_id = :run_id")
        highest = connection.execute(query, {"run_id": run_id}).scalar_one()
        raise StaleLease(run_id=run_id, fencing_number=fencing_number, highest=highest)
