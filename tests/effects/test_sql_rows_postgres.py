"""What `SqlRows` promises on PostgreSQL, beside what it promises everywhere."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from effects.harness import opened, perform, version_now
from rescind.compensation.effects import SqlChanges, SqlRows
from rescind.errors import Conflict, NothingChanged, UsageError
from rescind.guard.effect import PastStep
from servers import Postgres


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    engine = sa.create_engine(postgres.new_database().replace("postgresql:", "postgresql+psycopg:"))
    yield engine
    engine.dispose()


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rows_of(engine: Engine, question: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(question)]


def done(effect: SqlRows, statement: str, id: int = 1) -> PastStep:
    return perform(effect, lambda id: effect.connection().exec_driver_sql(statement), id=id)


def by_id(engine: Engine, table: str = "t") -> SqlRows:
    return SqlRows(engine, table, rows=lambda id: {"id": id})


def restored(effect: SqlRows, step: PastStep) -> None:
    effect.restore(step)
    assert step.before_snapshot
    assert version_now(effect, step) == step.before_snapshot.version


# --- values that the driver's form of them loses something of, or that have no equality ---

KINDS = {
    "jsonb": ["0.12345678901234567890", "null", "1.10", '{"a": {"$dict": {}}, "b": [1e400]}', '"\\ud83d\\ude00"'],
    "json": ['{"b": 1,  "b": 2}', "null", " [1.0] "],
    "interval": ["1 mon", "30 days", "1 day 24:00:00", "-00:00:00.000001"],
    "interval day to second(3)": ["1 day 00:00:00.5"],
    "int[]": ["[0:1]={1,2}", "{}", "{{1,NULL},{3,4}}"],
    "jsonb[]": ['{"1.10",NULL,"null"}'],
    "interval[]": ['{"1 mon"}'],
    "span": ["1 mon"],
    "point": ["(1,2)", "(-0,1e308)"],
    "box": ["(2,2),(0,0)", "(4,1),(0,0)"],
    "cidr": ["10.0.0.0/8"],
    "numeric": ["NaN", "Infinity", "-Infinity", "1.10", "1" + "0" * 400],
    "float8": ["NaN", "-0", "Infinity", "5e-324"],
    "varchar(5)": ["a%:b"],
    "char(5)": ["a"],
    "bytea": ["\\x0001ff"],
    "money": ["12.34"],
    "bit(3)": ["101"],
    "mood": ["it's"],
}


@pytest.mark.filterwarnings("ignore:Did not recognize type")  # of SQLAlchemy, which needs not know it
@pytest.mark.parametrize("kind", KINDS)
def test_every_value_comes_back_to_the_letter(engine: Engine, kind: str) -> None:
    execute(engine, "CREATE DOMAIN span AS interval", "CREATE TYPE mood AS ENUM ('it''s', 'other')")
    execute(engine, f"CREATE TABLE t (id int PRIMARY KEY, n int, v {kind})", "INSERT INTO t VALUES (0, 0, NULL)")
    for number, value in enumerate(KINDS[kind], start=1):
        text = value.replace("'", "''").replace("%", "%%")
        execute(engine, f"INSERT INTO t VALUES ({number}, 0, '{text}')")
    was = rows_of(engine, "SELECT id, n, v::text FROM t ORDER BY id")
    effect = by_id(engine)
    for id in range(len(was)):
        for statement in (
            "DELETE FROM t WHERE id = {}",
            "UPDATE t SET n = 7 WHERE id = {}",
            "UPDATE t SET v = NULL WHERE id = {}",
        ):
            restored(effect, done(effect, statement.format(id), id=id))
            assert rows_of(engine, "SELECT id, n, v::text FROM t ORDER BY id") == was


@pytest.mark.parametrize(("one", "other"), [("'null'", "NULL"), ("'1.1'", "'1.10'")])
def test_somebodys_change_that_the_driver_does_not_show_is_a_conflict(engine: Engine, one: str, other: str) -> None:
    execute(engine, "CREATE TABLE t (id int PRIMARY KEY, n int, v jsonb)", f"INSERT INTO t VALUES (1, 1, {one})")
    effect = by_id(engine)
    step = done(effect, "UPDATE t SET n = 2")
    execute(engine, f"UPDATE t SET v = {other}")
    with pytest.raises(Conflict, match="v changed since"):
        effect.restore(step)


def test_a_moment_is_the_same_for_sessions_of_two_time_zones(engine: Engine) -> None:
    execute(engine, "CREATE TABLE t (id int PRIMARY KEY, n int, at timestamptz, local timestamp)")
    execute(engine, "INSERT INTO t VALUES (1, 1, '2026-07-01 12:00+02', '2026-07-01 12:00')")
    was = rows_of(engine, "SELECT * FROM t")
    effect = by_id(engine)
    step = done(effect, "DELETE FROM t")
    there = sa.create_engine(engine.url, connect_args={"options": "-c timezone=Asia/Kathmandu"})
    restored(by_id(there), step)
    assert rows_of(engine, "SELECT * FROM t") == was
    step = done(effect, "UPDATE t SET n = 2")
    restored(by_id(there), step)
    there.dispose()
    assert rows_of(engine, "SELECT * FROM t") == was


def test_an_identity_that_only_the_database_chooses_comes_back(engine: Engine) -> None:
    execute(
        engine,
        'CREATE SCHEMA "A:b %% c"',
        'CREATE TABLE "A:b %% c"."T:x %% ""y""" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "v:1 %%s" interval, '
        '"W" text, g text GENERATED ALWAYS AS (upper("W")) STORED)',
        'INSERT INTO "A:b %% c"."T:x %% ""y""" ("v:1 %%s", "W") VALUES (\'1 mon\', \'a:b %%s\')',
    )
    table = sa.Table('T:x % "y"', sa.MetaData(), schema="A:b % c", autoload_with=engine)
    effect = SqlRows(engine, table, rows=lambda id: {"id": id})
    question = 'SELECT id, "v:1 %%s"::text, "W", g FROM "A:b %% c"."T:x %% ""y"""'
    was = rows_of(engine, question)
    restored(effect, perform(effect, lambda id: effect.connection().execute(sa.delete(table)), id=1))
    assert rows_of(engine, question) == was


