"""What depends on the undone steps: left alone unless asked, and then planned like the others (U21)."""

from typing import Any

import pytest

from compensation.undo_world import Shop, decisions, row_of
from rescind.compensation.decision import Dependents
from rescind.compensation.planning import scope
from rescind.errors import UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import Read
from rescind.recovery.reading import last_sequence


@pytest.fixture
def shop() -> Shop:
    """run-1 sets tea and jam; run-2 reads tea, and sets oil and charges; run-3 overwrites jam; run-4 has its own."""
    shop = Shop()
    shop.set("tea", 1)
    shop.set("jam", 1)
    shop.put("run-2", Read(action="row.get", target=row_of("tea")))
    shop.set("oil", 1, run="run-2")
    shop.charge(run="run-2")
    shop.set("jam", 2, run="run-3")
    shop.set("salt", 1, run="run-4")
    return shop


def test_what_depends_on_it_is_left_alone_and_counted(shop: Shop) -> None:
    plan = shop.plan("run-1")

    assert decisions(plan) == (("2", "review: conflict"), ("1", "restore"))
    assert plan.dependents == Dependents(steps=3, runs=("run-2", "run-3"))


def test_a_cascade_takes_it_in_and_undoes_all_of_it(shop: Shop) -> None:
    plan = shop.plan("run-1", cascade=True)

    assert decisions(plan) == (
        ("5", "restore"), ("4", "compensate"), ("3", "restore"), ("2", "restore"), ("1", "restore"),
    )  # fmt: skip
    assert plan.dependents == Dependents(steps=3, runs=("run-2", "run-3"), taken=True)
    shop.apply(plan)
    assert shop.rows == {"tea": None, "jam": None, "oil": None, "salt": 1}
    again = shop.plan("run-1", cascade=True)
    assert again.is_settled
    assert again.dependents.steps == 0


def test_a_cascade_is_another_plan_and_what_others_do_meanwhile_does_not_change_the_one_without(shop: Shop) -> None:
    """U6, U21."""
    alone = shop.plan("run-1")

    assert shop.plan("run-1", cascade=True).digest != alone.digest
    shop.put("run-9", Read(action="row.get", target=row_of("tea")))
    shop.set("sugar", 1, run="run-9")
    later = shop.plan("run-1")
    assert later.digest == alone.digest
    assert later.dependents.steps == alone.dependents.steps + 1


def test_what_was_redone_is_taken_in_again_and_what_was_merged_out_is_not() -> None:
    shop = Shop()
    shop.setting.action = Action(name="row.set", effect_class=EffectClass.REVERSIBLE, on_conflict=OnConflict.MERGE)
    shop.rows |= {"tea": 0, "oil": 0, "jam": 0}
    shop.set("tea", 1)
    shop.put("run-2", Read(action="row.get", target=row_of("tea")))
    shop.set("oil", 1, run="run-2")
    shop.set("jam", 1, run="run-2")
    shop.rows["jam"] = 11
    plan = shop.plan("run-2")
    assert shop.apply(plan).counts == {"merged": 1, "restored": 1}
    assert shop.plan("run-1").dependents.steps == 0

    shop.redo(plan.digest)
    assert shop.rows["oil"] == 1
    assert shop.plan("run-1").dependents.steps == 1
    assert decisions(shop.plan("run-1", cascade=True)) == (("2", "restore"), ("1", "restore"))


def test_what_was_excluded_by_name_stays_out_of_a_cascade(shop: Shop) -> None:
    plan = shop.plan("run-1", cascade=True, exclude=("run-2/4", "shop/row/jam"))

    assert decisions(plan) == (("3", "restore"), ("1", "restore"))


def test_a_slip_in_what_is_excluded_is_found_in_a_cascade_too(shop: Shop) -> None:
    with pytest.raises(UsageError, match="no step, action or target 'run-2/9'"):
        shop.plan("run-1", cascade=True, exclude=("run-2/9",))


def test_what_a_step_outside_the_cascade_depends_on_stays(shop: Shop) -> None:
    """U5: run-3 depends on its own step, which the cascade would take."""
    shop.charge(run="run-3", action="card.charge", depends_on=("5",))

    plan = shop.plan("run-1", cascade=True, exclude=("run-3/7",))

    assert ("5", "review: blocked") in decisions(plan)


def test_the_rest_of_a_run_that_is_undone_in_part_may_depend_on_it(shop: Shop) -> None:
    shop.set("tea", 5)

    plan = shop.plan("run-1", targets=("shop/row/tea",), exclude=("run-1/7",))

    assert plan.dependents.runs == ("run-1", "run-2")
    assert decisions(shop.plan("run-1", exclude=("run-1/1",), cascade=True))[0][0] != "1"


def test_a_journal_that_holds_nothing_else_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    shop.set("tea", 1)
    shop.set("jam", 1)

    def nobody_looks(*_: Any) -> Any:
        raise AssertionError("there is nothing to look for")

    monkeypatch.setattr(scope, "read_impact", nobody_looks)
    assert shop.plan("run-1").dependents == Dependents()


def test_too_long_a_time_since_is_not_looked_through_but_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "LOOKED_THROUGH_MAX", 3)

    assert shop.plan("run-1").dependents == Dependents(looked=False)
    assert shop.plan("run-1", cascade=True).dependents.steps == 3


@pytest.mark.parametrize("more", range(12))
def test_the_last_sequence_is_found_wherever_it_is(more: int) -> None:
    shop = Shop()
    shop.set("tea", 1)
    for _ in range(more):
        shop.mail(run="run-2")
    last = shop.journal.entries(Query(), limit=1_000)[-1].sequence

    for known in range(last + 1):
        assert last_sequence(shop.journal, at_least=known) == last


def test_an_empty_journal_has_no_last_sequence() -> None:
    assert last_sequence(MemoryJournal()) == 0
