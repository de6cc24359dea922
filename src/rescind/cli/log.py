"""`rescind audit log`: the journal for people, one line per entry."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

import click
import msgspec

from rescind.cli.moments import clock_zone, parse_moment, time_of_day
from rescind.cli.narrative import tell
from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stores import find_store, journal_of
from rescind.errors import UsageError
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import Entry
from rescind.model.step import Target, parse_agent

LIMIT = 200
"""Entries shown unless asked for more: some screens, and an answer within a moment on any journal."""


@click.command()
@click.option("--run", "run_id", metavar="ID", help="Only this run.")
@click.option("--trace", "trace_id", metavar="ID", help="Only this trace.")
@click.option("--agent", metavar="NAME[@VERSION]", help="Only this agent.")
@click.option("--tenant", metavar="NAME", help="Only this tenant.")
@click.option("--target", metavar="SYSTEM/KIND/ID", help="Only steps on this target.")
@click.option("--since", metavar="TIME", help="From this moment on.")
@click.option("--until", metavar="TIME", help="Before this moment.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, metavar="N", help="Entries at most."
)
@common
def log(*, limit: int, out: Out, **conditions: str | None) -> int:
    """List entries, oldest first, for people.

    TIME is like 2026-11-21T06:00:00Z, or 06:00 for today by this machine's clock.
    """
    with journal_of(find_store(given_store())) as journal:
        found = list(islice(every_entry(journal, query_of(**conditions)), limit + 1))
    shown, more = found[:limit], len(found) > limit
    if out.json:
        out.emit({"entries": [msgspec.to_builtins(entry) for entry in shown], "more": more})
        return 0
    for line in _lines(shown):
        out.say(line)
    if not shown:
        out.note("no entry matches")
    elif more:
        out.note(f"there are more; --limit {10 * limit} shows more, --since and --run show less")
    return 0


def query_of(
    *,
    run_id: str | None,
    trace_id: str | None,
    agent: str | None,
    tenant: str | None,
    target: str | None,
    since: str | None,
    until: str | None,
) -> Query:
    """The query that the options make. Raises: UsageError, which names the option that cannot be read."""
    try:
        name, version = parse_agent(agent) if agent is not None else (None, None)
        named_target = Target.parse(target) if target is not None else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Query(
        run_id=run_id,
        trace_id=trace_id,
        tenant=tenant,
        agent_name=name,
        agent_version=version or None,
        target=named_target,
        since=_moment("--since", since),
        until=_moment("--until", until),
    )


def _moment(option: str, text: str | None) -> datetime | None:
    return None if text is None else parse_moment(text, option=option)


def _lines(entries: list[Entry]) -> Iterator[str]:
    # The run stands above its entries and not beside them: that leaves the line to what happened.
    run_id, day = None, ""
    for entry in entries:
        date, _, moment = time_of_day(entry.recorded_at).partition(" ")
        if (entry.run.run_id, date) != (run_id, day):
            run_id, day = entry.run.run_id, date
            yield f"{date} {clock_zone(entry.recorded_at)}  {safe(entry.run.run_id)}  {safe(entry.run.agent)}"
        yield f"{entry.sequence:>8}  {moment}  {tell(entry)}"
