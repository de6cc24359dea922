"""The undo of an undo: laws RD1-RD5 of `redo`."""

import contextlib
from typing import Any

import pytest

from compensation.undo_world import Charging, Shop, decisions, nothing_appended, raising
from rescind.compensation.planning.redo import find_applied
from rescind.compensation.result import UndoStopped
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.model.entry import Disposition, RedoEnded, RedoIntended, StepRef
from rescind.recovery.review import list_tasks


@pytest.fixture
def shop() -> Shop:
    """run-1 set tea twice, and jam."""
    shop = Shop()
    shop.rows.update(tea=0, jam=0)
    shop.set("tea", 1)
    shop.set("tea", 2)
    shop.set("jam", 1)
    return shop


def undone(shop: Shop, *runs: str, **selection: Any) -> str:
    plan = shop.plan(*(runs or ("run-1",)), **selection)
    shop.apply(plan)
    return plan.digest


def test_what_an_undo_restored_is_put_back_the_oldest_first(shop: Shop) -> None:
    digest = undone(shop)
    assert shop.rows == {"tea": 0, "jam": 0}

    plan = shop.redo_plan(digest[:12])
    result = shop.redo(digest)

    assert decisions(plan) == (("1", "restore"), ("2", "restore"), ("3", "restore"))
    assert result.counts == {"restored": 3}
    assert shop.rows == {"tea": 2, "jam": 1}


def test_twice_is_once_and_a_new_undo_undoes_it_again(shop: Shop) -> None:
    """RD4."""
    first = undone(shop)
    shop.redo(first)
    with nothing_appended(shop):
        assert shop.redo(first).counts == {"already_undone": 3}

    second = undone(shop)

    assert second != first
    assert shop.rows == {"tea": 0, "jam": 0}
    assert shop.redo_plan(first).items == ()  # RD1: the second one undid it last
    shop.redo(second)
    assert shop.rows == {"tea": 2, "jam": 1}


def test_keys_of_a_redo_and_of_an_undo_after_it_are_their_own(shop: Shop) -> None:
    """RD4: a target system must not take the second undo for a repetition of the first."""
    keys: list[str] = []
    for _ in range(2):
        digest = undone(shop, targets=("shop/row/jam",))
        shop.redo(digest)
    for entry in shop.entries():
        keys += [entry.event.idempotency_key] if hasattr(entry.event, "idempotency_key") else []

    assert keys == ["undo:run-1:3", "redo:run-1:3", "undo:run-1:3:1", "redo:run-1:3:1"]


def test_somebodys_later_change_is_a_conflict_and_the_step_stays_undone(shop: Shop) -> None:
    """RD2."""
    digest = undone(shop)
    shop.rows["jam"] = 7

    result = shop.redo(digest)

    assert result.counts == {"restored": 2, "review": 1}
    assert shop.rows == {"tea": 2, "jam": 7}
    (task,) = list_tasks(shop.journal)
    assert (task.reason, task.steps) == ("conflict", (StepRef("run-1", "3"),))
    with nothing_appended(shop):
        assert shop.redo(digest).counts == {"already_undone": 2, "review": 1}
    assert decisions(shop.plan()) == (("3", "already_undone: restored"), ("2", "restore"), ("1", "restore"))


def test_nobody_charges_again_by_guess_and_what_depends_on_it_stays_undone() -> None:
    """RD3, U5."""
    shop = Shop()
    shop.charge()
    shop.set("tea", 1, depends_on=("1",))
    shop.set("jam", 1)
    digest = undone(shop)

    plan = shop.redo_plan(digest)

    assert decisions(plan) == (("1", "review: compensated"), ("2", "review: blocked"), ("3", "restore"))
    shop.redo(digest)
    assert shop.rows == {"tea": None, "jam": 1}
    assert {task.reason for task in list_tasks(shop.journal)} == {"compensated", "blocked"}


def test_an_actions_after_leads_the_other_way() -> None:
    shop = Shop()
    shop.charging = Charging(after=("row.set",))
    shop.set("tea", 1)
    shop.charge()
    digest = undone(shop)

    plan = shop.redo_plan(digest)

    assert decisions(plan) == (("1", "restore"), ("2", "review: compensated"))
    assert plan.items[1].gates == (0,)


def test_what_another_plan_undid_is_not_redone_and_holds_back_what_depends_on_it() -> None:
    """RD1, U5."""
    shop = Shop()
    shop.set("tea", 1)
    shop.set("jam", 1, depends_on=("1",))
    first = undone(shop, targets=("shop/row/jam",))
    undone(shop, targets=("shop/row/tea",))

    assert decisions(shop.redo_plan(first)) == (("2", "review: blocked"),)


