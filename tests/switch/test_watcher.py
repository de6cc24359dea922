"""The watcher thread: it acknowledges, notices, survives, and ends when it is told to."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders import an_order
from rescind.clock import SystemClock
from rescind.errors import OrdersUnavailable
from rescind.switch.memory import MemoryOrders
from rescind.switch.port import GuardReport
from rescind.switch.presence import GUARDS_NAME, Presence, living_guards
from rescind.switch.store import SqliteOrders
from rescind.switch.watcher import Watcher
from switch.agents import PATIENCE_S, FakeGuard, a_live_run


class Setting:
    """One guard over a real store, followed by a real thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.orders = SqliteOrders(directory)
        self.guard = FakeGuard(self.orders)
        self.watcher = Watcher(self.orders, self.guard, Presence(directory, "guard-1"), SystemClock())

    @property
    def report(self) -> GuardReport:
        (sighting,) = living_guards(self.directory)
        assert sighting.report is not None, sighting.problem
        return sighting.report

    def close(self) -> None:
        self.watcher.close()
        self.orders.close()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(tmp_path)
    setting.watcher.start()
    yield setting
    setting.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.002)


def test_a_guard_has_registered_and_bound_when_start_returns(setting: Setting) -> None:
    report = setting.report
    assert report.bound_stamp == setting.orders.page[0]
    assert report.drained_at_s is not None
    assert report.pid == os.getpid()
    assert report.fault == ""


def test_a_moved_stamp_is_bound_and_acknowledged_and_then_drained(setting: Setting) -> None:
    setting.guard.steps |= {"run-1/1", "run-1/2"}
    setting.orders.place(an_order())
    stamp = setting.orders.page[0]

    until(lambda: setting.report.bound_stamp == stamp)
    assert setting.report.drained_at_s is None
    assert setting.report.in_flight == ("run-1/1", "run-1/2")

    setting.guard.steps.add("run-2/1")  # admitted under the new orders
    setting.guard.steps.remove("run-1/1")
    until(lambda: setting.report.in_flight == ("run-1/2",))
    assert setting.report.drained_at_s is None

    setting.guard.steps.remove("run-1/2")
    until(lambda: setting.report.drained_at_s is not None)
    report = setting.report
    assert report.in_flight == ()
    assert report.drained_at_s is not None
    assert report.drained_at_s >= report.bound_at_s
    assert setting.guard.steps == {"run-2/1"}


def test_runs_that_open_and_close_are_reported(setting: Setting) -> None:
    setting.guard.runs = (a_live_run("run-1"),)
    until(lambda: setting.report.runs == (a_live_run("run-1"),))
    setting.guard.runs = ()
    until(lambda: setting.report.runs == ())


def test_an_idle_guard_writes_nothing(setting: Setting) -> None:
    path = setting.directory / GUARDS_NAME / "guard-1.json"
    inode = path.stat().st_ino
    binds = setting.guard.binds
    threading.Event().wait(0.6)
    assert path.stat().st_ino == inode
    assert setting.guard.binds == binds


def test_a_deleted_stamp_file_is_noticed_and_orders_are_heard_again(setting: Setting) -> None:
    (setting.directory / "orders.stamp").unlink()
    operator = SqliteOrders(setting.directory)
    operator.place(an_order())

    until(lambda: setting.report.bound_stamp == operator.page[0])
    assert setting.orders.standing().orders == (an_order(),)
    assert setting.report.fault == ""
    operator.close()


def test_a_deleted_database_is_noticed_and_reported_as_a_fault(setting: Setting) -> None:
    bound = setting.report.bound_stamp
    (setting.directory / "orders.db").unlink()
    until(lambda: "deleted or replaced" in setting.report.fault)
    assert setting.report.bound_stamp == bound


