"""After an undo each target that it restored is looked at once more."""

from typing import Any

from compensation.undo_world import Shop
from rescind.compensation.decision import Plan
from rescind.compensation.execution.comparison import Comparison, compare_after
from rescind.compensation.result import UndoResult
from rescind.model.entry import StepRef


def a_shop() -> Shop:
    shop = Shop()
    shop.rows.update(tea=0, jam=0)
    shop.set("tea", 1)
    shop.set("tea", 2)
    shop.set("jam", 1)
    shop.charge()
    return shop


def undone(shop: Shop, *runs: str) -> tuple[Plan, UndoResult]:
    plan = shop.plan(*(runs or ("run-1",)))
    return plan, shop.apply(plan)


def compared(shop: Shop, applied: tuple[Plan, UndoResult]) -> Comparison:
    return compare_after(*applied, shop.journal, shop.compensators)


def test_a_target_is_compared_with_what_the_last_restore_there_left() -> None:
    shop = a_shop()

    assert compared(shop, undone(shop)) == Comparison(compared=2)


def test_what_a_later_restore_broke_is_a_difference() -> None:
    """A trigger, say: U11 looked before."""
    shop = a_shop()

    def spoil(record: Any) -> None:
        if record.step.step_id == "1":
            shop.rows["jam"] = 9

    shop.setting.before_undo = spoil
    applied = undone(shop)

    found = compared(shop, applied)

    assert (found.compared, found.as_before, [each.step for each in found.differs]) == (2, 1, [StepRef("run-1", "3")])


def test_what_the_journal_knows_to_have_moved_on_is_no_difference() -> None:
    shop = a_shop()
    applied = undone(shop)
    shop.set("tea", 7, run="run-2")
    shop.rows["jam"] = 8

    found = compared(shop, applied)

    assert found.moved_on == 1
    assert [str(each.target) for each in found.differs] == ["shop/row/jam"]


def test_another_undo_at_the_same_target_has_moved_it_on() -> None:
    shop = Shop()
    shop.rows.update(tea=0)
    shop.set("tea", 1)
    shop.set("tea", 2, run="run-2")
    newer = undone(shop, "run-2")
    undone(shop, "run-1")

    assert compared(shop, newer) == Comparison(compared=1, moved_on=1)


def test_a_target_that_nobody_can_look_at_differs_and_what_was_settled_before_is_not_asked() -> None:
    shop = a_shop()
    applied = undone(shop)

    def broken(record: Any) -> Any:
        raise ConnectionError("gone")

    shop.setting.observe = broken  # type: ignore[method-assign]  # the target went away
    assert [each.problem for each in compared(shop, applied).differs] == [
        "looking at the target failed: ConnectionError: gone"
    ] * 2
    assert compared(shop, undone(shop)) == Comparison()
