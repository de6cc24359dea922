"""What `SqlChanges` promises on PostgreSQL beyond the contract: laws CS1 to CS6."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from effects.harness import a_past_step, opened, perform, recorded, the_way_back, version_now
from rescind.compensation.effects import SqlChanges
from rescind.errors import Conflict, NothingChanged, Transient, UsageError
from rescind.guard.effect import PastStep, Probe
from servers import Postgres

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN cents AS bigint NOT NULL CHECK (VALUE >= 0);
CREATE TABLE customers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, balance numeric(12,2) CHECK (balance > -1e6),
  note varchar(80), ratio float8, seen timestamptz, raw bytea, tags text[], doc json, docb jsonb, mood mood, ref uuid,
  flag boolean, owed cents DEFAULT 0, span interval, shape point,
  doubled numeric GENERATED ALWAYS AS (balance * 2) STORED);
CREATE TABLE invoices (
  region int, "No." text, customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE, amount float8,
  PRIMARY KEY (region, "No."));
CREATE TABLE folders (id int PRIMARY KEY, parent int REFERENCES folders, name text UNIQUE);
CREATE TABLE audit (id bigserial PRIMARY KEY, what text);
INSERT INTO customers (name, balance, note, ratio, seen, raw, tags, doc, docb, mood, ref, flag, span, shape)
  SELECT 'n' || i, i / 7.0, 'it''s "quoted", (a,b)\\ ' || i, i / 3.0, now() - i * interval '1.000001 s',
    decode(md5(i::text), 'hex'), ARRAY['x', NULL, '{y}'], '{"k":  1, "k": 2}', '{"k": [1, null]}', 'ok',
    md5(i::text)::uuid, true, interval '1 mon 2 days 3 s', point(i, 0.1) FROM generate_series(1, 300) i;
UPDATE customers SET ratio = 'NaN' WHERE id = 7;
UPDATE customers SET ratio = '-0', seen = 'infinity', balance = NULL WHERE id = 8;
INSERT INTO invoices SELECT i, 'b' || i, i, i / 9.0 FROM generate_series(1, 300) i;
INSERT INTO folders VALUES (1, NULL, 'root'), (2, 1, 'a'), (3, 2, 'b');
"""

GUARDED = ("customers", "invoices", "folders")


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> Iterator[Engine]:
    engine = engine_of(postgres.new_database())
    yield engine
    engine.dispose()


@pytest.fixture
def engine(database: Engine) -> Engine:
    """The tables as they were at first; much quicker than a new database."""
    empty = "DROP SCHEMA IF EXISTS rescind_changes CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public;"
    run(database, f"SET LOCAL client_min_messages = warning; {empty} {SCHEMA}")
    database.dispose()  # no connection that remembers the tables of the test before
    return database


@pytest.fixture
def effect(engine: Engine) -> SqlChanges:
    effect = SqlChanges(engine, GUARDED)
    effect.install()
    return effect


def engine_of(url: str) -> Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def copy_of(postgres: Postgres, database: str) -> str:
    url = postgres.new_database()
    name = url.rsplit("/", 1)[1]
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}".encode())
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {database}".encode())
    return url


def run(engine: Engine, script: str) -> None:
    with engine.begin() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(script)


def content(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            table: list(connection.exec_driver_sql(f"SELECT t::text FROM {table} t ORDER BY 1").scalars())
            for table in GUARDED
        }


def doing(effect: SqlChanges, *statements: str) -> Callable[[], None]:
    def tool() -> None:
        for statement in statements:
            effect.connection().execution_options(no_parameters=True).exec_driver_sql(statement)

    return tool


def done(effect: SqlChanges, *statements: str) -> PastStep:
    return perform(effect, doing(effect, *statements))


def changed(step: PastStep) -> dict[str, tuple[int, int, int]]:
    return {
        name.removeprefix("public."): (rows["inserted"], rows["updated"], rows["deleted"])
        for name, rows in step.after["changed"].items()
    }


EVERYTHING = (
    "UPDATE customers SET balance = 1, note = NULL, ratio = 0, seen = now(), raw = '', tags = '{}', doc = 'null', "
    "docb = 'null', mood = 'sad', ref = NULL, flag = NULL, owed = 5, span = NULL, shape = NULL WHERE id <= 100",
    "UPDATE customers SET balance = balance + 1 WHERE id <= 50",
    "DELETE FROM customers WHERE id BETWEEN 200 AND 220",
    "UPDATE invoices SET region = region + 1000000 WHERE region BETWEEN 100 AND 110",
    "INSERT INTO customers (name, balance) SELECT 'new' || i, i FROM generate_series(1, 5) i",
    "DELETE FROM customers WHERE name = 'n250'; INSERT INTO customers (name) VALUES ('n250')",
    "INSERT INTO customers (name, balance) VALUES ('n90', 3) ON CONFLICT (name) DO UPDATE SET balance = 3",
    "MERGE INTO invoices i USING (VALUES (1, 'b1'), (2, 'zz')) v(r, n) ON i.region = v.r AND i.\"No.\" = v.n "
    "WHEN MATCHED THEN UPDATE SET amount = 0 WHEN NOT MATCHED THEN INSERT VALUES (v.r, v.n, 1, 1)",
    "INSERT INTO folders VALUES (4, 3, 'c'), (5, 4, 'd'); UPDATE folders SET parent = 5 WHERE id = 2",
)


