"""Which rows a call is about: what the user's `rows` returned, as a condition."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa

from rescind.errors import UsageError


@dataclass(frozen=True)
class Selection:
    """A condition on the table.

    Attributes:
        where: The condition.
        equalities: The sets of columns that are compared to values; empty if nobody knows.
        label: How a person would name the rows.
    """

    where: sa.ColumnElement[bool]
    equalities: frozenset[frozenset[str]]
    label: str

    def names_exactly(self, columns: Collection[str]) -> bool:
        """Whether it compares these columns and no others."""
        return self.equalities == frozenset({frozenset(columns)})


def select(table: sa.Table, rows: Any) -> Selection:
    """The selection that `rows` describes: a mapping, a list of mappings, or a condition.

    Raises: UsageError, also for an empty mapping, which would choose the whole table.
    """
    if isinstance(rows, sa.ColumnElement):
        return Selection(cast("sa.ColumnElement[bool]", rows), equalities=frozenset(), label="")
    choices: Any = [rows] if isinstance(rows, Mapping) else rows
    if not isinstance(choices, list | tuple) or not all(map(_is_equality, cast("Sequence[Any]", choices))):
        raise UsageError(
            f"rows returned {rows!r} for {table.name}; return a mapping of columns to values, a list of such "
            "mappings, or a condition on the table"
        )
    equalities = cast("Sequence[Mapping[str, Any]]", choices)
    return Selection(
        where=_any_of(table, equalities),
        equalities=frozenset(frozenset(equality) for equality in equalities),
        label="; ".join(map(_label, equalities)),
    )


def _is_equality(choice: object) -> bool:
    return isinstance(choice, Mapping) and len(choice) > 0  # pyright: ignore[reportUnknownArgumentType]  # any mapping


def _any_of(table: sa.Table, equalities: Sequence[Mapping[str, Any]]) -> sa.ColumnElement[bool]:
    names = {name for equality in equalities for name in equality}
    if len(names) == 1 and None not in (values := [value for equality in equalities for value in equality.values()]):
        return _column(table, names.pop()).in_(values)
    conditions = [
        sa.and_(*(_column(table, name) == value for name, value in equality.items())) for equality in equalities
    ]
    return sa.or_(sa.false(), *conditions)


def _column(table: sa.Table, name: str) -> sa.ColumnElement[Any]:
    for column in table.columns:
        if column.name == name:
            return column
    raise UsageError(f"rows names the column {name!r}, and {table.name} has {', '.join(c.name for c in table.columns)}")


def _label(equality: Mapping[str, Any]) -> str:
    if len(equality) == 1:
        return str(next(iter(equality.values())))
    return ",".join(f"{name}={value}" for name, value in equality.items())
