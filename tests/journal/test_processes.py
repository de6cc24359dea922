"""Several processes on one file, and processes that die: J2, and the chain across processes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import IO

import pytest

from builders import a_step, ended, intended, opened
from journal.stores import CLAIM, everything, keyed
from rescind.journal.audit import verify
from rescind.journal.port import Appended, Journal, Query, SlotClaim, SlotTaken
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Intended
from rescind.model.outcome import Failed

APPENDER = Path(__file__).with_name("appender.py")
TESTS = str(Path(__file__).parents[1])


def an_appender(path: Path | str, name: str, appends: int, threads: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, str(APPENDER), str(path), name, str(appends), str(threads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def in_a_process(script: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": TESTS}
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def steps_of(journal: Journal, run_id: str) -> list[int]:
    entries = everything(journal, Query(run_id=run_id))
    return [int(entry.event.step.step_id) for entry in entries if isinstance(entry.event, Intended)]


def test_processes_share_a_journal_without_loss_and_with_whole_chains(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    # The file does not exist yet: they race to make it, too.
    processes = [an_appender(path, f"p{number}", appends=100, threads=2) for number in range(3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0

    journal = SqliteJournal(path)
    report = verify(journal)
    assert report.findings == ()
    assert (report.entries, report.runs, report.sealed_through) == (6 * 101, 6, 6 * 101)
    for number in range(3):
        assert steps_of(journal, f"p{number}-1") == list(range(100))
    journal.close()


@pytest.mark.parametrize("kill_after", [1, 40, 150])
def test_j2_every_acknowledged_entry_survives_kill_9(tmp_path: Path, kill_after: int) -> None:
    path = tmp_path / "journal.db"
    process = an_appender(path, "victim", appends=100_000, threads=4)
    acknowledged = [output(process).readline().split() for _ in range(kill_after)]
    process.kill()
    acknowledged += [line.split() for line in output(process) if line.endswith("\n")]
    process.wait()
    output(process).close()

    journal = SqliteJournal(path)
    kept = {name: set(steps_of(journal, name)) for name in {name for name, _ in acknowledged}}
    assert [(name, step) for name, step in acknowledged if int(step) not in kept[name]] == []
    assert verify(journal).findings == ()
    assert isinstance(journal.append([opened("after"), intended(a_step(), "after")]), Appended)
    journal.close()


def test_what_another_process_wrote_is_known_to_the_next_append(tmp_path: Path) -> None:
    ours, theirs = SqliteJournal(tmp_path / "journal.db"), SqliteJournal(tmp_path / "journal.db")
    ours.append([opened(), intended(a_step("1", **keyed(CLAIM)), claim=CLAIM)])

    # Each journal has a writer and caches of its own, as two processes have.
    assert theirs.append([opened()]) == Appended((3,), (2,))
    assert isinstance(theirs.append([intended(a_step("2"), claim=CLAIM)]), SlotTaken)
    theirs.append([ended("1", Failed("no"))])
    assert ours.append([intended(a_step("3", **keyed(CLAIM)), claim=CLAIM)]) == Appended((5,), (4,))
    theirs.append([ended("3")])
    taken = ours.append([intended(a_step("4"), claim=SlotClaim("acme", "key-1", "x"))])

    assert isinstance(taken, SlotTaken)
    assert (taken.slot.step_id, taken.slot.state) == ("3", "completed")
    ours.close()
    theirs.close()
    assert verify(tmp_path / "journal.db").findings == ()


def test_a_forked_child_and_its_parent_both_go_on(tmp_path: Path) -> None:
    script = """
        import os, sys, threading
        from builders import a_step, intended, opened
        from rescind.journal.port import Query
        from rescind.journal.sqlite import SqliteJournal

        journal = SqliteJournal(sys.argv[1])
        journal.append([opened("parent"), opened("busy")])
        stop = threading.Event()
        def busy():
            number = 0
            while not stop.is_set():
                journal.append([intended(a_step(str(number)), "busy")])
                journal.entries(Query(run_id="parent"))
                number += 1
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for thread in threads:
            thread.start()
        for child in range(5):
            pid = os.fork()
            if pid == 0:
                journal.append([opened(f"child-{child}"), intended(a_step(), f"child-{child}")])
                assert len(journal.entries(Query(run_id=f"child-{child}"))) == 2
                journal.close()
                sys.exit(0) if child % 2 else os._exit(0)
            journal.append([intended(a_step(str(child)), "parent")])
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads:
            thread.join()
        journal.close()
    """
    in_a_process(script, str(tmp_path / "journal.db"))

    journal = SqliteJournal(tmp_path / "journal.db")
    assert steps_of(journal, "parent") == [0, 1, 2, 3, 4]
    assert [len(everything(journal, Query(run_id=f"child-{child}"))) for child in range(5)] == [2] * 5
    assert verify(journal).findings == ()
    journal.close()


def test_a_process_that_never_closes_still_records_what_it_submitted(tmp_path: Path) -> None:
    script = """
        import sys
        from builders import a_step, intended, opened
        from rescind.journal.sqlite import SqliteJournal
        journal = SqliteJournal(sys.argv[1])
        journal.append([opened()])
        for number in range(500):
            journal.submit([intended(a_step(str(number)))])
    """
    in_a_process(script, str(tmp_path / "journal.db"))

    assert verify(tmp_path / "journal.db").entries == 501


@pytest.mark.slow
def test_many_processes_with_many_threads_for_longer(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    processes = [an_appender(path, f"p{number}", appends=1_000, threads=4) for number in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0

    report = verify(path)
    assert report.findings == ()
    assert report.entries == 16 * 1_001