def test_cs1_whatever_statements_ran_the_undo_and_the_redo_bring_back_every_row_of_every_type(
    engine: Engine, effect: SqlChanges
) -> None:
    before = content(engine)
    step = done(effect, *EVERYTHING)
    after = content(engine)
    assert changed(step) == {"customers": (6, 100, 22), "invoices": (12, 1, 33), "folders": (2, 1, 0)}
    effect.restore(step)
    assert content(engine) == before
    effect.restore(the_way_back(step))
    assert content(engine) == after
    assert step.after_snapshot
    assert version_now(effect, step) == step.after_snapshot.version
    effect.restore(step)
    assert content(engine) == before


def test_cs1_copy_is_captured_and_truncate_refused(engine: Engine, effect: SqlChanges) -> None:
    before = content(engine)

    def tool() -> None:
        driver = effect.connection().connection.driver_connection
        with driver.cursor().copy("COPY folders FROM STDIN") as copy:
            copy.write("7\t\\N\tcopied\n8\t7\talso\n")

    step = perform(effect, tool)
    assert changed(step) == {"folders": (2, 0, 0)}
    effect.restore(step)
    assert content(engine) == before
    with pytest.raises(sa.exc.DBAPIError, match=r"TRUNCATE of public\.folders could not be undone"):
        done(effect, "TRUNCATE folders")
    assert content(engine) == before


def test_cs2_several_changes_of_a_row_are_one_and_what_comes_to_nothing_is_none(
    engine: Engine, effect: SqlChanges
) -> None:
    step = done(
        effect,
        "UPDATE folders SET name = 'x' WHERE id = 1; UPDATE folders SET name = 'y' WHERE id = 1",
        "INSERT INTO folders VALUES (9, NULL, 'gone'); DELETE FROM folders WHERE id = 9",
        "UPDATE folders SET name = 'z' WHERE id = 2; UPDATE folders SET name = 'a' WHERE id = 2",
    )
    assert changed(step) == {"folders": (0, 1, 0)}
    nothing = done(effect, "UPDATE folders SET name = name")
    assert nothing.before_snapshot == nothing.after_snapshot


def test_cs2_one_statement_that_left_some_rows_as_they_were_to_the_bit(engine: Engine, effect: SqlChanges) -> None:
    before = content(engine)
    step = done(effect, "UPDATE customers SET balance = round(balance), ratio = 0 WHERE id BETWEEN 6 AND 9")
    assert changed(step) == {"customers": (0, 4, 0)}  # from minus zero to zero is a change, and has the same hash
    effect.restore(step)
    assert content(engine) == before
    step = done(effect, "UPDATE customers SET ratio = CASE id WHEN 7 THEN 1 ELSE ratio END WHERE id BETWEEN 6 AND 9")
    assert changed(step) == {"customers": (0, 1, 0)}
    effect.restore(step)
    assert content(engine) == before


def test_a_row_that_another_undo_wrote_is_not_ours_if_nothing_says_how_we_left_it(
    engine: Engine, effect: SqlChanges
) -> None:
    step = done(effect, "UPDATE folders SET name = upper(name)")
    effect.restore(done(effect, "UPDATE folders SET name = id"))
    with engine.connect() as connection:
        shadow = connection.exec_driver_sql(
            "SELECT shadow FROM rescind_changes.guarded WHERE rel = 'folders'::regclass"
        )
        name = shadow.scalar_one()
    run(engine, f"UPDATE rescind_changes.{name} SET rescind_left = NULL")  # kept by an earlier version
    with pytest.raises(Conflict, match=r"3 rows of public\.folders"):
        effect.restore(step)


@pytest.mark.parametrize(
    "script",
    [
        "SAVEPOINT a; UPDATE customers SET note = note || '!' WHERE id <= 90; RELEASE a",
        "SAVEPOINT a; UPDATE customers SET note = 'lost'; ROLLBACK TO a; UPDATE customers SET note = '!' WHERE id <= 9",
        "SAVEPOINT a; INSERT INTO folders VALUES (7, 1, 'g'); SAVEPOINT b; DELETE FROM folders WHERE id = 3",
        "SAVEPOINT a; INSERT INTO folders VALUES (7, 1, 'g'); RELEASE a; SAVEPOINT b; UPDATE folders SET name = id",
    ],
)
def test_what_was_written_in_savepoints_is_the_steps(engine: Engine, effect: SqlChanges, script: str) -> None:
    before = content(engine)
    step = done(effect, script)
    assert step.after_snapshot
    assert version_now(effect, step) == step.after_snapshot.version
    after = content(engine)
    effect.restore(step)
    assert content(engine) == before
    effect.restore(the_way_back(step))
    assert content(engine) == after


