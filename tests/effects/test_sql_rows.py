"""What `SqlRows` promises beyond the contract."""

import contextvars
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from effects.harness import a_past_step, opened, perform, recorded, version_now
from effects.worlds import content_of, execute, tool_on
from rescind.compensation.effects import SqlRows
from rescind.errors import Conflict, DeclarationError, NothingChanged, Transient, UsageError
from rescind.model.step import Target


def customers(engine: Engine, **options: Any) -> SqlRows:
    return SqlRows(engine, "customers", rows=lambda id: {"id": id}, **options)


def orders_of(engine: Engine, **options: Any) -> SqlRows:
    return SqlRows(engine, "orders", rows=lambda customer: {"customer": customer}, **options)


# --- declarations ---


def test_a_table_without_a_primary_key_is_refused_with_the_reason(engine: Engine) -> None:
    effect = SqlRows(engine, "notes", rows=lambda text: {"text": text})
    with pytest.raises(DeclarationError, match="notes has no primary key"):
        opened(effect, text="x")
    declared = sa.Table("notes", sa.MetaData(), sa.Column("text", sa.Text))
    with pytest.raises(DeclarationError, match="notes has no primary key"):
        SqlRows(engine, declared, rows=lambda text: {"text": text})


def test_a_table_that_is_not_there_is_named(engine: Engine) -> None:
    with pytest.raises(DeclarationError, match="has no table nowhere"):
        opened(SqlRows(engine, "nowhere", rows=lambda id: {"id": id}), id="x")


def test_only_engines_that_can_be_guarded_are_taken(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="create_engine"):
        SqlRows("sqlite://", "customers", rows=lambda id: {"id": id})  # type: ignore[arg-type]  # the mistake itself
    with pytest.raises(DeclarationError, match="transaction is"):
        SqlRows(sa.create_engine("sqlite://"), "customers", rows=lambda: {}, transaction="none")  # type: ignore[arg-type]  # the mistake itself


@pytest.mark.parametrize("rows", [{}, [{}], None, "id = 1", 7, [1]])
def test_what_would_choose_everything_or_nothing_known_is_refused(engine: Engine, rows: Any) -> None:
    with pytest.raises(UsageError, match="return a mapping"):
        opened(SqlRows(engine, "customers", rows=lambda: rows))


def test_an_unknown_column_is_named(engine: Engine) -> None:
    with pytest.raises(UsageError, match=r"'idd'.*customers has id, name"):
        opened(SqlRows(engine, "customers", rows=lambda id: {"idd": id}), id="c-1")


def test_more_rows_than_the_bound_are_refused_before_the_tool(engine: Engine) -> None:
    with pytest.raises(UsageError, match="more than 1 rows of orders match"):
        opened(orders_of(engine, rows_max=1), customer="c-1")


def test_more_rows_than_the_bound_after_the_call_are_taken_back(engine: Engine) -> None:
    content = content_of(engine)
    effect = orders_of(engine, rows_max=1)
    tool = tool_on(effect, *["INSERT INTO orders (customer) VALUES (:customer)"] * 2)
    with pytest.raises(UsageError, match="more than"):
        perform(effect, tool, customer="c-2")
    assert content_of(engine) == content


def test_the_target_is_the_database_the_table_and_the_values(engine: Engine) -> None:
    assert customers(engine).target({"id": "c-1", "more": 1}) == Target("shop.db", "customers", "c-1")
    stock = SqlRows(engine, "stock", rows=lambda shop, article: {"shop": shop, "article": article}, system="shop")
    assert stock.target({"shop": "north", "article": 1}) == Target("shop", "stock", "shop=north,article=1")
    assert stock.parameters == {"shop", "article"}


def test_the_target_goes_into_the_journal(engine: Engine) -> None:
    target = customers(engine).target({"id": "c-1"})
    assert msgspec.json.decode(msgspec.json.encode(target), type=Target) == target


def test_a_change_to_and_fro_is_no_change(engine: Engine) -> None:
    content = content_of(engine)
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id"), id="c-1")
    execute(engine, "UPDATE customers SET plan = 'y'", "UPDATE customers SET plan = 'x' WHERE id = 'c-1'")
    execute(engine, "UPDATE customers SET plan = NULL WHERE id = 'c-2'")
    effect.restore(step)
    assert content_of(engine) == content


