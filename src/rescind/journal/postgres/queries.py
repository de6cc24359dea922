"""From a `Query` to SQL for PostgreSQL. A page is read in order of sequence, from `after` on, and stops at the limit.

Where one index gives the entries in that order (of a run, of a target, of review tasks, of all), it is walked. Entries
of many runs are not in order by any index, and sorting all of them for each page would make a whole listing quadratic;
so they are asked for in windows of sequences, which grow until the page is full.
"""

import msgspec

from rescind.journal.codec import REVIEW_KINDS, target_digest
from rescind.journal.port import Query
from rescind.journal.queries import Values, time_values
from rescind.journal.rows import RUN_COLUMNS, SPAN_SHIFT

ENTRY_COLUMNS = "e.sequence, e.position, e.run_key, e.recorded_at_us, e.hash, e.body"

END = "SELECT 1::bigint, last_sequence FROM journal"
"""The first and the last sequence. One row."""

BOUNDS = (
    f"SELECT coalesce(min(span), 0) << {SPAN_SHIFT}, (coalesce(max(span), -1) + 1 << {SPAN_SHIFT}) - 1"  # noqa: S608
    " FROM spans WHERE last_at_us >= %(since)s AND first_at_us < %(until)s"
)
"""Outside of which sequences no entry is in the time range. One row, of a table of one per 1,024 entries."""

_REVIEW = "e.kind IN ({})".format(", ".join(f"'{kind}'" for kind in REVIEW_KINDS))
_RUN_FIELDS = ("run_id", "trace_id", "tenant", "agent_name", "agent_version")
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
    on_run, values = _run_conditions(query)
    conditions, more = _entry_conditions(query)
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
    conditions, values = _run_conditions(query)
    on_entry, more = _entry_conditions(query)
    if on_entry:
        matching = " AND ".join([*on_entry, _PAGE])
        if query.target is not None or query.reviews:
            conditions.append(f"r.run_key IN (SELECT e.run_key FROM entries e WHERE {matching})")  # noqa: S608  # constants
        else:
            conditions.append(f"EXISTS (SELECT 1 FROM entries e WHERE e.run_key = r.run_key AND {matching})")  # noqa: S608
    where = " AND ".join(["r.run_id > %(after_run)s", *conditions])
    sql = f"SELECT {RUN_COLUMNS} FROM runs r WHERE {where} ORDER BY r.run_id LIMIT %(limit)s"  # noqa: S608  # constants
    return sql, values | more


def _run_conditions(query: Query) -> tuple[list[str], Values]:
    values: Values = {}
    for name in _RUN_FIELDS:
        value: str | None = getattr(query, name)
        # A version without an agent narrows nothing.
        if value is not None and (name != "agent_version" or query.agent_name is not None):
            values[name] = value
    return [f"r.{name} = %({name})s" for name in values], values


def _entry_conditions(query: Query) -> tuple[list[str], Values]:
    conditions: list[str] = []
    values: Values = {}
    if query.target is not None:
        conditions.append("e.target = %(target)s")
        values["target"] = target_digest(query.target)
    if query.reviews:
        conditions.append(_REVIEW)
    times = time_values(query)
    if times is not None:
        conditions.append("e.recorded_at_us >= %(since)s AND e.recorded_at_us < %(until)s")
        values |= times
    return conditions, values
