"""The one run of a supervisor, as the watcher, the switches and the loop see it."""

from pathlib import Path

from builders import a_lift, a_run, an_order
from rescind.model.level import Level
from rescind.switch.memory import MemoryOrders
from rescind.switch.store import SqliteOrders
from rescind.switch.supervisor.run import SupervisedRun
from rescind.switch.wire import Ended
from rescind.testing.clock import ManualClock

PROCESS = frozenset({"run-1/process"})


def a_supervised_run(orders: MemoryOrders | SqliteOrders, **fields: object) -> SupervisedRun:
    defaults: dict[str, object] = {"act_at": Level.HALTED, "clock": ManualClock()}
    return SupervisedRun(a_run("run-1"), orders, **(defaults | fields))  # type: ignore[arg-type]


def test_whoever_binds_an_order_finds_the_program_in_flight_until_the_last_of_it_has_ended() -> None:
    orders = MemoryOrders()
    run = a_supervised_run(orders)
    assert not run.admit().ending

    orders.place(an_order())
    stamp, admitted = run.bind()

    assert (stamp, admitted) == (orders.page[0], PROCESS)
    run.has_ended(Ended(pid=7, how="killed", status=-9), for_good=True)
    assert run.in_flight() == frozenset()


def test_nothing_is_admitted_under_an_order_that_ends() -> None:
    orders = MemoryOrders()
    orders.place(an_order())
    run = a_supervised_run(orders)

    assert [order.order_id for order in run.admit().ending] == ["ord-1"]
    assert not run.is_running
    orders.lift(a_lift("ord-1"))
    assert not run.admit().ending
    assert run.is_running


def test_orders_of_switches_and_of_the_machine_both_hold() -> None:
    orders = MemoryOrders()
    run = a_supervised_run(orders)
    run.admit()

    assert run.take_up((an_order("ord-far"),)) == PROCESS
    orders.place(an_order("ord-near"))
    run.bind()

    assert {order.order_id for order in run.ruling.ending} == {"ord-far", "ord-near"}
    run.take_up(())
    assert {order.order_id for order in run.ruling.ending} == {"ord-near"}


def test_an_order_for_somebody_else_does_not_wait_for_the_program() -> None:
    run = a_supervised_run(MemoryOrders())
    run.admit()
    assert run.take_up((an_order(scope="tenant:globex"),)) == frozenset()


def test_an_order_that_cannot_be_obeyed_is_bound_never_drained_and_said() -> None:
    run = a_supervised_run(MemoryOrders())
    run.admit()

    assert run.take_up((an_order("ord-mild", level=Level.READ_ONLY),)) == PROCESS
    report = run.describe()
    assert "cannot obey ord-mild (read_only)" in report.fault
    assert report.runs[0].level == "normal"
    # A program that failed and will be started again is in flight all the while.
    run.has_ended(Ended(pid=7, how="exited", status=1), for_good=False)
    assert run.in_flight() == PROCESS


def test_the_report_is_a_supervisors() -> None:
    run = a_supervised_run(MemoryOrders())
    run.admit()
    run.take_up((an_order(),))
    run.latch()
    run.has_ended(Ended(pid=7, how="terminated", status=0), for_good=True)

    report = run.describe()

    assert (report.kind, report.agent, report.fault) == ("supervisor", "billing-agent@2.4.0", "")
    assert [(doc.run_id, doc.level, doc.halted) for doc in report.runs] == [("run-1", "halted", True)]
    assert report.ended == (Ended(pid=7, how="terminated", status=0),)


def test_orders_that_cannot_be_read_leave_standing_what_stood_and_are_timed(tmp_path: Path) -> None:
    orders, clock = SqliteOrders(tmp_path), ManualClock()
    orders.place(an_order())
    run = a_supervised_run(orders, clock=clock)
    run.admit()
    orders.close()

    assert run.bind()[0] == -1
    clock.sleep(3.0)

    assert [order.order_id for order in run.ruling.ending] == ["ord-1"]
    assert run.unreadable_for_s() == 3.0
    assert run.fault()


def test_news_wakes_the_loop() -> None:
    woken: list[bool] = []
    run = a_supervised_run(MemoryOrders(), wake=lambda: woken.append(True))
    run.take_up(())
    run.bind()
    assert len(woken) == 2
