"""Many processes that begin at the same moment, on a folder where there is no store yet."""

import subprocess
import sys
from pathlib import Path

import pytest

from rescind.journal.audit import verify

AGENT = """
import sys, rescind

guard = rescind.Guard.at(sys.argv[1])

@guard.write("note.add", irreversible="a test")
def add(number: int) -> None: ...

sys.stdin.readline()  # all begin at once
with guard.run("notes@1"):
    for number in range(3):
        add(number)
guard.close()
"""

PROCESSES = 6


@pytest.mark.parametrize("round_", range(4))
def test_processes_that_begin_together_make_one_store_and_lose_nothing(tmp_path: Path, round_: int) -> None:
    script = tmp_path / "agent.py"
    script.write_text(AGENT, encoding="utf-8")
    command = [sys.executable, str(script), str(tmp_path / "store")]
    agents = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    for agent in agents:
        assert agent.stdin is not None
        agent.stdin.write("go\n")
        agent.stdin.flush()
    ends = [(agent.communicate(timeout=60)[1], agent.returncode) for agent in agents]

    assert ends == [("", 0)] * PROCESSES
    report = verify(tmp_path / "store" / "journal.db")
    assert report.intact
    assert report.entries == PROCESSES * (1 + 2 * 3 + 1)