def test_a_row_that_another_undo_wrote_is_told_by_what_the_step_left_in_it(engine: Engine, effect: SqlChanges) -> None:
    states, steps = [content(engine)], []
    for statements in (
        ("UPDATE customers SET note = 'first ' || id, balance = -balance WHERE id <= 200",),
        (
            "UPDATE folders SET id = id + 10, parent = NULL",
            "UPDATE customers SET note = 'a'; UPDATE customers SET note = id",
        ),
        ("UPDATE folders SET name = upper(name)", "DELETE FROM customers WHERE id BETWEEN 20 AND 60"),
    ):
        steps.append(done(effect, *statements))
        states.append(content(engine))
    for number in (2, 1):
        effect.restore(steps[number])
        assert content(engine) == states[number]
    effect.restore(done(effect, "UPDATE customers SET note = 'passing', ratio = -ratio"))  # and taken back
    effect.restore(the_way_back(steps[1]))
    assert content(engine) == states[2]
    effect.restore(steps[1])
    run(engine, "UPDATE customers SET note = 'theirs' WHERE id = 150")
    with pytest.raises(Conflict, match=r"1 rows of public\.customers: 150"):
        effect.restore(steps[0])
    run(engine, "UPDATE customers SET note = 'first 150' WHERE id = 150")
    with pytest.raises(Conflict, match=r"1 rows of public\.customers: 150"):  # changed back, but not by an undo of ours
        effect.restore(steps[0])


def test_a_column_whose_type_changed_is_kept_in_the_new_one_once_what_was_kept_is_given_up(
    engine: Engine, effect: SqlChanges
) -> None:
    done(effect, "UPDATE customers SET flag = false")
    run(engine, "ALTER TABLE customers ALTER flag TYPE text USING flag || ', and why'")
    with pytest.raises(UsageError, match="was boolean, is text now") as refused:
        effect.install()
    effect.purge(timedelta(0))
    table = str(refused.value).partition("DROP TABLE ")[2].partition(",")[0]
    run(engine, f"DROP TABLE {table}")
    effect.install()
    before = content(engine)
    step = done(effect, "UPDATE customers SET flag = 'x'")
    assert kept(engine, "customers") == (0, 300)
    effect.restore(step)
    assert content(engine) == before


@pytest.mark.parametrize(
    "theirs",
    [
        "balance = -balance",
        "ratio = -ratio",
        "docb = '{\"k\": [-1, null]}'",
        "span = '32 days 3 s'",
        "tags = '{{a},{b}}'",
        "shape = '(1,-0)'",
        'doc = \'{"k": 1, "k": 2}\'',
    ],
)
def test_somebody_elses_change_under_a_later_step_is_seen_whatever_its_type_counts_as_equal(
    engine: Engine, effect: SqlChanges, theirs: str
) -> None:
    ours = "balance = 5, ratio = 0, docb = '{\"k\": [1, null]}', span = '1 mon 2 days 3 s', tags = '{a,b}'"
    step = done(effect, f"UPDATE customers SET {ours}, shape = '(1,0)' WHERE id = 4")
    run(engine, f"UPDATE customers SET {theirs} WHERE id = 4")
    later = done(effect, "UPDATE customers SET note = 'later' WHERE id = 4")
    effect.restore(later)
    before = content(engine)
    with pytest.raises(Conflict, match=r"1 rows of public\.customers: 4"):
        effect.restore(step)
    assert content(engine) == before


def kept(engine: Engine, table: str) -> tuple[int, int]:
    """How many rows are kept of a table one by one, and how many packed."""
    with engine.connect() as connection:
        ask = f"SELECT shadow FROM rescind_changes.guarded WHERE rel = '{table}'::regclass"
        shadow = connection.exec_driver_sql(ask).scalar_one()
        one_by_one = connection.exec_driver_sql(f'SELECT count(*) FROM rescind_changes."{shadow}"').scalar_one()
        packed = f'SELECT coalesce(sum(cardinality(rescind_rows)), 0) FROM rescind_changes."{shadow}_packed"'
        return one_by_one, int(connection.exec_driver_sql(packed).scalar_one())


COLUMNS = "balance, note, ratio, seen, raw, tags, doc, docb, mood, ref, flag, span, shape"


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("UPDATE customers SET (seen, raw, doc, mood, ref, span, shape) = (SELECT now(), '', '1', 'sad')", 300),
        ("UPDATE customers SET balance = -balance, tags = NULL, docb = NULL, note = ratio WHERE balance <> 0", 299),
        ("DELETE FROM customers WHERE id > 40", 260),
        (f"INSERT INTO customers (name, {COLUMNS}) SELECT 'new ' || id, {COLUMNS} FROM customers", 300),
        ("UPDATE folders SET name = id || name", 3),
        ("INSERT INTO folders SELECT i, 1, i FROM generate_series(10, 58) i", 49),
        ("INSERT INTO folders SELECT i, 1, i FROM generate_series(10, 1259) i", 1250),
    ],
)
def test_what_one_statement_did_to_many_rows_is_kept_packed_and_comes_back_exactly(
    engine: Engine, effect: SqlChanges, statement: str, rows: int
) -> None:
    statement = statement.replace("(SELECT now(), '', '1', 'sad')", "(now(), '', '1', 'sad', NULL, '1 s', NULL)")
    table = "folders" if "folders" in statement else "customers"
    before = content(engine)
    step = done(effect, statement)
    assert sum(changed(step)[table]) == rows
    assert kept(engine, table) == ((0, rows) if rows >= 50 else (rows, 0))
    after = content(engine)
    assert step.before_snapshot
    assert step.after_snapshot
    assert version_now(effect, step) == step.after_snapshot.version
    assert kept(engine, table)[1] == (rows if rows >= 50 else 0)  # looking changes nothing
    effect.restore(step)
    assert content(engine) == before
    assert version_now(effect, step) == step.before_snapshot.version
    assert kept(engine, table)[1] == 0
    effect.restore(the_way_back(step))
    assert content(engine) == after
    effect.restore(step)
    assert content(engine) == before
    assert effect.purge(timedelta(0)) == 1
    assert kept(engine, table) == (0, 0)


