"""A program with a terminal: it reads from it, Ctrl-C reaches it, and whoever started it gets the terminal back."""

import contextlib
import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import environment
from switch.supervisor.supervised import MAIN, PATIENCE_S, Operator, until


class Typist:
    """Somebody at a terminal in which `rescind supervise` runs, as the leader of the terminal's session."""

    def __init__(self, folder: Path, *words: str, command: list[str] | None = None) -> None:
        ours = [sys.executable, "-c", MAIN, "supervise", "--agent", "agent@1", "--store", "store", *words]
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe((command or ours)[0], command or ours, environment())
        self.seen = ""
        self.status: int | None = None

    def types(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def sees(self, text: str) -> None:
        until(lambda: self._look() or text in self.seen, f"{text!r} on the terminal, which shows {self.seen!r}")

    def leaves(self) -> int:
        """The exit status, once it has left."""
        until(self._has_left, f"the end, after {self.seen!r}")
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def _has_left(self) -> bool:
        self._look()
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is not None

    def _look(self) -> bool:
        ready, _, _ = select.select([self.terminal], [], [], 0.01)
        if ready:
            with contextlib.suppress(OSError):  # nobody has it open any more
                self.seen += os.read(self.terminal, 65536).decode(errors="replace")
        return False

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            deadline_s = time.monotonic() + PATIENCE_S
            while not self._has_left() and time.monotonic() < deadline_s:
                pass
        os.close(self.terminal)


@pytest.fixture
def typists() -> Iterator[list[Typist]]:
    opened: list[Typist] = []
    yield opened
    for typist in opened:
        typist.close()


def test_a_program_reads_from_the_terminal_and_ctrl_c_reaches_it(tmp_path: Path, typists: list[Typist]) -> None:
    asks = 'trap "echo interrupted; exit 9" INT; echo ready; read line; echo "got $line"; read line'
    typist = Typist(tmp_path, "--", "sh", "-c", asks)
    typists.append(typist)
    typist.sees("ready")
    typist.types("a word\n")
    typist.sees("got a word")
    typist.types("\x03")
    typist.sees("interrupted")
    assert typist.leaves() == 9


def test_ctrl_c_that_kills_is_handed_on_as_130(tmp_path: Path, typists: list[Typist]) -> None:
    typist = Typist(tmp_path, "--restart", "on-failure", "--", "sh", "-c", "echo ready; exec sleep 60")
    typists.append(typist)
    typist.sees("ready")
    typist.types("\x03")
    assert typist.leaves() == 128 + signal.SIGINT


def test_ctrl_z_does_not_suspend_the_supervision(tmp_path: Path, typists: list[Typist]) -> None:
    typist = Typist(tmp_path, "--", "sh", "-c", 'echo ready; read line; echo "got $line"')
    typists.append(typist)
    typist.sees("ready")
    typist.types("\x1a")
    typist.sees("continued")
    typist.types("more\n")
    typist.sees("got more")
    assert typist.leaves() == 0


def test_an_order_ends_a_program_that_has_the_terminal_and_leaves_it_in_order(
    tmp_path: Path, typists: list[Typist]
) -> None:
    operator = Operator(tmp_path)
    raw = "import tty, time; tty.setraw(0); print('raw', flush=True); time.sleep(600)"
    typist = Typist(tmp_path, "--grace", "0.2", "--", sys.executable, "-S", "-c", raw)
    typists.append(typist)
    typist.sees("raw")
    modes = termios.tcgetattr(typist.terminal)
    assert not modes[3] & termios.ICANON
    operator.stop()
    typist.sees("nothing of it is left")
    assert typist.leaves() == 128 + signal.SIGTERM
    assert termios.tcgetattr(typist.terminal)[3] & termios.ICANON


def test_in_a_pipeline_the_program_gets_the_terminal_when_it_asks_for_it(tmp_path: Path, typists: list[Typist]) -> None:
    # Its stdout is no terminal, so a neighbour may need the terminal; and then it reads from it all the same.
    (tmp_path / "reads.sh").write_text('read line; echo "got $line" >&2')
    (tmp_path / "main.py").write_text(MAIN)
    pipeline = f"{sys.executable} main.py supervise --agent inner --store store -- sh reads.sh | cat"
    typist = Typist(tmp_path, command=["/bin/sh", "-c", pipeline])
    typists.append(typist)
    typist.types("a word\n")
    typist.sees("got a word")
    assert typist.leaves() == 0
