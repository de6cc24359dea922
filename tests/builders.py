"""One-line builders that hide what does not matter to a test."""

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft, Journal, Query, SlotClaim
from rescind.model.action import EffectClass
from rescind.model.entry import Ended, Event, Intended, RunOpened
from rescind.model.history import StepRecord, fold_steps
from rescind.model.level import Level
from rescind.model.order import Lift, Order
from rescind.model.outcome import Completed, Outcome
from rescind.model.scope import Scope
from rescind.model.step import RunInfo, Snapshot, Step, Target, digest_of
from rescind.switch.memory import MemoryOrders
from rescind.triggers.facts import Call, End

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOON_US = 1_795_262_400_000_000


def a_run(run_id: str = "run-1", **fields: object) -> RunInfo:
    defaults: dict[str, object] = {
        "agent_name": "billing-agent",
        "agent_version": "2.4.0",
        "tenant": "acme",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    return RunInfo(run_id=run_id, **(defaults | fields))  # type: ignore[arg-type]  # builders take anything


def a_step(step_id: str = "1", action: str = "invoice.status.update", **fields: object) -> Step:
    requested = {"invoice_id": "inv_1", "status": "void"}
    defaults: dict[str, object] = {
        "effect_class": EffectClass.REVERSIBLE,
        "requested": requested,
        "target": Target("erp", "invoice", "inv_1"),
        "idempotency_key": f"run-1/{step_id}",
        "arguments_digest": digest_of(action, requested),
    }
    return Step(step_id=step_id, action=action, **(defaults | fields))  # type: ignore[arg-type]


def a_draft(event: Event, run_id: str = "run-1", **fields: object) -> Draft:
    return Draft(run_id=run_id, event=event, **({"recorded_at_us": NOON_US} | fields))  # type: ignore[arg-type]


def opened(run_id: str = "run-1", guard_id: str = "guard-1", **fields: object) -> Draft:
    return a_draft(RunOpened(run=a_run(run_id, **fields), guard_id=guard_id), run_id)


def intended(step: Step, run_id: str = "run-1", claim: SlotClaim | None = None) -> Draft:
    return a_draft(Intended(step), run_id, claim=claim)


def ended(step_id: str, outcome: Outcome | None = None, run_id: str = "run-1", after: Snapshot | None = None) -> Draft:
    return a_draft(Ended(step_id=step_id, outcome=outcome or Completed("ok"), after=after), run_id)


def an_order(order_id: str = "ord-1", scope: str = "everything", level: Level = Level.HALTED, **further: Any) -> Order:
    fields: dict[str, Any] = {"reason": "a test", "actor": "ops", "placed_at": NOON} | further
    return Order(order_id=order_id, scope=Scope.parse(scope), level=level, **fields)


def a_lift(*order_ids: str, lift_id: str = "lift-1") -> Lift:
    return Lift(lift_id=lift_id, order_ids=frozenset(order_ids), reason="a test", actor="ops", lifted_at=NOON)


def a_guard(**fields: object) -> Guard:
    """A guard over memory: `guard.journal` and `guard.orders` are there to look into."""
    return Guard.over(MemoryJournal(), MemoryOrders(), **fields)  # type: ignore[arg-type]


def events_of(journal: Journal, run_id: str | None = None) -> list[Event]:
    return [entry.event for entry in journal.entries(Query(run_id=run_id))]


def steps_of(journal: Journal, run_id: str | None = None) -> list[StepRecord]:
    return fold_steps(journal.entries(Query(run_id=run_id)))


def spoil(journal: MemoryJournal, run_id: str, kind: str = "") -> int:
    """The last entry of a run, or the last of this kind, is none that can be read. Its sequence."""
    found = [
        number
        for number, row in enumerate(journal._rows, 1)
        if row.run.run_id == run_id and kind in ("", row.kind)  # as on a damaged disk
    ]
    broken = msgspec.structs.replace(journal._rows[found[-1] - 1], body=b'{"type":"from_the_future"}')
    journal._rows[found[-1] - 1] = broken
    journal._read.pop(found[-1], None)
    return found[-1]


def spoil_file(path: Path, run_id: str, kind: str) -> int:
    """As `spoil`, in the file of a journal; `run_id` may end in `%`."""
    sql = "SELECT max(sequence) FROM entries JOIN runs USING (run_key) WHERE run_id LIKE ? AND kind = ?"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as journal:
        (sequence,) = journal.execute(sql, (run_id, kind)).fetchone()
        journal.execute("UPDATE entries SET body = ? WHERE sequence = ?", (b'{"type":"from_the_future"}', sequence))
    return int(sequence)


def a_call(action: str = "invoice.status.update", *, run: RunInfo | None = None, **fields: Any) -> Call:
    """A write that is asked for, as detectors see it."""
    return Call(run=run or a_run(), action=action, **({"writes": True, "at_s": 0.0} | fields))


def an_end(call: Call | None = None, outcome: Outcome | None = None, **fields: Any) -> End:
    """How a call ended; at once and well, unless something else is said."""
    call = call or a_call()
    return End(call=call, outcome=outcome or Completed("ok"), **({"at_s": call.at_s} | fields))


def at_once(works: Iterable[Callable[[], object]]) -> None:
    """Do each in a thread of its own, and wait for all."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def switching_every(interval_s: float) -> Iterator[None]:
    """Threads take turns after so short a time that what is not one move comes apart."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(interval_s)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)


def environment(**more: str) -> dict[str, str]:
    """What a process that a test starts may see: nothing that tells rescind what to do, but for what is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RESCIND")} | more
