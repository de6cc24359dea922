"""The lease at the gate: both checks ask the clock, and a silence is no order."""

from collections.abc import Sequence
from typing import Any

import pytest

from builders import an_order, events_of, steps_of
from rescind.config import SwitchConfig
from rescind.errors import CallDenied, RunHalted
from rescind.guard.gate import Halt, Limits, View, judge
from rescind.guard.guard import Guard
from rescind.guard.run import Run
from rescind.guard.stores import GivenStores
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.entry import Refused
from rescind.model.level import Level
from rescind.model.outcome import Failed
from rescind.model.scope import Subject
from rescind.switch.memory import MemoryOrders
from rescind.testing import ManualClock


class Leased:
    """A guard on a manual clock whose lease is extended by hand, as the subscription would."""

    def __init__(self, on_silence: str = "read_only", journal: MemoryJournal | None = None) -> None:
        self.clock = ManualClock()
        self.guard = Guard(GivenStores(journal or MemoryJournal(), MemoryOrders()), clock=self.clock)
        self.guard.lease.on_silence = Level.parse(on_silence)
        self.guard.lease.end()
        self.guard.lease.extend(self.clock.boot_s() + 10)
        self.effects: list[str] = []

        @self.guard.read("price.get")
        def get(item: str) -> str:
            return item

        @self.guard.write("price.set", irreversible="a test")
        def put(item: str) -> None:
            self.effects.append(item)

        self.get, self.put = get, put

    def run(self) -> Run:
        return self.guard.run("shop@1")


def test_a_lease_that_has_run_out_is_noticed_at_the_next_call_and_forgotten_when_it_is_renewed() -> None:
    desk = Leased()
    with desk.run() as run:
        desk.put("tea")
        desk.clock.suspend(10)
        assert desk.get("tea") == "tea"
        for _ in range(3):
            with pytest.raises(CallDenied, match="no switch has been heard") as caught:
                desk.put("coffee")
        assert (caught.value.level, caught.value.order_ids) == (Level.READ_ONLY, ())
        assert run.report().level is Level.READ_ONLY
        desk.guard.lease.extend(desk.clock.boot_s() + 10)
        desk.put("milk")
        assert run.report().level is Level.NORMAL
    assert desk.effects == ["tea", "milk"]
    assert len([event for event in events_of(desk.guard.journal) if isinstance(event, Refused)]) == 1


def test_w2_a_lease_that_runs_out_while_the_intent_is_written_refuses_the_tool() -> None:
    class Slow(MemoryJournal):
        def append(self, drafts: Sequence[Draft]) -> Any:
            answer = super().append(drafts)
            desk.clock.suspend(11)
            return answer

    desk = Leased(journal=Slow())
    with desk.run(), pytest.raises(CallDenied, match="no switch"):
        desk.put("tea")
    assert desk.effects == []
    (record,) = steps_of(desk.guard.journal)
    assert isinstance(record.outcome, Failed)


def test_g3_a_silence_that_halts_ends_no_run_for_good() -> None:
    desk = Leased("halted")
    with desk.run() as run:
        desk.clock.advance(11)
        with pytest.raises(RunHalted, match="no switch has been heard"):
            desk.get("tea")
        with pytest.raises(RunHalted):
            run.spawn().__enter__()
        assert not run.halted
        desk.guard.lease.extend(desk.clock.boot_s() + 10)
        desk.put("tea")
        with run.spawn():
            desk.put("tea")


def test_an_order_that_is_more_severe_than_the_silence_decides() -> None:
    desk = Leased("supervised")
    with desk.run() as run:
        desk.clock.advance(11)
        desk.guard.orders.place(an_order(level=Level.PAUSED))
        with pytest.raises(CallDenied) as caught:
            desk.get("tea")
        assert caught.value.order_ids == ("ord-1",)
        desk.guard.orders.place(an_order("ord-2"))
        with pytest.raises(RunHalted):
            desk.get("tea")
        assert run.halted


@pytest.mark.parametrize("silence", list(Level))
@pytest.mark.parametrize("ordered", list(Level))
@pytest.mark.parametrize("writes", [True, False])
def test_the_effective_level_is_the_higher_of_orders_and_silence(silence: Level, ordered: Level, writes: bool) -> None:
    orders = () if ordered is Level.NORMAL else (an_order(level=ordered),)
    subject = Subject(run_id="r", agent_name="a")
    verdict = judge(View(0, orders), subject, "price.set", writes=writes, limits=Limits(), silence=silence)
    level = max(silence, ordered)
    allowed = level.allows_writes if writes else level.allows_reads
    assert (type(verdict).__name__ == "Allow") == allowed
    assert isinstance(verdict, Halt) == (level is Level.HALTED)
    assert not isinstance(verdict, Halt) or verdict.latches == (ordered is Level.HALTED)


def test_a_guard_without_switches_has_a_lease_without_end() -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders())
    assert guard.lease.until_s == float("inf")
    guard = Guard(GivenStores(MemoryJournal(), MemoryOrders()), switch=SwitchConfig(urls=("http://127.0.0.1:9",)))
    assert guard.lease.until_s == float("-inf")  # closed until it hears somebody
