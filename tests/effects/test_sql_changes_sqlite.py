"""What `SqlChanges` promises on SQLite beyond the contract: laws CS1 to CS5."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effects.harness import a_past_step, opened, perform, recorded, the_way_back, version_now
from rescind.compensation.effects import SqlChanges, changes_sqlite
from rescind.errors import Conflict, DeclarationError, NothingChanged, Transient, UsageError
from rescind.guard.effect import PastStep, Probe
from rescind.model.step import Snapshot

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT UNIQUE, balance REAL, raw BLOB, doc JSON,
                        loud TEXT GENERATED ALWAYS AS (upper(name)) STORED);
CREATE TABLE invoices (region INTEGER, "No." TEXT, customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE,
                       amount, PRIMARY KEY (region, "No.")) WITHOUT ROWID;
CREATE TABLE folders (id TEXT PRIMARY KEY, parent TEXT REFERENCES folders, name TEXT);
CREATE TABLE audit (what TEXT);
INSERT INTO customers (id, name, balance, raw, doc) VALUES
  (1, 'Ann', 1.5, x'00ff', '{"a": 1}'), (2, 'Bob', 2, NULL, NULL), (3, 'Cid', 9007199254740993, x'', '[]');
INSERT INTO invoices VALUES (1, 'a', 1, 1), (1, 'b', 1, 1.0), (2, 'a', 2, '1'), (3, 'c', 3, x'31');
INSERT INTO folders VALUES ('r', NULL, 'root'), ('a', 'r', 'A'), ('b', 'a', 'B');
"""
GUARDED = ("customers", "invoices", "folders")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    run(tmp_path / "shop.db", "PRAGMA journal_mode = WAL", SCHEMA)
    SqlChanges(tmp_path / "shop.db", GUARDED).install()
    return tmp_path / "shop.db"


@pytest.fixture
def effect(path: Path) -> SqlChanges:
    return SqlChanges(path, GUARDED)


def run(path: Path, *scripts: str) -> None:
    """As somebody else, with the standard library's driver."""
    connection = sqlite3.connect(path)
    for script in scripts:
        connection.executescript(script)
    connection.close()


def content(path: Path) -> dict[str, list[Any]]:
    connection = sqlite3.connect(path)
    try:
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in GUARDED}
    finally:
        connection.close()


def doing(effect: SqlChanges, *statements: str) -> Callable[[], None]:
    def tool() -> None:
        for statement in statements:
            effect.connection().execute(statement)

    return tool


def done(effect: SqlChanges, *statements: str) -> PastStep:
    return perform(effect, doing(effect, *statements))


def test_cs1_whatever_statements_ran_the_undo_and_the_redo_bring_back_every_row(path: Path, effect: SqlChanges) -> None:
    before = content(path)
    step = done(
        effect,
        "UPDATE customers SET balance = NULL, raw = x'01', doc = 'null' WHERE id = 1",
        "DELETE FROM customers WHERE id = 2",  # and an invoice in cascade
        "INSERT INTO customers (id, name) VALUES (7, 'Bob')",
        "INSERT INTO customers (id, name) VALUES (3, 'Cid') ON CONFLICT DO UPDATE SET balance = 0",
        "INSERT OR REPLACE INTO customers (id, name) VALUES (8, 'Ann')",  # replaces a row, and its invoices
        "UPDATE invoices SET region = region + 10",
        "INSERT INTO folders VALUES ('c', 'b', 'C'); UPDATE folders SET parent = 'c' WHERE id = 'a'",
    )
    after = content(path)
    assert step.after["changed"]["customers"] == {"inserted": 2, "updated": 1, "deleted": 2}
    effect.restore(step)
    assert content(path) == before
    effect.restore(the_way_back(step))
    assert content(path) == after
    effect.restore(step)
    assert content(path) == before


MANY = "WITH RECURSIVE s(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM s WHERE i < 1099)"


