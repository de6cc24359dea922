"""How soon a stop takes hold in other processes: from the order's return until the first refused call."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.form import Row, row
from rescind.clock import SystemClock, SystemIds
from rescind.model.level import Level
from rescind.model.scope import Scope
from rescind.switch.desk import lift_orders, open_store, place

AGENTS = 4
ROUNDS = 50

AGENT = """
import sys, time, rescind

guard = rescind.Guard.at(sys.argv[1])

@guard.read("clock.get")
def get() -> None: ...

with guard.run("bench@1"):
    print("ready", flush=True)
    while True:
        try:
            get()
        except rescind.CallDenied:
            refused_at = time.monotonic()
            print(refused_at, flush=True)
            sys.stdin.readline()  # until the order is lifted
        time.sleep(0.0005)
"""


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "agent.py"
        script.write_text(AGENT)
        command = [sys.executable, str(script), str(Path(folder) / "store")]
        agents = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(AGENTS)
        ]
        try:
            delays_ms = _delays_ms(Path(folder) / "store", agents)
        finally:
            for agent in agents:
                agent.kill()
                agent.communicate()
    note = f"{AGENTS} processes that call every half millisecond, {ROUNDS} orders"
    worst = sorted(delays_ms)[int(len(delays_ms) * 0.99)]
    return [
        row(
            "stop takes hold, median", ours=statistics.median(delays_ms), reference=5, unit="ms", target=1,
            n=len(delays_ms), note=note,
        ),
        row("stop takes hold, p99", ours=worst, reference=50, unit="ms", target=1, n=len(delays_ms), note=note),
    ]  # fmt: skip


def _delays_ms(store: Path, agents: list[subprocess.Popen[str]]) -> list[float]:
    clock, ids = SystemClock(), SystemIds()
    for agent in agents:
        assert agent.stdout is not None
        agent.stdout.readline()
    orders = open_store(store, create=False)
    delays: list[float] = []
    for _ in range(ROUNDS):
        placed = place(orders, Scope(), Level.PAUSED, reason="bench", actor="bench", clock=clock, ids=ids)
        returned_at = time.monotonic()
        for agent in agents:
            assert agent.stdout is not None
            delays.append(max(0.0, float(agent.stdout.readline()) - returned_at) * 1000)
        lift_orders(orders, [placed.order.order_id], reason="bench", actor="bench", clock=clock, ids=ids)
        for agent in agents:
            assert agent.stdin is not None
            agent.stdin.write("\n")
            agent.stdin.flush()
    orders.close()
    return delays
