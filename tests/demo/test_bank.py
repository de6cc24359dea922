"""The bank answers everybody, but for the one process that the demo wants to see die while it waits."""

import os
import threading
from pathlib import Path

import pytest

from rescind.demo.bank import answer_all, await_answer, keep_waiting, note_request
from rescind.demo.desk import Desk, open_desk
from rescind.demo.opening import make_opening
from rescind.demo.world import World


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    make_opening(tmp_path / "billing.db", morning=tmp_path / "morning.db")
    return open_desk(tmp_path)


def ask(desk: Desk, number: int) -> bool:
    with desk.database.begin() as books:
        books.exec_driver_sql(
            "insert into credits select ?, charge_key, tenant, customer_id, amount_cents, '' from charges limit 1",
            (f"credit {number}",),
        )
        return note_request(books, f"credit {number}", booked=True)


def test_requests_are_noted_with_who_asked_and_nobody_waits(desk: Desk, tmp_path: Path) -> None:
    assert [ask(desk, number) for number in range(3)] == [False, False, False]
    assert World(tmp_path).credit_requests() == [(f"credit {number}", os.getpid(), True) for number in range(3)]
    assert World(tmp_path).kept_waiting() is None
    desk.database.dispose()


def test_the_first_process_with_so_many_requests_waits_until_it_is_answered(desk: Desk, tmp_path: Path) -> None:
    keep_waiting(tmp_path / "billing.db", after_requests=3)
    assert [ask(desk, number) for number in range(4)] == [False, False, True, True]
    assert World(tmp_path).kept_waiting() == os.getpid()
    waiting = threading.Thread(target=await_answer, args=(desk.database,), kwargs={"is_kept_waiting": True})
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    await_answer(desk.database, is_kept_waiting=False)  # those before it are answered
    answer_all(tmp_path / "billing.db")
    waiting.join(10.0)
    assert not waiting.is_alive()
    desk.database.dispose()


def test_only_one_process_waits(desk: Desk, tmp_path: Path) -> None:
    keep_waiting(tmp_path / "billing.db", after_requests=1)
    with desk.database.begin() as books:
        books.exec_driver_sql("update waiting_room set process = ?", (os.getpid() + 1,))
    assert not ask(desk, 1)
    assert World(tmp_path).kept_waiting() == os.getpid() + 1
    desk.database.dispose()
