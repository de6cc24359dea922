"""What a changeset of SQLite says beside what is in the tables now."""

import json
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, cast

import apsw
import msgspec

from rescind.errors import UsageError

NAMED_MAX = 5
"""Rows named in a message; more are not looked for."""

_kind_of = attrgetter("opcode")  # of a change: each is below 256


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a changeset, looked at now.

    Attributes:
        as_left: Every one is as the step left it.
        back: Every one is as it was before.
        changed: Some that are not as left, for people.
        unlike_before: Some that are not as before, for people.
    """

    as_left: bool
    back: bool
    changed: tuple[str, ...]
    unlike_before: tuple[str, ...]


class Tables:
    """Some tables as the database has them.

    `columns` and `key_columns` are by table, in the table's order, without generated ones.
    """

    def __init__(self, connection: apsw.Connection, names: Iterable[str]) -> None:
        """Look them up.

        Raises: UsageError, if one is missing or cannot be guarded.
        """
        self._connection = connection
        self.columns: dict[str, list[str]] = {}
        self.key_columns: dict[str, list[str]] = {}
        self._nullable: dict[str, list[str]] = {}
        self._shape: dict[str, list[list[Any]]] = {}
        for given in names:
            self._add(given)

    @classmethod
    def of_changeset(cls, connection: apsw.Connection, changeset: bytes) -> "Tables":
        """Those that a changeset is about."""
        return cls(connection, dict.fromkeys(change.name for change in changes_in(changeset)))

    @property
    def names(self) -> tuple[str, ...]:
        """As the database spells them."""
        return tuple(self.columns)

    def signature(self, names: Iterable[str]) -> str:
        """Columns and keys of some of them, as text to compare."""
        return json.dumps({name: self._shape[name] for name in names}, sort_keys=True)

    def refuse_rows_without_key(self) -> None:
        """SQLite lets a key be NULL, and its sessions then leave the row out. Raises: UsageError."""
        for name, keys in self._nullable.items():
            if not keys:
                continue
            condition = " OR ".join(f"{quoted(key)} IS NULL" for key in keys)
            query = f"SELECT 1 FROM {quoted(name)} WHERE {condition} LIMIT 1"  # noqa: S608  # names, quoted
            if rows_of(self._connection, query):
                raise UsageError(f"table {name} has rows whose primary key is NULL; they cannot be told apart")

    def row(self, name: str, key: tuple[Any, ...], columns: list[str]) -> tuple[Any, ...] | None:
        """The values of these columns in the row with the key; None if it is not there."""
        keys = self.key_columns[name]
        condition = " AND ".join(f"{quoted(column)} = ?" for column in keys)
        shown = ", ".join(map(quoted, columns))
        query = f"SELECT {shown} FROM {quoted(name)} WHERE {condition}"  # noqa: S608  # names, quoted
        found = rows_of(self._connection, query, *key)
        return found[0] if found else None

    def _add(self, given: str) -> None:
        # As pragmas, and not as the tables of the same names: those take three times as long on a new connection.
        listed = rows_of(self._connection, f"PRAGMA main.table_list({quoted(given)})")
        if not listed:
            raise UsageError(f"the database has no table {given}")
        _, name, kind, *_ = listed[0]
        if kind != "table":
            raise UsageError(f"{name} cannot be guarded: it is a {kind} table, and no changes of those are captured")
        info = rows_of(self._connection, f"PRAGMA main.table_xinfo({quoted(name)})")
        if not any(pk for *_, pk, _ in info):
            raise UsageError(f"table {name} has no primary key, so its rows cannot be told apart; add one")
        stored = [(column, type_, pk) for _, column, type_, _, _, pk, hidden in info if not hidden]
        self._shape[name] = [list(each) for each in stored]
        self.columns[name] = [column for column, _, _ in stored]
        self.key_columns[name] = [column for column, _, pk in stored if pk]
        # An INTEGER PRIMARY KEY is the row's number, and never NULL; where it is not alone, it is like any other.
        keys = [(column, type_, notnull) for _, column, type_, notnull, _, pk, _ in info if pk]
        is_number = len(keys) == 1 and keys[0][1].upper() == "INTEGER"
        self._nullable[name] = [] if is_number else [column for column, _, notnull in keys if not notnull]


def compare(connection: apsw.Connection, tables: Tables, changeset: bytes) -> Compared:
    """Look at every row of the changeset."""
    changed: list[str] = []
    unlike: list[str] = []
    for change in changes_in(changeset):
        columns = tables.columns[change.name]
        was, left = change.old, change.new
        known = was if was is not None else left
        assert known is not None
        key = tuple(known[index] for index in sorted(change.pk_columns))
        touched = _touched(change)
        now = tables.row(change.name, key, [columns[index] for index in touched])
        label = f"{change.name} {', '.join(map(str, key))}"[:80]
        if not _same(now, None if change.opcode == apsw.SQLITE_DELETE else left, touched) and len(changed) < NAMED_MAX:
            changed.append(label)
        if not _same(now, None if change.opcode == apsw.SQLITE_INSERT else was, touched) and len(unlike) < NAMED_MAX:
            unlike.append(label)
        if len(changed) >= NAMED_MAX and len(unlike) >= NAMED_MAX:
            break
    return Compared(as_left=not changed, back=not unlike, changed=tuple(changed), unlike_before=tuple(unlike))


def counts_of(changeset: bytes) -> dict[str, int]:
    """How many rows the changeset of one table inserts, updates and deletes."""
    # A byte for each change, and no line of Python that runs for each: that saves a third of the time.
    kinds = bytes(map(_kind_of, changes_in(changeset)))
    return {
        "inserted": kinds.count(apsw.SQLITE_INSERT),
        "updated": kinds.count(apsw.SQLITE_UPDATE),
        "deleted": kinds.count(apsw.SQLITE_DELETE),
    }


def changes_in(changeset: bytes) -> Iterator[Any]:
    """The changes: `name`, `opcode`, `old`, `new`, `pk_columns`. Each is only good until the next one."""
    session: Any = apsw.Changeset  # its stubs use a type that older Pythons lack
    return cast("Iterator[Any]", session.iter(changeset))


def rows_of(connection: apsw.Connection, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a query returns."""
    untyped: Any = connection  # see `changes_in`
    return list(untyped.execute(query, values))


def quoted(name: str) -> str:
    """A name for a statement."""
    return '"' + name.replace('"', '""') + '"'


def _touched(change: Any) -> list[int]:
    if change.opcode == apsw.SQLITE_UPDATE:
        return [index for index, value in enumerate(change.new) if value is not apsw.no_change]
    return list(range(change.column_count))


def _same(now: tuple[Any, ...] | None, wanted: Any, touched: list[int]) -> bool:
    if now is None or wanted is None:
        return now is None and wanted is None
    return all(
        type(value) is type(wanted[index]) and value == wanted[index] for value, index in zip(now, touched, strict=True)
    )
