"""One SQL table as `SqlRows` sees it: its columns, its key, who refers to it, and its rows as exact JSON values.

The columns are always the database's own, also where the user declares a table with fewer: a deleted row can only be
put back whole. On SQLite a value is read and written as it is stored, around the column's Python type, because types
lose there: `Numeric` rounds to ten places, and a date that somebody else wrote may have no Python form at all.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import sqlalchemy as sa
from msgspec.json import decode as read_json
from sqlalchemy import exc
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeEngine, UserDefinedType

from rescind.compensation.effects.exact import Inexact, decode, encode
from rescind.errors import DeclarationError, UsageError
from rescind.model.step import Snapshot, canonical_json

Row = dict[str, Any]
"""Column name to value, encoded by `exact`."""

Rows = dict[str, Row | None]
"""Key, as the JSON text of a list, to row; None for a row that is not there."""

Where = sa.ColumnElement[bool]


class Stored(UserDefinedType[Any]):
    """A value as the driver has it, without SQLAlchemy's conversions."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Never asked: no table is created with it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reference:
    """A foreign key of some table, perhaps the same one, that points to this one."""

    table: str
    schema: str | None
    columns: tuple[str, ...]
    referred: tuple[str, ...]
    to_itself: bool
    cascades: bool  # whether deleting a row here changes or deletes rows there


class RowTable:
    """What a database says of one of its tables, and statements on its rows by key."""

    def __init__(self, connection: Connection, name: str, schema: str | None) -> None:
        """Ask the database.

        Raises: DeclarationError, if there is no such table or it has no primary key; sqlalchemy's errors.
        """
        inspector = sa.inspect(connection)
        try:
            columns = inspector.get_columns(name, schema)
            key = inspector.get_pk_constraint(name, schema)["constrained_columns"]
        except exc.NoSuchTableError as error:
            raise DeclarationError(f"the database {connection.engine.url!r} has no table {name}") from error
        if not key:
            raise DeclarationError(f"table {name} has no primary key, so its rows cannot be told apart; add one")
        raw = connection.dialect.name == "sqlite"
        self.name: Final = str(name)  # SQLAlchemy's own kind of text has no JSON form
        self.types: Final[dict[str, TypeEngine[Any]]] = {
            str(c["name"]): Stored() if raw else c["type"] for c in columns
        }
        self.computed: Final = frozenset(str(c["name"]) for c in columns if c.get("computed"))
        self.key: Final[tuple[str, ...]] = tuple(map(str, key))
        self.schema_version: Final = schema_version(connection)
        self.references: Final = tuple(_references_to(connection, inspector, name, schema, self.key))
        # Not the user's table: its Python-side defaults and `onupdate` functions would take part in a restore.
        self.plain: Final = sa.table(name, *(sa.column(c, t) for c, t in self.types.items()), schema=schema)

    def read(self, connection: Connection, where: Where, *, source: sa.FromClause, limit: int) -> dict[str, Row]:
        """The rows that fulfil a condition on `source`, in one statement; locked, where the database locks rows.

        Raises: UsageError, if there are more than `limit`, a key has a NULL, or a value cannot be kept exactly.
        """
        # Names without their table: `source` may be the user's own declaration, with fewer columns than there are.
        columns = (sa.column(name, kind) for name, kind in self.types.items())
        statement = sa.select(*columns).select_from(source).where(where).limit(limit + 1)
        if connection.get_execution_options().get(LOCKING):
            statement = statement.with_for_update()
        found = connection.execute(statement).all()
        if len(found) > limit:
            raise UsageError(
                f"more than {limit} rows of {self.name} match; let `rows` choose fewer, or raise rows_max if one call "
                "is meant to change that many"
            )
        rows = (self._encoded(tuple(values)) for values in found)
        return {self.key_of(row): row for row in rows}

    def read_keys(self, connection: Connection, keys: Iterable[str], *, limit: int) -> Rows:
        """The rows with these keys; None for those that are not there."""
        wanted = list(keys)
        if not wanted:
            return {}
        found = self.read(connection, self.with_keys(wanted), source=self.plain, limit=max(limit, len(wanted)))
        return {key: found.get(key) for key in wanted}

    def with_keys(self, keys: Sequence[str]) -> Where:
        """The condition that a row has one of these keys; never fulfilled if there are none."""
        columns = [sa.column(name, self.types[name]) for name in self.key]
        values = [[decode(part) for part in read_json(key)] for key in keys]
        if len(columns) == 1:
            return columns[0].in_([value for (value,) in values])
        return sa.tuple_(*columns).in_([tuple(value) for value in values])

    def is_row(self, row: Row) -> Where:
        """The condition that a row is this one, in all its columns."""
        return sa.and_(*(self.plain.c[name].is_not_distinct_from(decode(value)) for name, value in row.items()))

    def key_of(self, row: Row) -> str:
        """The row's key as text."""
        values = [row[name] for name in self.key]
        if None in values:
            raise UsageError(f"a row of {self.name} has NULL in its primary key {', '.join(self.key)}, so it has none")
        return canonical_json(values).decode()

    def count_holders(
        self, connection: Connection, reference: Reference, row: Row, *, apart_from: Sequence[str]
    ) -> int:
        """How many rows refer to this one by this foreign key, apart from rows of this table with these keys."""
        values = [row.get(name) for name in reference.referred]
        if None in values:
            return 0
        there = sa.table(reference.table, schema=reference.schema)
        pairs = zip(reference.columns, reference.referred, values, strict=True)
        statement = (
            sa.select(sa.func.count())
            .select_from(there)
            .where(*(sa.column(name, self.types[referred]) == decode(value) for name, referred, value in pairs))
        )
        if reference.to_itself:
            statement = statement.where(sa.not_(self.with_keys(apart_from)))
        return connection.execute(statement).scalar_one()

    def newest_key(self, connection: Connection) -> "NewestKey | None":
        """How far the keys go now; None if they cannot tell a new row from an old one."""
        if len(self.key) > 1:
            return None
        newest = connection.execute(sa.select(*(sa.func.max(self.plain.c[name]) for name in self.key))).scalar()
        return NewestKey(newest) if newest is None or type(newest) is int else None

    def _encoded(self, values: Sequence[Any]) -> Row:
        row: Row = {}
        for name, value in zip(self.types, values, strict=True):
            try:
                row[name] = encode(value)
            except Inexact as error:
                raise Inexact(f"column {self.name}.{name}: {error}") from error
        return row


