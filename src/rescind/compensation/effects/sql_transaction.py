"""Transactions that hold what they have read, begun the way each database wants it.

The user's engine stays as it is: no listener, no isolation level and no pragma outlives the transaction.
"""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from rescind.compensation.effects.sql_table import LOCKING
from rescind.errors import DeclarationError

SUPPORTED = ("sqlite", "postgresql")


def begin(engine: Engine) -> Connection:
    """A connection in a transaction that nobody's write can come between.

    SQLite: the whole database is locked for writing. PostgreSQL: the transaction sees one moment, and what it reads is
    locked. The caller commits or rolls back, and closes the connection.

    Raises: sqlalchemy's errors; then nothing is held.
    """
    connection = engine.connect()
    try:
        if engine.dialect.name == "sqlite":
            _begin_immediate(connection)
        else:
            # In READ COMMITTED, rows that others insert meanwhile would look like the tool's own.
            connection.execution_options(isolation_level="REPEATABLE READ", **{LOCKING: True})
            connection.begin()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction_on(engine: Engine) -> Generator[Connection]:
    """Such a transaction as a block: committed at its end, rolled back if it raises."""
    connection = begin(engine)
    try:
        yield connection
        commit(connection)
    finally:
        connection.close()


def commit(connection: Connection) -> None:
    """Commit; where that fails, no transaction is left behind.

    SQLite keeps a transaction open whose commit it refused, because others were reading, and SQLAlchemy takes it for
    ended. It would go back into the pool with its locks, and whoever came next would commit it unawares.

    Raises: sqlalchemy's errors; on SQLite all is then rolled back.
    """
    try:
        connection.commit()
    except BaseException:
        if connection.dialect.name == "sqlite" and not (connection.closed or connection.invalidated):
            try:
                connection.connection.rollback()
            except Exception:  # noqa: BLE001  # whatever it is, nobody is to have this connection again
                connection.invalidate()
        raise


def roll_back(connection: Connection) -> None:
    """Roll back at the driver, for SQLAlchemy thinks that a transaction whose commit we refused has ended.

    A connection that cannot even do that is dropped, and with it its transaction, which was never committed.
    """
    if connection.closed or connection.invalidated:
        return
    try:
        connection.connection.rollback()
    except Exception:  # noqa: BLE001  # the driver's own errors: nobody has translated them here
        connection.invalidate()


def finish_deferred(connection: Connection) -> None:
    """Do now what PostgreSQL would do at the commit: deferred triggers may change rows, and constraints may fail.

    Raises: sqlalchemy's errors.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")


def is_refused(error: exc.SQLAlchemyError) -> bool:
    """Whether this error of `commit` proves that nothing was committed: a constraint is not met, or SQLite was busy."""
    if isinstance(error, exc.IntegrityError):
        return True
    code = getattr(error.orig, "sqlite_errorcode", 0) if isinstance(error, exc.DBAPIError) else 0
    return code & 0xFF == sqlite3.SQLITE_BUSY


def shares_one_connection(engine: Engine) -> bool:
    """Whether a second connection of this thread would be the first one again, as for a database in memory."""
    return isinstance(engine.pool, SingletonThreadPool | StaticPool)


def driver_is_in_transaction(connection: Connection) -> bool:
    """Whether the driver still has a transaction open, where it says so."""
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", True))


def _begin_immediate(connection: Connection) -> None:
    # A plain BEGIN takes the write lock only at the first write; two that had read by then could not both go on.
    connection.begin()
    driver = connection.connection.dbapi_connection
    if getattr(driver, "autocommit", False) is True:  # Python 3.12's autocommit=True, whose commit() does nothing
        raise DeclarationError(
            f"the engine {connection.engine.url!r} is made with autocommit=True, so it has no transactions; "
            "leave that out"
        )
    if driver_is_in_transaction(connection):  # by a listener of the user's, after SQLAlchemy's recipe
        connection.exec_driver_sql("ROLLBACK")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def check(engine: object) -> Engine:
    """The engine, if rows can be guarded through it. Raises: DeclarationError."""
    if not isinstance(engine, Engine):
        raise DeclarationError(f"SqlRows takes a SQLAlchemy Engine from create_engine(), not {engine!r}")
    if engine.dialect.name not in SUPPORTED:
        raise DeclarationError(f"SqlRows supports {' and '.join(SUPPORTED)}, not {engine.dialect.name}")
    return engine


def is_transient(error: exc.SQLAlchemyError) -> bool:
    """Whether trying again may help: a lock, a lost connection, an exhausted pool."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, exc.OperationalError | exc.TimeoutError)
