"""When the disk fails: J7 for SQLite, the translation of its errors, and what is left alone."""

import asyncio
import contextlib
import functools
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from builders import a_step, at_once, intended, opened
from journal.stores import everything
from rescind.errors import JournalUnavailable, RescindError, StoreFormatError
from rescind.journal import connection as connections
from rescind.journal.audit import verify
from rescind.journal.port import Appended
from rescind.journal.sqlite import SqliteJournal
from rescind.testing.clock import ManualClock


class Disk:
    """Opens the writer's connection, and breaks it on demand."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []

    def __call__(self, path: Path) -> sqlite3.Connection:
        self.connections.append(connections.connect_writer(path))
        return self.connections[-1]

    def fill(self) -> None:
        pages = self.connections[-1].execute("PRAGMA page_count").fetchone()[0]
        self.connections[-1].execute(f"PRAGMA max_page_count = {pages}")

    def make_room(self) -> None:
        self.connections[-1].execute("PRAGMA max_page_count = 1000000")

    def protect(self, *, on: bool) -> None:
        self.connections[-1].execute(f"PRAGMA query_only = {int(on)}")


def append_much(journal: SqliteJournal) -> None:
    journal.append([intended(a_step(str(number), requested={"text": "x" * 2_000})) for number in range(50)])


def test_j7_on_a_full_disk_nothing_is_appended_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = Disk()
    journal = SqliteJournal(tmp_path / "journal.db", connect=disk)
    journal.append([opened()])
    disk.fill()

    with pytest.raises(JournalUnavailable, match="make room") as failure:
        append_much(journal)

    assert isinstance(failure.value.__cause__, sqlite3.OperationalError)
    assert len(everything(journal)) == 1
    disk.make_room()
    append_much(journal)
    assert len(everything(journal)) == 51
    journal.close()
    assert verify(tmp_path / "journal.db").findings == ()


def test_j7_a_journal_that_may_not_be_written_refuses_and_recovers(tmp_path: Path) -> None:
    disk = Disk()
    journal = SqliteJournal(tmp_path / "journal.db", connect=disk)
    journal.append([opened()])
    disk.protect(on=True)

    with pytest.raises(JournalUnavailable, match="cannot be written"):
        journal.append([intended(a_step())])
    with pytest.raises(JournalUnavailable, match="cannot be written"):
        asyncio.run(journal.append_async([intended(a_step())]))

    assert len(everything(journal)) == 1
    disk.protect(on=False)
    assert journal.append([intended(a_step())]) == Appended((2,), (1,))
    journal.close()


def test_j7_a_lock_held_too_long_refuses_and_recovers(tmp_path: Path) -> None:
    clock = ManualClock()
    journal = SqliteJournal(tmp_path / "journal.db", busy_timeout_s=5.0, clock=clock)
    journal.append([opened()])
    other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = clock.monotonic_s()

    with pytest.raises(JournalUnavailable, match="another process has held its lock"):
        journal.append([intended(a_step())])

    assert clock.monotonic_s() - began >= 5.0
    assert len(everything(journal)) == 1
    other.execute("ROLLBACK")
    other.close()
    assert journal.append([intended(a_step())]) == Appended((2,), (1,))
    journal.close()


def test_j7_everybody_in_a_failed_batch_is_refused(tmp_path: Path) -> None:
    disk = Disk()
    journal = SqliteJournal(tmp_path / "journal.db", connect=disk)
    journal.append([opened()])
    disk.protect(on=True)
    outcomes: list[str] = []

    def try_once(number: int) -> None:
        try:
            journal.append([intended(a_step(str(number)))])
        except JournalUnavailable as error:
            outcomes.append(str(error))

    at_once(functools.partial(try_once, number) for number in range(10))

    assert len(outcomes) == 10
    assert len(everything(journal)) == 1
    journal.close()


def test_j7_a_file_system_that_takes_no_more_refuses_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    script = """
        import resource, sys
        from builders import a_step, intended, opened
        from rescind.errors import JournalUnavailable
        from rescind.journal.sqlite import SqliteJournal

        journal = SqliteJournal(sys.argv[1])
        journal.append([opened()])
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))
        acknowledged = 1
        try:
            while True:
                journal.append([intended(a_step(str(acknowledged), requested={"text": "x" * 5_000}))])
                acknowledged += 1
        except JournalUnavailable:
            refused_at = acknowledged
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        journal.append([intended(a_step("after"))])
        print(refused_at + 1)
        journal.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "journal.db")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

    report = verify(tmp_path / "journal.db")
    assert report.findings == ()
    assert report.entries == int(done.stdout)


def test_a_record_that_nobody_waits_for_is_logged_when_it_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    with caplog.at_level(logging.WARNING, "rescind.journal.writer"):
        journal.submit([intended(a_step())])  # its run is not open
        journal.close()

    assert "run run-1 is not open" in caplog.text


def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.append([opened()])
    journal.close()

    with pytest.raises(JournalUnavailable, match="closed"):
        journal.append([opened()])
    with pytest.raises(JournalUnavailable, match="closed"):
        asyncio.run(journal.append_async([opened()]))


