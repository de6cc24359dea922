"""The real command line and the real agent, with one thing of their world made worse. Run as a script.

python programs.py dying POINT switch OPTIONS…     the ledger kills its process while it takes an order
python programs.py clock FILE switch OPTIONS…      the wall clock is off by the seconds that stand in a file
python programs.py clock FILE agent ARGUMENTS…
"""

import os
import runpy
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rescind import clock

POINTS = ("before commit", "in commit", "after commit")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class ThenDie(tuple[Any, ...]):
    """Kills its reader when it was read once. For a ledger, all of it is in the transaction then, which is open."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        die()


def let_the_ledger_die(point: str) -> None:
    """With -9, when an operator's order comes; what other switches hand over it just keeps."""
    from rescind.switch.service import server
    from rescind.switch.service.ledger import Appended, Entry, Ledger

    class DyingLedger(Ledger):
        def append(self, entries: Sequence[Entry]) -> tuple[Appended, ...]:
            if not any(each.note is not None and each.note.what == "order.placed" for each in entries):
                return super().append(entries)
            if point == "before commit":
                die()
            appended = super().append(ThenDie(entries) if point == "in commit" else entries)
            die()
            return appended

    vars(server)["Ledger"] = DyingLedger


def let_the_clock_be_off(path: Path) -> None:
    """By a number of seconds, which may change at any time. Before anybody else imports the clock."""

    class OffClock(clock.SystemClock):
        def now_us(self) -> int:
            path.with_suffix(".asked").touch()  # who never asks shows nothing
            return super().now_us() + int(float(path.read_text()) * 1_000_000)

    vars(clock)["SystemClock"] = OffClock


def main(fault: str, argument: str, program: str, *argv: str) -> int:
    if fault == "dying":
        let_the_ledger_die(argument)
    else:
        let_the_clock_be_off(Path(argument))
    if program == "agent":
        sys.argv = [program, *argv]
        runpy.run_path(str(Path(__file__).with_name("agent.py")), run_name="__main__")
        return 0
    from rescind.cli import main as rescind

    return rescind([program, *argv])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