def test_an_order_whose_writer_died_is_taken_up_although_nothing_moves_any_more(setting: Setting) -> None:
    with (setting.directory / "orders.stamp").open("r+b") as file:
        number = int.from_bytes(file.read(8), "little")
        file.seek(0)
        file.write((number + 1).to_bytes(8, "little"))
    binds = setting.guard.binds
    until(lambda: setting.guard.binds >= binds + 2)  # again and again, as long as the stamp is odd
    assert setting.report.bound_stamp == number

    SqliteOrders(setting.directory).close()  # opening repairs
    until(lambda: setting.report.bound_stamp == number + 2 - number % 2)


def test_deleted_presence_files_come_back(setting: Setting) -> None:
    for path in (setting.directory / GUARDS_NAME).iterdir():
        path.unlink()
    until(lambda: len(living_guards(setting.directory)) == 1)
    until(lambda: living_guards(setting.directory)[0].report is not None)


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError(), SystemExit(3), KeyboardInterrupt()])
def test_nothing_that_a_guard_raises_ends_the_thread_and_the_fault_is_reported(
    setting: Setting, error: BaseException
) -> None:
    setting.guard.raises = error
    setting.orders.place(an_order())
    stamp = setting.orders.page[0]
    until(lambda: type(error).__name__ in setting.report.fault)
    assert setting.watcher.is_running()
    assert setting.report.bound_stamp < stamp  # it has not bound, and does not say so

    setting.guard.raises = None
    until(lambda: setting.report.bound_stamp == stamp and setting.report.fault == "")


def test_a_guard_that_fails_from_the_start_is_reported_too(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.guard.raises = RuntimeError("broken")
    setting.watcher.start()
    assert "broken" in setting.report.fault
    assert setting.report.bound_stamp < setting.orders.page[0]
    setting.guard.raises = None
    until(lambda: setting.report.bound_stamp == setting.orders.page[0])
    setting.close()


def test_a_guard_that_cannot_be_registered_does_not_start(tmp_path: Path) -> None:
    (tmp_path / GUARDS_NAME).write_text("")
    setting = Setting(tmp_path)
    with pytest.raises(OrdersUnavailable):
        setting.watcher.start()
    assert not setting.watcher.is_running()
    setting.close()


def watchers() -> int:
    return sum(thread.name == "rescind-watcher" for thread in threading.enumerate())


def test_close_ends_the_thread_and_the_registration_and_start_begins_again(setting: Setting) -> None:
    others = watchers() - 1  # of guards that other tests left to the end of the process
    setting.watcher.close()
    setting.watcher.close()
    assert not setting.watcher.is_running()
    assert living_guards(setting.directory) == []
    assert watchers() == others

    setting.watcher.start()
    setting.watcher.start()
    assert setting.report.bound_stamp == setting.orders.page[0]


def test_a_watcher_that_is_closed_from_its_own_thread_ends(tmp_path: Path) -> None:
    orders = MemoryOrders()

    class Closing(FakeGuard):
        def bind(self) -> tuple[int, frozenset[str]]:
            if self.binds:
                watcher.close()
            return super().bind()

    watcher = Watcher(orders, Closing(orders), Presence(tmp_path, "guard-1"), SystemClock())
    watcher.start()
    orders.place(an_order())
    until(lambda: not watcher.is_running())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads; no harm here
def test_after_a_fork_the_child_begins_anew_under_its_own_name(setting: Setting) -> None:
    ours = setting.report
    child = os.fork()
    if child == 0:
        status = 1
        try:
            setting.watcher.abandon()
            if not setting.watcher.is_running():
                watcher = Watcher(setting.orders, setting.guard, Presence(setting.directory, "child"), SystemClock())
                watcher.start()
                setting.orders.place(an_order())
                names = {sighting.guard_id for sighting in living_guards(setting.directory)}
                status = 0 if names == {"guard-1", "child"} else 2
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    until(lambda: setting.report.bound_stamp == setting.orders.page[0])
    assert setting.report.pid == ours.pid
