"""The journal as JSON lines: export, and import of the compact form, which is all or nothing."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from rescind.clock import Clock, SystemClock
from rescind.errors import UsageError
from rescind.journal.pages import every_entry
from rescind.journal.port import Draft, Journal, Query
from rescind.model.compact import ImportedStep, export_compact, import_compact, parse_compact
from rescind.model.entry import Ended, Event, Intended, RunClosed, RunOpened
from rescind.model.history import fold_steps
from rescind.model.step import RunInfo
from rescind.recovery.reading import every_run

IMPORTER = "import"
"""What stands as the guard of imported runs. No process has this name, so such a run is never live."""

STEPS_MAX = 100_000
"""Steps per import: all are appended together, so all are in memory at once, some 2 kB each."""


def export_steps(journal: Journal, run_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every step of the runs in compact form, run by run and in order of intent; of all runs if none is named.

    Raises: UsageError for a run that the journal has not heard of, before anything is yielded of it.
    """
    for run_id in _known_runs(journal, run_ids):
        for record in fold_steps(every_entry(journal, Query(run_id=run_id))):
            yield msgspec.to_builtins(export_compact(record))


def export_entries(journal: Journal, run_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Every entry as it is stored: in order of sequence, or run by run if runs are named."""
    named = tuple(run_ids)
    queries = [Query(run_id=run_id) for run_id in _known_runs(journal, named)] if named else [Query()]
    for query in queries:
        for entry in every_entry(journal, query):
            yield msgspec.to_builtins(entry)


def import_steps(journal: Journal, lines: Iterable[bytes], *, clock: Clock | None = None) -> tuple[int, int]:
    """Append every line's step in one append: all of them, or none.

    Returns: How many runs and how many steps there were.
    Raises: UsageError, which names the line, for a line that cannot be read, contradicts an earlier one or the journal,
        or repeats a step.
    """
    steps: dict[str, dict[str, ImportedStep]] = {}
    count = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            count += 1
            if count > STEPS_MAX:
                raise UsageError(f"line {number}: an import takes {STEPS_MAX:,} steps; split the file between two runs")
            _add(steps, journal, number, line)
    if not steps:
        raise UsageError("there is no step to import; give one compact JSON object per line")
    now_us = (clock or SystemClock()).now_us()
    drafts = [
        # Expecting a position keeps out what another process may have opened since the lines were checked.
        Draft(run_id=run_id, event=event, recorded_at_us=now_us, expected_position=position)
        for run_id, of_run in steps.items()
        for position, event in enumerate(_events(list(of_run.values())))
    ]
    journal.append(drafts)
    return len(steps), count


def _add(steps: dict[str, dict[str, ImportedStep]], journal: Journal, number: int, line: bytes) -> None:
    try:
        imported = import_compact(parse_compact(line))
    except ValueError as error:
        raise UsageError(f"line {number}: {error}. Nothing was imported") from error
    run, step_id = imported.run, imported.step.step_id
    if run.run_id not in steps:
        _refuse_known_run(journal, number, run)
    of_run = steps.setdefault(run.run_id, {})
    if step_id in of_run:
        raise UsageError(f"line {number}: step {run.run_id}/{step_id} stands on an earlier line. Nothing was imported")
    earlier = next(iter(of_run.values()), imported).run
    if earlier != run:
        raise UsageError(
            f"line {number}: run {run.run_id} is of {run.agent} here and of {earlier.agent} on an earlier line. "
            "Nothing was imported"
        )
    of_run[step_id] = imported


def _refuse_known_run(journal: Journal, number: int, run: RunInfo) -> None:
    # A run is imported whole. Adding to one would let an import rewrite what happened before and after what.
    if journal.run(run.run_id) is not None:
        raise UsageError(f"line {number}: the journal has a run {run.run_id} already. Nothing was imported")


def _events(steps: list[ImportedStep]) -> Iterator[Event]:
    yield RunOpened(run=steps[0].run, guard_id=IMPORTER)
    for imported in steps:
        yield Intended(imported.step)
        if imported.outcome is not None:
            yield Ended(step_id=imported.step.step_id, outcome=imported.outcome, after=imported.after)
    yield RunClosed(guard_id=IMPORTER, how="ended", detail="imported")


def _known_runs(journal: Journal, run_ids: Iterable[str]) -> Iterator[str]:
    named = tuple(run_ids)
    for run_id in named:
        if journal.run(run_id) is None:
            raise UsageError(f"the journal has no run {run_id!r}; `rescind audit log` lists what it has")
        yield run_id
    if not named:
        for run in every_run(journal, Query()):
            yield run.run_id
