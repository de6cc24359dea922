"""What a run has read, in the journal: laws T1-T4 of `guard.reads`."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builders import a_guard, events_of
from rescind.errors import CallDenied, DeclarationError, JournalUnavailable
from rescind.guard.guard import Guard
from rescind.guard.reads import KEPT_MAX
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.model.entry import Ended, Intended, Read, RunClosed, RunOpened
from rescind.model.step import Target
from rescind.switch.memory import MemoryOrders


class Desk:
    """A guard with a read that has a target, one that has none, and a write."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.journal = guard.journal

        @guard.read("invoice.get", target=lambda number: ("erp", "invoice", number))
        def get(number: str) -> str:
            return number.upper()

        @guard.read("invoice.get.later", target=lambda number: ("erp", "invoice", number))
        async def get_later(number: str) -> str:
            return number

        @guard.read("clock.get")
        def now() -> int:
            return 0

        @guard.write("invoice.void", target=lambda number: ("erp", "invoice", number), irreversible="a test")
        def void(number: str) -> None:
            pass

        self.get, self.get_later, self.now, self.void = get, get_later, now, void

    def story(self) -> list[str]:
        """Reads and intents in the order of the journal, such as `get a`."""
        found: list[str] = []
        for event in events_of(self.journal):
            if isinstance(event, Read):
                found.append(f"get {event.target.id}")
            elif isinstance(event, Intended):
                found.append(f"void {event.step.requested['number']}")
        return found


@pytest.fixture
def desk() -> Desk:
    return Desk(a_guard())


def test_a_read_with_a_target_is_recorded_after_it_and_before_the_next_write(desk: Desk) -> None:
    """T3."""
    with desk.guard.run("a@1"):
        assert desk.get("a") == "A"
        desk.void("b")
        asyncio.run(in_task(desk))

    assert desk.story() == ["get a", "void b", "get c"]
    read = next(event for event in events_of(desk.journal) if isinstance(event, Read))
    assert read == Read(action="invoice.get", target=Target("erp", "invoice", "a"))


async def in_task(desk: Desk) -> None:
    await desk.get_later("c")


def test_a_read_without_a_target_leaves_no_trace(desk: Desk) -> None:
    with desk.guard.run("a@1"):
        desk.now()

    assert events_of(desk.journal) == []


def test_a_read_that_failed_has_read_nothing(desk: Desk) -> None:
    @desk.guard.read("broken.get", target=lambda: "erp/invoice/a")
    def broken() -> None:
        raise RuntimeError("no connection")

    with desk.guard.run("a@1"), pytest.raises(RuntimeError, match="no connection"):
        broken()

    assert events_of(desk.journal) == []


def test_the_same_read_again_is_recorded_once_more_at_most_before_the_next_write_or_the_end(desk: Desk) -> None:
    """T4."""
    with desk.guard.run("a@1"):
        for _ in range(3):
            desk.get("a")
        desk.get("b")
        desk.void("b")
        desk.get("a")
        desk.void("c")
        desk.void("d")

        desk.get("e")
        desk.get("e")

    expected = ["get a", "get b", "get a", "void b", "get a", "void c", "void d", "get e", "get e"]
    assert desk.story() == expected


def test_what_is_remembered_is_bounded_and_nothing_is_forgotten_that_was_read_again(desk: Desk) -> None:
    with desk.guard.run("a@1") as run:
        desk.get("first")
        desk.get("first")
        for number in range(KEPT_MAX):
            desk.get(str(number))
        assert len(run.reads.seen) <= KEPT_MAX

    reads = [entry.event for entry in desk.journal.entries(Query(), limit=10_000)]
    assert sum(isinstance(event, Read) and event.target.id == "first" for event in reads) == 2


def test_a_run_that_only_read_is_opened_and_closed_with_the_count_of_its_reads(desk: Desk) -> None:
    """T2."""
    with desk.guard.run("a@1"):
        desk.get("a")
        desk.get("b")

    kinds = [type(event) for event in events_of(desk.journal)]
    assert (kinds[0], kinds[-1], kinds.count(Read)) == (RunOpened, RunClosed, 2)
    closed = events_of(desk.journal)[-1]
    assert isinstance(closed, RunClosed)
    assert closed.reads == 2


def test_a_run_without_recorded_reads_closes_as_it_always_did(desk: Desk) -> None:
    with desk.guard.run("a@1"):
        desk.void("a")

    closed = events_of(desk.journal)[-1]
    assert b"reads" not in msgspec.json.encode(closed)


class Away(MemoryJournal):
    """A journal that is away for whatever nobody waits for."""

    def submit(self, drafts: Any) -> None:
        """Lost, as on a real disk that is full."""


def test_a_read_goes_on_while_the_journal_is_away_and_the_end_of_the_run_tells_it() -> None:
    """T1, T2."""
    desk = Desk(Guard.over(Away(), MemoryOrders()))
    with desk.guard.run("a@1"):
        assert desk.get("a") == "A"
        desk.void("b")

    assert desk.story() == ["void b"]
    closed = events_of(desk.journal)[-1]
    assert isinstance(closed, RunClosed)
    assert closed.reads == 1


def test_a_text_that_no_journal_can_hold_stops_no_read(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """T1."""
    with desk.guard.run("a@1"):
        assert desk.get("\ud800") == "\ud800"
        desk.get("b")
        desk.void("c")

    assert "could not be recorded" in caplog.text
    assert desk.story()[-1] == "void c"


def test_a_run_with_a_name_of_its_own_writes_after_it_has_read(tmp_path: Path) -> None:
    """On a real store, where a read is not waited for: the first step comes after it."""
    guard = Guard.at(tmp_path)
    desk = Desk(guard)
    for _ in range(2):
        with guard.run("a@1", run_id="run-1"):
            desk.get("a")
            desk.void("b")
    with guard.run("a@1"):
        desk.get("z")
        desk.void("y")

    assert desk.story() == ["get a", "void b", "get a", "void b", "get z", "void y"]
    entries = desk.journal.entries(Query(run_id="run-1"))
    steps = [entry.event.step_id for entry in entries if isinstance(entry.event, Ended)]
    assert len(set(steps)) == 2
    guard.close()


@pytest.mark.parametrize(
    ("target", "says"),
    [(lambda invoice: invoice, "target= takes 'invoice', which is no parameter"), (lambda number: 7, "returned 7")],
)
def test_a_target_that_is_none_is_a_mistake_of_the_declaration(desk: Desk, target: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):  # either at the declaration or at the call

        @desk.guard.read("invoice.find", target=target)
        def find(number: str) -> None:
            pass

        with desk.guard.run("a@1"):
            find("a")


def test_a_halted_run_reads_nothing_and_records_nothing(desk: Desk) -> None:
    with desk.guard.run("a@1", allow={"clock.get"}), pytest.raises(CallDenied):
        desk.get("a")

    assert not [event for event in events_of(desk.journal) if isinstance(event, Read)]


def test_a_journal_that_is_away_still_refuses_writes_after_reads() -> None:
    class Full(Away):
        def append(self, drafts: Any) -> Any:
            raise JournalUnavailable("the disk is full")

    desk = Desk(Guard.over(Full(), MemoryOrders()))
    with desk.guard.run("a@1"):
        desk.get("a")
        with pytest.raises(JournalUnavailable):
            desk.void("b")
