"""`rescind supervise` in a process of its own, the programs it is given, and what is seen of them from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from builders import environment
from rescind.clock import SystemClock, SystemIds
from rescind.model.level import Level
from rescind.model.scope import Scope
from rescind.switch.desk import place
from rescind.switch.receipt import Placed
from rescind.switch.store import SqliteOrders

PATIENCE_S = 20.0
"""Far longer than anything here takes; only a failing test ever waits for it."""

MAIN = "import sys; from rescind.cli import main; sys.exit(main())"

NAMES_ITSELF = 'echo $$ > "$0"; '
"""A shell's first words: its pid goes into the file that is its `$0`."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fail with a sentence if it does not come."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {PATIENCE_S:g} s for: {what}"
        time.sleep(0.005)


def state_of(pid: int) -> str:
    """Its state as the kernel names it: R runs, S sleeps, T is suspended, Z is a zombie; X if it does not exist."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat[stat.rindex(")") + 2]
    return "X"


def lives(pid: int) -> bool:
    """Whether a process may act or could be continued; a zombie cannot."""
    return state_of(pid) not in "ZX"


def is_suspended(pid: int) -> bool:
    return state_of(pid) == "T"


class Supervise:
    """The command, with a store in `folder`; killed at the end of the `with` block, and so is what it supervises."""

    def __init__(self, folder: Path, *words: str, agent: str = "agent@1", stdin: int | None = None, **env: str) -> None:
        self.folder = folder
        self.command = ["supervise", "--agent", agent, "--store", str(folder / "store"), *words]
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *self.command],
            cwd=folder,
            env=environment(**env),
            stdin=subprocess.PIPE if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out = self.err = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()

    def finish(self, said: str | None = None) -> int:
        """Its exit status, once it has left; what it and its program wrote is in `out` and `err`."""
        self.out, self.err = self.process.communicate(said, timeout=PATIENCE_S)
        return self.process.returncode

    @property
    def answer(self) -> dict[str, Any]:
        """The object of `--json`."""
        answer: dict[str, Any] = json.loads(self.err.splitlines()[-1])
        return answer

    def pid_in(self, name: str) -> int:
        """The pid that one of its processes writes into this file."""
        path = self.folder / name
        until(lambda: path.exists() and path.read_text().strip().isdigit(), f"a pid in {name}")
        return int(path.read_text())

    def keeper(self) -> int:
        """The pid of the keeper."""
        found: list[int] = []

        def look() -> bool:
            found[:] = children_of(self.process.pid)
            return len(found) == 1

        until(look, "the keeper")
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def children_of(pid: int) -> list[int]:
    children: list[int] = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            stat = Path(f"/proc/{int(name)}/stat").read_text()
            if int(stat[stat.rindex(")") + 2 :].split()[1]) == pid:
                children.append(int(name))
    return children


class Operator:
    """Places and lifts orders in the store of a folder."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.orders = SqliteOrders(self.store)

    def stop(self, scope: str = "everything", level: Level = Level.HALTED) -> Placed:
        return place(
            self.orders,
            Scope.parse(scope),
            level,
            reason="wrong customers",
            actor="alice",
            clock=SystemClock(),
            ids=SystemIds(),
        )


def script(folder: Path, name: str, text: str) -> str:
    """A Python program in the folder; its path."""
    path = folder / name
    path.write_text(text)
    return str(path)
