"""An undo with every compensation durable before and after it, in steps per second.

The same work in the same run: by a loop with two commits a step, written by hand on the same store, and by an engine
for durable workflows with one step for each compensation. All compensations do nothing; what is left is the recording.
The engine writes down how a step ended, and not that it is about to begin: one commit a step, and with it nobody knows
after a crash whether the step under way has happened.

Each round has ours and a reference next to each other, and what counts is the median of the rounds' ratios: the rate of
a disk that others use as well changes by half within seconds.
"""

import contextlib
import json
import logging
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from bench.form import Row, row, seconds_of
from bench.servers import a_cluster
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.decision import Plan
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.guard.guard import Guard
from rescind.journal.port import Draft, Journal
from rescind.journal.postgres import PostgresJournal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.action import EffectClass
from rescind.model.entry import Ended, Intended, RunOpened
from rescind.model.outcome import Completed
from rescind.model.step import RunInfo, Step
from rescind.switch.memory import MemoryOrders

STEPS, ENGINE_STEPS, ROUNDS = 320, 160, 7
"""Many short rounds rather than few long ones."""

BRANCHES, BATCH = 16, 1_000
SIZES = (1_000, 10_000, 100_000)
SIZE_ROUNDS = 3

LOOP = "against a loop by hand with two commits a step"
ENGINE = "against DBOS with one workflow a branch and one step a compensation, which is one commit"

Rate = Callable[[], float]


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="bench-undo-") as text, a_cluster() as server:
        folder, numbers = Path(text), iter(range(1_000_000))

        def fresh() -> Path:
            path = folder / str(next(numbers))
            path.mkdir()
            return path

        def on_sqlite(branches: int, steps: int = STEPS) -> Rate:
            return lambda: _ours(SqliteJournal(fresh() / "journal.db"), steps, branches)

        def on_postgres(branches: int, steps: int = STEPS) -> Rate:
            return lambda: _ours(PostgresJournal(server.new_database()), steps, branches)

        def engine_on_sqlite(branches: int) -> Rate:
            return lambda: _by_engine(f"sqlite:///{fresh()}/engine.db", branches)

        def engine_on_postgres(branches: int) -> Rate:
            return lambda: _by_engine(server.new_database().replace("postgresql:", "postgresql+psycopg:"), branches)

        by_hand = lambda: _by_hand_sqlite(fresh() / "hand.db")  # noqa: E731
        by_hand_pg = lambda: _by_hand_postgres(server.new_database())  # noqa: E731
        stores = (
            ("SQLite", on_sqlite, by_hand, engine_on_sqlite),
            ("PostgreSQL", on_postgres, by_hand_pg, engine_on_postgres),
        )
        rows: list[Row] = []
        for store, ours, loop, engine in stores:
            rows += [
                _row(f"{store}, 1 branch", ours(1), loop, 0.7, LOOP),
                _row(f"{store}, {BRANCHES} branches", ours(BRANCHES), loop, 1.5, LOOP),
                _row(f"{store}, engine, 1", ours(1), engine(1), None, f"1, {ENGINE}"),
                _row(
                    f"{store}, engine, {BRANCHES}",
                    ours(BRANCHES),
                    engine(BRANCHES),
                    3,
                    f"{BRANCHES} branches, {ENGINE}",
                ),
            ]
        return rows


