"""From a `Query` to SQL. Every statement walks an index in order of sequence, from `after` on, and stops at the limit.

Three ways in, the narrowest first: the index of a target or of review tasks; the runs that match, and the index of
their entries; or the entries themselves, in order. A time range becomes a range of sequences (see `spans` in the
schema), and is checked again on each entry.

Runs have their entries in order, but many runs together have not, and sorting all of them for each page would make a
whole listing quadratic. So entries of matching runs are asked for in windows of sequences, which grow until the page is
full: a page costs what lies in its window, however many entries match.
"""

from collections.abc import Iterator

import msgspec

from rescind.clock import to_us
from rescind.journal.codec import REVIEW_KINDS, target_digest
from rescind.journal.port import Query
from rescind.journal.rows import RUN_COLUMNS

Values = dict[str, str | int | bytes]

ENTRY_COLUMNS = "e.sequence, e.position, e.run_key, e.recorded_at_us, e.hash, e.body"

BOUNDS = (
    "SELECT coalesce(min(span) << 10, 0), coalesce(max(last_sequence), 0) FROM spans"
    " WHERE last_at_us >= :since AND first_at_us < :until"
)
"""The range of sequences outside of which no entry is in the time range. One row, of a table of one row in 1,024."""

LENGTH = "SELECT 1, coalesce(max(sequence), 0) FROM entries"
"""The same without a time range."""

LATEST_US = 2**63 - 1

_WINDOW, _GROWTH = 4_096, 8  # Five growing windows cover 100 million sequences, if nothing matches in them.

_REVIEW = "e.kind IN ({})".format(", ".join(f"'{kind}'" for kind in REVIEW_KINDS))
_RUN_CONDITIONS = {
    "run_id": "r.run_id = :run_id",
    "trace_id": "r.trace_id = :trace_id",
    "tenant": "r.tenant = :tenant",
    "agent_name": "r.agent_name = :agent_name",
    "agent_version": "r.agent_version = :agent_version",
}


class Plan(msgspec.Struct, frozen=True):
    """A statement and its values; it also takes `after`, `upto` and `limit`. `windowed` as in the module's text."""

    sql: str
    values: Values
    windowed: bool = False


def time_values(query: Query) -> Values | None:
    """The time range as microseconds, `since` and `until`; None if the query has none."""
    if query.since is None and query.until is None:
        return None
    return {
        "since": 0 if query.since is None else max(0, to_us(query.since)),
        "until": LATEST_US if query.until is None else max(0, to_us(query.until)),
    }


def entries_plan(query: Query) -> Plan:
    """How to read one page of entries, from `after` (exclusive) to `upto` (inclusive)."""
    run_conditions, values = _run_conditions(query)
    entry_conditions, more = _entry_conditions(query)
    conditions = [*run_conditions, *entry_conditions, "e.sequence > :after", "e.sequence <= :upto"]
    by_entry = query.target is not None or query.reviews
    if by_entry and run_conditions:
        source = "entries e CROSS JOIN runs r ON r.run_key = e.run_key"
    elif run_conditions:
        # CROSS JOIN keeps this order. A head says how far its run goes, so that runs which ended before are left out.
        source = "runs r CROSS JOIN heads h ON h.run_key = r.run_key CROSS JOIN entries e ON e.run_key = r.run_key"
        conditions += ["h.sequence > :after", "r.run_key <= :upto"]
    else:
        source = "entries e"
    where = " AND ".join(conditions)
    sql = f"SELECT {ENTRY_COLUMNS} FROM {source} WHERE {where} ORDER BY e.sequence LIMIT :limit"  # noqa: S608  # put together from our own constants
    windowed = bool(run_conditions) and not by_entry and query.run_id is None
    return Plan(sql, values | more, windowed)


def runs_plan(query: Query) -> Plan:
    """How to read one page of runs after `after_run`; `after` and `upto` bound the sequences that may match."""
    conditions, values = _run_conditions(query)
    entry_conditions, more = _entry_conditions(query)
    if entry_conditions:
        inner = " AND ".join([*entry_conditions, "e.sequence > :after", "e.sequence <= :upto"])
        if query.target is not None or query.reviews:
            conditions.append(f"r.run_key IN (SELECT e.run_key FROM entries e WHERE {inner})")  # noqa: S608  # put together from our own constants
        else:
            conditions.append(f"EXISTS (SELECT 1 FROM entries e WHERE e.run_key = r.run_key AND {inner})")  # noqa: S608  # put together from our own constants
    where = " AND ".join(["r.run_id > :after_run", *conditions])
    return Plan(f"SELECT {RUN_COLUMNS} FROM runs r WHERE {where} ORDER BY r.run_id LIMIT :limit", values | more)  # noqa: S608  # put together from our own constants


def windows(after: int, last: int) -> Iterator[tuple[int, int]]:
    """Growing ranges (after, upto] that cover (after, last]."""
    width = _WINDOW
    while after < last:
        upto = min(after + width, last)
        yield after, upto
        after, width = upto, width * _GROWTH


def _run_conditions(query: Query) -> tuple[list[str], Values]:
    values: Values = {}
    for name in _RUN_CONDITIONS:
        value: str | None = getattr(query, name)
        # A version without an agent narrows nothing.
        if value is not None and (name != "agent_version" or query.agent_name is not None):
            values[name] = value
    conditions = [_RUN_CONDITIONS[name] for name in values]
    if query.run_id is not None:
        # One run at most: by its id, so that SQLite sees that nothing needs sorting. The `+` bars the other indexes.
        conditions[1:] = [f"+{condition}" for condition in conditions[1:]]
    return conditions, values


def _entry_conditions(query: Query) -> tuple[list[str], Values]:
    conditions: list[str] = []
    values: Values = {}
    if query.target is not None:
        conditions.append("e.target = :target")
        values["target"] = target_digest(query.target)
    if query.reviews:
        conditions.append(_REVIEW)
    times = time_values(query)
    if times is not None:
        conditions.append("e.recorded_at_us >= :since AND e.recorded_at_us < :until")
        values |= times
    return conditions, values
