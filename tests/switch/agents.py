"""Guards and writers for the tests of the switch; run as a script, one of them in a process of its own.

    python agents.py VERB DIRECTORY ARGUMENT

It prints one line when it is ready, and then answers each line of its input with one line.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from builders import a_run, an_order
from rescind.clock import SystemClock
from rescind.errors import OrdersUnavailable
from rescind.model.level import Level
from rescind.switch.port import LiveRun, Orders
from rescind.switch.presence import Presence
from rescind.switch.store import SqliteOrders, Write
from rescind.switch.watcher import Watcher

PATIENCE_S = 20.0
"""Far longer than anything here takes; only a failing test ever waits for it."""


class FakeGuard:
    """A `Subscriber` whose calls begin and end when the test says so."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.steps: set[str] = set()
        self.runs: tuple[LiveRun, ...] = ()
        self.binds = 0
        self.raises: BaseException | None = None
        self._fault = ""

    def bind(self) -> tuple[int, frozenset[str]]:
        self.binds += 1
        if self.raises is not None:
            raise self.raises
        try:
            standing = self.orders.standing()
        except OrdersUnavailable as error:
            self._fault = str(error)
            return -1, frozenset(self.steps)
        self._fault = ""
        return (standing.stamp if standing.settled else -1), frozenset(self.steps)

    def in_flight(self) -> frozenset[str]:
        return frozenset(self.steps)

    def notice(self) -> str:
        return ""

    def live_runs(self) -> tuple[LiveRun, ...]:
        return self.runs

    def fault(self) -> str:
        return self._fault


def a_live_run(run_id: str = "run-1", level: Level = Level.NORMAL, **fields: object) -> LiveRun:
    return LiveRun(run=a_run(run_id, **fields), level=level)


class Agent:
    """One of the roles below, in a process of its own; killed at the end of the `with` block."""

    def __init__(self, verb: str, directory: Path, argument: str = "") -> None:
        tests = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, __file__, verb, str(directory), argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((tests, os.environ.get("PYTHONPATH", "")))},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.says()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> int:
        """Kill -9, unless it has ended; its exit code."""
        self.process.kill()
        return self.process.wait(PATIENCE_S)


# --- roles ---


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class DyingOrders(SqliteOrders):
    """Kills its own process at a point of its life."""

    point = ""

    def _commit(self, connection: sqlite3.Connection, write: Write, stamp: int) -> None:
        if self.point == "before commit":
            os.kill(os.getpid(), signal.SIGKILL)

        def write_and_die(connection: sqlite3.Connection, stamp: int) -> None:
            write(connection, stamp)
            if self.point == "in commit":
                os.kill(os.getpid(), signal.SIGKILL)

        super()._commit(connection, write_and_die, stamp)
        if self.point == "after commit":
            os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(directory: Path, point: str) -> None:
    orders = DyingOrders(directory)
    orders.point = point
    say("ready")
    orders.place(an_order("ord-dying"))
    say("alive")


def spin(directory: Path, argument: str) -> None:
    """Nothing but the page tells it when to look."""
    orders = SqliteOrders(directory)
    page = orders.page
    known = orders.standing()
    say("ready")
    for _ in range(int(argument)):
        while page[0] == known.stamp or page[0] % 2:
            pass
        known = orders.standing()
        say(" ".join(order.order_id for order in known.orders))


def place(directory: Path, argument: str) -> None:
    orders = SqliteOrders(directory)
    say("ready")
    for number in range(int(argument)):
        orders.place(an_order(f"ord-{number}"))
    say("done")


def guard(directory: Path, guard_id: str) -> None:
    """Commands: begin STEP, end STEP, run RUN, fork, close."""
    orders = SqliteOrders(directory)
    fake = FakeGuard(orders)
    watcher = Watcher(orders, fake, Presence(directory, guard_id), SystemClock())
    watcher.start()
    say("ready")
    for line in sys.stdin:
        verb, _, name = line.strip().partition(" ")
        if verb == "begin":
            fake.steps.add(name)
        elif verb == "end":
            fake.steps.discard(name)
        elif verb == "run":
            fake.runs = (*fake.runs, a_live_run(name))
        elif verb == "fork":
            if os.fork() == 0:
                say(str(os.getpid()))  # said by the child: by now it has let go of its parent's lock
                signal.pause()
            continue
        elif verb == "close":
            watcher.close()
        say("done")


if __name__ == "__main__":
    roles = {"write_and_die": write_and_die, "spin": spin, "place": place, "guard": guard}
    roles[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
