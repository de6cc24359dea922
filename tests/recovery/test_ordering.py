"""What a person orders about an undo: once, and once more if the answer was lost."""

import pytest

from compensation.test_control import at_step
from compensation.test_coordinator import spoil
from compensation.undo_world import Shop
from rescind.compensation.decision import Plan
from rescind.errors import AlreadySettled
from rescind.journal.memory import MemoryJournal
from rescind.model.entry import PlanControlled
from rescind.recovery.ordering import order_undo
from rescind.recovery.undo_status import RUNS_READ_ONE_BY_ONE, UndoStatus
from rescind.recovery.undos import list_undos, undo_status


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


@pytest.mark.parametrize("count", [1, RUNS_READ_ONE_BY_ONE + 1])
def test_an_entry_that_cannot_be_read_keeps_nobody_from_a_pause(count: int) -> None:
    shop = Shop()
    runs = tuple(f"run-{number}" for number in range(count))
    for run in (runs * 4)[: max(count, 4)]:
        shop.charge(run)
    plan = shop.plan(*runs)
    told: list[UndoStatus] = []
    spoiled: list[int] = []

    def act() -> None:
        assert isinstance(shop.journal, MemoryJournal)
        shop.charge("of-others")
        before = list(shop.journal._rows)
        spoiled.append(spoil(shop, plan.items[0].step.run_id, "compensation_ended"))
        spoiled.append(spoil(shop, "of-others", "ended"))
        told.append(order(shop, plan, "pause"))
        told.extend(list_undos(shop.journal))
        told.append(order(shop, plan, "resume"))
        shop.journal._rows[: len(before)] = before  # so that the undo itself can come to its end

    at_step(shop, 2, act)
    shop.apply(plan)

    assert [status.state for status in told] == ["paused", "paused", "running"]
    assert [status.unreadable for status in told] == [(spoiled[0],)] * 3, "and nothing that others did"
    assert [status.done for status in told] == [1, 1, 1], "the end of the other one cannot be read"
    assert undo_status(shop.journal, plan.digest).state == "finished"