def schema_version(connection: Connection) -> int | None:
    """A number that changes with every change of the schema; None where the database has none."""
    if connection.dialect.name != "sqlite":
        return None
    return cast("int", connection.exec_driver_sql("PRAGMA schema_version").scalar_one())


@dataclass(frozen=True)
class NewestKey:
    """The highest number that was a key at some moment, None if there was no row at all."""

    value: int | None

    def precedes(self, key: str) -> bool:
        """Whether a row with this key was certainly not there at that moment."""
        (number,) = read_json(key)
        return self.value is None or (type(number) is int and number > self.value)


LOCKING = "rescind_lock_rows"
"""Execution option of a connection on which rows that are read have to stay as they are until its transaction ends."""


def snapshot_of(table: str, rows: Rows, **remarks: Any) -> Snapshot:
    """The snapshot of these rows.

    Its version covers the rows that are there. So a look before an insertion, which knows no key, and a look after
    its undo, which knows the key of a row that is gone, have one version.
    """
    there = {key: row for key, row in rows.items() if row is not None}
    image = {"table": table, "rows": rows} | {name: remark for name, remark in remarks.items() if remark}
    version = "sha256:" + hashlib.sha256(canonical_json([table, there])).hexdigest()
    return Snapshot.of(image, version=version, absent=not there)


def rows_in(snapshot: Snapshot | None) -> Rows:
    """The rows of a snapshot; none of none."""
    return cast("Rows", snapshot.image["rows"]) if snapshot and snapshot.image else {}


def same(one: Row | None, other: Row | None) -> bool:
    """Whether two rows are equal, types included: 1 is not 1.0 and not True, and a NaN is itself."""
    return canonical_json(one) == canonical_json(other)


_CASCADING = ("CASCADE", "SET NULL", "SET DEFAULT")
_ON_DELETE_SQLITE = sa.text('SELECT "from", on_delete FROM pragma_foreign_key_list(:name)')


def _references_to(
    connection: Connection, inspector: sa.Inspector, name: str, schema: str | None, key: tuple[str, ...]
) -> Iterable[Reference]:
    for (there_schema, there), foreign_keys in inspector.get_multi_foreign_keys(schema).items():
        # SQLAlchemy does not read the ON DELETE of a reference that is declared within its column on SQLite.
        sqlite = connection.dialect.name == "sqlite"
        actions: dict[str, str] = {}
        if sqlite:
            actions.update((row[0], row[1]) for row in connection.execute(_ON_DELETE_SQLITE, {"name": there}))
        for foreign_key in foreign_keys:
            if foreign_key["referred_table"].casefold() != name.casefold():
                continue
            columns = tuple(map(str, foreign_key["constrained_columns"]))
            action = actions.get(columns[0]) or foreign_key.get("options", {}).get("ondelete")
            yield Reference(
                table=str(there),
                schema=there_schema,
                columns=columns,
                # A reference without columns is to the key, and is not always reflected as such.
                referred=tuple(map(str, foreign_key["referred_columns"])) or key,
                to_itself=there.casefold() == name.casefold(),
                cascades=str(action).upper() in _CASCADING,
            )