def test_rows_may_be_a_condition_on_the_table(engine: Engine) -> None:
    content = content_of(engine)
    effect: SqlRows = SqlRows(engine, "orders", rows=lambda least: effect.table.c.sum >= least)
    step = perform(effect, tool_on(effect, "UPDATE orders SET sum = sum + 1 WHERE sum >= :least"), least=7)
    assert len(step.before["rows"]) == 2
    effect.restore(step)
    assert content_of(engine) == content


def test_a_declared_table_with_fewer_columns_loses_none(engine: Engine) -> None:
    content = content_of(engine)
    declared = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    effect = SqlRows(engine, declared, rows=lambda id: declared.c.id == id)
    step = perform(effect, tool_on(effect, "DELETE FROM orders WHERE id = :id"), id=1)
    effect.restore(step)
    assert content_of(engine) == content


def test_python_side_defaults_take_no_part_in_a_restore(engine: Engine) -> None:
    content = content_of(engine)
    declared = sa.Table(
        "orders",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("customer", sa.Text, onupdate="nobody", default="nobody"),
        sa.Column("sum", sa.Float),
    )
    effect = SqlRows(engine, declared, rows=lambda id: {"id": id})
    step = perform(effect, tool_on(effect, "UPDATE orders SET sum = 0 WHERE id = :id"), id=1)
    effect.restore(step)
    assert content_of(engine) == content


# --- the effect's transaction ---


def test_a_tool_that_raises_leaves_nothing(engine: Engine) -> None:
    content = content_of(engine)
    effect = customers(engine)
    touch = opened(effect, id="c-1")
    with pytest.raises(sa.exc.IntegrityError):
        tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id", "UPDATE customers SET id = 'c-2'")(id="c-1")
    assert touch.abandon() is True
    assert content_of(engine) == content


def test_the_database_is_locked_for_others_meanwhile_and_free_afterwards(engine: Engine) -> None:
    touch = opened(customers(engine), id="c-1")
    with pytest.raises(sa.exc.OperationalError, match="locked"):
        execute(engine, "UPDATE customers SET plan = 'x' WHERE id = 'c-2'")
    touch.settle(None)
    execute(engine, "UPDATE customers SET plan = 'x' WHERE id = 'c-2'")