def test_what_a_step_had_left_and_nobody_recorded_is_for_a_person() -> None:
    """RD3: a step in doubt whose target was as before has left nothing to put back."""
    shop = Shop()
    shop.set("tea", 1)
    shop.mail()
    digest = undone(shop)

    assert decisions(shop.redo_plan(digest)) == (("1", "restore"),)


def test_a_redo_is_no_plan_to_be_redone_and_an_unknown_one_is_none(shop: Shop) -> None:
    digest = undone(shop)
    redo = shop.redo_plan(digest).digest
    shop.redo(digest)

    with pytest.raises(UsageError, match="is a redo"):
        find_applied(shop.journal, redo)
    with pytest.raises(UsageError, match="knows no applied plan 'ffffffff'"):
        find_applied(shop.journal, "ffffffff")


def test_a_restore_that_failed_leaves_the_step_undone(shop: Shop) -> None:
    digest = undone(shop)
    shop.setting.before_undo = raising(RuntimeError("broken"))

    assert shop.redo(digest, retries=0).counts == {"restored": 1, "review": 2}
    assert {task.reason for task in list_tasks(shop.journal)} == {"failed", "conflict"}


class Dying(MemoryJournal):
    """Dies at the append with this number, before it or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.after = False

    def append(self, drafts: Any) -> Any:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise JournalUnavailable("dead")
            if self.left == 0 and self.after:
                super().append(drafts)
                self.left = 0
                raise JournalUnavailable("dead")
        return super().append(drafts)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("then_undo", [False, True])
def test_a_redo_that_died_anywhere_is_gone_on_with_or_undone(at: int, after: bool, then_undo: bool) -> None:
    """RD5, U8, U9: looked at, and never taken for undone although it may not be."""
    journal = Dying()
    shop = Shop(journal)
    shop.rows.update(tea=0, jam=0)
    shop.set("tea", 1)
    shop.set("tea", 2)
    shop.set("jam", 1)
    digest = undone(shop)
    journal.left, journal.after = at, after
    with contextlib.suppress(UndoStopped):
        shop.redo(digest)
    journal.left = None

    if then_undo:
        undone(shop)
        assert shop.rows == {"tea": 0, "jam": 0}
    else:
        shop.redo(digest)
        assert shop.rows == {"tea": 2, "jam": 1}
        assert len(shop.setting.restores) <= 6
    assert list_tasks(shop.journal) == []


@pytest.mark.parametrize("at", range(5))
def test_a_plan_that_died_and_was_gone_on_with_is_redone_as_one(at: int) -> None:
    """RD1: the rest of a killed undo has another digest."""
    journal = Dying()
    shop = Shop(journal)
    shop.rows.update(tea=0, jam=0)
    shop.set("tea", 1)
    shop.set("jam", 1)
    plan = shop.plan("run-1")
    journal.left = at
    with pytest.raises(UndoStopped):
        shop.apply(plan)
    journal.left = None
    undone(shop)
    assert shop.rows == {"tea": 0, "jam": 0}

    known = [entry.event for entry in shop.entries() if getattr(entry.event, "plan_digest", "") == plan.digest]
    if known:  # it had begun
        shop.redo(plan.digest)
        assert shop.rows == {"tea": 1, "jam": 1}


def test_what_is_undone_again_after_a_redo_belongs_to_the_undo_that_did_it(shop: Shop) -> None:
    """RD1: also where the first one had been left in the middle, so that the second seems to go on with it."""
    plan = shop.plan("run-1")
    left = shop.apply(plan, is_leaving=lambda: bool(shop.setting.writes))
    assert left.counts == {"restored": 1, "not_reached": 2}
    shop.redo(plan.digest)
    assert shop.rows == {"tea": 2, "jam": 1}
    second = undone(shop)

    assert shop.redo_plan(plan.digest).items == ()
    shop.redo(second)
    assert shop.rows == {"tea": 2, "jam": 1}


def test_a_redo_says_what_it_does_in_the_journal_of_the_steps_run(shop: Shop) -> None:
    digest = undone(shop, targets=("shop/row/jam",))
    shop.redo(digest)

    told = [entry.event for entry in shop.entries() if isinstance(entry.event, RedoIntended | RedoEnded)]
    assert [type(event) for event in told] == [RedoIntended, RedoEnded]
    assert shop.ends() == {StepRef("run-1", "3"): [Disposition.RESTORED]}