def test_somebody_elses_change_of_a_packed_row_is_a_conflict(engine: Engine, effect: SqlChanges) -> None:
    step = done(effect, "UPDATE customers SET balance = -balance WHERE id BETWEEN 9 AND 108")
    run(engine, "UPDATE customers SET balance = balance WHERE id = 77")
    before = content(engine)
    assert version_now(effect, step).endswith(":changed")
    with pytest.raises(Conflict, match=r"1 rows of public\.customers: 77"):
        effect.restore(step)
    assert content(engine) == before
    assert kept(engine, "customers") == (0, 100)
    assert effect.purge(timedelta(0)) == 1
    assert kept(engine, "customers") == (0, 0)


def test_packed_rows_are_taken_apart_where_a_step_did_more_than_one_statement(
    engine: Engine, effect: SqlChanges
) -> None:
    before = content(engine)
    step = done(
        effect,
        "SAVEPOINT a; UPDATE customers SET note = 'one', balance = 1 WHERE id <= 100",
        "UPDATE customers SET note = 'two' WHERE id BETWEEN 90 AND 200; SAVEPOINT b",
        "DELETE FROM customers WHERE id BETWEEN 150 AND 250; UPDATE customers SET note = 'three' WHERE id = 5",
        "INSERT INTO folders SELECT i, 1, i FROM generate_series(10, 99) i; DELETE FROM folders WHERE id > 97",
    )
    assert changed(step)["customers"] == (0, 149, 101)
    assert changed(step)["folders"] == (88, 0, 0)
    assert kept(engine, "customers") == (250, 0)
    after = content(engine)
    effect.restore(step)
    assert content(engine) == before
    effect.restore(the_way_back(step))
    assert content(engine) == after


def test_rows_with_wide_values_are_not_packed(engine: Engine, effect: SqlChanges) -> None:
    run(engine, "UPDATE customers SET doc = to_json(repeat(md5(id::text), 3000)) WHERE id <= 2")
    run(
        engine,
        "ALTER TABLE customers ALTER doc SET STORAGE EXTERNAL;UPDATE customers SET doc = doc::text::json WHERE id <= 2",
    )
    before = content(engine)
    step = done(effect, "UPDATE customers SET balance = -7")
    assert kept(engine, "customers") == (300, 0)
    effect.restore(step)
    assert content(engine) == before


def test_a_column_that_came_later_is_packed_with_the_others(engine: Engine, effect: SqlChanges) -> None:
    old = done(effect, "UPDATE customers SET balance = -1 WHERE id <= 60")
    assert kept(engine, "customers") == (0, 60)
    run(engine, "ALTER TABLE customers DROP COLUMN shape; ALTER TABLE customers ADD COLUMN colour text DEFAULT 'red'")
    effect.install()
    before = content(engine)
    step = done(effect, "UPDATE customers SET colour = id WHERE id <= 80")
    assert kept(engine, "customers") == (0, 140)
    effect.restore(step)
    assert content(engine) == before
    with pytest.raises(Conflict, match=r"changed since the step: public\.customers"):
        effect.restore(old)


NESTING = """
CREATE FUNCTION touch_parent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE folders SET name = name || '+' WHERE id IN (NEW.parent, NEW.id); RETURN NULL; END $$;
CREATE TRIGGER aaa AFTER INSERT OR UPDATE ON folders FOR EACH ROW WHEN (pg_trigger_depth() < 2)
  EXECUTE FUNCTION touch_parent();
"""


def test_cs1_a_statement_inside_a_trigger_is_captured_and_does_not_hide_what_was_there_before(
    engine: Engine, effect: SqlChanges
) -> None:
    run(engine, NESTING)
    before = content(engine)
    step = done(
        effect,
        "UPDATE folders SET name = 'first' WHERE id = 2",
        "UPDATE folders SET name = 'second' || id WHERE id IN (1, 2, 3)",
        "INSERT INTO folders VALUES (4, 1, 'c')",
    )
    assert changed(step) == {"folders": (1, 3, 0)}
    effect.restore(step)
    assert content(engine) == before


def test_cs1_a_trigger_of_a_table_that_nobody_guards_comes_before_the_statement_after_it(
    engine: Engine, effect: SqlChanges
) -> None:
    run(
        engine,
        "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE folders SET name = 'told' WHERE id = 1; RETURN NULL; END $$;"
        "CREATE TRIGGER told AFTER INSERT ON audit FOR EACH ROW EXECUTE FUNCTION told()",
    )
    lenient = SqlChanges(engine, ["folders"], ignore=["audit"])
    before = content(engine)
    writes = ("INSERT INTO audit (what) VALUES ('x')", "UPDATE folders SET name = 'then' WHERE id = 1")
    lenient.restore(perform(lenient, doing(lenient, *writes)))
    assert content(engine) == before


