"""Fences in front of a target: in memory, and in a database beside the data."""

import functools
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text

from builders import at_once
from rescind.containment.fence import FENCES_SQL, FencedTarget, admit
from rescind.errors import NothingChanged, StaleLease


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{tmp_path}/bank.db", connect_args={"timeout": 20})

    # A transaction of SQLite that reads first cannot write once another has; ours begins with its write.
    @event.listens_for(engine, "connect")
    def no_implicit_begin(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def begin(connection: object) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # type: ignore[attr-defined]

    with engine.begin() as connection:
        connection.execute(text(FENCES_SQL))
        connection.execute(text("CREATE TABLE balances (id INTEGER PRIMARY KEY, cents INTEGER, written_under INTEGER)"))
        connection.execute(text("INSERT INTO balances VALUES (1, 0, 0)"))
    return engine


def pay(engine: Engine, number: int, run_id: str = "run-1") -> None:
    with engine.begin() as connection:
        admit(connection, run_id, number)
        connection.execute(text("UPDATE balances SET cents = cents + 1, written_under = :n"), {"n": number})


def cents(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT cents FROM balances")).scalar_one())


def test_a_worker_that_slept_through_a_revocation_changes_nothing(engine: Engine) -> None:
    pay(engine, 1)
    pay(engine, 2)

    with pytest.raises(StaleLease, match="2 was seen") as stale:
        pay(engine, 1)

    assert isinstance(stale.value, NothingChanged)  # the guard records it as failed, and nobody has to investigate
    assert cents(engine) == 2


def test_the_same_number_passes_again_and_runs_do_not_fence_each_other(engine: Engine) -> None:
    pay(engine, 5)
    pay(engine, 5)
    pay(engine, 1, run_id="run-2")

    assert cents(engine) == 3


def test_a_number_that_was_rolled_back_with_its_change_fences_nobody(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        admit(connection, "run-1", 7)
        _ = 1 / 0

    pay(engine, 1)

    assert cents(engine) == 1


@pytest.mark.parametrize("number", [0, -3])
def test_a_number_that_no_lease_has_is_refused(engine: Engine, number: int) -> None:
    with pytest.raises(StaleLease, match="at least 1"):
        pay(engine, number)
    with pytest.raises(StaleLease, match="at least 1"):
        FencedTarget().admit("run-1", number)


def test_of_workers_that_race_none_writes_under_a_lower_number_after_a_higher_one(engine: Engine) -> None:
    written: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            try:
                with engine.begin() as connection:
                    admit(connection, "run-1", number)
                    written.append(number)  # within the transaction: one writer at a time
            except StaleLease:
                return

    at_once(functools.partial(work, number) for number in (1, 2, 3, 4))

    assert written == sorted(written)
    assert written[-1] == 4


def test_a_fence_in_memory_lets_nothing_lower_pass_under_any_concurrency() -> None:
    fence, start = FencedTarget(), threading.Barrier(8)
    highest: list[int] = [0]  # only ever grows: numbers that are known to have passed
    wrong: list[tuple[int, int]] = []

    def work(number: int) -> None:
        start.wait()
        for step in range(300):
            known = highest[-1]
            try:
                fence.admit("run-1", number + step)
            except StaleLease:
                continue
            if number + step < known:
                wrong.append((number + step, known))
            highest.append(number + step)

    at_once(functools.partial(work, number * 20 + 1) for number in range(8))

    assert not wrong
    with pytest.raises(StaleLease, match=f"{max(highest)} was seen"):
        fence.admit("run-1", max(highest) - 1)


def test_a_full_fence_refuses_new_runs_and_opens_for_none_that_it_knows() -> None:
    fence = FencedTarget(runs_max=1)
    fence.admit("run-1", 3)

    with pytest.raises(StaleLease, match="forget runs that have ended"):
        fence.admit("run-2", 1)
    with pytest.raises(StaleLease, match="3 was seen"):
        fence.admit("run-1", 2)
    fence.forget("run-1")
    fence.admit("run-2", 1)


def test_a_fence_that_may_know_no_run_is_no_fence() -> None:
    with pytest.raises(ValueError, match="runs_max is 0"):
        FencedTarget(runs_max=0)
