"""A coroutine that is closed while it waits in a tool: nobody drives it any further, and nothing stays held."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from builders import a_guard, steps_of
from rescind.compensation.effects import ObjectGraph, SqlRows


class Desk:
    def __init__(self) -> None:
        self.status = "open"


def graph_of(_: Path) -> tuple[Any, Callable[[], Any], Callable[[], Any]]:
    desk = Desk()
    graph = ObjectGraph(desk)

    def check() -> None:
        assert not graph._turn.locked()
        assert not graph._open

    return graph, lambda: setattr(desk, "status", "closed"), check


def rows_of(folder: Path) -> tuple[Any, Callable[[], Any], Callable[[], Any]]:
    engine = sa.create_engine(f"sqlite:///{folder / 'shop.db'}", connect_args={"timeout": 0})
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    rows = SqlRows(engine, "t", rows=lambda: {"id": 1})

    def check() -> None:
        with engine.begin() as connection:  # it would be locked
            assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 0
            connection.exec_driver_sql("INSERT INTO t VALUES (2)")
        engine.dispose()

    return rows, lambda: rows.connection().exec_driver_sql("INSERT INTO t VALUES (1)"), check


@pytest.mark.parametrize("make", [graph_of, rows_of])
def test_what_the_effect_holds_is_let_go_of_and_the_step_is_in_doubt(
    make: Callable[[Path], tuple[Any, Callable[[], Any], Callable[[], Any]]], tmp_path: Path
) -> None:
    guard = a_guard()
    effect, work, check = make(tmp_path)

    @guard.write("desk.close", effect=effect)
    async def close() -> None:
        work()
        await asyncio.Event().wait()

    async def agent() -> None:
        async with guard.run("shop@1"):
            await close()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(agent())
        while not guard.in_flight_steps:
            runner.run(asyncio.sleep(0))
        for _ in range(100):
            runner.run(asyncio.sleep(0))
        coroutine: Any = task.get_coro()
        coroutine.close()  # as when its task is thrown away with its loop
        check()
        task.cancel()
        with pytest.raises(RuntimeError, match="reuse"):
            loop.run_until_complete(task)
    (record,) = steps_of(guard.journal)
    assert record.outcome is None
    assert not guard.in_flight_steps
