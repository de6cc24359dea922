"""A copy that may only be read, such as an auditor's, can be read."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from builders import a_step, ended, intended, opened
from rescind.journal.connection import connect_writer
from rescind.journal.sqlite import SqliteJournal

_NOBODY = 65_534
_READ = f"""
import os, sys, tempfile
from pathlib import Path
from rescind.errors import RescindError
from rescind.journal.audit import verify
from rescind.journal.connection import connect_reader
from rescind.journal.port import Query
from rescind.journal.seal import seal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import RunOpened
from rescind.model.step import RunInfo
from rescind.journal.port import Draft
with tempfile.TemporaryDirectory() as own:  # what is loaded late is loaded now: nobody may not read our own files
    SqliteJournal(own + "/journal.db").close()
    verify(own + "/journal.db")
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({_NOBODY})
    os.setuid({_NOBODY})
path = Path(sys.argv[1])
def attempt(name, action):
    try:
        print(name, action())
    except RescindError as error:
        print(name, type(error).__name__, error)
def read():
    journal = SqliteJournal(path)
    try:
        return len(journal.entries(Query())), len(journal.runs(Query())), journal.run("run-1").run_id
    finally:
        journal.close()
def append():
    journal = SqliteJournal(path)
    event = RunOpened(run=RunInfo(run_id="r", agent_name="a"), guard_id="g")
    journal.append([Draft(run_id="r", event=event, recorded_at_us=1)])
attempt("verify", lambda: verify(path).findings)
attempt("read", read)
attempt("append", append)
attempt("seal", lambda: seal(connect_reader(path, timeout_s=1), path, now_us=1))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not `tmp_path`: the folders above that are closed to nobody.
    folder = Path(tempfile.mkdtemp(prefix="rescind-read-only-"))
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


def fill(folder: Path) -> SqliteJournal:
    journal = SqliteJournal(folder / "journal.db")
    journal.append([opened(), intended(a_step()), ended("1")])
    return journal


def read_there(folder: Path, *, folder_mode: int = 0o500) -> dict[str, str]:
    """What a process finds that may only read."""
    for file in folder.iterdir():
        file.chmod(0o400)
        if os.getuid() == 0:
            os.chown(file, _NOBODY, _NOBODY)
    folder.chmod(folder_mode)
    if os.getuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
    before = sorted(folder.iterdir())
    command = [sys.executable, "-c", _READ, str(folder / "journal.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert folder_mode & 0o200 or sorted(folder.iterdir()) == before
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("folder_mode", [0o500, 0o700])
def test_a_read_only_copy_is_read_and_verified(folder: Path, folder_mode: int) -> None:
    fill(folder).close()

    answers = read_there(folder, folder_mode=folder_mode)

    assert answers["verify"] == "()"
    assert answers["read"] == "(3, 1, 'run-1')"
    assert answers["append"].startswith("JournalUnavailable")
    assert answers["seal"].startswith("JournalUnavailable")
    assert "Permission denied" in answers["seal"]


def test_a_read_only_copy_with_a_log_that_cannot_be_read_says_so(folder: Path, tmp_path: Path) -> None:
    journal = fill(tmp_path)
    with closing(connect_writer(tmp_path / "journal.db")):
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(tmp_path / name, folder / name)
    journal.close()

    answers = read_there(folder)

    for name in ("verify", "read", "append"):
        assert answers[name].startswith("JournalUnavailable")
        assert "Copy the journal with its side files" in answers[name]
