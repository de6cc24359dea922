"""Changes of SQL tables: what capturing a tool's writes costs, and an undo in statements over sets.

A tool that changes 1,000 rows, by one statement and by a thousand, guarded and not, each in a transaction that is on
disk when it returns; on PostgreSQL and on SQLite. The effect alone is measured, without a journal. Then the undo of one
statement that changed 100,000 rows, against the transaction that changed them.

On SQLite both open a connection for each call, as the effect has to, so both write SQLite's log back into the file when
they close it. One more row, without a target, has somebody else's connection held open: then neither does, and what the
effect adds stands against little more than one fsync.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import apsw
import sqlalchemy as sa

from bench.form import Row, interleaved, row, seconds_of
from bench.servers import a_cluster
from rescind.compensation.effects import SqlChanges
from rescind.guard.effect import Call, PastStep
from rescind.model.outcome import Completed
from rescind.model.step import RunInfo, Snapshot

ROWS, BULK, TABLE_ROWS = 1_000, 100_000, 120_000
ROUNDS = 31
RUN = RunInfo(run_id="bench", agent_name="bench")

COLUMNS = "(id INTEGER PRIMARY KEY, customer TEXT, total NUMERIC, placed TEXT, note TEXT)"
FILL = {
    "postgres": "SELECT i, 'customer ' || i, i / 7.0, now()::text, repeat('n', 40) FROM generate_series(1, {n}) i",
    "sqlite": "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {n}) "
    "SELECT i, 'customer ' || i, i / 7.0, datetime(), printf('%.40c', 'n') FROM s",
}
Execute = Callable[[str], Any]
Tool = Callable[[Execute, str, int], None]


class _Database:
    """Two tables alike, one of them guarded."""

    def __init__(self, kind: str, effect: SqlChanges, plain: Callable[[Callable[[Execute], None]], None]) -> None:
        self.kind, self.effect, self.plain = kind, effect, plain

    def setup(self) -> None:
        def fill(execute: Execute) -> None:
            for table in ("orders", "plain"):
                execute(f"CREATE TABLE {table} {COLUMNS}")
                execute(f"CREATE INDEX {table}_customer ON {table} (customer)")
                execute(f"INSERT INTO {table} {FILL[self.kind].format(n=TABLE_ROWS)}")

        self.plain(fill)
        self.effect.install()

    def guarded(self, tool: Callable[[Execute], None]) -> PastStep:
        call = Call(run=RUN, step_id="1", action="bench", arguments={}, target=None, idempotency_key="bench/1")
        touch = self.effect.open(call)
        connection = self.effect.connection()
        tool(getattr(connection, "exec_driver_sql", connection.execute))
        after = cast("Snapshot", touch.settle(None))
        return PastStep(
            run=RUN, step_id="1", action="bench", arguments={}, target=None, result=None, outcome=Completed(None),
            before_snapshot=touch.before, after_snapshot=after, idempotency_key="bench/1",
        )  # fmt: skip


def _one_statement(execute: Execute, table: str, first: int) -> None:
    execute(f"UPDATE {table} SET total = total + 1, note = 'x' WHERE id BETWEEN {first} AND {first + ROWS - 1}")


def _a_thousand(execute: Execute, table: str, first: int) -> None:
    for number in range(first, first + ROWS):
        execute(f"UPDATE {table} SET total = total + 1, note = 'x' WHERE id = {number}")


def _inserts(execute: Execute, table: str, first: int) -> None:
    for number in range(first, first + ROWS):
        execute(f"INSERT INTO {table} VALUES ({1_000_000 + number}, 'c', 1, 'now', 'x')")


TOOLS: dict[str, tuple[Tool, float | None]] = {
    "1 update": (_one_statement, 2.0),
    "1,000 updates": (_a_thousand, 2.0),
    "1,000 inserts": (_inserts, 2.0),
}


def measure() -> list[Row]:
    rows: list[Row] = []
    for opened in (_on_postgres, _on_sqlite):
        with opened() as database:
            database.setup()
            rows += [_cost(database, name, tool, target) for name, (tool, target) in TOOLS.items()]
            rows.append(_undo(database))
    with _on_sqlite(held_open=True) as database:
        database.setup()
        rows.append(_cost(database, "1 update, held open", _one_statement, None))
    return rows


def _cost(database: _Database, name: str, tool: Tool, target: float | None) -> Row:
    places = iter(range(1, TABLE_ROWS, ROWS))
    guarded = lambda: seconds_of(  # noqa: E731
        partial(database.guarded, partial(_at, tool, "orders", next(places)))
    )
    others = iter(range(1, TABLE_ROWS, ROWS))
    plain = lambda: seconds_of(partial(database.plain, partial(_at, tool, "plain", next(others))))  # noqa: E731
    ours, reference = interleaved(guarded, plain, rounds=ROUNDS)
    return row(
        f"{database.kind}, {name}", ours=ours * 1000, reference=reference * 1000, unit="ms", target=target, n=ROUNDS,
        note=f"{ROWS:,} rows, captured, against the same transaction without",
    )  # fmt: skip


def _at(tool: Tool, table: str, first: int, execute: Execute) -> None:
    tool(execute, table, first)


def _undo(database: _Database) -> Row:
    steps: list[PastStep] = []

    def change(execute: Execute) -> None:
        execute(f"UPDATE orders SET total = total + 1 WHERE id <= {BULK}")

    changed = seconds_of(lambda: steps.append(database.guarded(change)))
    undone = seconds_of(lambda: database.effect.restore(steps[0]))
    return row(
        f"{database.kind}, undo of {BULK:,}", ours=undone * 1000, reference=changed * 1000, unit="ms", target=None, n=1,
        note=f"one statement over {BULK:,} rows, put back and looked at again, against doing it",
    )  # fmt: skip


@contextmanager
def _on_postgres() -> Iterator[_Database]:
    with a_cluster() as server:
        engine = sa.create_engine(server.new_database().replace("postgresql:", "postgresql+psycopg:"))

        def plain(work: Callable[[Execute], None]) -> None:
            with engine.begin() as connection:
                work(connection.exec_driver_sql)

        try:
            yield _Database("postgres", SqlChanges(engine, ["orders"]), plain)
        finally:
            engine.dispose()


@contextmanager
def _on_sqlite(*, held_open: bool = False) -> Iterator[_Database]:
    with tempfile.TemporaryDirectory(prefix="bench-sqlite-") as folder:
        path = Path(folder) / "bench.db"
        with closing(apsw.Connection(str(path))) as others:
            others.execute("PRAGMA journal_mode = WAL").fetchall()
            others.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # only who has read holds the log open
            if not held_open:
                others.close()

            def plain(work: Callable[[Execute], None]) -> None:
                # As the effect does it: a connection for each call, and a commit that is on disk.
                connection = apsw.Connection(str(path))
                connection.execute("PRAGMA synchronous = FULL").fetchall()
                connection.execute("PRAGMA foreign_keys = ON").fetchall()
                connection.execute("BEGIN IMMEDIATE").fetchall()
                work(connection.execute)
                connection.execute("COMMIT").fetchall()
                connection.close()

            yield _Database("sqlite", SqlChanges(path, ["orders"]), plain)
