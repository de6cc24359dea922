"""Puts rows back, in one transaction, and only rows that are still as the step left them.

Every statement carries the row it expects as its condition, so nothing is decided by an earlier look alone. What one
row has to wait for in another (a unique name, a foreign key) is found by trying: passes go on as long as one helps.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import TextClause, exc
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import Delete, Insert, Update

from rescind.compensation.effects.exact import decode
from rescind.compensation.effects.sql_table import Row, Rows, RowTable, rows_in, same
from rescind.compensation.effects.sql_transaction import finish_deferred
from rescind.errors import Conflict
from rescind.model.step import Snapshot


def restore_rows(connection: Connection, table: RowTable, before: Snapshot, after: Snapshot) -> None:
    """Put the rows of `before` back; the caller commits, or rolls back if this raises.

    Raises: Conflict; sqlalchemy's errors.
    """
    if table.name != before.image["table"]:
        raise Conflict(f"the step touched table {before.image['table']}, and its effect is now about {table.name}")
    was, left = rows_in(before), dict.fromkeys(rows_in(before)) | rows_in(after)
    changes = _changes(table, was, left, table.read_keys(connection, left, limit=len(left)))
    if not changes:
        return
    _refuse_what_cannot_come_back(table, before, after, changes)
    _apply(connection, table, changes)
    finish_deferred(connection)
    # A trigger may have had its say, and a generated column its way.
    wrong = [
        key for key, row in table.read_keys(connection, left, limit=len(left)).items() if not same(row, was.get(key))
    ]
    if wrong:
        raise Conflict(
            f"{table.name} does not take the rows {', '.join(wrong)} as they were; a trigger or a default changes them"
        )


class _Change:
    """One row's way back."""

    def __init__(self, key: str, left: Row | None, was: Row | None) -> None:
        self.key, self.left, self.was = key, left, was


def _changes(table: RowTable, was: Rows, left: Rows, now: Rows) -> list[_Change]:
    """What there is to do, in an order that mostly works: deletions, updates, insertions."""
    changes: list[_Change] = []
    differences: list[str] = []
    for key in left:
        if same(now[key], was.get(key)):
            continue
        if same(now[key], left[key]):
            changes.append(_Change(key, left[key], was.get(key)))
        else:
            differences.append(f"{table.name} {key}: {_difference(now[key], left[key])}")
    if differences:
        raise Conflict(f"not as the step left it, so nothing was changed: {'; '.join(sorted(differences))}")
    return sorted(changes, key=lambda change: (change.left is None, change.was is not None))


def _difference(now: Row | None, left: Row | None) -> str:
    if now is None:
        return "the row is gone"
    if left is None:
        return "the row is there again"
    names = [name for name in sorted(now.keys() | left.keys()) if not _same_value(now, left, name)]
    return f"{', '.join(names)} changed since"


def _same_value(one: Row, other: Row, name: str) -> bool:
    return name in one and name in other and same({name: one[name]}, {name: other[name]})


def _refuse_what_cannot_come_back(table: RowTable, before: Snapshot, after: Snapshot, changes: list[_Change]) -> None:
    cascaded: dict[str, Any] = after.image.get("cascaded", {})
    lost = [f"{count} of {name}" for name, count in sorted(cascaded.items())]
    if lost and any(change.left is None for change in changes):
        raise Conflict(
            f"deleting rows of {table.name} changed or deleted rows that refer to them ({', '.join(lost)}), and those "
            "were not recorded; put both back by hand"
        )
    unproven = set(after.image.get("unproven", ()))
    doubtful = [change.key for change in changes if change.was is None and change.key in unproven]
    if doubtful:
        raise Conflict(
            f"the rows {', '.join(doubtful)} of {table.name} matched only after the call; nobody can tell whether it "
            'inserted them. Let `rows` name the primary key, or use transaction="effect"'
        )


def _apply(connection: Connection, table: RowTable, changes: list[_Change]) -> None:
    pending = changes
    # Each pass writes at least one row, so there are at most as many passes as rows.
    while pending:
        blocked = [(change, why) for change in pending if (why := _attempt(connection, table, change))]
        if len(blocked) == len(pending):
            reasons = "; ".join(f"{table.name} {change.key}: {why}" for change, why in blocked[:5])
            raise Conflict(f"the rows cannot be put back, so nothing was changed: {reasons}")
        pending = [change for change, _ in blocked]


def _attempt(connection: Connection, table: RowTable, change: _Change) -> str:
    """Try to write one row. Returns: why it has to wait; empty if it was written."""
    if change.left is None:
        assert change.was is not None
        return _execute(connection, table.insertion(_values(table, change.was, unlike={})))
    holders = _holders(connection, table, change)
    if holders:
        return holders
    if change.was is None:
        return _execute(connection, sa.delete(table.plain).where(table.is_row(change.left)))
    values = _values(table, change.was, unlike=change.left)
    if not values:  # only generated columns differ, and they follow the others
        return ""
    return _execute(connection, sa.update(table.plain).where(table.is_row(change.left)).values(values))


def _execute(connection: Connection, statement: Insert | TextClause | Update | Delete) -> str:
    try:
        with connection.begin_nested():
            done = connection.execute(statement)
    except exc.IntegrityError as error:
        return str(error.orig)
    # Of an insertion SQLAlchemy does not say how many rows it made; the rows are read again at the end.
    if isinstance(statement, Update | Delete) and done.rowcount != 1:
        raise Conflict(f"{statement.table} has changed while its rows were put back, so nothing was changed")
    return ""


def _values(table: RowTable, row: Row, *, unlike: Row) -> dict[str, Any]:
    """What to write: the columns that differ from `unlike`, without those that the database computes."""
    return {
        name: decode(value)
        for name, value in row.items()
        if name not in table.computed and not _same_value(row, unlike, name)
    }


def _holders(connection: Connection, table: RowTable, change: _Change) -> str:
    """Who refers to values that go away with this change: rows of others, which we do not cascade into."""
    assert change.left is not None
    for reference in table.references:
        if change.was is not None and all(_same_value(change.left, change.was, name) for name in reference.referred):
            continue
        count = table.count_holders(connection, reference, change.left, apart_from=[change.key])
        if count:
            return f"{count} rows of {reference.table} refer to it"
    return ""
