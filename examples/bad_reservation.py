"""Bad inventory reservation: release it, or adjust the stock by what was reserved if it has moved on."""

import sqlite3
import tempfile
from pathlib import Path

import rescind
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan

folder = Path(tempfile.mkdtemp())
guard = rescind.Guard.at(folder / "store")
warehouse = sqlite3.connect(folder / "warehouse.db", isolation_level=None, check_same_thread=False)
warehouse.execute("CREATE TABLE stock (sku TEXT PRIMARY KEY, free INTEGER NOT NULL)")
warehouse.executemany("INSERT INTO stock VALUES (?, ?)", [("tea", 40), ("jam", 25)])


def free(sku: str) -> int:
    (pieces,) = warehouse.execute("SELECT free FROM stock WHERE sku = ?", (sku,)).fetchone()
    return int(pieces)


@guard.write("stock.reserve", target=lambda sku: ("wms", "stock", sku), on_conflict="merge")
def reserve(sku: str, pieces: int) -> None:
    warehouse.execute("UPDATE stock SET free = free - ? WHERE sku = ?", (pieces, sku))


@reserve.snapshot
def _(sku: str) -> int:
    return free(sku)


@reserve.restore
def _(step: rescind.PastStep) -> None:
    # One conditional statement: whatever came between the look and this makes it a conflict.
    sku = step.arguments["sku"]
    changed = warehouse.execute(
        "UPDATE stock SET free = ? WHERE sku = ? AND free = ?", (step.before, sku, step.after)
    ).rowcount
    if not changed:
        raise rescind.Conflict(f"the stock of {sku} has moved on")


@reserve.merge
def _(step: rescind.PastStep, now: int) -> int:
    return now + (step.before - step.after)


with guard.run("buyer@1.4.0") as run:
    reserve("tea", 30)
    reserve("jam", 20)
warehouse.execute("UPDATE stock SET free = free + 100 WHERE sku = 'jam'")  # a delivery has come in since

plan = make_plan(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, SystemClock())
for item in plan.items:
    print(f"{item.target}: {item.decision}")
result = apply_plan(
    plan, guard.journal, guard.compensators, SystemClock(), SystemIds(), actor="ops", reason="wrong order"
)
guard.close()

print(result.counts, {sku: free(sku) for sku in ("tea", "jam")})
assert result.counts == {"merged": 1, "restored": 1}
assert (free("tea"), free("jam")) == (40, 125)
