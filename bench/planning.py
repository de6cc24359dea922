"""Planning at size: 1,000, 10,000 and 100,000 steps in a journal on disk, each planned in a process of its own."""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.form import Row, row, seconds_of
from rescind.clock import SystemClock
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.journal.port import Draft
from rescind.journal.sqlite import SqliteJournal
from rescind.model.action import Action, EffectClass
from rescind.model.entry import Ended, Intended, RunOpened
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.model.step import Arguments, RunInfo, Snapshot, Step, Target

SIZES = (1_000, 10_000, 100_000)
STEPS_PER_RUN = 1_000
SECONDS_MAX, MEGABYTES_MAX = 5.0, 500.0
ROUNDS = 3


def measure() -> list[Row]:
    found: dict[int, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            path = Path(folder) / f"{size}.sqlite"
            fill(path, size)
            rounds = [planned_apart(path) for _ in range(ROUNDS)]
            found[size] = (sorted(each["seconds"] for each in rounds)[ROUNDS // 2], max(r["mb"] for r in rounds))
    _, middle, large = SIZES
    note = ", ".join(f"{size:,}: {seconds:.2f} s, {mb:.0f} MB" for size, (seconds, mb) in found.items())
    name = f"plan of {large:,} steps"
    return [
        row(f"{name}, time", ours=found[large][0], reference=SECONDS_MAX, unit="s", target=1, n=ROUNDS, note=note),
        row(
            f"{name}, memory", ours=found[large][1], reference=MEGABYTES_MAX, unit="MB", target=1, n=ROUNDS,
            note="the whole process, at its largest",
        ),
        row(
            f"{name}, against {middle:,}", ours=found[large][0], reference=found[middle][0], unit="s", target=12,
            n=ROUNDS, note="linear is 10",
        ),
    ]  # fmt: skip


def fill(path: Path, size: int) -> None:
    """A journal of so many restorable steps, each at a target of its own."""
    journal = SqliteJournal(path)
    at_us = 1_795_262_400_000_000
    for first in range(0, size, STEPS_PER_RUN):
        run = RunInfo(run_id=f"run-{first:07}", agent_name="bench", agent_version="1", tenant="acme")
        drafts = [Draft(run_id=run.run_id, event=RunOpened(run=run, guard_id="bench"), recorded_at_us=at_us)]
        for number in range(first, first + STEPS_PER_RUN):
            step_id = str(number - first + 1)
            step = Step(
                step_id=step_id,
                action="invoice.status.update",
                effect_class=EffectClass.REVERSIBLE,
                requested={"invoice_id": f"inv_{number}", "status": "void"},
                target=Target("erp", "invoice", f"inv_{number}"),
                causal_parents=(str(number - first),) if number % 10 else (),
                before=row_of(number, "active"),
                idempotency_key=f"{run.run_id}/{step_id}",
                arguments_digest="0" * 64,
            )
            end = Ended(step_id=step_id, outcome=Completed({"ok": True}), after=row_of(number, "void"))
            drafts += [Draft(run_id=run.run_id, event=event, recorded_at_us=at_us) for event in (Intended(step), end)]
        journal.append(drafts)
    journal.close()


def row_of(number: int, status: str) -> Snapshot:
    return Snapshot.of({"id": number, "status": status, "name": "x" * 100})


class Setting:
    """The action, whose targets are all as their steps left them."""

    parallel = True
    action = Action(name="invoice.status.update", effect_class=EffectClass.REVERSIBLE)

    def accepts(self, arguments: Arguments) -> str:
        return ""

    def observe(self, record: StepRecord) -> Any:
        assert record.step.target is not None
        return row_of(int(record.step.target.id.removeprefix("inv_")), "void")

    def undo(self, record: StepRecord, idempotency_key: str) -> Any:
        raise AssertionError("a plan changes nothing")


def planned_apart(path: Path) -> dict[str, float]:
    """Seconds and megabytes of planning what is in this journal, in a process of its own."""
    said = subprocess.run([sys.executable, "-m", "bench.planning", str(path)], check=True, capture_output=True)
    answer: dict[str, float] = json.loads(said.stdout)
    return answer


def plan_here(path: Path) -> dict[str, float]:
    journal = SqliteJournal(path)
    selection = Selection(agent="bench")
    seconds = seconds_of(lambda: make_plan(journal, selection, {Setting.action.name: Setting()}, SystemClock()))
    return {"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    print(json.dumps(plan_here(Path(sys.argv[1]))))
