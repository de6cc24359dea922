"""What a worker does between undos: CH1 to CH3, and that each chore does its work."""

import dataclasses
import threading

import pytest

from builders import events_of
from recovery.test_course import Case
from rescind.clock import SystemClock
from rescind.errors import JournalUnavailable, OrdersUnavailable
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.model.entry import StageEnded
from rescind.model.order import Order
from rescind.model.signal import SignalKind
from rescind.recovery.chores import Chore, Chores, do_chore, exporting, recovering, releasing
from rescind.recovery.review import list_tasks
from rescind.switch.alerts import Alert
from rescind.switch.memory import MemoryOrders


def test_ch1_a_chore_that_raises_is_done_again_and_holds_no_other_up(caplog: pytest.LogCaptureFixture) -> None:
    enough = threading.Event()
    done: list[str] = []

    def breaks() -> str:
        done.append("breaks")
        raise (JournalUnavailable("its disk is full") if done.count("breaks") % 2 else ZeroDivisionError("x"))

    def works() -> str:
        done.append("works")
        if done.count("works") >= 3 and done.count("breaks") >= 3:
            enough.set()
        return ""

    chores = Chores([Chore("breaking", 0.001, breaks), Chore("working", 0.001, works)], SystemClock())
    chores.start()
    assert enough.wait(10)
    chores.close()
    count = len(done)
    assert "breaking: its disk is full" in caplog.text
    assert "breaking failed, and is tried again" in caplog.text
    assert len(done) == count


def test_ch3_a_chore_that_takes_its_time_holds_no_other_up() -> None:
    enough, held_up = threading.Event(), threading.Event()
    done: list[str] = []

    def takes_hours() -> str:
        held_up.wait(20)
        return ""

    def works() -> str:
        done.append("works")
        if len(done) >= 3:
            enough.set()
        return ""

    chores = Chores([Chore("long", 0.001, takes_hours), Chore("working", 0.001, works)], SystemClock())
    chores.start()
    assert enough.wait(10)
    held_up.set()
    chores.close()


def test_who_leaves_begins_no_more_steps_of_an_incident_and_a_later_drive_goes_on() -> None:
    case = Case(SignalKind.BLAST_RADIUS)
    kinds = frozenset({SignalKind.BLAST_RADIUS})
    means = case.means(compensate_on=kinds, is_leaving=lambda: len(case.charged) < 3, parallel=1)
    assert "not reached" in do_chore(recovering(means))
    assert 0 < len(case.charged) < 3

    assert f"{case.incident_id} resume: a person has to say" in do_chore(recovering(case.means(compensate_on=kinds)))
    assert case.charged == []


def test_no_chores_need_no_thread() -> None:
    chores = Chores([], SystemClock())
    chores.start()
    chores.close()


def test_what_is_held_is_released_once_its_run_has_ended() -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders())
    sent: list[str] = []

    @guard.write("mail.send", irreversible="sent", hold="run")
    def mail(to: str) -> None:
        sent.append(to)

    chore = releasing(guard)
    with guard.run("mail-agent@1", run_id="run-1"):
        mail("ann")
        assert do_chore(chore) == ""
    assert "released, done" in do_chore(chore)
    assert do_chore(chore) == ""
    with guard.run("mail-agent@1", run_id="run-1"):
        mail("bob")
    do_chore(chore)
    assert sent == ["ann", "bob"]


ROOMS = {"blue": 1}


@dataclasses.dataclass
class Room:
    """Exists only as long as it is in the list."""

    name: str

    def __post_init__(self) -> None:
        ROOMS[self.name]


def test_a_held_call_that_cannot_be_made_any_more_holds_no_other_run_up_and_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders())
    booked: list[str] = []

    @guard.write("room.book", irreversible="booked", hold="run")
    def book(room: Room) -> None:
        booked.append(room.name)

    @guard.write("mail.send", irreversible="sent", hold="run")
    def mail(to: str) -> None:
        booked.append(to)

    with guard.run("booking-agent@1", run_id="run-1"):
        book(Room("blue"))
    with guard.run("mail-agent@1", run_id="run-2"):
        mail("ann")
    monkeypatch.delitem(ROOMS, "blue")
    chore = releasing(guard)
    assert "released, done" in do_chore(chore)
    assert do_chore(chore) == ""
    assert booked == ["ann"]
    assert len([line for line in caplog.messages if "not released" in line]) == 1

    monkeypatch.setitem(ROOMS, "blue", 1)
    assert "run-1/1 released, done" in do_chore(chore)


def test_an_incident_is_driven_if_the_policy_lets_its_kind_start() -> None:
    case = Case(SignalKind.BLAST_RADIUS)
    chore = recovering(case.means(compensate_on=frozenset({SignalKind.BLAST_RADIUS})))
    assert f"{case.incident_id} resume: a person has to say" in do_chore(chore)
    assert case.charged == []
    assert do_chore(chore) == ""


def test_an_incident_that_stands_still_is_recorded_once_and_looked_at_ever_less_often() -> None:
    case = Case(SignalKind.BLAST_RADIUS, mails=1)
    looks: list[float] = []

    def look() -> str:
        looks.append(case.clock.monotonic_s())
        return ""

    means = case.means(compensate_on=frozenset({SignalKind.BLAST_RADIUS}), invariants={"books": look})
    chore = recovering(means)
    assert "1 review task left to a person" in do_chore(chore)
    before = len(events_of(case.journal, case.incident_id))
    looks.clear()
    for _ in range(720):  # an hour
        case.clock.advance(5)
        assert do_chore(chore) == ""
    assert len(events_of(case.journal, case.incident_id)) == before
    assert 12 <= len(set(looks)) <= 20


def test_ch1_an_incident_that_cannot_be_driven_holds_no_other_up(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(SignalKind.BLAST_RADIUS)
    other = case.noticed("run-1", scope="agent:another")
    first = case.incident_id

    class Contained(MemoryOrders):
        def place(self, order: Order) -> None:
            if order.cause == first:
                raise OrdersUnavailable("its disk is full")
            super().place(order)

    case.orders = Contained()
    do_chore(recovering(case.means(compensate_on=frozenset({SignalKind.BLAST_RADIUS}))))
    assert f"incident {first}: its disk is full" in caplog.text
    assert any(isinstance(event, StageEnded) for event in events_of(case.journal, other))


def test_an_incident_of_another_kind_is_left_to_a_person() -> None:
    case = Case(SignalKind.BEHAVIOUR)
    assert do_chore(recovering(case.means(compensate_on=frozenset({SignalKind.BLAST_RADIUS})))) == ""
    assert not [event for event in events_of(case.journal, case.incident_id) if isinstance(event, StageEnded)]


def test_review_tasks_are_told_to_their_webhook() -> None:
    case = Case(mails=1)
    case.through()
    told: list[Alert] = []

    class Webhook:
        name = "webhook"

        def prepare(self) -> None: ...

        def send(self, alert: Alert, *, timeout_s: float) -> None:
            told.append(alert)

    chore = exporting(case.journal, Webhook(), case.clock)
    assert do_chore(chore) == "1 changes told to webhook"
    assert do_chore(chore) == ""
    assert [alert.data["review"]["task_id"] for alert in told] == [task.task_id for task in list_tasks(case.journal)]