# --- references ---


def test_rows_of_another_schema_that_refer_to_a_row_are_not_deleted_with_it(engine: Engine) -> None:
    execute(
        engine,
        "CREATE SCHEMA other",
        'CREATE TABLE t (id int PRIMARY KEY, "The Code" int UNIQUE)',
        'CREATE TABLE other.u (id int PRIMARY KEY, "My T" int REFERENCES t ("The Code") ON DELETE CASCADE)',
    )
    effect = by_id(engine)
    step = done(effect, "INSERT INTO t VALUES (1, 5)")
    execute(engine, "INSERT INTO other.u VALUES (7, 5)")
    with pytest.raises(Conflict, match="1 rows of u refer to it"):
        effect.restore(step)
    assert rows_of(engine, 'SELECT id, "My T" FROM other.u') == [(7, 5)]
    execute(engine, "DELETE FROM other.u")
    restored(effect, step)


def test_a_cascade_into_another_schema_is_recorded(engine: Engine) -> None:
    execute(
        engine,
        "CREATE SCHEMA other",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE other.u (id int PRIMARY KEY, t int REFERENCES t ON DELETE SET NULL)",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO other.u VALUES (7, 1)",
    )
    effect = by_id(engine)
    step = done(effect, "DELETE FROM t WHERE id = 1")
    with pytest.raises(Conflict, match="1 of u"):
        effect.restore(step)


def test_a_table_of_that_name_in_another_schema_is_another_table(engine: Engine) -> None:
    execute(
        engine,
        "CREATE SCHEMA other",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE other.t (id int PRIMARY KEY)",
        "CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES other.t)",
        "INSERT INTO other.t VALUES (1)",
        "INSERT INTO u VALUES (7, 1)",
    )
    effect = by_id(engine)
    restored(effect, done(effect, "INSERT INTO t VALUES (1)"))


def test_references_of_partitions_count_once_and_hold(engine: Engine) -> None:
    execute(
        engine,
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE) PARTITION BY RANGE (id)",
        "CREATE TABLE u1 PARTITION OF u FOR VALUES FROM (0) TO (10)",
    )
    for table in ("t", "t1"):
        effect = by_id(engine, table)
        step = done(effect, f"INSERT INTO {table} VALUES (1)")
        execute(engine, "INSERT INTO u VALUES (7, 1)")
        with pytest.raises(Conflict, match="1 rows of u refer to it"):
            effect.restore(step)
        execute(engine, "DELETE FROM u")
        restored(effect, step)


def test_rows_of_an_heir_that_have_the_same_key_are_refused(engine: Engine) -> None:
    execute(
        engine,
        "CREATE TABLE t (id int PRIMARY KEY, n int)",
        "CREATE TABLE heir () INHERITS (t)",
        "INSERT INTO t VALUES (1, 1)",
        "INSERT INTO heir VALUES (1, 5), (2, 5)",
    )
    with pytest.raises(UsageError, match="have a key that another one has"):
        opened(by_id(engine), id=1)
    effect = by_id(engine)
    restored(effect, done(effect, "UPDATE t SET n = 7 WHERE id = 2", id=2))


# --- what PostgreSQL does at the commit ---

COUNTING = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, changes int DEFAULT 0)",
    "INSERT INTO t VALUES (1, 1)",
    "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF new.n <> old.n THEN UPDATE t SET changes = changes + 1 WHERE id = new.id; END IF; RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER counting AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION count_it()",
)


def test_what_a_deferred_trigger_does_is_the_steps(engine: Engine) -> None:
    execute(engine, *COUNTING)
    effect = by_id(engine)
    step = done(effect, "UPDATE t SET n = 2")
    assert step.after_snapshot
    assert version_now(effect, step) == step.after_snapshot.version


def test_a_deferred_trigger_that_does_not_take_a_row_as_it_was_is_a_conflict(engine: Engine) -> None:
    execute(engine, *COUNTING)
    effect = by_id(engine)
    step = done(effect, "UPDATE t SET n = 2")
    content = rows_of(engine, "SELECT * FROM t")
    with pytest.raises(Conflict, match="does not take the rows"):
        effect.restore(step)
    assert rows_of(engine, "SELECT * FROM t") == content


def test_a_deferred_constraint_fails_the_step_for_certain(engine: Engine) -> None:
    execute(engine, "CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
    effect = by_id(engine)
    with pytest.raises(NothingChanged):
        done(effect, "INSERT INTO t VALUES (1, 2)")
    assert rows_of(engine, "SELECT * FROM t") == []


# --- a connection that is lost ---


@pytest.mark.parametrize("make", [by_id, lambda engine: SqlChanges(engine, ["t"])])
def test_a_tool_that_raises_after_its_connection_is_lost_has_changed_nothing(engine: Engine, make: Any) -> None:
    execute(engine, "CREATE TABLE t (id int PRIMARY KEY)")
    effect = make(engine)
    if isinstance(effect, SqlChanges):
        effect.install()
    touch = opened(effect, id=1)
    connection = effect.connection()
    connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    process = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    execute(engine, f"SELECT pg_terminate_backend({process}, 10000)")
    assert touch.abandon()
    assert rows_of(engine, "SELECT * FROM t") == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool has it