def test_cs1_a_cascade_out_of_a_table_that_nobody_guards_is_captured(engine: Engine) -> None:
    run(engine, "CREATE TABLE notes (id int PRIMARY KEY, about int REFERENCES folders ON DELETE CASCADE)")
    run(engine, "INSERT INTO notes VALUES (1, 3), (2, 3)")
    effect = SqlChanges(engine, ["notes"], ignore=["folders"])
    effect.install()
    step = done(effect, "DELETE FROM folders WHERE id = 3")
    assert changed(step) == {"notes": (0, 0, 2)}
    with pytest.raises(Conflict, match="cannot be put back"):  # what they refer to stays away
        effect.restore(step)


def test_cs1_a_deferred_trigger_has_its_say_before_the_step_is_settled(engine: Engine, effect: SqlChanges) -> None:
    run(
        engine,
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE invoices SET amount = -1 WHERE region = 5; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON folders DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION later();",
    )
    before = content(engine)
    step = done(effect, "UPDATE folders SET name = 'x' WHERE id = 1")
    assert changed(step) == {"folders": (0, 1, 0), "invoices": (0, 1, 0)}
    effect.restore(step)
    assert content(engine) == before


def test_cs1_a_write_to_a_table_that_nobody_guards_takes_the_call_back(engine: Engine, effect: SqlChanges) -> None:
    before = content(engine)
    with pytest.raises(NothingChanged, match=r"also wrote to public\.audit"):
        done(effect, "DELETE FROM folders WHERE id = 3", "INSERT INTO audit (what) VALUES ('x')")
    assert content(engine) == before
    step = perform(
        ignoring := SqlChanges(engine, ["folders"], ignore=["audit"]),
        doing(ignoring, "DELETE FROM folders WHERE id = 3", "INSERT INTO audit (what) VALUES ('x')"),
    )
    ignoring.restore(step)
    assert content(engine) == before
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM audit").scalar_one() == 1


def test_cs1_a_tool_that_goes_around_the_connection_is_told(engine: Engine, effect: SqlChanges) -> None:
    with pytest.raises(NothingChanged, match=r"without having asked for connection\(\)"):
        perform(effect, lambda: None)


def test_cs3_a_step_whose_commit_failed_left_nothing(engine: Engine, effect: SqlChanges) -> None:
    run(
        engine,
        "ALTER TABLE invoices ADD FOREIGN KEY (customer_id) REFERENCES customers DEFERRABLE INITIALLY DEFERRED",
    )
    before = content(engine)
    with pytest.raises(NothingChanged, match="was rolled back"):
        done(
            effect,
            "ALTER TABLE invoices DROP CONSTRAINT invoices_customer_id_fkey",
            "UPDATE invoices SET customer_id = -5",
        )
    assert content(engine) == before


def test_cs3_the_tool_cannot_end_the_transaction_unnoticed(engine: Engine, effect: SqlChanges) -> None:
    with pytest.raises(UsageError, match="do not commit"):
        perform(effect, lambda: effect.connection().commit())
    touch = opened(effect)
    doing(effect, "DELETE FROM folders WHERE id = 3; COMMIT; BEGIN; DELETE FROM invoices WHERE region = 1")()
    step = a_past_step(recorded(touch.before), None, {})
    with pytest.raises(UsageError, match="ended the transaction"):
        touch.settle(None)
    assert effect.probe(step) is Probe.FOUND
    with pytest.raises(Conflict):
        effect.restore(step)


# --- conflicts ---


@pytest.mark.parametrize(
    ("theirs", "says"),
    [
        ("UPDATE customers SET note = 'other column' WHERE id = 4", "1 rows of public.customers: 4"),
        ("UPDATE customers SET note = 'x' WHERE id = 4; UPDATE customers SET note = NULL WHERE id = 4", "customers: 4"),
        ("DELETE FROM customers WHERE id = 6", "customers: 6"),
        ("INSERT INTO folders VALUES (3, NULL, 'again')", "folders: 3"),
        ("TRUNCATE invoices", "invoices: 31"),
    ],
)
def test_somebody_elses_change_is_seen_also_one_that_was_taken_back(
    engine: Engine, effect: SqlChanges, theirs: str, says: str
) -> None:
    step = done(
        effect,
        "UPDATE customers SET balance = 1, note = NULL WHERE id <= 10",
        "DELETE FROM folders WHERE id = 3",
        "INSERT INTO invoices VALUES (31, 'zz', 40, 1)",
    )
    run(engine, theirs)
    before = content(engine)
    assert version_now(effect, step).endswith(":changed")
    with pytest.raises(Conflict, match=f"not as the step left it.*{says}"):
        effect.restore(step)
    assert content(engine) == before


def test_locking_and_vacuum_are_no_changes(engine: Engine, effect: SqlChanges) -> None:
    before = content(engine)
    step = done(effect, "UPDATE folders SET name = upper(name)")
    run(engine, "SELECT FROM folders FOR UPDATE")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (FULL, FREEZE) folders")
    effect.restore(step)
    assert content(engine) == before


def test_cs5_rows_of_others_that_would_go_in_cascade_are_a_conflict(engine: Engine, effect: SqlChanges) -> None:
    step = done(effect, "INSERT INTO customers (name) VALUES ('zed')")
    run(engine, "INSERT INTO invoices SELECT 5000, 'theirs', id, 1 FROM customers WHERE name = 'zed'")
    before = content(engine)
    with pytest.raises(Conflict, match=r"1 rows of public.invoices, which are not the step's, refer to rows"):
        effect.restore(step)
    assert content(engine) == before


