"""Writers that die, and orders that cross from one process to another: S1, S2 and S3 with a real `kill -9`."""

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from builders import a_lift, an_order
from rescind.switch.store import SqliteOrders
from switch.agents import Agent


@pytest.mark.parametrize(("point", "stands"), [("before commit", False), ("in commit", False), ("after commit", True)])
def test_s2_readers_see_the_truth_of_a_writer_that_was_killed(tmp_path: Path, point: str, stands: bool) -> None:
    reader = SqliteOrders(tmp_path)
    before = reader.standing()
    with Agent("write_and_die", tmp_path, point) as writer:
        assert writer.says() == "ready"
        assert writer.says() == ""  # the end of its output
        assert writer.process.wait(20) == -signal.SIGKILL

    # The stamp has moved and is odd: nobody keeps the old orders, and nobody keeps these.
    assert reader.page[0] != before.stamp
    standing = reader.standing()
    assert not standing.settled
    assert [order.order_id for order in standing.orders] == (["ord-dying"] if stands else [])

    reader.place(an_order("ord-next"))
    standing = reader.standing()
    assert standing.settled
    assert standing.stamp > before.stamp
    assert "ord-next" in {order.order_id for order in standing.orders}
    assert ("ord-dying" in {order.order_id for order in standing.orders}) == stands
    reader.close()


def test_s1_s3_a_process_that_only_looks_at_the_page_sees_every_order(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    with Agent("spin", tmp_path, "3") as spinner:
        assert spinner.says() == "ready"
        orders.place(an_order("ord-1"))
        assert spinner.says() == "ord-1"
        orders.place(an_order("ord-2"))
        assert spinner.says() == "ord-1 ord-2"
        orders.lift(a_lift("ord-1", "ord-2"))
        assert spinner.says() == ""
    orders.close()


def test_s1_no_settled_reading_lacks_an_order_that_had_moved_the_stamp_it_shows(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    readings: dict[int, int] = {}  # the fewest orders that were ever read under a settled stamp
    with Agent("place", tmp_path, "400") as writer:
        assert writer.says() == "ready"
        standing = orders.standing()
        while len(standing.orders) < 400:
            standing = orders.standing()
            if standing.settled:
                count = len(standing.orders)
                readings[standing.stamp] = min(count, readings.get(standing.stamp, count))
        assert writer.says() == "done"

    connection = sqlite3.connect(tmp_path / "orders.db")
    stamps = [stamp for (stamp,) in connection.execute("SELECT stamp FROM orders")]
    connection.close()
    for stamp, count in readings.items():
        assert count >= sum(placed <= stamp for placed in stamps)
    orders.close()


def test_several_processes_that_make_the_store_at_once_make_one(tmp_path: Path) -> None:
    store = tmp_path / "new" / "store"
    agents = [Agent("guard", store, f"guard-{number}") for number in range(4)]
    try:
        assert [agent.says() for agent in agents] == ["ready"] * 4
    finally:
        for agent in agents:
            agent.__exit__(None, None, None)
    assert sorted(path.name for path in store.iterdir() if path.name.endswith(".new")) == []


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads; no harm here
def test_a_forked_child_goes_on_to_read_and_write(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    orders.place(an_order("ord-1"))
    page = orders.page

    child = os.fork()
    if child == 0:
        status = 1
        try:
            seen = orders.standing()
            orders.place(an_order("ord-2"))
            status = 0 if len(seen.orders) == 1 and page[0] > seen.stamp else 2
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(orders.standing().orders) == 2
    orders.place(an_order("ord-3"))
    assert len(orders.standing().orders) == 3
    orders.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads; no harm here
def test_a_forked_child_holds_the_files_open_on_its_own_account(tmp_path: Path) -> None:
    orders = SqliteOrders(tmp_path)
    orders.place(an_order("ord-1"))
    told, tell = os.pipe()

    child = os.fork()
    if child == 0:
        status = 1
        try:
            orders.standing()
            os.read(told, 1)  # until the parent has closed
            status = 0 if len(orders.standing().orders) == 1 else 2
        finally:
            os._exit(status)

    orders.close()
    os.write(tell, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(told)
    os.close(tell)
