"""A store of orders that an older rescind wrote: brought to the newest format, with everything that stood in it."""

import contextlib
import sqlite3
from importlib import resources
from pathlib import Path

import pytest

from builders import an_order, at_once
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.switch import database
from rescind.switch.store import SqliteOrders


def write_format_1(directory: Path) -> Path:
    """A store as the first rescind made it, with one order in it."""
    path = directory / "orders.db"
    schema = resources.files("rescind.switch").joinpath("schema/001_orders.sql").read_text()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(
            f"{schema} PRAGMA application_id = {database.APPLICATION_ID}; PRAGMA user_version = 1;"
            "INSERT INTO orders VALUES (1, 'ord-old', 2, 'agent:a', 'halted', 'why', 'ann', 0);"
        )
    return path


def test_what_stood_in_an_older_store_stands_on_and_new_measures_can_be_placed(tmp_path: Path) -> None:
    write_format_1(tmp_path)

    orders = SqliteOrders(tmp_path)
    orders.place(an_order("ord-new", level=Level.HALTED, measure=Measure.QUARANTINE, cause="sig-1", trigger="loops"))

    found = {order.order_id: order for order in SqliteOrders(tmp_path).standing().orders}
    assert found["ord-old"].measure is Measure.LEVEL
    assert (found["ord-new"].measure, found["ord-new"].cause) == (Measure.QUARANTINE, "sig-1")
    assert found["ord-new"].trigger == "loops"


def test_of_many_that_open_an_older_store_at_once_each_finds_it_upgraded(tmp_path: Path) -> None:
    write_format_1(tmp_path)
    found: list[int] = []

    def open_it() -> None:
        found.append(len(SqliteOrders(tmp_path).standing().orders))

    at_once(open_it for _ in range(8))

    assert found == [1] * 8


@pytest.mark.parametrize("measure", [each for each in Measure if each.level > Level.NORMAL])
def test_a_measure_holds_at_least_its_level_for_guards_that_know_only_levels(measure: Measure) -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        an_order("ord-1", level=Level(measure.level - 1), measure=measure)
