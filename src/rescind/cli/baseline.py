"""`rescind baseline`: learn from a journal what the healthy runs of an agent look like."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rescind.cli.log import query_of
from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stores import find_store, journal_of
from rescind.cli.words import count_of, list_of
from rescind.errors import UsageError
from rescind.journal.pages import every_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rescind.journal.port import Journal, Query
    from rescind.model.entry import Entry
    from rescind.model.step import RunInfo
    from rescind.triggers.baseline import Baseline
    from rescind.triggers.facts import Call, End


@click.group()
def baseline() -> None:
    """Learn what healthy runs look like, so that others stand out."""


@baseline.command(short_help="Learn from the runs in the journal.")
@click.option(
    "--out", "file", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where to write it."
)
@click.option("--add", is_flag=True, help="Add to what FILE holds.")
@click.option("--replace", is_flag=True, help="Replace FILE.")
@click.option("--agent", metavar="NAME[@VERSION]", help="Only this agent.")
@click.option("--tenant", metavar="NAME", help="Only this tenant.")
@click.option("--since", metavar="TIME", help="From this moment on.")
@click.option("--until", metavar="TIME", help="Before this moment.")
@click.option("--without", multiple=True, metavar="RUN", help="Not this run; may be repeated.")
@click.option("--with", "despite", multiple=True, metavar="RUN", help="This run, whatever was said of it.")
@common
def learn(
    *,
    file: Path,
    add: bool,
    replace: bool,
    agent: str | None,
    tenant: str | None,
    since: str | None,
    until: str | None,
    without: tuple[str, ...],
    despite: tuple[str, ...],
    out: Out,
) -> int:
    """Learn from the runs in the journal, and write what was learned to FILE.

    Runs that were halted, contained, undone or found wrong are left out. That the others were healthy is for you to
    say: what a rogue run did in there will not be noticed again. FILE holds keyed hashes and no arguments.

    TIME is like 2026-11-21T06:00:00Z, or 06:00 for today by this machine's clock.
    """
    from rescind.triggers.baseline import save

    known = _known(file, add=add, replace=replace)
    query = query_of(run_id=None, trace_id=None, agent=agent, tenant=tenant, target=None, since=since, until=until)
    with journal_of(find_store(given_store())) as journal:
        learned, left_out = _learn(journal, query, known, without=set(without), despite=set(despite))
    if not learned.agents:
        raise UsageError("there is no healthy run to learn from; name another time, or runs to take after all (--with)")
    save(learned, file)
    for name, sketches in learned.agents.items():
        workflows = {sketch.workflow for sketch in sketches} - {""}
        what = f", {count_of(len(workflows), 'workflow')}" if workflows else ""
        out.say(f"{safe(name)}: {count_of(len(sketches), 'run')}{what}")
    if left_out:
        out.say(f"left out: {list_of(sorted(left_out))}")
    out.say(f"written to {safe(file)}")
    runs = {name: len(sketches) for name, sketches in learned.agents.items()}
    out.emit({"file": str(file), "runs": runs, "left_out": sorted(left_out)})
    return 0


def _known(file: Path, *, add: bool, replace: bool) -> "Baseline | None":
    """What is to be added to; None for nothing. Raises: UsageError, if it is not clear what becomes of the file."""
    from rescind.triggers.baseline import load

    if add and replace:
        raise UsageError("--add and --replace contradict each other; give one of them")
    if add:
        return load(file)
    if file.exists() and not replace:
        raise UsageError(f"{file} exists; give --add to add to it, or --replace to learn anew")
    return None


def _learn(
    journal: "Journal", query: "Query", known: "Baseline | None", *, without: set[str], despite: set[str]
) -> tuple["Baseline", set[str]]:
    """What was learned, with what was known before, and the runs that were left out though they did something."""
    from rescind.journal.port import Query
    from rescind.triggers.baseline import learn as learn_from
    from rescind.triggers.healthy import doubtful_runs

    # Whatever was found out of a run, before or after the time that is learned from, is held against it.
    doubtful = (doubtful_runs(every_entry(journal, Query())) | without) - despite
    left_out: set[str] = set()

    def healthy() -> "Iterator[RunInfo | Call | End]":
        for fact in _facts_of(every_entry(journal, query)):
            run_id = _run_of(fact).run_id
            if run_id in doubtful:
                left_out.add(run_id)
            else:
                yield fact

    learned = learn_from(healthy(), key=known.key if known is not None else secrets.token_bytes(16))
    return (learned if known is None else known.merge(learned)), left_out


def _facts_of(entries: "Iterable[Entry]") -> "Iterator[RunInfo | Call | End]":
    """The calls of a journal and their ends, and each run's beginning: one that only reads has nothing else in it."""
    from rescind.cli.judging import VERDICT_AGENT
    from rescind.compensation.execution.reconcile import RECONCILE_AGENT
    from rescind.compensation.sharing.requests import REQUEST_AGENT
    from rescind.containment.incident import INCIDENT_AGENT
    from rescind.guard.held import HELD_AGENT
    from rescind.model.approval import APPROVAL_AGENT
    from rescind.model.entry import RunOpened
    from rescind.recovery.control import UNDO_AGENT
    from rescind.triggers.recorded import calls_of

    ours = {UNDO_AGENT, INCIDENT_AGENT, APPROVAL_AGENT, VERDICT_AGENT, HELD_AGENT, RECONCILE_AGENT, REQUEST_AGENT}
    opened: list[RunInfo] = []

    def noting() -> "Iterator[Entry]":
        for entry in entries:
            if isinstance(entry.event, RunOpened) and entry.run.agent_name not in ours:
                opened.append(entry.run)
            yield entry

    for fact in calls_of(noting()):
        yield from opened
        opened.clear()
        yield fact
    yield from opened


def _run_of(fact: "RunInfo | Call | End") -> "RunInfo":
    from rescind.triggers.facts import Call, End

    if isinstance(fact, End):
        return fact.call.run
    return fact.run if isinstance(fact, Call) else fact