def test_outside_a_call_there_is_no_connection(engine: Engine) -> None:
    effect = customers(engine)
    with pytest.raises(UsageError, match="only while a guarded call"):
        effect.connection()
    perform(effect, tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id"), id="c-1")
    with pytest.raises(UsageError, match="only while a guarded call"):
        effect.connection()
    other = customers(engine, transaction="tool")
    touch = opened(other, id="c-1")
    with pytest.raises(UsageError, match="connection of its own"):
        other.connection()
    assert touch.abandon()


def test_the_tool_cannot_end_the_transaction(engine: Engine) -> None:
    content = content_of(engine)
    effect = customers(engine)

    def commits(id: str) -> None:
        effect.connection().exec_driver_sql("DELETE FROM orders")
        effect.connection().commit()

    def closes(id: str) -> None:
        with effect.connection() as connection:
            connection.exec_driver_sql("DELETE FROM orders")

    def swallows(id: str) -> None:
        with suppress(UsageError):
            commits(id)

    for tool, vouched in ((commits, True), (closes, False)):
        touch = opened(effect, id="c-1")
        with pytest.raises(UsageError, match="do not commit, roll back or close"):
            tool("c-1")
        assert touch.abandon() is vouched
        assert content_of(engine) == content
    with pytest.raises(UsageError, match="leave that to the effect"):
        perform(effect, swallows, id="c-1")
    assert content_of(engine) == content


def test_a_commit_in_plain_sql_is_noticed(engine: Engine) -> None:
    effect = customers(engine)
    tool = tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id", "COMMIT")
    with pytest.raises(UsageError, match="ended the transaction"):
        perform(effect, tool, id="c-1")
    touch = opened(effect, id="c-1")
    tool(id="c-1")
    assert touch.abandon() is False


def test_savepoints_are_the_tools_own(engine: Engine) -> None:
    effect = customers(engine)

    def tool(id: str) -> None:
        connection = effect.connection()
        with pytest.raises(ZeroDivisionError), connection.begin_nested():
            connection.exec_driver_sql("DELETE FROM stock")
            raise ZeroDivisionError
        with connection.begin_nested():
            connection.exec_driver_sql("UPDATE customers SET plan = 'x' WHERE id = 'c-1'")

    content = content_of(engine)
    step = perform(effect, tool, id="c-1")
    assert content_of(engine)["stock"] == content["stock"]
    effect.restore(step)
    assert content_of(engine) == content


def test_a_tool_that_does_nothing_needs_no_connection(engine: Engine) -> None:
    step = perform(customers(engine), lambda id: None, id="c-1")
    assert step.before_snapshot
    assert step.after_snapshot
    assert step.before_snapshot.version == step.after_snapshot.version


def test_a_tool_that_goes_around_the_connection_is_locked_out_or_told(engine: Engine) -> None:
    effect = customers(engine)

    def tool(id: str) -> None:
        execute(engine, "UPDATE customers SET plan = 'x'")

    with pytest.raises(sa.exc.OperationalError, match="locked"):
        perform(effect, tool, id="c-1")
    # Where rows are locked and not the database, the write comes through; here it does so by ending our lock.
    touch = opened(effect, id="c-1")
    touch._connection.connection.rollback()  # type: ignore[attr-defined]
    execute(engine, "UPDATE customers SET plan = 'x'")
    with pytest.raises(UsageError, match="not through the effect's connection"):
        touch.settle(None)


def test_a_failing_commit_raises_and_changes_nothing(engine: Engine) -> None:
    execute(
        engine,
        "CREATE TABLE parts (id INTEGER PRIMARY KEY, whole INTEGER REFERENCES parts DEFERRABLE INITIALLY DEFERRED)",
    )
    effect = SqlRows(engine, "parts", rows=lambda id: {"id": id})
    with pytest.raises(NothingChanged, match="FOREIGN KEY") as raised:
        perform(effect, tool_on(effect, "INSERT INTO parts VALUES (:id, 77)"), id=1)
    assert isinstance(raised.value.__cause__, sa.exc.IntegrityError)
    assert content_of(engine)["parts"] == []
    perform(effect, tool_on(effect, "INSERT INTO parts VALUES (:id, NULL)"), id=1)


def test_a_commit_that_a_reader_holds_up_leaves_no_transaction_in_the_pool(engine: Engine) -> None:
    effect = customers(engine)
    tool = tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id")
    content = content_of(engine)
    with held_for_reading(engine), pytest.raises(NothingChanged, match="locked"):
        perform(effect, tool, id="c-1")
    assert unlocked(engine) == content
    step = perform(effect, tool, id="c-1")
    left = content_of(engine)
    with held_for_reading(engine), pytest.raises(Transient, match="locked"):
        effect.restore(step)
    assert unlocked(engine) == left
    effect.restore(step)
    assert unlocked(engine) == content


@contextmanager
def held_for_reading(engine: Engine) -> Generator[None]:
    """Somebody else is in the middle of a read, so that SQLite can begin a write but not commit it."""
    with closing(sqlite3.connect(str(engine.url.database), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM customers").fetchall()
        yield


def unlocked(engine: Engine) -> dict[str, Any]:
    """The content, after somebody else has shown that he can write."""
    with closing(sqlite3.connect(str(engine.url.database), timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    return content_of(engine)


def test_a_write_inside_another_one_is_refused_and_not_a_deadlock(engine: Engine) -> None:
    outer = opened(customers(engine), id="c-1")
    with pytest.raises(UsageError, match="inside another write"):
        opened(orders_of(engine), customer="c-1")
    assert outer.abandon()


def test_a_locked_database_refuses_the_call_and_holds_nothing(engine: Engine) -> None:
    effect = customers(engine)
    with engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            opened(effect, id="c-1")
    assert opened(effect, id="c-1").abandon()


def test_the_users_own_begin_recipe_is_left_in_place(engine: Engine) -> None:
    begun: list[str] = []

    @sa.event.listens_for(engine, "connect")
    def manual(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        begun.append("begun")
        connection.exec_driver_sql("BEGIN")

    engine.dispose()
    content = content_of(engine)
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id"), id="c-1")
    effect.restore(step)
    assert content_of(engine) == content
    begun.clear()
    with engine.begin() as connection:
        assert begun
        driver = connection.connection.dbapi_connection
        assert driver is not None
        assert driver.isolation_level is None


# --- which rows were inserted ---


@pytest.mark.parametrize("transaction", ["effect", "tool"])
def test_a_row_that_moved_into_the_match_is_not_taken_for_inserted(engine: Engine, transaction: Any) -> None:
    effect = SqlRows(engine, "customers", rows=lambda plan: {"plan": plan}, transaction=transaction)
    tool = tool_on(effect, "UPDATE customers SET plan = :plan WHERE id = 'c-2'")
    content = content_of(engine)
    if transaction == "effect":
        with pytest.raises(UsageError, match="may have been there before"):
            perform(effect, tool, plan="gold")
        assert content_of(engine) == content
    else:
        step = perform(effect, tool, plan="gold")
        with pytest.raises(Conflict, match="nobody can tell"):
            effect.restore(step)
        assert len(content_of(engine)["customers"]) == 2


def test_an_insertion_with_a_key_of_text_is_proven_from_outside(engine: Engine) -> None:
    content = content_of(engine)
    effect = SqlRows(engine, "customers", rows=lambda plan: {"plan": plan})
    tool = tool_on(effect, "INSERT INTO customers (id, plan) VALUES (lower(hex(randomblob(8))), :plan)")
    effect.restore(perform(effect, tool, plan="gold"))
    assert content_of(engine) == content


def test_into_an_empty_table_everything_is_inserted(engine: Engine) -> None:
    execute(engine, "DELETE FROM orders", "DELETE FROM customers")
    effect = SqlRows(engine, "customers", rows=lambda plan: {"plan": plan}, transaction="tool")
    effect.restore(
        perform(effect, tool_on(effect, "INSERT INTO customers (id, plan) VALUES ('k', :plan)"), plan="gold")
    )
    assert content_of(engine)["customers"] == []


def test_a_database_in_memory_serves_too(engine: Engine) -> None:
    memory = sa.create_engine("sqlite://")
    execute(memory, "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT)", "INSERT INTO orders VALUES (1, 'a')")
    content = content_of(memory)
    effect = orders_of(memory)
    step = perform(effect, tool_on(effect, "INSERT INTO orders (customer) VALUES (:customer)"), customer="a")
    assert content_of(memory) != content
    effect.restore(step)
    assert content_of(memory) == content
    execute(memory, "CREATE TABLE named (id TEXT PRIMARY KEY, plan TEXT)", "INSERT INTO named VALUES ('k', 'old')")
    named = SqlRows(memory, "named", rows=lambda plan: {"plan": plan})
    with pytest.raises(UsageError, match="may have been there before"):
        perform(named, tool_on(named, "INSERT INTO named VALUES ('new', :plan)"), plan="gold")
    memory.dispose()


# --- others ---


def test_others_rows_and_others_tables_stay_as_they_are(engine: Engine) -> None:
    effect = orders_of(engine)
    step = perform(effect, tool_on(effect, "DELETE FROM orders WHERE customer = :customer"), customer="c-1")
    execute(engine, "INSERT INTO orders VALUES (9, 'c-1', 9)", "UPDATE orders SET sum = 8 WHERE id = 3")
    content = content_of(engine)
    effect.restore(step)
    restored = content_of(engine)
    assert len(restored["orders"]) == len(content["orders"]) + 2
    assert set(content["orders"]) < set(restored["orders"])
    assert {**restored, "orders": 0} == {**content, "orders": 0}


def test_the_conflict_names_table_key_and_columns(engine: Engine) -> None:
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id"), id="c-1")
    execute(engine, "UPDATE customers SET name = 'Anna', credit = 1 WHERE id = 'c-1'")
    with pytest.raises(Conflict, match=r'customers \["c-1"\]: credit, name, shout changed since'):
        effect.restore(step)
    execute(engine, "DELETE FROM orders", "DELETE FROM customers WHERE id = 'c-1'")
    with pytest.raises(Conflict, match="the row is gone"):
        effect.restore(step)


def test_equal_content_is_left_alone_and_the_types_count(engine: Engine) -> None:
    effect = SqlRows(engine, "stock", rows=lambda shop: {"shop": shop})
    step = perform(effect, tool_on(effect, "UPDATE stock SET pieces = 7 WHERE shop = :shop"), shop="south")
    execute(engine, "UPDATE stock SET pieces = '7 pieces' WHERE shop = 'south'")
    with pytest.raises(Conflict, match="pieces changed"):
        effect.restore(step)
    execute(engine, "UPDATE stock SET pieces = 30 WHERE shop = 'south'")
    effect.restore(step)


def test_a_conflict_in_one_row_changes_none(engine: Engine) -> None:
    effect = orders_of(engine)
    step = perform(effect, tool_on(effect, "UPDATE orders SET sum = 0 WHERE customer = :customer"), customer="c-1")
    execute(engine, "UPDATE orders SET sum = 1 WHERE id = 2")
    content = content_of(engine)
    with pytest.raises(Conflict):
        effect.restore(step)
    assert content_of(engine) == content


def test_a_column_that_came_later_is_a_conflict(engine: Engine) -> None:
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id"), id="c-1")
    execute(engine, "ALTER TABLE customers ADD COLUMN mood TEXT")
    with pytest.raises(Conflict, match="mood changed"):
        effect.restore(step)


def test_a_table_that_is_gone_is_a_conflict(engine: Engine) -> None:
    effect = SqlRows(engine, "stock", rows=lambda shop: {"shop": shop})
    step = perform(effect, tool_on(effect, "DELETE FROM stock WHERE shop = :shop"), shop="south")
    execute(engine, "DROP TABLE stock")
    with pytest.raises(Conflict, match="no table stock"):
        effect.restore(step)


def test_a_locked_database_at_the_undo_is_transient(engine: Engine) -> None:
    content = content_of(engine)
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "UPDATE customers SET plan = 'x' WHERE id = :id"), id="c-1")
    with engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(Transient, match="locked"):
            effect.restore(step)
    effect.restore(step)
    assert content_of(engine) == content


def test_a_trigger_that_has_its_say_is_a_conflict(engine: Engine) -> None:
    effect = SqlRows(engine, "stock", rows=lambda shop: {"shop": shop})
    step = perform(effect, tool_on(effect, "UPDATE stock SET pieces = 0 WHERE shop = :shop"), shop="south")
    execute(
        engine,
        "CREATE TRIGGER more AFTER UPDATE ON stock BEGIN "
        "UPDATE stock SET pieces = pieces + 1 WHERE rowid = new.rowid AND pieces = 30; END",
    )
    content = content_of(engine)
    with pytest.raises(Conflict, match="a trigger or a default"):
        effect.restore(step)
    assert content_of(engine) == content


def test_a_tool_with_an_unfinished_transaction_of_its_own_is_not_vouched_for(engine: Engine) -> None:
    touch = opened(customers(engine, transaction="tool"), id="c-1")
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE customers SET plan = 'x' WHERE id = 'c-1'")
        assert touch.abandon() is False
    assert opened(customers(engine, transaction="tool"), id="c-1").abandon() is True


def test_an_argument_that_was_not_recorded_makes_a_step_without_end_unobservable(engine: Engine) -> None:
    effect = customers(engine)
    touch = opened(effect, id="c-1")
    step = a_past_step(recorded(touch.before), None, {})
    touch.abandon()
    assert effect.observe(step) is None
    with pytest.raises(Conflict, match="not recorded"):
        effect.restore(step)


def test_a_later_row_that_matches_does_not_change_what_is_observed(engine: Engine) -> None:
    effect = orders_of(engine)
    step = perform(effect, tool_on(effect, "INSERT INTO orders (customer) VALUES (:customer)"), customer="c-2")
    version = version_now(effect, step)
    execute(engine, "INSERT INTO orders (customer) VALUES ('c-2')")
    assert version_now(effect, step) == version


# --- foreign keys ---


def test_rows_that_came_to_depend_on_an_inserted_one_are_a_conflict_and_stay(engine: Engine) -> None:
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "INSERT INTO customers (id) VALUES (:id)"), id="c-3")
    execute(engine, "INSERT INTO orders VALUES (9, 'c-3', 1)")
    content = content_of(engine)
    with pytest.raises(Conflict, match="1 rows of orders refer to it"):
        effect.restore(step)
    assert content_of(engine) == content
    execute(engine, "DELETE FROM orders WHERE id = 9")
    effect.restore(step)


def test_a_reference_to_an_unnamed_key_counts_too(engine: Engine) -> None:
    execute(engine, "CREATE TABLE visits (id INTEGER PRIMARY KEY, who TEXT REFERENCES Customers ON DELETE SET NULL)")
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "INSERT INTO customers (id) VALUES (:id)"), id="c-3")
    execute(engine, "INSERT INTO visits VALUES (1, 'c-3')")
    with pytest.raises(Conflict, match="1 rows of visits"):
        effect.restore(step)


