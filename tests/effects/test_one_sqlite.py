"""No change set beside another copy of SQLite in the same process: laws OS1 to OS3."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
import sqlalchemy as sa

from effects.harness import opened, perform
from rescind.compensation.effects import SqlChanges, one_sqlite
from rescind.errors import NothingChanged, Transient


@pytest.fixture(params=["delete", "wal"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode = {request.param}; CREATE TABLE t (a INTEGER PRIMARY KEY)")
    SqlChanges(path, ["t"]).install()
    return path


@pytest.fixture
def effect(path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlChanges:
    monkeypatch.setattr(one_sqlite, "_LOOKS", 3)
    return SqlChanges(path, ["t"])


def inserting(effect: SqlChanges, number: int) -> Any:
    return lambda: effect.connection().execute(f"INSERT INTO t VALUES ({number})")


def rows(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [number for (number,) in connection.execute("SELECT a FROM t ORDER BY a")]


def test_that_copies_do_not_lock_each_other_out_is_still_so(path: Path) -> None:
    """What this is about. Should it fail one day, all of `one_sqlite` can go."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        connection = apsw.Connection(str(path))
        connection.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        connection.close(True)


def test_os1_a_call_beside_an_open_connection_is_refused_and_changes_nothing(path: Path, effect: SqlChanges) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM t").fetchall()
        with pytest.raises(Transient, match=r"shop\.db is open in this process .* \(an Engine"):
            perform(effect, inserting(effect, 1))
    assert rows(path) == []
    perform(effect, inserting(effect, 1))
    assert rows(path) == [1]


def test_os1_so_is_one_beside_the_pool_of_its_own_engine(path: Path, effect: SqlChanges) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1 FROM t")
    with pytest.raises(Transient, match="NullPool"):
        opened(SqlChanges(engine, ["t"]))
    engine.dispose()
    assert opened(SqlChanges(engine, ["t"])).abandon()


def test_os1_what_another_copy_opened_during_the_call_takes_the_call_back(path: Path, effect: SqlChanges) -> None:
    others: list[sqlite3.Connection] = []

    def tool() -> None:
        inserting(effect, 1)()
        others.append(sqlite3.connect(path))
        others[0].execute("SELECT * FROM t").fetchall()

    with pytest.raises(NothingChanged, match=r"rolled back: .* another SQLite"):
        perform(effect, tool)
    others[0].close()
    assert rows(path) == []


def test_os1_nothing_is_undone_or_looked_at_beside_another_copy(path: Path, effect: SqlChanges) -> None:
    step = perform(effect, inserting(effect, 1))
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM t").fetchall()
        for look in (effect.restore, effect.observe, effect.probe):
            with pytest.raises(Transient, match="nothing was changed"):
                look(step)
    assert rows(path) == [1]
    effect.restore(step)
    assert rows(path) == []


def test_os1_a_short_look_by_another_copy_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("SELECT * FROM t").fetchall()
    slept = threading.Event()

    def sleep(_: float) -> None:
        other.close()
        slept.set()

    monkeypatch.setattr(time, "sleep", sleep)
    effect = SqlChanges(path, ["t"])
    perform(effect, inserting(effect, 1))
    assert slept.is_set()


def test_os2_connections_of_the_users_own_apsw_are_in_nobodys_way(path: Path, effect: SqlChanges) -> None:
    own = apsw.Connection(str(path))
    own.execute("SELECT * FROM t").fetchall()
    perform(effect, inserting(effect, 1))
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM t").fetchall()
        with pytest.raises(Transient):
            opened(effect)
    own.close()
    perform(effect, inserting(effect, 2))


def test_os2_one_of_them_may_be_closed_during_a_call(path: Path, effect: SqlChanges) -> None:
    """SQLite keeps its descriptor until the locks of the call are gone."""
    own = apsw.Connection(str(path))
    own.execute("SELECT * FROM t").fetchall()

    def tool() -> None:
        inserting(effect, 1)()
        own.close(True)

    perform(effect, tool)
    assert rows(path) == [1]