def test_cs5_a_reference_that_restricts_is_a_conflict_too(engine: Engine, effect: SqlChanges) -> None:
    step = done(effect, "INSERT INTO folders VALUES (10, NULL, 'x')")
    run(engine, "INSERT INTO folders VALUES (11, 10, 'theirs')")
    before = content(engine)
    with pytest.raises(Conflict, match="cannot be put back"):
        effect.restore(step)
    assert content(engine) == before


def test_cs5_what_was_deleted_does_not_come_back_over_a_name_that_is_taken(engine: Engine, effect: SqlChanges) -> None:
    step = done(effect, "DELETE FROM customers WHERE id = 10")
    run(engine, "INSERT INTO customers (name) VALUES ('n10')")
    before = content(engine)
    with pytest.raises(Conflict, match="cannot be put back"):
        effect.restore(step)
    assert content(engine) == before


def test_steps_come_off_like_a_stack_and_not_otherwise(engine: Engine, effect: SqlChanges) -> None:
    states = [content(engine)]
    steps = []
    for name in ("one", "two", "three"):
        steps.append(done(effect, f"UPDATE folders SET name = '{name}' || id", "DELETE FROM customers WHERE id = 9"))
        states.append(content(engine))
    for step in steps[:2]:
        with pytest.raises(Conflict):
            effect.restore(step)
    for step, state in zip(reversed(steps), reversed(states[:3]), strict=True):
        effect.restore(step)
        assert content(engine) == state
    for step, state in zip(steps, states[1:], strict=True):
        effect.restore(the_way_back(step))
        assert content(engine) == state


def test_what_somebody_put_back_by_hand_counts_as_restored(engine: Engine, effect: SqlChanges) -> None:
    before = content(engine)
    step = done(effect, "UPDATE folders SET name = 'x' WHERE id = 1")
    run(engine, "UPDATE folders SET name = 'root' WHERE id = 1")
    assert step.before_snapshot
    assert version_now(effect, step) == step.before_snapshot.version
    effect.restore(step)
    assert content(engine) == before


def test_a_row_being_written_is_waited_for_and_then_a_conflict(engine: Engine, effect: SqlChanges) -> None:
    step = done(effect, "UPDATE folders SET name = 'x' WHERE id = 1")
    theirs = engine.connect()
    theirs.exec_driver_sql("UPDATE folders SET name = 'theirs' WHERE id = 1")
    problems: list[Exception] = []

    def undo() -> None:
        try:
            effect.restore(step)
        except Conflict as error:
            problems.append(error)

    thread = threading.Thread(target=undo)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    theirs.commit()
    thread.join(10)
    theirs.close()
    assert len(problems) == 1
    assert "folders: 1" in str(problems[0])


def test_the_users_triggers_keep_quiet_during_an_undo_and_speak_again_after_it(
    engine: Engine, effect: SqlChanges
) -> None:
    run(
        engine,
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO audit (what) VALUES (TG_OP); NEW.name := upper(NEW.name); RETURN NEW; END $$;"
        "CREATE TRIGGER noted BEFORE UPDATE ON folders FOR EACH ROW EXECUTE FUNCTION noted();"
        "CREATE TRIGGER never BEFORE UPDATE ON folders FOR EACH ROW EXECUTE FUNCTION noted();"
        "ALTER TABLE folders DISABLE TRIGGER never",
    )
    lenient = SqlChanges(engine, ["folders"], ignore=["audit"])
    before = content(engine)
    step = perform(lenient, doing(lenient, "UPDATE folders SET name = 'x' WHERE id = 1"))
    lenient.restore(step)
    assert content(engine) == before
    count = sa.text("SELECT count(*) FROM audit")
    with engine.begin() as connection:
        assert connection.execute(count).scalar_one() == 1
        connection.exec_driver_sql("UPDATE folders SET name = 'y' WHERE id = 1")
        assert connection.execute(count).scalar_one() == 2


def test_sequences_go_on(engine: Engine, effect: SqlChanges) -> None:
    step = done(effect, "INSERT INTO customers (name) VALUES ('zed')")
    effect.restore(step)
    done(effect, "INSERT INTO customers (name) VALUES ('zed')")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT id FROM customers WHERE name = 'zed'").scalar_one() == 302


# --- declarations ---


def test_what_cannot_be_guarded_is_said_in_words(engine: Engine) -> None:
    run(
        engine,
        "CREATE TABLE nokey (a int); CREATE VIEW v AS SELECT 1 AS a;"
        "CREATE TABLE p (a int PRIMARY KEY) PARTITION BY LIST (a)",
    )
    for table, says in (
        ("nokey", "has no primary key"),
        ("v", "only plain"),
        ("p", "only plain"),
        ("missing", "no table"),
    ):
        with pytest.raises(UsageError, match=says):
            SqlChanges(engine, [table]).install()


def test_without_an_installation_the_tool_does_not_run_and_the_remedy_is_named(engine: Engine) -> None:
    for guarded in ((), ("folders",)):
        if guarded:
            SqlChanges(engine, guarded).install()
        with pytest.raises(UsageError, match=r"Run SqlChanges\.install\(\)"):
            opened(SqlChanges(engine, ["customers"]))