def test_cs2_a_thousand_rows_of_several_tables_are_counted_as_they_ended(path: Path, effect: SqlChanges) -> None:
    run(path, f"INSERT INTO customers (id, name) {MANY} SELECT i, 'n' || i FROM s")
    before = content(path)
    step = done(
        effect,
        f"INSERT INTO folders {MANY} SELECT 'f' || i, 'r', printf('%.40c', 'n') FROM s",
        "UPDATE customers SET balance = 0 WHERE id >= 100",
        "UPDATE customers SET balance = NULL WHERE id >= 900",  # as they were before
        "DELETE FROM customers WHERE id < 200",  # and all invoices in cascade
        "DELETE FROM folders WHERE id GLOB 'f9*'",  # which were not there before
    )
    assert step.after["changed"] == {
        "customers": {"inserted": 0, "updated": 700, "deleted": 103},
        "invoices": {"inserted": 0, "updated": 0, "deleted": 4},
        "folders": {"inserted": 900, "updated": 0, "deleted": 0},
    }
    effect.restore(step)
    assert content(path) == before


def test_cs1_triggers_are_captured_when_the_step_runs_and_keep_quiet_when_it_is_undone(path: Path) -> None:
    run(
        path,
        "CREATE TRIGGER noted AFTER UPDATE ON folders BEGIN INSERT INTO audit VALUES (NEW.id); "
        "UPDATE customers SET balance = balance + 1 WHERE id = 1; END",
    )
    before = content(path)
    with pytest.raises(NothingChanged, match="also wrote to audit"):
        done(SqlChanges(path, GUARDED), "UPDATE folders SET name = 'x'")
    assert content(path) == before
    effect = SqlChanges(path, GUARDED, ignore=["audit"])
    step = done(effect, "UPDATE folders SET name = 'x'")
    assert step.after["changed"]["customers"] == {"inserted": 0, "updated": 1, "deleted": 0}
    effect.restore(step)
    assert content(path) == before
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM audit").fetchone() == (3,)
    connection.close()


def test_cs1_rows_whose_key_is_null_are_refused_for_they_would_be_missed(path: Path, effect: SqlChanges) -> None:
    before = content(path)
    with pytest.raises(UsageError, match="folders has rows whose primary key is NULL"):
        done(effect, "INSERT INTO folders VALUES (NULL, NULL, 'lost')")
    assert content(path) == before
    run(path, "INSERT INTO folders VALUES (NULL, NULL, 'lost')")
    with pytest.raises(UsageError, match="primary key is NULL"):
        opened(effect)


@pytest.mark.parametrize(
    "attempt",
    [
        "COMMIT",
        "ROLLBACK",
        "ATTACH ':memory:' AS other",
        "DROP TABLE folders",
        "ALTER TABLE folders RENAME TO gone",
        "DELETE FROM rescind_change_set",
        "UPDATE rescind_change_set SET state = 'undone'",
        "DROP TABLE rescind_change_set",
        "CREATE TRIGGER t AFTER INSERT ON rescind_change_set BEGIN DELETE FROM folders; END",
    ],
)
def test_cs3_the_tool_can_neither_end_its_transaction_nor_touch_what_is_kept(
    path: Path, effect: SqlChanges, attempt: str
) -> None:
    before = content(path)
    with pytest.raises(apsw.Error, match=r"not authori|prohibited"):
        done(effect, "DELETE FROM folders WHERE id = 'b'", attempt)
    assert content(path) == before
    done(effect, "SAVEPOINT s; DELETE FROM folders WHERE id = 'b'; ROLLBACK TO s; RELEASE s")


def test_cs3_a_commit_that_fails_leaves_nothing(path: Path) -> None:
    run(path, "CREATE TABLE late (id INTEGER PRIMARY KEY, of TEXT REFERENCES folders DEFERRABLE INITIALLY DEFERRED)")
    effect = SqlChanges(path, (*GUARDED, "late"))
    before = content(path)
    with pytest.raises(NothingChanged, match="FOREIGN KEY"):
        done(effect, "DELETE FROM folders WHERE id = 'b'; INSERT INTO late VALUES (1, 'nowhere')")
    assert content(path) == before


