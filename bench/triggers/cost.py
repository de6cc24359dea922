"""What detectors cost in the guard: time per step, memory per idle run, and ten thousand runs in one process."""

import contextlib
import contextvars
import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator

from bench.form import Row, row
from rescind.guard.guard import Guard
from rescind.guard.run import Run
from rescind.journal.memory import MemoryJournal
from rescind.model.signal import Finding
from rescind.switch.memory import MemoryOrders
from rescind.triggers.engine import RunWatch
from rescind.triggers.facts import Call, End
from rescind.triggers.policy_file import PolicyFile

STEP_US_MAX = 10.0
IDLE_BYTES_MAX = 4 * 1024
RUNS = 10_000
STEPS = 3_000
RUN_STEPS = 100
ROUNDS = 7


def a_guard(*, watched: bool) -> tuple[Guard, Callable[[str], None], Callable[[str], str]]:
    """A guard under the default policy, or under none; with a write and a read."""
    policy = PolicyFile(None) if watched else None
    guard = Guard.over(MemoryJournal(), MemoryOrders(), policy=policy)

    @guard.write("invoice.update", target=lambda invoice: ("erp", "invoice", invoice), irreversible="a benchmark")
    def update(invoice: str) -> None:
        return None

    @guard.read("invoice.get")
    def get(invoice: str) -> str:
        return invoice

    return guard, update, get


def step_us(*, writes: bool, watched: bool) -> float:
    """Median of one call, in µs. In runs that stay within their limits: a refusal is another path."""
    guard, update, get = a_guard(watched=watched)
    tool: Callable[[str], object] = update if writes else get
    taken: list[int] = []
    for _ in range(STEPS // RUN_STEPS):
        with guard.run("biller@1", tenant="acme", workflow="billing") as run:
            assert (run.watch is not None) == watched
            for number in range(RUN_STEPS):
                name = f"inv_{number % 40}"
                began = time.perf_counter_ns()
                tool(name)
                taken.append(time.perf_counter_ns() - began)
    guard.close()
    return statistics.median(taken) / 1000


class Timed(RunWatch):
    """A run's watch that notes how long its detectors take, while the whole guard works around them."""

    __slots__ = ("asked_ns", "ended_ns")

    def __init__(self, watch: RunWatch) -> None:
        super().__init__(watch._engine, watch._run)  # what a guard made, timed
        self.asked_ns: list[int] = []
        self.ended_ns: list[int] = []

    def asked(self, call: Call) -> tuple[Finding, ...]:
        began = time.perf_counter_ns()
        found = super().asked(call)
        self.asked_ns.append(time.perf_counter_ns() - began)
        return found

    def ended(self, end: End) -> tuple[Finding, ...]:
        began = time.perf_counter_ns()
        found = super().ended(end)
        self.ended_ns.append(time.perf_counter_ns() - began)
        return found


def detectors_us(*, writes: bool) -> float:
    """Median of what all detectors take of a guarded call, asked and ended, in the midst of the guard's own work."""
    guard, update, get = a_guard(watched=True)
    tool: Callable[[str], object] = update if writes else get
    taken: list[int] = []
    for _ in range(STEPS // RUN_STEPS):
        with guard.run("biller@1", tenant="acme", workflow="billing") as run:
            assert run.watch is not None
            run.watch = timed = Timed(run.watch)
            for number in range(RUN_STEPS):
                tool(f"inv_{number % 40}")
            taken += [asked + ended for asked, ended in zip(timed.asked_ns, timed.ended_ns, strict=True)]
    guard.close()
    return statistics.median(taken) / 1000


def added_us(*, writes: bool) -> float:
    """What the policy adds to a step: with and without it in turns, so that a drift of the machine hits both."""
    differences = [step_us(writes=writes, watched=True) - step_us(writes=writes, watched=False) for _ in range(ROUNDS)]
    return statistics.median(differences)


@contextlib.contextmanager
def open_runs(guard: Guard) -> Iterator[list[Run]]:
    """Ten thousand runs, none of which is another one's child: each is entered in a context of its own."""
    runs = [guard.run("biller@1", tenant=f"t{number % 100}") for number in range(RUNS)]
    for run in runs:
        contextvars.copy_context().run(run.__enter__)
    try:
        yield runs
    finally:
        for run in runs:
            run.__exit__(None, None, None)


def idle_bytes(*, watched: bool) -> float:
    """Bytes of an open run that has made one read and waits."""
    guard, _, get = a_guard(watched=watched)
    gc.collect()
    tracemalloc.start()
    with open_runs(guard) as runs:
        for run in runs:
            with run.activate():
                get("inv")
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    guard.close()
    return used / RUNS


def crowd_us() -> float:
    """Median of a read while ten thousand runs are open, taken through all of them in turn."""
    guard, _, get = a_guard(watched=True)
    taken: list[int] = []
    with open_runs(guard) as runs:
        for run in runs:
            with run.activate():
                get("inv")
                began = time.perf_counter_ns()
                get("inv")
                taken.append(time.perf_counter_ns() - began)
    guard.close()
    return statistics.median(taken) / 1000


def measure() -> list[Row]:
    """The rows of this part."""
    write_us, read_us = detectors_us(writes=True), detectors_us(writes=False)
    added_write_us, added_read_us = added_us(writes=True), added_us(writes=False)
    idle = idle_bytes(watched=True) - idle_bytes(watched=False)
    alone_us, among_us = step_us(writes=False, watched=True), crowd_us()
    return [
        row(
            "all detectors, a write",
            ours=write_us,
            reference=STEP_US_MAX,
            unit="µs",
            target=1.0,
            n=STEPS,
            note="every detector of the default policy, asked and ended, timed within the guard while it works",
        ),
        row("all detectors, a read", ours=read_us, reference=STEP_US_MAX, unit="µs", target=1.0, n=STEPS),
        row(
            "a policy, a write",
            ours=added_write_us,
            reference=step_us(writes=True, watched=False),
            unit="µs",
            target=None,
            n=STEPS * ROUNDS,
            note="all that a policy adds to a guarded write in memory, with facts and results; against that write",
        ),
        row(
            "a policy, a read",
            ours=added_read_us,
            reference=step_us(writes=False, watched=False),
            unit="µs",
            target=None,
            n=STEPS * ROUNDS,
        ),
        row(
            "memory per idle run",
            ours=idle / 1024,
            reference=IDLE_BYTES_MAX / 1024,
            unit="KiB",
            target=1.0,
            n=RUNS,
            note="what the detectors hold of a run that has made a call and waits",
        ),
        row(
            f"a read among {RUNS:,} open runs",
            ours=among_us,
            reference=alone_us,
            unit="µs",
            target=None,
            n=RUNS,
            note="the whole guarded call, against one run alone; all in one process",
        ),
    ]
