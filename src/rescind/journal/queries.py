"""From a `Query` to SQL. Every statement walks an index in order of sequence, from `after` on, and stops at the limit.

A page is read in two legs. Up to the last complete span (see the schema) there are indexes: of a target, of runs, of
time. The entries after it, at most about a thousand, are read one by one. Review tasks are few and always indexed.

Runs have their entries in order, but many runs together have not, and sorting all of them for each page would make a
whole listing quadratic. So entries of matching runs are asked for in windows of sequences, which grow until the page is
full: a page costs what lies in its window, however many entries match.
"""

from collections.abc import Iterator

import msgspec

from rescind.journal.conditions import ENTRY_COLUMNS, Values, bounds, entry_conditions, run_conditions
from rescind.journal.port import Query
from rescind.journal.rows import RUN_COLUMNS, SPAN_SHIFT

EXTENT = (
    f"SELECT (SELECT (coalesce(max(span), -1) + 1 << {SPAN_SHIFT}) - 1 FROM spans),"  # noqa: S608  # our own constants
    " (SELECT coalesce(max(sequence), 0) FROM entries)"
)
"""Up to which sequence there are indexes, and up to which there are entries. One row."""


def _place(name: str) -> str:
    return f":{name}"


BOUNDS = bounds(_place)
"""Outside of which sequences no indexed entry is in the time range. One row."""

_WINDOW, _GROWTH = 4_096, 8  # Five growing windows cover 100 million sequences, if nothing matches in them.


class Plan(msgspec.Struct, frozen=True):
    """How to read a page of entries; both statements also take `after`, `upto` and `limit`.

    Attributes:
        indexed: For sequences that the indexes cover.
        tail: For those after them.
        values: What the statements take beside the bounds of the page.
        windowed: Whether the indexed leg goes in windows.
    """

    indexed: str
    tail: str
    values: Values
    windowed: bool


def entries_plan(query: Query) -> Plan:
    """How to read one page of entries, from `after` (exclusive) to `upto` (inclusive)."""
    on_run, values = _run_conditions(query)
    on_entry, more = entry_conditions(query, _place)
    conditions = on_run + on_entry
    by_entry = query.target is not None or query.reviews
    with_runs = " CROSS JOIN runs r ON r.run_key = e.run_key" if on_run else ""
    entries = _page(f"entries e{with_runs}", conditions, "e")
    if query.target is not None:
        source = f"target_entries x CROSS JOIN entries e ON e.sequence = x.sequence{with_runs}"
        indexed = _page(source, ["x.target = :target", *conditions], "x")
    elif on_run and not by_entry:
        # CROSS JOIN keeps this order. A head says how far its run goes, so that runs which ended before are left out.
        source = (
            "runs r CROSS JOIN heads h ON h.run_key = r.run_key"
            " CROSS JOIN run_entries x ON x.run_key = r.run_key CROSS JOIN entries e ON e.sequence = x.sequence"
        )
        indexed = _page(source, ["h.sequence > :after", "r.run_key <= :upto", *conditions], "x")
    else:
        indexed = entries
    windowed = bool(on_run) and not by_entry and query.run_id is None
    return Plan(indexed, entries, values | more, windowed)


def runs_plan(query: Query) -> tuple[str, Values]:
    """How to read one page of runs after `after_run`.

    The statement also takes `limit`, `after` and `upto` for the indexed entries that may match, and `tail`, after which
    come those that are not indexed.
    """
    conditions, values = _run_conditions(query)
    on_entry, more = entry_conditions(query, _place)
    if on_entry:
        conditions.append(_with_entry(query, " AND ".join(on_entry)))
    where = " AND ".join(["r.run_id > :after_run", *conditions])
    sql = f"SELECT {RUN_COLUMNS} FROM runs r WHERE {where} ORDER BY r.run_id LIMIT :limit"  # noqa: S608  # constants
    return sql, values | more


def _page(source: str, conditions: list[str], ordered: str) -> str:
    where = " AND ".join([*conditions, f"{ordered}.sequence > :after", f"{ordered}.sequence <= :upto"])
    return f"SELECT {ENTRY_COLUMNS} FROM {source} WHERE {where} ORDER BY {ordered}.sequence LIMIT :limit"  # noqa: S608


def _with_entry(query: Query, conditions: str) -> str:
    """That a run has an entry that meets the conditions."""
    span = "x.sequence > :after AND x.sequence <= :upto"
    tail = f"SELECT e.run_key FROM entries e WHERE e.sequence > :tail AND {conditions}"  # noqa: S608  # constants
    entry = f"entries e ON e.sequence = x.sequence AND {conditions}"
    if query.target is not None:
        found = f"SELECT e.run_key FROM target_entries x CROSS JOIN {entry} WHERE x.target = :target AND {span}"  # noqa: S608
        return f"r.run_key IN ({found} UNION ALL {tail})"
    if query.reviews:
        return f"r.run_key IN (SELECT e.run_key FROM entries e WHERE {conditions})"  # noqa: S608  # constants
    found = f"SELECT 1 FROM run_entries x CROSS JOIN {entry} WHERE x.run_key = r.run_key AND {span}"  # noqa: S608
    return f"(EXISTS ({found}) OR r.run_key IN ({tail}))"


def windows(after: int, last: int) -> Iterator[tuple[int, int]]:
    """Growing ranges (after, upto] that cover (after, last]."""
    width = _WINDOW
    while after < last:
        upto = min(after + width, last)
        yield after, upto
        after, width = upto, width * _GROWTH


def _run_conditions(query: Query) -> tuple[list[str], Values]:
    conditions, values = run_conditions(query, _place)
    if query.run_id is not None:
        # One run at most: by its id, so that SQLite sees that nothing needs sorting. The `+` bars the other indexes.
        conditions[1:] = [f"+{condition}" for condition in conditions[1:]]
    return conditions, values
