"""The gate: who may do what under which orders, and that a halt is for good."""

from collections.abc import Sequence
from typing import Any

import pytest

import rescind
from builders import a_guard, a_lift, an_order, events_of, steps_of
from rescind.errors import CallDenied, OrdersUnavailable, RunHalted
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.entry import Refused
from rescind.model.level import Level
from rescind.model.outcome import Failed
from rescind.switch.memory import MemoryOrders
from rescind.switch.port import Standing
from rescind.testing import ManualClock


class Tools:
    def __init__(self, guard: Guard) -> None:
        self.guard, self.effects = guard, list[str]()

        @guard.read("price.get")
        def get(item: str) -> int:
            return 1

        @guard.write("price.set", irreversible="a test")
        def put(item: str) -> None:
            self.effects.append(item)

        self.get, self.put = get, put


@pytest.fixture
def tools() -> Tools:
    return Tools(a_guard())


@pytest.mark.parametrize(
    ("level", "reads", "writes"),
    [
        (Level.NORMAL, True, True),
        (Level.SUPERVISED, True, False),
        (Level.READ_ONLY, True, False),
        (Level.PAUSED, False, False),
        (Level.HALTED, False, False),
    ],
)
def test_each_level_allows_what_the_ladder_says(tools: Tools, level: Level, reads: bool, writes: bool) -> None:
    def allowed(call: Any) -> bool:
        try:
            call("tea")
        except (CallDenied, RunHalted):
            return False
        return True

    with tools.guard.run("shop@1"):
        if level > Level.NORMAL:  # an order at normal cannot even be made
            tools.guard.orders.place(an_order(level=level))
        assert (allowed(tools.get), allowed(tools.put)) == (reads, writes)
    assert tools.effects == (["tea"] if writes else [])


def test_severity_wins_over_scope(tools: Tools) -> None:
    with tools.guard.run("shop@1"):
        tools.guard.orders.place(an_order("ord-1", "agent:shop", Level.HALTED))
        tools.guard.orders.place(an_order("ord-2", "everything", Level.SUPERVISED))
        with pytest.raises(RunHalted):
            tools.get("tea")


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ("everything", True),
        ("agent:shop", True),
        ("agent:shop@1", True),
        ("agent:shop@2", False),
        ("tenant:acme", True),
        ("tenant:acme+agent:other", False),
        ("workflow:pricing+tenant:acme", True),
        ("run:run-1", True),
        ("run:parent", False),
        ("tree:parent", True),
        ("action:price.set", True),
        ("action:price.get", False),
    ],
)
def test_a_scope_covers_its_own_and_spares_the_neighbours(tools: Tools, scope: str, covered: bool) -> None:
    tools.guard.orders.place(an_order(scope=scope, level=Level.READ_ONLY))
    with tools.guard.run("shop@1", tenant="acme", workflow="pricing", run_id="run-1", parent="parent"):
        if covered:
            with pytest.raises(CallDenied):
                tools.put("tea")
        else:
            tools.put("tea")


def test_a_refusal_tells_a_model_what_to_do(tools: Tools) -> None:
    tools.guard.orders.place(an_order(level=Level.READ_ONLY))
    with tools.guard.run("shop@1"), pytest.raises(CallDenied) as caught:
        tools.put("tea")
    assert "Do not retry" in str(caught.value)
    assert "a test" in str(caught.value)
    assert caught.value.order_ids == ("ord-1",)


def test_a_halt_gives_the_fallback_and_is_a_latch(tools: Tools) -> None:
    with tools.guard.run("shop@1", fallback="Please call us.") as run:
        tools.put("tea")
        tools.guard.orders.place(an_order())
        for _ in range(3):
            with pytest.raises(RunHalted) as caught:
                tools.put("coffee")
            assert caught.value.fallback == "Please call us."
        tools.guard.orders.lift(a_lift("ord-1"))
        with pytest.raises(RunHalted):
            tools.get("tea")
    assert run.halted
    assert tools.effects == ["tea"]
    refused = [event.action for event in events_of(tools.guard.journal) if isinstance(event, Refused)]
    assert refused == ["price.set", "price.get"]  # once each, however often the model hammers

    with tools.guard.run("shop@1"):
        tools.put("coffee")  # a new run is free: the order is lifted


