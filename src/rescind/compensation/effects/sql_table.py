"""One SQL table as `SqlRows` sees it: its columns, its key, who refers to it, and its rows as exact JSON values.

The columns are always the database's own, also where the user declares a table with fewer: a deleted row can only be
put back whole. On SQLite a value is read and written as it is stored, around the column's Python type, because types
lose there: `Numeric` rounds to ten places, and a date that somebody else wrote may have no Python form at all.
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
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


class AsText(UserDefinedType[Any]):
    """A value of PostgreSQL as the text that it writes itself, since the driver's form of it loses something.

    A number in JSON becomes a float, and its null and a NULL are one; a month in an interval becomes 30 days; an array
    loses its bounds. Some types have no equality at all; their texts do.
    """

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name  # with its schema, modifiers and quotes, as the database has it

    def get_col_spec(self, **_: Any) -> str:
        """The type in a cast."""
        return self.name

    def column_expression(self, colexpr: Any) -> Any:
        """What is selected."""
        return sa.cast(colexpr, sa.Text)

    def bind_expression(self, bindvalue: Any) -> Any:
        """What is written."""
        return sa.cast(sa.cast(bindvalue, sa.Text), self)


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
        lossy = {} if raw else _lossy(connection, name, schema)
        self.name: Final = str(name)  # SQLAlchemy's own kind of text has no JSON form
        self.types: Final[dict[str, TypeEngine[Any]]] = {
            str(c["name"]): Stored() if raw else lossy.get(str(c["name"]), c["type"]) for c in columns
        }
        self._owns_identity = any(own["always"] for c in columns if (own := c.get("identity")))
        self.computed: Final = frozenset(str(c["name"]) for c in columns if c.get("computed"))
        self.key: Final[tuple[str, ...]] = tuple(map(str, key))
        self.schema_version: Final = schema_version(connection)
        self.references: Final = tuple(_references_to(connection, inspector, name, schema, self.key))
        # Not the user's table: its Python-side defaults and `onupdate` functions would take part in a restore.
        self.plain: Final = sa.table(name, *(sa.column(c, t) for c, t in self.types.items()), schema=schema)

    def read(self, connection: Connection, where: Where, *, source: sa.FromClause, limit: int) -> dict[str, Row]:
        """The rows that fulfil a condition on `source`, in one statement; locked, where the database locks rows.

        Raises: UsageError, if there are more than `limit`, a key has a NULL, two rows have one key, or a value cannot
            be kept exactly.
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
        rows = {self.key_of(row): row for row in (self._encoded(tuple(values)) for values in found)}
        if len(rows) < len(found):  # a primary key of PostgreSQL does not hold for the tables that inherit from its own
            raise UsageError(
                f"{len(found) - len(rows)} rows of {self.name}, or of tables that inherit from it, have a key that "
                "another one has, so they cannot be told apart; guard the table that the tool writes to"
            )
        return rows

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
        return sa.and_(*(self._holds(name, decode(value)) for name, value in row.items()))

    def _holds(self, name: str, value: Any) -> Where:
        column = self.plain.c[name]
        if isinstance(self.types[name], AsText):
            return sa.cast(column, sa.Text).is_not_distinct_from(sa.literal(value, sa.Text))
        return column.is_not_distinct_from(value)

    def insertion(self, values: dict[str, Any]) -> sa.Insert | sa.TextClause:
        """The statement that inserts a row with these values, also where only the database may choose an identity."""
        if not self._owns_identity:
            return sa.insert(self.plain).values(values)
        # SQLAlchemy has no words for this one.
        whole = ".".join(_quoted(part) for part in (self.plain.schema, self.name) if part)
        names = ", ".join(map(_quoted, values))
        places = ", ".join(f":v{number}" for number in range(len(values)))
        head = f"INSERT INTO {whole} ({names}) OVERRIDING SYSTEM VALUE".replace(":", "\\:")
        bound = (sa.bindparam(f"v{n}", value, self.types[name]) for n, (name, value) in enumerate(values.items()))
        return sa.text(f"{head} VALUES ({places})").bindparams(*bound)

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
                row[name] = encode(_in_utc(value))
            except Inexact as error:
                raise Inexact(f"column {self.name}.{name}: {error}") from error
        return row