def test_a_table_that_changed_its_columns_is_refused_until_it_is_installed_again(
    engine: Engine, effect: SqlChanges
) -> None:
    old = done(effect, "UPDATE folders SET name = 'x' WHERE id = 1")
    run(engine, "ALTER TABLE folders ADD COLUMN colour text")
    with pytest.raises(UsageError, match=r"changed since they were guarded: public\.folders"):
        opened(effect)
    effect.install()
    before = content(engine)
    step = done(effect, "UPDATE folders SET colour = 'red'")
    effect.restore(step)
    with pytest.raises(Conflict, match=r"changed since the step: public\.folders"):
        effect.restore(old)
    assert content(engine) == before


@pytest.fixture
def other(postgres: Postgres) -> Iterator[Engine]:
    """A database of the test's own, with a table `t` that holds (1, 1)."""
    engine = engine_of(postgres.new_database())
    run(engine, "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1)")
    yield engine
    engine.dispose()


def guarding(engine: Engine, *tables: str) -> SqlChanges:
    effect = SqlChanges(engine, tables)
    effect.install()
    return effect


def rows_of(engine: Engine, table: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")]


def test_a_step_is_undone_after_its_table_was_renamed_and_installed_again(other: Engine) -> None:
    step = done(guarding(other, "t"), "UPDATE t SET n = 2")
    run(other, "ALTER TABLE t RENAME TO u; CREATE SCHEMA apart; ALTER TABLE u SET SCHEMA apart")
    run(other, "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 5)")
    effect = guarding(other, "apart.u", "t")
    assert step.after_snapshot
    assert version_now(effect, step) == step.after_snapshot.version
    new = done(effect, "UPDATE t SET n = 6")
    effect.restore(step)
    assert (rows_of(other, "apart.u"), rows_of(other, "t")) == ([(1, 1)], [(1, 6)])
    effect.restore(new)
    assert rows_of(other, "t") == [(1, 5)]


def test_a_table_that_was_made_anew_is_guarded_and_the_steps_of_the_old_one_are_not_its(other: Engine) -> None:
    step = done(guarding(other, "t"), "UPDATE t SET n = 2")
    run(other, "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 2)")
    effect = guarding(other, "t")
    with pytest.raises(Conflict):
        effect.restore(step)
    assert rows_of(other, "t") == [(1, 2)]
    effect.restore(done(effect, "DELETE FROM t"))
    assert rows_of(other, "t") == [(1, 2)]


def test_a_step_whose_rows_somebody_has_dropped_is_not_taken_for_undone(other: Engine) -> None:
    effect = guarding(other, "t")
    step = done(effect, "UPDATE t SET n = 2")
    with other.begin() as connection:
        name = connection.exec_driver_sql("SELECT shadow FROM rescind_changes.guarded").scalar_one()
        connection.exec_driver_sql(f"DELETE FROM rescind_changes.{name}")
    assert effect.observe(step) is None
    with pytest.raises(Conflict, match="are gone"):
        effect.restore(step)
    assert rows_of(other, "t") == [(1, 2)]


def test_a_server_that_does_not_count_what_is_written_is_refused(other: Engine) -> None:
    guarding(other, "t")
    engine = sa.create_engine(other.url, connect_args={"options": "-c track_counts=off"})
    with pytest.raises(UsageError, match="track_counts is off"):
        opened(SqlChanges(engine, ["t"]))
    engine.dispose()


def test_what_was_purged_cannot_be_undone_and_is_not_taken_for_never_done(engine: Engine, effect: SqlChanges) -> None:
    step = done(effect, "UPDATE folders SET name = 'x' WHERE id = 1")
    assert effect.purge(timedelta(days=1)) == 0
    assert effect.purge(timedelta(0)) == 1
    assert effect.observe(step) is None
    with pytest.raises(Conflict, match="purged"):
        effect.restore(step)


def test_the_journal_entry_of_a_large_step_is_small_and_its_undo_is_a_few_statements(
    engine: Engine, effect: SqlChanges
) -> None:
    step = done(effect, "INSERT INTO folders SELECT i, NULL, 'f' || i FROM generate_series(100, 20099) i")
    assert step.after_snapshot
    assert len(msgspec.json.encode(step.after_snapshot)) < 600
    before = content(engine)
    big = done(effect, "UPDATE folders SET name = name || '!' WHERE id >= 100")
    effect.restore(big)
    assert content(engine) == before


# --- who may do what ---


@pytest.fixture
def agent(postgres: Postgres, engine: Engine, effect: SqlChanges) -> Iterator[Engine]:
    """The tool's engine: a role that owns nothing, and may write to all tables."""
    run(
        engine,
        "DO $$ BEGIN CREATE ROLE agent LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "DO $$ BEGIN CREATE ROLE worker LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "GRANT USAGE ON SCHEMA public TO agent, worker;"
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER ON ALL TABLES IN SCHEMA public TO agent;"
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO agent",
    )
    effect.install(agents=["agent"], undoers=["worker"])
    theirs = sa.create_engine(engine.url.set(username="agent"))
    yield theirs
    theirs.dispose()


ATTEMPTS = (
    "ALTER TABLE folders DISABLE TRIGGER ALL",
    "ALTER TABLE folders DISABLE TRIGGER rescind_updates",
    "DROP TRIGGER rescind_updates ON folders",
    "SET session_replication_role = replica",
    "DELETE FROM rescind_changes.change_set",
    "UPDATE rescind_changes.change_set SET state = 'undone'",
    "DELETE FROM rescind_changes.agent",
    "INSERT INTO rescind_changes.restoring VALUES (pg_current_xact_id())",
    "SELECT setval('rescind_changes.slot_1', 1)",
    "SELECT rescind_changes.purge(now())",
    "SELECT rescind_changes.put_back(1, 'undone')",
    "SELECT rescind_changes.guard_table('folders')",
    "SELECT rescind_changes.refuse_agents('folders'::regclass)",
    "SELECT rescind_changes.begin_set('r', 's', 'a', 'k', '{}')",
    "TRUNCATE folders",
    "CREATE OR REPLACE FUNCTION rescind_changes.refuse_agents(rel oid) RETURNS void LANGUAGE sql AS 'SELECT'",
    "SET ROLE test",
    "SELECT pg_advisory_unlock_all(); SELECT 1 / 0",
)


def test_cs6_the_tools_role_cannot_get_out_of_being_captured(engine: Engine, agent: Engine, effect: SqlChanges) -> None:
    tools = SqlChanges(agent, GUARDED)
    before = content(engine)
    for attempt in ATTEMPTS:
        with pytest.raises(sa.exc.DBAPIError):
            perform(tools, doing(tools, "UPDATE folders SET name = 'x' WHERE id = 1", attempt))
        assert content(engine) == before
    step = perform(tools, doing(tools, "UPDATE folders SET name = 'x' WHERE id = 1"))
    with pytest.raises(sa.exc.DBAPIError, match="permission denied"):
        tools.restore(step)
    undoing = sa.create_engine(engine.url.set(username="worker"))
    SqlChanges(undoing, GUARDED).restore(step)
    undoing.dispose()
    assert content(engine) == before


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE folders SET name = 'x' WHERE id = 1",
        "INSERT INTO folders VALUES (99, NULL, 'x')",
        "DELETE FROM folders WHERE id = 3",
        "TRUNCATE folders",
        "SET search_path = pg_temp; CREATE TEMP TABLE change_set (xid xid8); DELETE FROM public.folders WHERE id = 3",
    ],
)
def test_cs6_the_tools_role_cannot_write_outside_a_step(engine: Engine, agent: Engine, write: str) -> None:
    before = content(engine)
    with pytest.raises(sa.exc.DBAPIError, match="outside a guarded step"):
        run(agent, write)
    assert content(engine) == before