def test_cs3_a_commit_that_a_reader_holds_up_leaves_nothing(
    path: Path, effect: SqlChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(path, "PRAGMA journal_mode = DELETE")
    monkeypatch.setattr(changes_sqlite, "_BUSY_MS", 0)
    before = content(path)
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT * FROM folders").fetchall()
    with pytest.raises(NothingChanged, match="locked"):
        done(effect, "UPDATE folders SET name = 'x'")
    reader.close()
    assert content(path) == before


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ("UPDATE customers SET balance = 7 WHERE id = 1", "customers 1"),
        ("DELETE FROM customers WHERE id = 1", "customers 1"),
        ("INSERT INTO folders VALUES ('b', NULL, 'again')", "folders b"),
        ("UPDATE invoices SET amount = 5 WHERE region = 9", "invoices 9, z"),
    ],
)
def test_somebody_elses_change_is_a_conflict_that_names_the_row(
    path: Path, effect: SqlChanges, theirs: str, says: str
) -> None:
    step = done(
        effect,
        "UPDATE customers SET balance = 0 WHERE id = 1",
        "DELETE FROM folders WHERE id = 'b'; INSERT INTO invoices VALUES (9, 'z', 3, 1)",
    )
    run(path, theirs)
    before = content(path)
    assert version_now(effect, step).endswith(":changed")
    with pytest.raises(Conflict, match=f"not as the step left it.*{says}"):
        effect.restore(step)
    assert content(path) == before


def test_a_later_change_of_other_columns_stays(path: Path, effect: SqlChanges) -> None:
    step = done(effect, "UPDATE customers SET balance = 0 WHERE id = 1")
    run(path, "UPDATE customers SET name = 'Anna' WHERE id = 1")
    effect.restore(step)
    assert content(path)["customers"][0][:3] == (1, "Anna", 1.5)


def test_cs5_rows_of_others_that_would_go_in_cascade_are_a_conflict(path: Path, effect: SqlChanges) -> None:
    step = done(effect, "INSERT INTO customers (id, name) VALUES (9, 'zed')")
    run(path, "PRAGMA foreign_keys = ON; INSERT INTO invoices VALUES (9, 'theirs', 9, 1)")
    before = content(path)
    with pytest.raises(Conflict, match="rows would refer to rows that are not there"):
        effect.restore(step)
    assert content(path) == before


def test_cs5_what_was_deleted_does_not_come_back_over_a_name_that_is_taken(path: Path, effect: SqlChanges) -> None:
    step = done(effect, "DELETE FROM customers WHERE id = 3")
    run(path, "INSERT INTO customers (id, name) VALUES (30, 'Cid')")
    before = content(path)
    with pytest.raises(Conflict, match="cannot be put back"):
        effect.restore(step)
    assert content(path) == before


def test_steps_come_off_like_a_stack(path: Path, effect: SqlChanges) -> None:
    states, steps = [content(path)], []
    for name in ("one", "two", "three"):
        steps.append(done(effect, f"UPDATE folders SET name = '{name}'", "DELETE FROM customers WHERE id = 2"))
        states.append(content(path))
    with pytest.raises(Conflict):
        effect.restore(steps[0])
    for step, state in zip(reversed(steps), reversed(states[:3]), strict=True):
        effect.restore(step)
        assert content(path) == state


def test_what_cannot_be_guarded_is_said_in_words(path: Path, tmp_path: Path) -> None:
    run(path, "CREATE TABLE nokey (a); CREATE VIEW v AS SELECT 1; CREATE VIRTUAL TABLE words USING fts5(a)")
    refused = {
        "nokey": "no primary key",
        "v": "it is a view",
        "words": "it is a virtual",
        "missing": "no table missing",
    }
    for table, says in refused.items():
        with pytest.raises(UsageError, match=says):
            SqlChanges(path, [table]).install()
    with pytest.raises(UsageError, match="no database file"):
        SqlChanges(tmp_path / "nowhere.db", ["t"]).install()
    with pytest.raises(UsageError, match="no roles"):
        SqlChanges(path, ["folders"]).install(agents=["agent"])
    for wrong in (":memory:", "sqlite:///shop.db", 7):
        with pytest.raises(DeclarationError):
            SqlChanges(wrong, ["t"])  # type: ignore[arg-type]  # the mistake itself
    with pytest.raises(DeclarationError):
        SqlChanges(path, "folders")
    with pytest.raises(DeclarationError):
        SqlChanges(path, [])


