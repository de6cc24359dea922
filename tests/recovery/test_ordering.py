"""What a person orders about an undo: once, and once more if the answer was lost."""

import pytest

from compensation.test_control import at_step
from compensation.undo_world import Shop
from rescind.compensation.decision import Plan
from rescind.errors import AlreadySettled
from rescind.model.entry import PlanControlled
from rescind.recovery.ordering import order_undo
from rescind.recovery.undos import UndoStatus


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    for _ in range(5):
        shop.charge()
    return shop


def order(shop: Shop, plan: Plan, what: str, *, sent_again: bool = False) -> UndoStatus:
    return order_undo(
        shop.journal, plan.digest, what, actor="eve", reason="why", clock=shop.clock, sent_again=sent_again
    )


def orders_in(shop: Shop) -> list[str]:
    return [entry.event.what for entry in shop.entries() if isinstance(entry.event, PlanControlled)]


def test_an_order_that_stands_already_is_refused_unless_it_may_have_been_sent_before(shop: Shop) -> None:
    plan = shop.plan()
    told: list[str] = []

    def act() -> None:
        told.append(order(shop, plan, "pause").state)
        told.append(order(shop, plan, "pause", sent_again=True).state)
        with pytest.raises(AlreadySettled, match="is paused already, by eve"):
            order(shop, plan, "pause")
        told.append(order(shop, plan, "resume").state)
        told.append(order(shop, plan, "resume", sent_again=True).state)
        with pytest.raises(AlreadySettled, match="not paused"):
            order(shop, plan, "resume")
        told.append(order(shop, plan, "cancel").state)
        told.append(order(shop, plan, "cancel", sent_again=True).state)

    at_step(shop, 2, act)
    shop.apply(plan)

    assert told == ["paused", "paused", "running", "running", "cancelling", "cancelling"]
    assert orders_in(shop) == ["pause", "resume", "cancel"]
    assert order(shop, plan, "cancel", sent_again=True).state == "cancelled"
    for what in ("pause", "resume", "cancel"):
        with pytest.raises(AlreadySettled, match=r"has ended \(cancelled\)"):
            order(shop, plan, what)


def test_an_undo_that_has_ended_takes_no_order(shop: Shop) -> None:
    plan = shop.plan()
    shop.apply(plan)
    before = len(shop.entries())
    for what in ("pause", "resume", "cancel"):
        for sent_again in (False, True):
            with pytest.raises(AlreadySettled, match=r"has ended \(finished\)"):
                order(shop, plan, what, sent_again=sent_again)
    assert len(shop.entries()) == before
