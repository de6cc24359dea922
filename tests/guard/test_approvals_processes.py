"""Approvals with real processes on a real store: killed while they wait, continued, and racing for one."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rescind.clock import SystemClock, from_us
from rescind.journal.port import Query
from rescind.journal.sqlite import SqliteJournal
from rescind.model.approval import Approval
from rescind.model.entry import ApprovalUsed, Intended
from rescind.recovery.approvals import decide, list_approvals

PAYER = """
import pathlib, sys
import rescind
from rescind.config import ApprovalConfig
from rescind.errors import ApprovalVoid

guard = rescind.Guard.at("store", approval=ApprovalConfig(wait_s=60))
guard.approval_reason = lambda _: "payments need a look"

@guard.write("pay", irreversible="a test")
def pay(to: str) -> None:
    with open("paid", "a") as paid:
        paid.write(to + "\\n")

with guard.run("payer@1", run_id="run-1"):
    while True:
        try:
            pay("ada")
            break
        except ApprovalVoid:  # somebody else used it in the very same moment: as it says, the call can be made again
            continue
    pathlib.Path(sys.argv[1]).touch()
guard.close()
"""


class Folder:
    """A folder with a store, and the payers that run in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.payers = path, list[subprocess.Popen[bytes]]()
        (path / "payer.py").write_text(PAYER)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        payer = subprocess.Popen([sys.executable, "payer.py", name], cwd=self.path)
        self.payers.append(payer)
        return payer

    def waiting(self) -> list[Approval]:
        path = self.path / "store" / "journal.db"
        if not path.exists():
            return []
        journal = SqliteJournal(path)
        try:
            return list_approvals(journal, now=from_us(SystemClock().now_us()))
        finally:
            journal.close()

    def approve(self) -> str:
        until(lambda: len(self.waiting()) == 1)
        journal = SqliteJournal(self.path / "store" / "journal.db")
        try:
            (approval,) = self.waiting()
            decide(journal, approval.approval_id, "approved", actor="olga", clock=SystemClock())
        finally:
            journal.close()
        return approval.approval_id

    def paid(self) -> list[str]:
        file = self.path / "paid"
        return file.read_text().splitlines() if file.exists() else []

    def events(self) -> list[object]:
        journal = SqliteJournal(self.path / "store" / "journal.db")
        try:
            return [entry.event for entry in journal.entries(Query())]
        finally:
            journal.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    for payer in folder.payers:
        payer.kill()
        payer.wait()


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_what_was_asked_survives_kill_9_and_the_continued_run_goes_on_with_it(folder: Folder) -> None:
    first = folder.start("first")
    until(lambda: len(folder.waiting()) == 1)
    first.kill()
    first.wait()
    assert folder.paid() == []

    approval_id = folder.approve()  # while nobody waits
    assert folder.paid() == []
    second = folder.start("second")
    assert second.wait(timeout=20) == 0

    assert folder.paid() == ["ada"]
    (used,) = [event for event in folder.events() if isinstance(event, ApprovalUsed)]
    assert used.approval_id == approval_id

    third = folder.start("third")  # the same call again is another one, and waits for another yes
    until(lambda: len(folder.waiting()) == 1)
    assert third.poll() is None
    assert folder.paid() == ["ada"]


def test_of_two_processes_that_wait_for_one_approval_one_goes_on_and_the_other_asks_anew(folder: Folder) -> None:
    payers = [folder.start("one"), folder.start("two")]
    until(lambda: len(folder.waiting()) == 1)
    time.sleep(1.0)  # both wait by now, for the same one
    first = folder.approve()
    until(lambda: any(payer.poll() is not None for payer in payers))
    assert folder.paid() == ["ada"]

    second = folder.approve()
    assert [payer.wait(timeout=20) for payer in payers] == [0, 0]

    assert first != second
    assert folder.paid() == ["ada", "ada"]
    intents = [event.step for event in folder.events() if isinstance(event, Intended)]
    assert {step.approval_id for step in intents} == {first, second}
