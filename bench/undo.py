"""Undo in memory, 10,000 steps against 1,000: planned and applied. What it costs on disk is measured in `undo_durable`.

In seconds of the processor: nothing here waits for anything, and other programs are not to be measured.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable

from bench.form import Row, interleaved, row
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.effects import MappingKey
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.switch.memory import MemoryOrders

LARGE, SMALL = 10_000, 1_000
ROUNDS = 7


def measure() -> list[Row]:
    ours, reference = interleaved(
        lambda: _cpu_s_of(_undo(LARGE)[0]) * 1000, lambda: _cpu_s_of(_undo(SMALL)[0]) * 1000, rounds=ROUNDS
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


def _cpu_s_of(work: Callable[[], None]) -> float:
    gc.collect()  # the worlds of earlier rounds, which are no part of this one's time
    began = time.process_time()
    work()
    return time.process_time() - began


def _peak_bytes(steps: int) -> float:
    undo, _ = _undo(steps)
    tracemalloc.start()
    undo()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1000