def test_a_row_whose_parent_is_gone_is_a_conflict(engine: Engine) -> None:
    effect = orders_of(engine)
    step = perform(effect, tool_on(effect, "DELETE FROM orders WHERE customer = :customer"), customer="c-2")
    execute(engine, "DELETE FROM customers WHERE id = 'c-2'")
    with pytest.raises(Conflict, match="FOREIGN KEY"):
        effect.restore(step)


@pytest.mark.parametrize("transaction", ["effect", "tool"])
def test_a_deletion_that_cascaded_is_a_conflict_that_says_so(engine: Engine, transaction: Any) -> None:
    effect = customers(engine, transaction=transaction)
    step = perform(effect, tool_on(effect, "DELETE FROM customers WHERE id = :id"), id="c-1")
    with pytest.raises(Conflict, match="2 of orders"):
        effect.restore(step)


def test_a_tree_in_one_table_is_put_back_whichever_way_it_was_built(engine: Engine) -> None:
    content = content_of(engine)
    effect = SqlRows(engine, "folders", rows=lambda ids: [{"id": id} for id in ids])
    builds = tool_on(effect, "INSERT INTO folders VALUES (3, NULL, 'top'), (1, 3, 'middle'), (2, 1, 'leaf')")
    inserted = perform(effect, lambda ids: builds(), ids=[1, 2, 3])
    built = content_of(engine)
    deletes = tool_on(effect, *(f"DELETE FROM folders WHERE id = {id}" for id in (2, 1, 3)))
    deleted = perform(effect, lambda ids: deletes(), ids=[1, 2, 3])
    effect.restore(deleted)
    assert content_of(engine) == built
    effect.restore(inserted)
    assert content_of(engine) == content


