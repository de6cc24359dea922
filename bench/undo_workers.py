"""Two workers on PostgreSQL against one, undoing the same steps, each of which waits 5 ms for somebody else's system.

All workers are `rescind worker` processes. One store has one of them and another store has two, on the same cluster;
each round leaves the same undo to both stores, one after the other. What counts is the time from the submission to the
end of the plan, by the plan's own entries.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.form import Row, interleaved, row
from bench.servers import a_cluster
from rescind.clock import SystemClock
from rescind.journal.pages import every_entry
from rescind.journal.port import Appended, Draft, Query
from rescind.journal.postgres import PostgresJournal
from rescind.model.action import EffectClass
from rescind.model.entry import Ended, Event, Intended, PlanFinished, PlanSubmitted, RunOpened
from rescind.model.outcome import Completed
from rescind.model.step import RunInfo, Step

RUNS, STEPS_EACH = 16, 64
ROUNDS = 3
AT_ONCE = (1, 8)
"""Steps under way in each worker at once; 8 by default."""

COMPENSATION_S = 0.005
RESCIND = (sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())")
TOOLS = f"""
import os, time
import rescind

guard = rescind.Guard.at(os.environ["RESCIND_STORE"])

@guard.write("pay")
def pay(number: int) -> int:
    return number

@pay.compensate(idempotent=True, parallel=True)
def _(step):
    time.sleep({COMPENSATION_S})
"""


def measure() -> list[Row]:
    with (
        tempfile.TemporaryDirectory(prefix="bench-workers-") as text,
        a_cluster() as server,
        _store(server.new_database(), Path(text, "one"), workers=1) as one,
        _store(server.new_database(), Path(text, "two"), workers=2) as two,
    ):
        return [_row(at_once, one, two) for at_once in AT_ONCE]


def _row(at_once: int, one: Callable[[int], float], two: Callable[[int], float]) -> Row:
    ours, reference = interleaved(lambda: two(at_once), lambda: one(at_once), rounds=ROUNDS)
    return row(
        f"two workers, {at_once} at once", ours=ours, reference=reference, unit="steps/s",
        target=1 / 1.6 if at_once == 1 else None, n=ROUNDS, higher_is_better=True,
        note=f"PostgreSQL, {RUNS} runs of {STEPS_EACH} steps, compensations of {COMPENSATION_S * 1000:.0f} ms, "
        f"{at_once} of them at once in each worker; against one worker",
    )  # fmt: skip


@contextmanager
def _store(url: str, folder: Path, *, workers: int) -> Iterator[Callable[[int], float]]:
    """A store and its workers. Yields what makes some runs, has them undone so many at once, and says the rate."""
    folder.mkdir()
    (folder / "bench_tools.py").write_text(TOOLS)
    variables = {"RESCIND_STORE": url, "NO_COLOR": "1", "PYTHONPATH": str(folder)}
    journal = PostgresJournal(url)
    with ExitStack() as stack:
        stack.callback(journal.close)
        for _ in range(workers):
            stack.enter_context(_worker(folder, variables))
        rounds = iter(range(1_000))

        def undo(at_once: int) -> float:
            trace = f"trace-{next(rounds)}"
            since = _fill(journal, trace)
            command = ["undo", "--trace", trace, "--app", "bench_tools", "--apply", "--workers"]
            _rescind(folder, variables, *command, "--parallel", str(at_once))
            entries = list(every_entry(journal, Query(), after=since))
            begun = next(each.recorded_at for each in entries if isinstance(each.event, PlanSubmitted))
            ended = next(each.recorded_at for each in entries if isinstance(each.event, PlanFinished))
            return RUNS * STEPS_EACH / (ended - begun).total_seconds()

        yield undo


@contextmanager
def _worker(folder: Path, variables: dict[str, str]) -> Iterator[None]:
    command = [*RESCIND, "worker", "bench_tools", "--json"]
    with (folder / "worker.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=_with(variables), stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), (folder / "worker.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(30.0)


def _rescind(folder: Path, variables: dict[str, str], *argv: str) -> None:
    done = subprocess.run([*RESCIND, *argv], cwd=folder, env=_with(variables), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or done.stdout


def _with(variables: dict[str, str]) -> dict[str, str]:
    return os.environ | variables


def _fill(journal: PostgresJournal, trace: str) -> int:
    """Runs of steps that were made. Where in the journal they end."""
    last = 0
    now_us = SystemClock().now_us()
    for number in range(RUNS):
        run = RunInfo(run_id=f"{trace}-{number}", agent_name="bench", agent_version="1", trace_id=trace)
        events: list[Event] = [RunOpened(run=run, guard_id="bench")]
        for each in range(STEPS_EACH):
            step = Step(
                step_id=str(each),
                action="pay",
                effect_class=EffectClass.COMPENSATABLE,
                requested={"number": each},
                causal_parents=(str(each - 1),) if each else (),
                idempotency_key=f"{run.run_id}/{each}",
            )
            events += [Intended(step), Ended(step_id=step.step_id, outcome=Completed(each))]
        appended = journal.append([Draft(run_id=run.run_id, event=event, recorded_at_us=now_us) for event in events])
        assert isinstance(appended, Appended)
        last = appended.sequences[-1]
    return last
