"""Five things that peers get wrong, tried on us. A row counts what went wrong; none may."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.form import Row, row
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.errors import StepInDoubt
from rescind.guard.effect import PastStep
from rescind.guard.guard import Guard
from rescind.journal.audit import verify
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Ended
from rescind.model.history import fold_steps
from rescind.model.outcome import Unknown
from rescind.switch.memory import MemoryOrders

WRITER = """
import sys, rescind
guard = rescind.Guard.at(sys.argv[1])

@guard.write("effect", irreversible="a probe")
def effect(number: int) -> int:
    with open(sys.argv[2], "a") as world:
        world.write(f"{number}\\n")
    return number

with guard.run("probe@1", tenant=sys.argv[3]):
    for number in range(int(sys.argv[4])):
        try:
            effect(number)
        except rescind.RescindError:
            print("refused", flush=True)
            break
        print(number, flush=True)
guard.close()
"""

PATIENCE_S = 60.0


def measure() -> list[Row]:
    return [
        _counted("stop from another process", _writes_after_a_stop(), "effects after the acknowledged stop"),
        _counted(
            "acknowledged entries after SIGKILL", _acknowledged_and_lost(), "acknowledged before it, missing after"
        ),
        _counted("two writers on one file", _lost_by_two_writers(), "entries lost, or findings of the audit"),
        _counted("timed-out charge", _wrong_about_a_timeout(), "charged twice, called failed, or forgotten"),
        _counted("order and serial ids", _undone_too_early(), "undone before what depends on it, ids 1 to 20"),
    ]


def _counted(name: str, wrong: int, what: str) -> Row:
    return row(f"probe: {name}", ours=wrong, reference=1, unit="wrong", target=0, n=1, note=what)


def _start(folder: Path, tenant: str, count: int) -> subprocess.Popen[str]:
    script = folder / "writer.py"
    script.write_text(WRITER)
    command = [sys.executable, str(script), str(folder / "store"), str(folder / f"world-{tenant}"), tenant, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _effects(folder: Path, tenant: str) -> list[str]:
    path = folder / f"world-{tenant}"
    return path.read_text().splitlines() if path.exists() else []


def _writes_after_a_stop() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        agent = _start(folder, "acme", 1_000_000)
        assert agent.stdout is not None
        for _ in range(50):
            agent.stdout.readline()
        rescind = Path(sys.executable).with_name("rescind")
        stop = [str(rescind), "stop", "agent:probe", "--level", "read-only", "--reason", "probe", "--wait", "10"]
        subprocess.run([*stop, "--store", str(folder / "store")], check=True, stdout=subprocess.DEVNULL)
        at_receipt = len(_effects(folder, "acme"))
        agent.communicate(timeout=PATIENCE_S)
        return len(_effects(folder, "acme")) - at_receipt


def _acknowledged_and_lost() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        agent = _start(folder, "acme", 1_000_000)
        assert agent.stdout is not None
        acknowledged = [agent.stdout.readline() for _ in range(137)]
        os.kill(agent.pid, signal.SIGKILL)
        acknowledged += agent.communicate(timeout=PATIENCE_S)[0].splitlines()
        journal = SqliteJournal(folder / "store" / "journal.db")
        ended = {
            entry.event.step_id
            for page in _pages(journal)
            for entry in page
            if isinstance(entry.event, Ended)
        }  # fmt: skip
        journal.close()
        return sum(str(int(number) + 1) not in ended for number in acknowledged if number.strip().isdigit())


def _pages(journal: SqliteJournal):  # type: ignore[no-untyped-def]  # noqa: ANN202
    after = 0
    while page := journal.entries(Query(), after=after):
        yield page
        after = page[-1].sequence


def _lost_by_two_writers() -> int:
    count = 300
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        agents = [_start(folder, tenant, count) for tenant in ("acme", "globex")]
        for agent in agents:
            agent.communicate(timeout=PATIENCE_S)
        journal = SqliteJournal(folder / "store" / "journal.db")
        steps = fold_steps(entry for page in _pages(journal) for entry in page)
        journal.close()
        findings = verify(folder / "store" / "journal.db").findings
        return 2 * count - sum(step.outcome is not None for step in steps) + len(findings)


def _wrong_about_a_timeout() -> int:
    charges: list[int] = []
    guard = Guard.over(MemoryJournal(), MemoryOrders())

    @guard.write("card.charge")
    def charge(cents: int) -> None:
        charges.append(cents)
        raise TimeoutError("no reply in 30 s")

    @charge.compensate
    def _(step: PastStep) -> None:
        charges.append(-100)

    with guard.run("probe@1") as run:
        for expected in (TimeoutError, StepInDoubt):
            try:
                charge.keyed("order-17")(100)
            except expected:
                continue
    (step,) = fold_steps(guard.journal.entries(Query()))
    clock = SystemClock()
    plan = make_plan(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, clock)
    apply_plan(plan, guard.journal, guard.compensators, clock, SystemIds(), actor="bench", reason="probe")
    left_to_a_person = fold_steps(guard.journal.entries(Query()))[0].disposition == "review"
    return (len(charges) - 1) + (not isinstance(step.outcome, Unknown)) + (not left_to_a_person)


def _undone_too_early() -> int:
    undone: list[int] = []
    guard = Guard.over(MemoryJournal(), MemoryOrders())

    @guard.write("row.insert")
    def insert(number: int, parent: int) -> int:
        return number

    @insert.compensate
    def _(step: PastStep) -> None:
        undone.append(step.result)

    with guard.run("probe@1") as run:
        for number in range(1, 21):
            insert(number, number - 1)
    clock = SystemClock()
    plan = make_plan(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, clock)
    apply_plan(plan, guard.journal, guard.compensators, clock, SystemIds(), actor="bench", reason="probe")
    return sum(mine != wanted for mine, wanted in zip(undone, range(20, 0, -1), strict=True))
