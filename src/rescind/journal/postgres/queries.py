"""From a `Query` to SQL for PostgreSQL. A page is read in order of sequence, from `after` on, and stops at the limit.

Where one index gives the entries in that order (of a run, of a target, of review tasks, of all), it is walked. Entries
of many runs are not in order by any index, and sorting all of them for each page would make a whole listing quadratic;
so they are asked for in windows of sequences, which grow until the page is full.
"""

import msgspec

from rescind.journal.conditions import ENTRY_COLUMNS, Values, bounds, entry_conditions, run_conditions
from rescind.journal.port import Query
from rescind.journal.rows import RUN_COLUMNS

END = "SELECT 1::bigint, last_sequence FROM journal"
"""The first and the last sequence. One row."""


def _place(name: str) -> str:
    return f"%({name})s"


BOUNDS = bounds(_place)
"""Outside of which sequences no entry is in the time range. One row."""

_PAGE = "e.sequence > %(after)s AND e.sequence <= %(upto)s"


class Plan(msgspec.Struct, frozen=True):
    """How to read a page of entries: a statement that also takes `after`, `upto` and `limit`.

    `windowed` says whether it is asked for one window after another.
    """

    sql: str
    values: Values
    windowed: bool


def entries_plan(query: Query) -> Plan:
    """How to read one page of entries, from `after` (exclusive) to `upto` (inclusive)."""
    on_run, values = run_conditions(query, _place)
    conditions, more = entry_conditions(query, _place)
    source = "entries e"
    if query.run_id is not None:
        # A value and not a join: so it is seen that the index of the run gives the order.
        conditions.append(f"e.run_key = (SELECT r.run_key FROM runs r WHERE {' AND '.join(on_run)})")  # noqa: S608  # constants
    elif on_run:
        source = "entries e JOIN runs r ON r.run_key = e.run_key"
        conditions += on_run
    where = " AND ".join([*conditions, _PAGE])
    sql = f"SELECT {ENTRY_COLUMNS} FROM {source} WHERE {where} ORDER BY e.sequence LIMIT %(limit)s"  # noqa: S608  # constants
    by_entry = query.target is not None or query.reviews or query.run_id is not None
    return Plan(sql, values | more, bool(on_run) and not by_entry)


def runs_plan(query: Query) -> tuple[str, Values]:
    """How to read one page of runs after `after_run`. The statement also takes `limit`, `after` and `upto`."""
    conditions, values = run_conditions(query, _place)
    on_entry, more = entry_conditions(query, _place)
    if on_entry:
        matching = " AND ".join([*on_entry, _PAGE])
        if query.target is not None or query.reviews:
            conditions.append(f"r.run_key IN (SELECT e.run_key FROM entries e WHERE {matching})")  # noqa: S608  # constants
        else:
            conditions.append(f"EXISTS (SELECT 1 FROM entries e WHERE e.run_key = r.run_key AND {matching})")  # noqa: S608
    where = " AND ".join(["r.run_id > %(after_run)s", *conditions])
    sql = f"SELECT {RUN_COLUMNS} FROM runs r WHERE {where} ORDER BY r.run_id LIMIT %(limit)s"  # noqa: S608  # constants
    return sql, values | more