def test_a_file_that_vanishes_is_an_unavailable_journal(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    (tmp_path / "journal.db").unlink()

    with pytest.raises(JournalUnavailable, match="cannot be opened"):
        journal.head("run-1")
    with pytest.raises(JournalUnavailable, match="cannot be opened"):
        journal.append([opened()])
    journal.close()


def test_an_append_from_a_signal_handler_above_an_append_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    refusals: list[JournalUnavailable] = []

    def connect_in_the_middle(path: Path) -> sqlite3.Connection:
        # As a signal handler would run: on the same thread, inside of the append.
        with pytest.raises(JournalUnavailable, match="this very thread") as refusal:
            journal.append([opened("handler")])
        refusals.append(refusal.value)
        return connections.connect_writer(path)

    journal = SqliteJournal(tmp_path / "journal.db", connect=connect_in_the_middle)
    journal.append([opened()])

    assert len(refusals) == 1
    assert [entry.run.run_id for entry in everything(journal)] == ["run-1"]
    journal.close()


class Interrupted(sqlite3.Connection):
    """Ctrl-C comes when `statement` begins, or when it has just been done."""

    when: tuple[str, bool] | None = None

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        when, due = self.when, self.when is not None and sql.startswith(self.when[0])
        if due:
            self.when = None
        if due and when is not None and not when[1]:
            raise KeyboardInterrupt
        cursor = super().execute(sql, *values)
        if due:
            raise KeyboardInterrupt
        return cursor


@pytest.mark.parametrize(
    ("statement", "done", "kept"),
    [("BEGIN", False, 1), ("BEGIN", True, 1), ("COMMIT", False, 1), ("COMMIT", True, 2), ("PRAGMA data", True, 1)],
)
def test_ctrl_c_in_an_append_leaves_the_journal_usable(tmp_path: Path, statement: str, done: bool, kept: int) -> None:
    made: list[Interrupted] = []

    def connect(path: Path) -> sqlite3.Connection:
        made.append(sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Interrupted))
        return made[-1]

    journal = SqliteJournal(tmp_path / "journal.db", connect=connect)
    journal.append([opened()])
    made[0].when = (statement, done)

    with pytest.raises(KeyboardInterrupt):
        journal.append([intended(a_step())])

    assert len(everything(journal)) == kept
    assert journal.append([intended(a_step("2"))]) == Appended((kept + 1,), (kept,))
    journal.close()
    assert verify(journal.path).findings == ()


# --- translation ---


@pytest.mark.parametrize(
    ("name", "meaning", "words"),
    [
        ("SQLITE_FULL", JournalUnavailable, "disk is full"),
        ("SQLITE_READONLY", JournalUnavailable, "permissions"),
        ("SQLITE_READONLY_DBMOVED", JournalUnavailable, "permissions"),
        ("SQLITE_BUSY", JournalUnavailable, "lock"),
        ("SQLITE_BUSY_SNAPSHOT", JournalUnavailable, "lock"),
        ("SQLITE_LOCKED", JournalUnavailable, "lock"),
        ("SQLITE_CORRUPT", JournalUnavailable, "damaged"),
        ("SQLITE_CORRUPT_INDEX", JournalUnavailable, "damaged"),
        ("SQLITE_CANTOPEN", JournalUnavailable, "cannot be opened"),
        ("SQLITE_IOERR_FSYNC", JournalUnavailable, "disk reports an error"),
        ("SQLITE_NOMEM", JournalUnavailable, "out of memory"),
        ("SQLITE_TOOBIG", JournalUnavailable, "larger"),
        ("SQLITE_MISUSE", JournalUnavailable, "nothing was recorded"),
        ("SQLITE_NOTADB", StoreFormatError, "left alone"),
        ("", JournalUnavailable, "nothing was recorded"),
    ],
)
def test_every_error_of_the_driver_has_a_translation(name: str, meaning: type[RescindError], words: str) -> None:
    error = sqlite3.OperationalError("as SQLite says it")
    if name:
        error.sqlite_errorname = name

    with pytest.raises(meaning, match=words) as translated, connections.translating(Path("/x/journal.db")):
        raise error

    assert translated.value.__cause__ is error
    assert "/x/journal.db" in str(translated.value)


# --- what is there already ---


def test_a_new_journal_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.db"
    journal = SqliteJournal(path)
    journal.append([opened()])

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    journal.close()

    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600}
    assert stat.S_IMODE(path.with_suffix(".seals").stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_journal_of_a_newer_rescind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    SqliteJournal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("PRAGMA user_version = 2")
    raw.close()
    before = path.read_bytes()

    for open_it in (SqliteJournal, verify):
        with pytest.raises(StoreFormatError, match=r"newer rescind \(format 2, .* Upgrade rescind"):
            open_it(path)

    assert path.read_bytes() == before


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE customers (id INTEGER)")
    raw.close()
    before = path.read_bytes()

    for open_it in (SqliteJournal, verify):
        with pytest.raises(StoreFormatError, match="something else, not a journal"):
            open_it(path)

    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.db"]


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n" * 100)

    for open_it in (SqliteJournal, verify):
        with pytest.raises(StoreFormatError, match="not even a database"):
            open_it(path)

    assert path.read_text() == "remember the milk\n" * 100


def test_a_folder_that_cannot_be_made_is_an_unavailable_journal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalUnavailable, match="cannot be created"):
        SqliteJournal(tmp_path / "file" / "journal.db")


def test_an_entry_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    journal.append([opened(), intended(a_step())])
    with contextlib.closing(sqlite3.connect(journal.path)) as raw, raw:
        raw.execute("""UPDATE entries SET body = '{"type":"from_the_future"}' WHERE sequence = 2""")
    raw.close()

    with pytest.raises(StoreFormatError, match=r"entry 2 of the journal cannot be read .* upgrade"):
        everything(journal)
    journal.close()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_journal_whose_file_is_taken_away_refuses_appends(tmp_path: Path, how: str) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    journal.append([opened()])
    if how == "replaced":
        SqliteJournal(tmp_path / "other.db").close()
        (tmp_path / "other.db").replace(path)
    elif how == "moved":
        path.rename(tmp_path / "elsewhere.db")
    else:
        path.unlink()

    with pytest.raises(JournalUnavailable, match="deleted or replaced"):
        journal.append([intended(a_step())])
    journal.close()