def test_cs6_a_superuser_is_no_role_for_a_tool(engine: Engine, effect: SqlChanges) -> None:
    with pytest.raises(UsageError, match="let the tool use another role"):
        effect.install(agents=["test"])


# --- in doubt ---


def test_an_open_transaction_is_neither_found_nor_not_found(engine: Engine, effect: SqlChanges) -> None:
    touch = opened(effect)
    doing(effect, "UPDATE folders SET name = 'x' WHERE id = 1")()
    step = a_past_step(recorded(touch.before), None, {})
    assert effect.probe(step) is Probe.CANNOT_TELL
    with pytest.raises(Transient, match="still under way"):
        effect.observe(step)
    assert touch.abandon() is True
    assert effect.probe(step) is Probe.NOT_FOUND
    assert step.before_snapshot
    assert version_now(effect, step) == step.before_snapshot.version


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import sqlalchemy as sa
from effects.harness import opened, recorded
import msgspec
from rescind.compensation.effects import SqlChanges

effect = SqlChanges(sa.create_engine({url!r}), ["folders"])
touch = opened(effect)
print(msgspec.json.encode(touch.before).decode(), flush=True)
effect.connection().exec_driver_sql("UPDATE folders SET name = 'killed' WHERE id = 1")
if {after}:
    touch.settle(None)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_process_killed_around_its_commit_is_told_truthfully(engine: Engine, effect: SqlChanges, after: bool) -> None:
    before = content(engine)
    url = engine.url.render_as_string(hide_password=False)
    code = textwrap.dedent(KILLED).format(path=sys.path, url=url, after=after)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert child.returncode == -signal.SIGKILL, child.stderr
    snapshot = msgspec.json.decode(child.stdout, type=type(recorded_snapshot(effect)))
    step = a_past_step(snapshot, None, {})
    wait_until_ended(effect, step)
    assert effect.probe(step) is (Probe.FOUND if after else Probe.NOT_FOUND)
    assert (content(engine) == before) is not after


def recorded_snapshot(effect: SqlChanges) -> Any:
    touch = opened(effect)
    snapshot = recorded(touch.before)
    touch.abandon()
    return snapshot


def wait_until_ended(effect: SqlChanges, step: PastStep) -> None:
    """The server notices a lost client in its own time."""
    for _ in range(200):
        if effect.probe(step) is not Probe.CANNOT_TELL:
            return
        threading.Event().wait(0.05)


def test_a_dumped_copy_is_told_from_the_database_that_the_step_was_made_in(
    postgres: Postgres, engine: Engine, effect: SqlChanges
) -> None:
    step = done(effect, "UPDATE folders SET name = 'x' WHERE id = 1")
    engine.dispose()
    copy = engine_of(copy_of(postgres, str(engine.url.database)))
    with pytest.raises(Conflict, match="another database"):
        SqlChanges(copy, GUARDED).restore(step)
    copy.dispose()