def sizes() -> list[Row]:
    """Time and memory per step of undos of several sizes, each planned and applied in a process of its own."""
    found: dict[int, list[Sizes]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory(prefix="bench-sizes-") as text:
        for size in SIZES:
            journal = SqliteJournal(Path(text) / f"{size}.db")
            fill(journal, size, BRANCHES)
            journal.close()
        for turn in range(SIZE_ROUNDS):
            for size in SIZES:
                # A copy each time: after an undo there is nothing left to undo.
                path = Path(text) / f"{size}-{turn}.db"
                path.write_bytes((Path(text) / f"{size}.db").read_bytes())
                found[size].append(_in_a_process(path))
                path.unlink()
    rows: list[Row] = []
    small, *larger = SIZES
    for size in larger:
        ours = [each.apply_cpu_s / size * 1e6 for each in found[size]]
        reference = [each.apply_cpu_s / small * 1e6 for each in found[small]]
        clock = [statistics.median(each.apply_s / steps * 1e6 for each in found[steps]) for steps in (size, small)]
        rows.append(
            row(
                f"undo of {size:,}, time", ours=statistics.median(ours), reference=statistics.median(reference),
                unit="µs/step", target=1.3, n=SIZE_ROUNDS,
                note=f"{BRANCHES} branches, of the processor, against {small:,} steps; by the clock, with the disk, "
                f"{clock[0]:,.0f} against {clock[1]:,.0f}",
            )
        )  # fmt: skip
    large, medium = SIZES[-1], SIZES[-2]
    per_step = {size: statistics.median(each.undo_kb for each in found[size]) / size for size in (large, medium)}
    return [
        *rows,
        row(
            f"undo of {large:,}, memory", ours=per_step[large], reference=per_step[medium], unit="KB/step", target=1.3,
            n=SIZE_ROUNDS, note=f"the process's peak beyond what it had before planning; against {medium:,} steps",
        ),
    ]  # fmt: skip


class Sizes(msgspec.Struct, frozen=True):
    """What a process measured of itself: of applying, seconds by the clock and of the processor; of it all, memory."""

    apply_s: float
    apply_cpu_s: float
    undo_kb: int


def _in_a_process(path: Path) -> Sizes:
    command = [sys.executable, "-m", "bench.undo_durable", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    return msgspec.json.decode(done.stdout, type=Sizes)


def _of_this_process(path: Path) -> Sizes:
    journal = SqliteJournal(path)
    guard, _ = guard_over(journal)
    before = _peak_kb()
    plan = _plan(journal, guard)
    cpu_s = time.process_time()
    apply_s = seconds_of(lambda: _apply(plan, journal, guard, BRANCHES))
    cpu_s = time.process_time() - cpu_s
    journal.close()
    return Sizes(apply_s, cpu_s, _peak_kb() - before)


def _peak_kb() -> int:
    """Of this program alone: what `getrusage` says begins with what the process was forked from."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


# --- ours ---


def _ours(journal: Journal, steps: int, branches: int) -> float:
    fill(journal, steps, branches)
    guard, _ = guard_over(journal)
    plan = _plan(journal, guard)
    took_s = seconds_of(lambda: _apply(plan, journal, guard, branches))
    journal.close()
    return steps / took_s


def guard_over(journal: Journal) -> tuple[Guard, Any]:
    """A guard with one action, whose compensation does nothing."""
    guard = Guard.over(journal, MemoryOrders())

    @guard.write("pay")
    def pay(key: int) -> int:
        return key

    @pay.compensate(parallel=True)
    def pay_back(call: Any) -> None:
        pass

    return guard, pay


def fill(journal: Journal, steps: int, branches: int) -> None:
    """A run of so many steps that were made, in branches that do not wait for each other."""
    now_us = SystemClock().now_us()
    run = RunInfo(run_id="run", agent_name="bench", agent_version="1")
    batch = [Draft(run_id="run", event=RunOpened(run=run, guard_id="bench"), recorded_at_us=now_us)]
    for number in range(steps):
        step = Step(
            step_id=str(number),
            action="pay",
            effect_class=EffectClass.COMPENSATABLE,
            requested={"key": number},
            causal_parents=(str(number - branches),) if number >= branches else (),
            idempotency_key=f"run/{number}",
        )
        ended = Ended(step_id=step.step_id, outcome=Completed(number))
        batch += [Draft(run_id="run", event=event, recorded_at_us=now_us) for event in (Intended(step), ended)]
        if len(batch) >= BATCH:
            journal.append(batch)
            batch = []
    if batch:
        journal.append(batch)


def _plan(journal: Journal, guard: Guard) -> Plan:
    return make_plan(journal, Selection(run_ids=("run",)), guard.compensators, SystemClock())


def _apply(plan: Plan, journal: Journal, guard: Guard, parallel: int) -> None:
    clock = SystemClock()
    result = apply_plan(plan, journal, guard.compensators, clock, SystemIds(), actor="bench", parallel=parallel)
    assert result.counts == {"compensated": len(plan.items)}, result.counts


# --- by hand ---


def _by_hand_sqlite(path: Path) -> float:
    store = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE e (body TEXT)"):
        store.execute(statement)
    with contextlib.closing(store):
        return _loop(lambda body: store.execute("INSERT INTO e VALUES (?)", (body,)))


def _by_hand_postgres(url: str) -> float:
    with psycopg.connect(url, autocommit=True) as store:
        store.execute("CREATE TABLE e (body TEXT)")
        return _loop(lambda body: store.execute("INSERT INTO e VALUES (%s)", (body,)))


def _loop(commit: Callable[[str], object]) -> float:
    def loop() -> None:
        for number in range(STEPS):
            for word in ("intended", "ended"):
                commit(json.dumps({"step": number, "what": word}))

    return STEPS / seconds_of(loop)


# --- by an engine ---


def _by_engine(url: str, branches: int) -> float:
    """One workflow for each branch, and in it one step for each compensation."""
    from dbos import DBOS

    logging.getLogger("dbos").setLevel(logging.ERROR)
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as store:
            store.execute("PRAGMA journal_mode = WAL")  # as is best for it
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "log_level": "ERROR",
            "enable_otlp": False,
            "notification_listener_polling_interval_sec": 0.2,  # nobody sends anything; ending it waits for so long
        }
    )
    try:

        @DBOS.step()
        def pay_back(number: int) -> None:
            pass

        @DBOS.workflow()
        def undo(first: int) -> None:
            for number in range(first, ENGINE_STEPS, branches):
                pay_back(number)

        def undo_all() -> None:
            branches_under_way = [DBOS.start_workflow(undo, first) for first in range(branches)]
            for each in branches_under_way:
                each.get_result()

        DBOS.launch()
        return ENGINE_STEPS / seconds_of(undo_all)
    finally:
        DBOS.destroy(destroy_registry=True)


# --- rows ---


def _row(name: str, ours: Rate, reference: Rate, at_least: float | None, note: str) -> Row:
    ours(), reference()
    pairs = [_pair(ours, reference, ours_first=number % 2 == 0) for number in range(ROUNDS)]
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    target = None if at_least is None else 1 / at_least
    wanted = "" if at_least is None else f"; at least {at_least} of its rate"
    made = row(
        f"durable, {name}", ours=statistics.median(mine for mine, _ in pairs),
        reference=statistics.median(theirs for _, theirs in pairs), unit="steps/s", target=target, n=ROUNDS,
        note=f"{note}{wanted}; ratios of the rounds: {ratios[0]:.2f} to {ratios[-1]:.2f}", higher_is_better=True,
    )  # fmt: skip
    ratio = statistics.median(ratios)
    return msgspec.structs.replace(made, ratio=ratio, met=None if target is None else ratio <= target)


def _pair(ours: Rate, reference: Rate, *, ours_first: bool) -> tuple[float, float]:
    """Both in turn, in this order or that: what follows a long write finds the disk busy."""
    if ours_first:
        mine = ours()
        return mine, reference()
    theirs = reference()
    return ours(), theirs


if __name__ == "__main__":
    print(msgspec.json.encode(_of_this_process(Path(sys.argv[1]))).decode())
