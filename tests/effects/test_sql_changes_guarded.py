"""`SqlChanges` under a real guard: a run of several actions on the same rows is planned and undone from its journal."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from builders import a_guard
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.effects import SqlChanges
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.result import UndoResult
from rescind.guard.guard import Guard
from rescind.guard.run import Run

if TYPE_CHECKING:
    from servers import Postgres

SCHEMA = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT)",
    "CREATE TABLE stock (article INTEGER PRIMARY KEY, pieces INTEGER CHECK (pieces >= 0))",
    "INSERT INTO stock VALUES (1, 10), (2, 10)",
)


class Shop:
    """Three actions on two tables, whichever database they are in."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine, self.guard = engine, a_guard()
        self.run(*SCHEMA)
        self.effect = effect = SqlChanges(engine, ["orders", "stock"])
        effect.install()

        def execute(statement: str) -> None:
            connection: Any = effect.connection()
            getattr(connection, "exec_driver_sql", connection.execute)(statement)

        @self.guard.write("order.place", effect=effect)
        def place(order: int, article: int) -> None:
            execute(f"INSERT INTO orders VALUES ({order}, 'placed')")
            execute(f"UPDATE stock SET pieces = pieces - 1 WHERE article = {article}")

        @self.guard.write("order.ship", effect=effect)
        def ship(order: int) -> None:
            execute(f"UPDATE orders SET state = 'shipped' WHERE id = {order}")

        @self.guard.write("stock.clear", effect=effect)
        def clear() -> None:
            execute("UPDATE stock SET pieces = 0")

        self.place, self.ship, self.clear = place, ship, clear

    def run(self, *statements: str) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def content(self) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for table in ("orders", "stock") for row in
                    connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")]  # fmt: skip


def undone(guard: Guard, run: Run) -> UndoResult:
    clock = SystemClock()
    plan = make_plan(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, clock)
    return apply_plan(plan, guard.journal, guard.compensators, clock, SystemIds(), actor="test", reason="test")


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    if request.param == "sqlite":
        engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}", poolclass=sa.NullPool)
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        engine = sa.create_engine(postgres.new_database().replace("postgresql:", "postgresql+psycopg:"))
    yield Shop(engine)
    engine.dispose()


def several(shop: Shop) -> Run:
    with shop.guard.run(agent="shop@1") as run:
        shop.place(1, 1)
        shop.place(2, 1)
        shop.ship(1)
        shop.clear()
        shop.ship(2)
    return run


def test_a_run_of_several_actions_on_the_same_rows_comes_off_exactly(shop: Shop) -> None:
    before = shop.content()
    result = undone(shop.guard, several(shop))
    assert shop.content() == before
    assert result.counts == {"restored": 5}


def test_what_somebody_changed_since_goes_to_a_person_and_the_rest_comes_off(shop: Shop) -> None:
    run = several(shop)
    shop.run("UPDATE orders SET state = 'returned' WHERE id = 2")
    result = undone(shop.guard, run)
    # The second order stays, and so does what it took from the stock, which the first one had touched before it.
    assert shop.content() == [(1, "placed"), (2, "returned"), (1, 8), (2, 10)]
    assert result.counts == {"restored": 2, "review": 3}


def test_a_later_run_at_other_rows_is_in_nobodys_way_and_one_at_the_same_rows_is(shop: Shop) -> None:
    before = shop.content()
    with shop.guard.run(agent="shop@1") as first:
        shop.place(1, 1)
    with shop.guard.run(agent="shop@1") as second:
        shop.place(2, 2)
    with shop.guard.run(agent="shop@1") as third:
        shop.place(3, 2)
    assert undone(shop.guard, first).counts == {"restored": 1}
    assert undone(shop.guard, third).counts == {"restored": 1}
    assert undone(shop.guard, second).counts == {"restored": 1}
    assert shop.content() == before


def test_a_tool_that_raises_leaves_nothing(shop: Shop) -> None:
    before = shop.content()
    shop.run("UPDATE stock SET pieces = 0 WHERE article = 2")
    with shop.guard.run(agent="shop@1"), pytest.raises(Exception, match=r"(?i)check"):
        shop.place(1, 2)
    shop.run("UPDATE stock SET pieces = 10 WHERE article = 2")
    assert shop.content() == before