def test_unique_names_that_moved_along_are_put_back_in_a_workable_order(engine: Engine) -> None:
    execute(engine, "INSERT INTO folders VALUES (1, NULL, 'a'), (2, NULL, 'b'), (3, NULL, 'c')")
    content = content_of(engine)
    effect = SqlRows(engine, "folders", rows=lambda ids: [{"id": id} for id in ids])
    moves = tool_on(
        effect,
        "UPDATE folders SET name = 'd' WHERE id = 3",
        "UPDATE folders SET name = 'c' WHERE id = 2",
        "UPDATE folders SET name = 'b' WHERE id = 1",
    )
    step = perform(effect, lambda ids: moves(), ids=[1, 2, 3])
    effect.restore(step)
    assert content_of(engine) == content


def test_a_name_that_somebody_took_meanwhile_is_a_conflict(engine: Engine) -> None:
    effect = customers(engine)
    step = perform(effect, tool_on(effect, "UPDATE customers SET name = 'Zoe' WHERE id = :id"), id="c-1")
    execute(engine, "UPDATE customers SET name = 'Ann' WHERE id = 'c-2'")
    content = content_of(engine)
    with pytest.raises(Conflict, match="UNIQUE"):
        effect.restore(step)
    assert content_of(engine) == content


def test_a_task_that_outlived_the_call_which_started_it_is_in_none(engine: Engine) -> None:
    effect = customers(engine)
    touch = opened(effect, id="c-1")
    inside = contextvars.copy_context()  # as of a task that the tool starts
    effect.connection()
    touch.settle(None)
    with pytest.raises(UsageError, match="no connection"):
        inside.run(effect.connection)
    tool = tool_on(effect, "UPDATE customers SET plan = 'free' WHERE id = :id")
    step = inside.run(perform, effect, tool, id="c-1")
    effect.restore(step)
