"""What a `Query` asks of runs and entries, as SQL conditions on `runs r` and `entries e`.

SQLite and PostgreSQL ask the same of the same columns; they differ in how a value's place is written, which `Place`
says, and in how a page is read, which each of them knows for itself.
"""

from collections.abc import Callable

from rescind.clock import to_us
from rescind.journal.codec import REVIEW_KINDS, target_digest
from rescind.journal.port import Query
from rescind.journal.rows import SPAN_SHIFT

Values = dict[str, str | int | bytes]
"""What a statement takes, by the names of its places."""

Place = Callable[[str], str]
"""How the place of the value with this name is written, such as `:run_id`."""

ENTRY_COLUMNS = "e.sequence, e.position, e.run_key, e.recorded_at_us, e.hash, e.body"

LATEST_US = 2**63 - 1

_RUN_FIELDS = ("run_id", "trace_id", "tenant", "agent_name", "agent_version")
_REVIEW = "e.kind IN ({})".format(", ".join(f"'{kind}'" for kind in REVIEW_KINDS))


def bounds(place: Place) -> str:
    """The statement for the sequences outside of which no entry with a span is in the time range.

    One row, of a table of one per 1,024 entries. It takes `since` and `until`.
    """
    return (
        f"SELECT coalesce(min(span), 0) << {SPAN_SHIFT}, (coalesce(max(span), -1) + 1 << {SPAN_SHIFT}) - 1"  # noqa: S608  # our own constants
        f" FROM spans WHERE last_at_us >= {place('since')} AND first_at_us < {place('until')}"
    )


def time_values(query: Query) -> Values | None:
    """The time range as microseconds, `since` and `until`; None if the query has none."""
    if query.since is None and query.until is None:
        return None
    return {
        "since": 0 if query.since is None else max(0, to_us(query.since)),
        "until": LATEST_US if query.until is None else max(0, to_us(query.until)),
    }


def run_conditions(query: Query, place: Place) -> tuple[list[str], Values]:
    """What is asked of the run; that of its id, if it is asked for, comes first."""
    values: Values = {}
    for name in _RUN_FIELDS:
        value: str | None = getattr(query, name)
        # A version without an agent narrows nothing.
        if value is not None and (name != "agent_version" or query.agent_name is not None):
            values[name] = value
    return [f"r.{name} = {place(name)}" for name in values], values


def entry_conditions(query: Query, place: Place) -> tuple[list[str], Values]:
    """What is asked of the entry itself."""
    conditions: list[str] = []
    values: Values = {}
    if query.target is not None:
        conditions.append(f"e.target = {place('target')}")
        values["target"] = target_digest(query.target)
    if query.reviews:
        conditions.append(_REVIEW)
    times = time_values(query)
    if times is not None:
        conditions.append(f"e.recorded_at_us >= {place('since')} AND e.recorded_at_us < {place('until')}")
        values |= times
    return conditions, values