def test_os2_one_that_was_there_before_the_effect_is_known_too(path: Path, effect: SqlChanges) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apsw, "connection_hooks", [])
        own = apsw.Connection(str(path))
    own.execute("SELECT * FROM t").fetchall()
    perform(effect, inserting(effect, 1))
    own.close(True)


def a_kept_descriptor(path: Path) -> tuple[apsw.Connection, int]:
    """One of ours, closed while a connection of the user's own reads, so that SQLite keeps it; and that connection."""
    own = apsw.Connection(str(path))
    own.execute("BEGIN; SELECT * FROM t").fetchall()
    before = open_at(path)
    ours = one_sqlite.connect(path)
    ours.execute("SELECT * FROM t").fetchall()
    one_sqlite.close(ours)
    (kept,) = open_at(path) - before
    return own, kept


def open_at(path: Path) -> set[int]:
    """The descriptors of this file."""
    found: set[int] = set()
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # of the list itself
            if os.path.samestat(os.fstat(int(name)), path.stat()):
                found.add(int(name))
    return found


def test_os2_a_number_that_sqlite_had_kept_for_us_may_become_somebody_elses(path: Path, effect: SqlChanges) -> None:
    own, kept = a_kept_descriptor(path)
    with ExitStack() as taken:
        own.execute("COMMIT")
        own.close(True)
        while (number := os.open(os.devnull, os.O_RDONLY)) < kept:
            taken.callback(os.close, number)
        os.close(number)
        assert number == kept
        with closing(sqlite3.connect(path)) as other:
            other.execute("SELECT * FROM t").fetchall()
            assert kept in open_at(path)
            with pytest.raises(Transient):
                opened(effect)


def test_os2_a_descriptor_that_sqlite_had_kept_may_become_the_users(path: Path, effect: SqlChanges) -> None:
    own, kept = a_kept_descriptor(path)
    second = apsw.Connection(str(path))
    second.execute("SELECT * FROM t").fetchall()
    assert kept in open_at(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM t").fetchall()
        with pytest.raises(Transient):
            opened(effect)
    second.close(True)
    own.close(True)


def test_os2_another_process_may_use_any_copy(path: Path, effect: SqlChanges) -> None:
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM t').fetchall(); "
        "print('there', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "there\n"
        perform(effect, inserting(effect, 1))
        process.communicate("\n")
    assert rows(path) == [1]


def test_os2_a_number_that_was_ours_may_become_somebody_elses(path: Path, effect: SqlChanges) -> None:
    """A descriptor that we closed is given to the next one who opens the file."""
    for number in range(3):
        perform(effect, inserting(effect, number))
        with closing(sqlite3.connect(path)) as other:
            other.execute("SELECT * FROM t").fetchall()
            with pytest.raises(Transient):
                opened(effect)


def test_os2_calls_and_looks_in_many_threads_are_in_each_others_way_only_by_locks(
    path: Path, effect: SqlChanges
) -> None:
    step = perform(effect, inserting(effect, 0))
    failed: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 8):
                perform(effect, inserting(effect, number))
                effect.observe(step)
        except BaseException as error:  # noqa: BLE001  # it is looked at below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(10 * number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(rows(path)) == 33


# --- a file that is not there any more ---


def replaced(path: Path) -> None:
    shutil.copyfile(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize(
    ("gone", "why"), [(Path.unlink, "was removed or moved"), (replaced, "there is another file at")]
)
def test_os3_nothing_is_committed_to_a_file_that_is_not_there_any_more(
    path: Path, effect: SqlChanges, gone: Callable[[Path], None], why: str
) -> None:
    def tool() -> None:
        inserting(effect, 1)()
        gone(path)

    with pytest.raises(NothingChanged, match=why):
        perform(effect, tool)


def test_os1_where_nobody_can_see_what_is_open_nothing_is_done(
    path: Path, effect: SqlChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a process that has used up its descriptors, so that there is none to list them with."""

    def tool() -> None:
        inserting(effect, 1)()
        monkeypatch.setattr(one_sqlite, "_LISTED_AT", str(path))

    with pytest.raises(NothingChanged, match="cannot be seen"):
        perform(effect, tool)
    with pytest.raises(Transient, match="cannot be seen"):
        opened(effect)
    monkeypatch.undo()
    assert rows(path) == []