def test_without_an_installation_the_tool_does_not_run_and_the_remedy_is_named(tmp_path: Path) -> None:
    run(tmp_path / "bare.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
    with pytest.raises(UsageError, match=r"Run SqlChanges\.install\(\)"):
        opened(SqlChanges(tmp_path / "bare.db", ["t"]))


def test_a_changed_table_a_damaged_changeset_and_a_purged_one_are_conflicts(path: Path, effect: SqlChanges) -> None:
    step = done(effect, "UPDATE folders SET name = 'x'")
    run(path, "ALTER TABLE folders ADD COLUMN colour TEXT DEFAULT 'red'")
    with pytest.raises(Conflict, match="changed since the step: folders"):
        effect.restore(step)
    step = done(effect, "UPDATE folders SET name = 'y'")
    run(path, "UPDATE rescind_change_set SET changeset = x'00'")
    with pytest.raises(Conflict, match="damaged"):
        effect.restore(step)
    assert effect.purge(timedelta(days=1)) == 0
    assert effect.purge(timedelta(0)) == 2
    assert effect.observe(step) is None
    assert effect.probe(step) is Probe.CANNOT_TELL
    with pytest.raises(Conflict, match="purged"):
        effect.restore(step)


def test_an_open_transaction_is_neither_found_nor_not_found(path: Path, effect: SqlChanges) -> None:
    touch = opened(effect)
    doing(effect, "DELETE FROM folders WHERE id = 'b'")()
    step = a_past_step(recorded(touch.before), None, {})
    assert effect.probe(step) is Probe.CANNOT_TELL
    with pytest.raises(Transient, match="still under way"):
        effect.observe(step)
    assert touch.abandon() is True
    assert effect.probe(step) is Probe.NOT_FOUND


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import msgspec
from effects.harness import opened
from rescind.compensation.effects import SqlChanges, changes_sqlite

effect = SqlChanges({database!r}, ["folders"])
touch = opened(effect)
print(msgspec.json.encode(touch.before).decode(), flush=True)
effect.connection().execute("UPDATE folders SET name = 'killed' WHERE id = 'r'")
if {after}:
    touch.settle(None)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_process_killed_around_its_commit_is_told_truthfully(path: Path, effect: SqlChanges, after: bool) -> None:
    before = content(path)
    code = textwrap.dedent(KILLED).format(path=sys.path, database=str(path), after=after)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert child.returncode == -signal.SIGKILL, child.stderr
    step = a_past_step(msgspec.json.decode(child.stdout, type=Snapshot), None, {})
    assert effect.probe(step) is (Probe.FOUND if after else Probe.NOT_FOUND)
    assert (content(path) == before) is not after


KEYS = st.integers(1, 4)
STATEMENTS = st.one_of(
    st.builds("UPDATE OR IGNORE customers SET balance = balance + {} WHERE id <= {}".format, KEYS, KEYS),
    st.builds("UPDATE OR IGNORE customers SET id = {} WHERE id = {}".format, KEYS, KEYS),
    st.builds("INSERT OR REPLACE INTO customers (id, name) VALUES ({}, 'n{}')".format, KEYS, KEYS),
    st.builds("DELETE FROM customers WHERE id = {}".format, KEYS),
    st.builds("INSERT OR IGNORE INTO invoices VALUES ({0}, 'x', (SELECT min(id) FROM customers), {0})".format, KEYS),
    st.builds("DELETE FROM invoices WHERE region >= {}".format, KEYS),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.lists(STATEMENTS, min_size=1, max_size=5), min_size=1, max_size=3))
def test_any_statements_in_any_number_of_steps_come_off_exactly(path: Path, effect: SqlChanges, runs: Any) -> None:
    states, steps = [content(path)], []
    for statements in runs:
        try:
            steps.append(done(effect, *statements))
        except apsw.ConstraintError:
            assert content(path) == states[-1]
            continue
        states.append(content(path))
    for step, state in zip(reversed(steps), reversed(states[:-1]), strict=True):
        effect.restore(step)
        assert content(path) == state