def _in_utc(value: Any) -> Any:
    """A moment is the same one in each zone, and PostgreSQL shows it in that of whoever asks."""
    if type(value) is datetime and value.tzinfo is not None:
        with suppress(OverflowError):  # at the ends of the calendar it stays as it is
            return value.astimezone(UTC)
    return value


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


_LOSSY = sa.text(
    "WITH RECURSIVE below AS ("
    "  SELECT a.attname, a.atttypid, a.atttypmod, t.oid, t.typtype, t.typbasetype, t.typcategory, t.typlen"
    "    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
    "   WHERE a.attrelid = CAST(:rel AS oid) AND a.attnum > 0 AND NOT a.attisdropped"
    "  UNION ALL SELECT b.attname, b.atttypid, b.atttypmod, t.oid, t.typtype, t.typbasetype, t.typcategory, t.typlen"
    "    FROM below b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'"
    ") SELECT attname, format_type(atttypid, atttypmod) AS name FROM below WHERE typtype <> 'd'"
    " AND (oid IN ('json'::regtype, 'jsonb'::regtype, 'interval'::regtype, 'money'::regtype)"
    "  OR typcategory IN ('A', 'G', 'V')"
    "  OR typtype = 'b' AND typcategory <> 'S' AND NOT EXISTS ("
    "   SELECT FROM pg_operator o WHERE o.oprname = '=' AND o.oprleft = below.oid AND o.oprright = below.oid))"
)


def _lossy(connection: Connection, name: str, schema: str | None) -> dict[str, AsText]:
    """The columns whose values are read and written as text."""
    rel = relation_of(connection, name, schema)
    return {row.attname: AsText(row.name) for row in connection.execute(_LOSSY, {"rel": rel})}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def relation_of(connection: Connection, name: str, schema: str | None) -> int:
    """The number that PostgreSQL knows a table by."""
    full = ".".join(_quoted(part) for part in (schema, name) if part)
    relation = connection.execute(sa.text("SELECT CAST(to_regclass(:full) AS oid)"), {"full": full})
    return cast("int", relation.scalar_one())


_CASCADING = ("CASCADE", "SET NULL", "SET DEFAULT")
_ON_DELETE_SQLITE = sa.text('SELECT "from", on_delete FROM pragma_foreign_key_list(:name)')


# From any schema. A constraint of a partition that comes from that of its parent is counted with the parent.
_REFERENCES = sa.text(
    "SELECT n.nspname, c.relname, k.confdeltype IN ('c', 'n', 'd') AS cascades, k.conrelid = k.confrelid AS to_itself,"
    " ARRAY(SELECT CAST(a.attname AS text) FROM unnest(k.conkey) WITH ORDINALITY u(num, place) JOIN pg_attribute a"
    "  ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place) AS columns,"
    " ARRAY(SELECT CAST(a.attname AS text) FROM unnest(k.confkey) WITH ORDINALITY u(num, place) JOIN pg_attribute a"
    "  ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.place) AS referred"
    " FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE k.contype = 'f' AND k.confrelid = CAST(:rel AS oid) AND NOT EXISTS (SELECT FROM pg_constraint p"
    "  WHERE p.oid = k.conparentid AND p.confrelid = k.confrelid) ORDER BY 1, 2, k.conname"
)


def _references_to(
    connection: Connection, inspector: sa.Inspector, name: str, schema: str | None, key: tuple[str, ...]
) -> Iterable[Reference]:
    if connection.dialect.name == "postgresql":
        for found in connection.execute(_REFERENCES, {"rel": relation_of(connection, name, schema)}):
            yield Reference(
                table=found.relname,
                schema=found.nspname,
                columns=tuple(found.columns),
                referred=tuple(found.referred),
                to_itself=found.to_itself,
                cascades=found.cascades,
            )
        return
    for (there_schema, there), foreign_keys in inspector.get_multi_foreign_keys(schema).items():
        # SQLAlchemy does not read the ON DELETE of a reference that is declared within its column on SQLite.
        actions = {row[0]: row[1] for row in connection.execute(_ON_DELETE_SQLITE, {"name": there})}
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
