"""The operator's verbs: a stop is one press, giving power back is not."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from builders import a_lift, an_order
from rescind.errors import UsageError
from rescind.model.level import Level
from rescind.model.scope import Scope
from rescind.switch import desk
from rescind.switch.memory import MemoryOrders
from rescind.switch.receipt import Placed
from rescind.testing.clock import START, ManualClock
from rescind.testing.world import CountingIds


class Desk:
    def __init__(self) -> None:
        self.orders = MemoryOrders()
        self.clock, self.ids = ManualClock(), CountingIds()

    def place(self, scope: str = "everything", level: Level = Level.HALTED, reason: str = "") -> Placed:
        return desk.place(
            self.orders, Scope.parse(scope), level, reason=reason, actor="ops", clock=self.clock, ids=self.ids
        )

    def lift(self, *order_ids: str, reason: str = "mended") -> desk.Lifted:
        return desk.lift_orders(self.orders, order_ids, reason=reason, actor="ops", clock=self.clock, ids=self.ids)

    def lift_scope(self, scope: str, reason: str = "mended") -> desk.Lifted:
        return desk.lift_scope(
            self.orders, Scope.parse(scope), reason=reason, actor="ops", clock=self.clock, ids=self.ids
        )

    @property
    def standing(self) -> list[str]:
        return [order.order_id for order in self.orders.standing().orders]


def ids_of(orders: Iterable[object]) -> list[str]:
    return [str(getattr(order, "order_id", "")) for order in orders]


def test_a_stop_takes_a_scope_and_a_level_and_nothing_more() -> None:
    at = Desk()
    placed = at.place("tenant:acme", Level.READ_ONLY)
    assert at.orders.standing().orders == (placed.order,)
    assert placed.order.placed_at == START
    assert placed.stamp == at.orders.page[0]
    assert placed.placed_at_s == at.clock.monotonic_s()


def test_a_stop_does_not_fail_for_a_reason_that_is_no_text() -> None:
    assert Desk().place(reason="caf\udce9").order.reason == "caf?"


def test_an_order_to_be_normal_is_refused() -> None:
    with pytest.raises(UsageError, match="lift an order"):
        Desk().place(level=Level.NORMAL)


def test_orders_are_lifted_by_id() -> None:
    at = Desk()
    first, second = at.place().order, at.place("tenant:acme").order
    lifted = at.lift(second.order_id)
    assert lifted.orders == (second,)
    assert lifted.remaining == (first,)
    assert lifted.lift is not None
    assert lifted.lift.order_ids == {second.order_id}
    assert lifted.lift.reason == "mended"


def test_lifting_by_scope_lifts_exactly_what_stands_with_that_scope() -> None:
    at = Desk()
    at.place("tenant:acme+agent:shop")
    chosen = [at.place("tenant:acme", Level.PAUSED).order, at.place("tenant:acme", Level.HALTED).order]
    everything = at.place().order
    lifted = at.lift_scope("tenant:acme")
    assert set(lifted.orders) == set(chosen)
    assert everything in lifted.remaining
    assert len(lifted.remaining) == 2


def test_o2_an_order_that_was_placed_unseen_survives_the_lift() -> None:
    at = Desk()

    class Racing(MemoryOrders):
        def lift(self, lift: object) -> None:
            self.place(an_order("ord-racing"))
            super().lift(lift)  # type: ignore[arg-type]  # it is one

    at.orders = Racing()
    seen = at.place().order
    lifted = at.lift_scope("everything")
    assert lifted.orders == (seen,)
    assert at.standing == ["ord-racing"]


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_giving_power_back_takes_a_reason(reason: str) -> None:
    at = Desk()
    order = at.place().order
    with pytest.raises(UsageError, match="takes a reason"):
        at.lift(order.order_id, reason=reason)
    with pytest.raises(UsageError, match="takes a reason"):
        at.lift_scope("everything", reason=reason)
    assert at.standing == [order.order_id]


def test_an_unknown_id_lifts_nothing_and_names_the_nearest() -> None:
    at = Desk()
    at.orders.place(an_order("ord-abcdef"))
    with pytest.raises(UsageError, match="did you mean 'ord-abcdef'"):
        at.lift("ord-abcdef", "ord-abcdeg")
    assert at.standing == ["ord-abcdef"]


def test_an_id_that_was_lifted_before_is_said_to_be_so() -> None:
    at = Desk()
    at.orders.place(an_order("ord-1"))
    at.orders.place(an_order("ord-2"))
    at.orders.lift(a_lift("ord-1"))
    lifted = at.lift("ord-1", "ord-2")
    assert lifted.lifted_before == ("ord-1",)
    assert ids_of(lifted.orders) == ["ord-2"]

    again = at.lift("ord-1", "ord-2")
    assert again.lift is None
    assert again.lifted_before == ("ord-1", "ord-2")


def test_lifting_nothing_is_a_mistake() -> None:
    at = Desk()
    with pytest.raises(UsageError, match="no order stands at all"):
        at.lift_scope("everything")
    at.place("tenant:acme")
    with pytest.raises(UsageError, match="tenant:acme"):
        at.lift_scope("everything")
    with pytest.raises(UsageError, match="by id or by scope"):
        at.lift()


def test_a_stop_where_nobody_listens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no store of rescind"):
        desk.open_store(tmp_path / "elsewhere", create=False)
    assert not (tmp_path / "elsewhere").exists()

    desk.open_store(tmp_path / "store", create=True).close()
    desk.open_store(tmp_path / "store", create=False).close()