def test_a_halt_that_no_call_met_still_ends_the_run(tools: Tools) -> None:
    with tools.guard.run("shop@1"):
        tools.guard.orders.place(an_order())
        tools.guard.bind()  # what the watcher does
        tools.guard.orders.lift(a_lift("ord-1"))
        tools.guard.bind()
        with pytest.raises(RunHalted):
            tools.put("tea")


def test_no_run_begins_where_nothing_new_may_start(tools: Tools) -> None:
    for level, refusal in ((Level.PAUSED, CallDenied), (Level.HALTED, RunHalted)):
        tools.guard.orders.place(an_order(f"ord-{level}", level=level))
        with pytest.raises(refusal), tools.guard.run("shop@1"):
            pytest.fail("the run began")
    assert tools.guard.live_runs() == ()


def test_an_order_placed_while_the_intent_is_written_refuses_the_tool() -> None:
    class Slow(MemoryJournal):
        def append(self, drafts: Sequence[Draft]) -> Any:
            answer = super().append(drafts)
            if not orders.history().orders:
                orders.place(an_order(level=Level.READ_ONLY))
            return answer

    orders = MemoryOrders()
    tools = Tools(Guard.over(Slow(), orders))
    with tools.guard.run("shop@1"), pytest.raises(CallDenied):
        tools.put("tea")

    assert tools.effects == []
    (record,) = steps_of(tools.guard.journal)
    assert isinstance(record.outcome, Failed)
    assert not tools.guard.in_flight_steps


class BrokenOrders(MemoryOrders):
    broken = False

    def standing(self) -> Standing:
        if self.broken:
            raise OrdersUnavailable("the disk is gone")
        return super().standing()


def test_orders_that_cannot_be_read_refuse_writes_and_let_reads_go_on() -> None:
    orders = BrokenOrders()
    tools = Tools(Guard.over(MemoryJournal(), orders))
    with tools.guard.run("shop@1"):
        orders.broken = True
        tools.guard.bind()
        assert tools.get("tea") == 1
        with pytest.raises(CallDenied, match="cannot be read"):
            tools.put("tea")
        assert tools.guard.fault() == "the disk is gone"
        orders.broken = False
        tools.put("tea")


def test_a_change_under_way_is_read_again_on_every_call(tools: Tools) -> None:
    orders = tools.guard.orders
    assert isinstance(orders, MemoryOrders)
    with tools.guard.run("shop@1"):
        tools.put("tea")
        orders.page[0] += 1  # type: ignore[index]  # a writer that died between its two stamps
        tools.put("tea")
        orders.place(an_order(level=Level.READ_ONLY))
        with pytest.raises(CallDenied):
            tools.put("tea")


def test_an_allowlist_a_budget_and_a_deadline_bound_a_run() -> None:
    clock = ManualClock()
    tools = Tools(a_guard(clock=clock))
    with tools.guard.run("shop@1", allow=["price.get"]), pytest.raises(CallDenied, match="not among"):
        tools.put("tea")
    with tools.guard.run("shop@1", calls_max=2):
        tools.get("tea")
        tools.put("tea")
        with pytest.raises(CallDenied, match="calls"):
            tools.get("tea")
    with tools.guard.run("shop@1", timeout_s=60):
        tools.get("tea")
        clock.sleep(61)
        with pytest.raises(CallDenied, match="time"):
            tools.get("tea")


def test_a_run_that_is_over_makes_no_more_calls(tools: Tools) -> None:
    with tools.guard.run("shop@1") as run:
        pass
    with run.activate(), pytest.raises(rescind.UsageError, match="over"):
        tools.get("tea")


def test_a_child_shares_tenant_and_trace_and_is_in_its_parents_tree(tools: Tools) -> None:
    with tools.guard.run("router@1", tenant="acme") as parent, parent.spawn(agent="shop@1") as child:
        assert (child.info.tenant, child.trace_id, child.info.parent_run) == ("acme", parent.trace_id, parent.run_id)
        tools.guard.orders.place(an_order(scope=f"tree:{parent.run_id}", level=Level.READ_ONLY))
        with pytest.raises(CallDenied):
            tools.put("tea")
