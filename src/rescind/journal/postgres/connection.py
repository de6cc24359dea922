"""Connections to a journal on PostgreSQL, and what their errors mean."""

import re
from typing import Any

import psycopg

from rescind.database.address import Address
from rescind.database.connecting import connect, translating
from rescind.errors import JournalUnavailable, RescindError, UsageError

# The server ends a statement after twice the time-out; who has said nothing for longer is not there, whatever the
# network says: a server that is stopped, or a machine that swaps.
_SILENCE_S = 1.0

Connection = psycopg.Connection[Any]

_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def check_schema(schema: str) -> str:
    """The name of a schema, if it can be one without quotation marks.

    Raises: UsageError.
    """
    if _SCHEMA_NAME.fullmatch(schema) is None or schema.startswith("pg_"):
        raise UsageError(
            f"{schema!r} cannot be the journal's schema: take up to 63 lower-case letters, digits and underscores"
        )
    return schema


def connect_journal(address: Address, schema: str, *, name: str, timeout_s: float, writes: bool) -> Connection:
    """A connection that finds the journal's tables without naming their schema.

    Args:
        address: Where.
        schema: The schema of the tables.
        name: What it is for.
        timeout_s: How long a statement, and a wait for a lock, may take. A transaction that its owner has left alone
            for longer ends as well, so that a writer which hangs does not keep the others from writing for ever. A
            server that says nothing for twice as long and a second is given up.
        writes: Whether it may write.

    Raises: UsageError, if psycopg is not installed; psycopg.Error.
    """
    connection = connect(
        address,
        name=name,
        statement_timeout_s=2 * timeout_s,
        lock_timeout_s=timeout_s,
        silent_after_s=2 * timeout_s + _SILENCE_S,
    )
    try:
        connection.execute(
            "SELECT set_config('search_path', %s, false), set_config('default_transaction_isolation', %s, false),"
            " set_config('idle_in_transaction_session_timeout', %s, false)"
            + ("" if writes else ", set_config('default_transaction_read_only', 'on', false)"),
            (f"{schema}, pg_temp", "read committed", str(round(2_000 * timeout_s))),
        )
    except BaseException:
        connection.close()
        raise
    return connection


def explain(error: BaseException, address: Address) -> RescindError | None:
    """What an error of the driver means to our callers; None if it is not one."""
    if not isinstance(error, psycopg.Error):
        return None
    try:
        with translating(address, JournalUnavailable, what="the journal"):
            raise error
    except RescindError as translated:
        return translated
