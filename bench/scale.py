"""A journal of a million entries: looking things up in it, and planning from it, against one of ten thousand."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.form import Row, interleaved, row, seconds_of
from rescind.clock import SystemClock
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.guard.guard import Guard
from rescind.journal.port import Draft, Query
from rescind.journal.sqlite import SqliteJournal
from rescind.model.action import EffectClass
from rescind.model.entry import Ended, Intended, RunOpened
from rescind.model.outcome import Completed
from rescind.model.step import RunInfo, Step, Target
from rescind.switch.memory import MemoryOrders

LARGE, SMALL = 1_000_000, 10_000
TRACE_ENTRIES = 50
PLAN_STEPS = 500
BATCH = 1_000
ROUNDS = 15
NOW_US = SystemClock().now_us()


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        journals: list[SqliteJournal] = []
        seconds: list[float] = []
        for entries in (LARGE, SMALL):
            journal = SqliteJournal(Path(folder) / f"{entries}.db")
            seconds.append(seconds_of(lambda journal=journal, entries=entries: _fill(journal, entries)))  # type: ignore[misc]
            journals.append(journal)
        large, small = journals
        lookup = interleaved(lambda: _lookup(large), lambda: _lookup(small), rounds=ROUNDS)
        plan = interleaved(lambda: _plan(large), lambda: _plan(small), rounds=ROUNDS)
        for journal in journals:
            journal.close()
    note = f"{LARGE:,} entries against {SMALL:,}; filled at {LARGE / seconds[0]:,.0f} entries/s"
    found = f"trace of {TRACE_ENTRIES} entries"
    planned = f"plan of {PLAN_STEPS} steps"
    return [
        row(found, ours=lookup[0], reference=lookup[1], unit="ms", target=3, n=ROUNDS, note=note),
        row(planned, ours=plan[0], reference=plan[1], unit="ms", target=3, n=ROUNDS, note=note),
    ]


def _fill(journal: SqliteJournal, entries: int) -> None:
    """Runs of 24 steps, with one run of 500 steps and one trace of 50 entries in the middle of them."""
    batch: list[Draft] = []
    for draft in _drafts(entries):
        batch.append(draft)
        if len(batch) == BATCH:
            journal.append(batch)
            batch = []
    if batch:
        journal.append(batch)


def _drafts(entries: int) -> Iterator[Draft]:
    ordinary = (entries - TRACE_ENTRIES - 2 * PLAN_STEPS) // 49
    for number in range(ordinary):
        if number == ordinary // 2:
            yield from _run("run-trace", "trace-wanted", (TRACE_ENTRIES - 1) // 2 + 1)
            yield from _run("run-plan", "trace-plan", PLAN_STEPS)
        yield from _run(f"run-{number}", f"trace-{number}", 24)


def _run(run_id: str, trace_id: str, steps: int) -> Iterator[Draft]:
    run = RunInfo(run_id=run_id, agent_name="agent", agent_version="1", tenant="acme", trace_id=trace_id)
    yield Draft(run_id=run_id, event=RunOpened(run=run, guard_id="guard"), recorded_at_us=NOW_US)
    for number in range(steps):
        step = Step(
            step_id=str(number),
            action="balance.add",
            effect_class=EffectClass.COMPENSATABLE,
            requested={"account": f"account-{number}", "cents": number},
            target=Target("books", "account", f"{run_id}-{number}"),
            idempotency_key=f"{run_id}/{number}",
        )
        yield Draft(run_id=run_id, event=Intended(step), recorded_at_us=NOW_US)
        yield Draft(run_id=run_id, event=Ended(step_id=str(number), outcome=Completed(number)), recorded_at_us=NOW_US)


def _lookup(journal: SqliteJournal) -> float:
    def look() -> None:
        found = journal.entries(Query(trace_id="trace-wanted"), limit=TRACE_ENTRIES)
        assert len(found) == TRACE_ENTRIES, len(found)

    return seconds_of(look) * 1000


def _plan(journal: SqliteJournal) -> float:
    guard = Guard.over(journal, MemoryOrders())

    @guard.write("balance.add")
    def add(account: str, cents: int) -> int:
        return cents

    @add.compensate
    def _(step: object) -> None: ...

    def plan() -> None:
        made = make_plan(journal, Selection(run_ids=("run-plan",)), guard.compensators, SystemClock())
        assert len(made.items) == PLAN_STEPS, len(made.items)

    return seconds_of(plan) * 1000
