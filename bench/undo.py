"""Undo in memory, 10,000 steps against 1,000; and on disk, against a loop by hand with two commits a step."""

import json
import sqlite3
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.form import Row, interleaved, row, seconds_of
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.effects import MappingKey
from rescind.compensation.execute import apply_plan
from rescind.compensation.selection import Selection
from rescind.compensation.survey import make_plan
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.sqlite import SqliteJournal
from rescind.switch.memory import MemoryOrders

LARGE, SMALL = 10_000, 1_000
ROUNDS = 3

DURABLE_STEPS, DURABLE_ROUNDS, BRANCHES = 960, 7, 16
"""A disk has good and bad seconds: many short rounds in turn, rather than few long ones."""


def measure() -> list[Row]:
    ours, reference = interleaved(
        lambda: seconds_of(_undo(LARGE)[0]) * 1000, lambda: seconds_of(_undo(SMALL)[0]) * 1000, rounds=ROUNDS
    )
    large, small = _peak_bytes(LARGE), _peak_bytes(SMALL)
    note = f"undo of {LARGE:,} steps on an in-memory store against {SMALL:,}; linear is 10"
    return [
        row("undo, time", ours=ours, reference=reference, unit="ms", target=11, n=ROUNDS, note=note),
        row(
            "undo, memory", ours=large, reference=small, unit="KB", target=11, n=1,
            note=f"peak beyond the journal, {large / LARGE:.1f} KB a step",
        ),
    ]  # fmt: skip


def durable() -> list[Row]:
    """Every compensation durable before and after it, in steps per second."""
    rows: list[Row] = []
    for branches, at_least in ((1, 0.7), (BRANCHES, 1.5)):
        ours, by_hand = interleaved(
            lambda branches=branches: _steps_per_s(branches), _steps_per_s_by_hand, rounds=DURABLE_ROUNDS
        )
        name = f"undo, durable, {branches} branch{'es' if branches > 1 else ''}"
        note = f"against a loop with two commits a step on SQLite, WAL, FULL; at least {at_least} of its rate"
        rows.append(
            row(
                name, ours=ours, reference=by_hand, unit="steps/s", target=1 / at_least, n=DURABLE_ROUNDS, note=note,
                higher_is_better=True,
            )
        )  # fmt: skip
    return rows


def _steps_per_s(branches: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder, "journal.db"))
        guard = Guard.over(journal, MemoryOrders())

        @guard.write("pay")
        def pay(key: int) -> int:
            return key

        @pay.compensate(parallel=True)
        def pay_back(call: Any) -> None:
            pass

        with guard.run("bench@1") as run:
            for _ in range(branches):
                with run.branch():
                    for number in range(DURABLE_STEPS // branches):
                        pay(number)
        clock = SystemClock()
        plan = make_plan(journal, Selection(run_ids=(run.run_id,)), guard.compensators, clock)

        def apply() -> None:
            result = apply_plan(plan, journal, guard.compensators, clock, SystemIds(), actor="bench", parallel=branches)
            assert result.counts == {"compensated": DURABLE_STEPS}, result.counts

        took_s = seconds_of(apply)
        journal.close()
        return DURABLE_STEPS / took_s


def _steps_per_s_by_hand() -> float:
    with tempfile.TemporaryDirectory() as folder:
        store = sqlite3.connect(Path(folder, "hand.db"), isolation_level=None)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE e (body TEXT)"):
            store.execute(statement)

        def loop() -> None:
            for number in range(DURABLE_STEPS):
                for word in ("intended", "ended"):
                    store.execute("INSERT INTO e VALUES (?)", (json.dumps({"step": number, "what": word}),))

        took_s = seconds_of(loop)
        store.close()
        return DURABLE_STEPS / took_s


def _undo(steps: int) -> tuple[Callable[[], None], dict[str, int]]:
    """A world with that many writes in it, and what undoes them."""
    store: dict[str, int] = {}
    guard = Guard.over(MemoryJournal(), MemoryOrders())

    @guard.write("key.set", effect=MappingKey(store, key=lambda key: key))
    def put(key: str, value: int) -> None:
        store[key] = value

    with guard.run("bench@1") as run:
        for number in range(steps):
            with run.branch():
                put(f"key-{number}", number)

    def undo() -> None:
        clock = SystemClock()
        plan = make_plan(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, clock)
        apply_plan(plan, guard.journal, guard.compensators, clock, SystemIds(), actor="bench", reason="bench")
        assert not store, len(store)

    return undo, store


def _peak_bytes(steps: int) -> float:
    undo, _ = _undo(steps)
    tracemalloc.start()
    undo()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1000
