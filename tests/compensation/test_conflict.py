"""What becomes of a step whose target somebody has changed since: laws CF1 to CF4."""

from typing import Any

import msgspec
import pytest

from compensation.undo_world import Shop, decisions, nothing_appended, raising, row_of
from rescind.compensation.decision import Plan, Restore, Settle
from rescind.compensation.planning.selection import read_steps
from rescind.errors import Conflict, Transient, UsageError
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import CompensationEnded, CompensationIntended, Disposition, Overwrites
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.model.step import Snapshot
from rescind.recovery.review import list_tasks


def a_shop(policy: OnConflict) -> Shop:
    shop = Shop()
    shop.setting.action = Action(name="row.set", effect_class=EffectClass.REVERSIBLE, on_conflict=policy)
    return shop


def changed_since(policy: OnConflict) -> Shop:
    """An agent has made 3 of 5, and a colleague 9 of that."""
    shop = a_shop(policy)
    shop.rows["tea"] = 5
    shop.set("tea", 3)
    shop.rows["tea"] = 9
    return shop


def version(value: Any) -> str:
    return Snapshot.of(value).version


def overwritten(shop: Shop) -> list[Overwrites]:
    intents = [each.event for each in shop.entries() if isinstance(each.event, CompensationIntended)]
    return [each.overwrites for each in intents if isinstance(each.overwrites, Overwrites)]


def decision_of(plan: Plan, number: int = 0) -> Any:
    return plan.items[number].decision


# --- review ---


def test_by_default_a_person_decides() -> None:
    shop = changed_since(OnConflict.REVIEW)

    assert decisions(shop.plan(may_force=True)) == (("1", "review: conflict"),)


# --- skip (CF4) ---


def test_a_later_change_is_left_alone_and_the_step_is_accounted_for_without_a_task() -> None:
    shop = changed_since(OnConflict.SKIP)
    plan = shop.plan()
    decision = decision_of(plan)
    assert isinstance(decision, Settle)
    assert decision.disposition is Disposition.SUPERSEDED
    assert decision.because.startswith("left as it is now, as its action says: the target was changed after this step")

    result = shop.apply(plan)
    assert (result.counts, shop.rows["tea"]) == ({"superseded": 1}, 9)
    assert not list_tasks(shop.journal)
    assert result.is_complete
    with nothing_appended(shop):
        assert shop.apply().counts == {"already_undone": 1}


def test_a_change_that_comes_after_the_plan_is_left_alone_as_well() -> None:
    shop = a_shop(OnConflict.SKIP)
    shop.set("tea", 3)
    plan = shop.plan()
    shop.rows["tea"] = 9

    assert shop.apply(plan).counts == {"superseded": 1}
    assert shop.rows["tea"] == 9


def test_a_conflict_without_a_later_change_is_not_skipped() -> None:
    shop = a_shop(OnConflict.SKIP)
    shop.set("customer", 3)
    shop.setting.before_undo = raising(*[Conflict("an order refers to it")] * 9)

    assert shop.apply().counts == {"review": 1}
    assert list_tasks(shop.journal)[0].reason == "conflict"


def test_a_conflict_that_others_of_the_plan_resolve_is_not_skipped() -> None:
    shop = a_shop(OnConflict.SKIP)

    def refuse(record: StepRecord) -> None:
        if record.step.target == row_of("customer") and shop.rows.get("order"):
            raise Conflict("an order refers to it")

    shop.setting.before_undo = refuse
    shop.set("order", 1, run="run-1")
    shop.set("customer", 1, run="run-2")

    assert shop.apply(shop.plan("run-1", "run-2")).counts == {"restored": 2}


def test_what_depends_on_a_superseded_step_does_not_hold_it_back() -> None:
    shop = a_shop(OnConflict.SKIP)
    shop.charge()
    shop.set("tea", 3, depends_on=("1",))
    shop.rows["tea"] = 9

    assert shop.apply().counts == {"compensated": 1, "superseded": 1}


def test_each_step_under_a_later_change_is_superseded() -> None:
    shop = a_shop(OnConflict.SKIP)
    shop.set("tea", 1)
    shop.set("tea", 2)
    shop.rows["tea"] = 9

    assert shop.apply().counts == {"superseded": 2}


# --- force (CF1, CF2) ---


def test_without_being_asked_nothing_is_forced_and_the_plan_says_how() -> None:
    shop = changed_since(OnConflict.FORCE)

    assert decisions(shop.plan()) == (("1", "review: conflict"),)
    assert "--force and a --reason" in decision_of(shop.plan()).detail


def test_a_forced_restore_is_shown_done_and_recorded_with_who_and_why() -> None:
    shop = changed_since(OnConflict.FORCE)
    plan = shop.plan(may_force=True)
    decision = decision_of(plan)
    assert isinstance(decision, Restore)
    assert (decision.leaves, decision.expects) == (version(5), version(9))
    assert decision.note.startswith("overwrites a later change")
    assert plan.digest != shop.plan().digest

    assert shop.apply(plan, reason="the price list is ours").counts == {"restored": 1}
    assert shop.rows["tea"] == 5
    assert overwritten(shop) == [
        Overwrites(policy="force", version=version(9), leaves=version(5), actor="ops", reason="the price list is ours")
    ]


def test_a_forced_restore_takes_a_reason() -> None:
    shop = changed_since(OnConflict.FORCE)
    plan = shop.plan(may_force=True)
    with nothing_appended(shop), pytest.raises(UsageError, match="takes a reason"):
        shop.apply(plan, reason=" ")
    assert shop.rows["tea"] == 9


def test_what_was_changed_again_since_the_plan_is_not_overwritten() -> None:
    """CF2: the version that was shown, and no other."""
    shop = changed_since(OnConflict.FORCE)
    plan = shop.plan(may_force=True)
    shop.rows["tea"] = 11

    assert shop.apply(plan, reason="ours").counts == {"review": 1}
    assert shop.rows["tea"] == 11


def test_what_is_changed_between_look_and_restore_is_not_overwritten() -> None:
    shop = changed_since(OnConflict.FORCE)
    plan = shop.plan(may_force=True)
    shop.setting.before_undo = lambda record: shop.rows.update(tea=11)

    assert shop.apply(plan, reason="ours").counts == {"review": 1}
    assert shop.rows["tea"] == 11


def test_a_conflict_that_the_plan_has_not_shown_is_never_forced() -> None:
    shop = a_shop(OnConflict.FORCE)
    shop.set("tea", 3)
    plan = shop.plan(may_force=True)
    shop.rows["tea"] = 9

    result = shop.apply(plan, reason="ours")
    assert (result.counts, shop.rows["tea"]) == ({"review": 1}, 9)
    assert "--force" in result.steps[0].detail


def test_older_steps_under_a_forced_one_are_restored_as_ever() -> None:
    shop = a_shop(OnConflict.FORCE)
    shop.set("tea", 1)
    shop.set("tea", 2)
    shop.rows["tea"] = 9
    plan = shop.plan(may_force=True)
    assert [decision.policy for decision in (decision_of(plan, 0), decision_of(plan, 1))] == ["force", "review"]

    assert shop.apply(plan, reason="ours").counts == {"restored": 2}
    assert shop.rows["tea"] is None


def test_only_what_is_in_conflict_is_forced() -> None:
    shop = a_shop(OnConflict.FORCE)
    shop.set("tea", 1)

    shop.apply(shop.plan(may_force=True))  # without a reason: nothing is overwritten
    assert not overwritten(shop)


@pytest.mark.parametrize("recorded", [True, False])
def test_what_an_undo_of_an_older_step_has_put_back_is_not_forced(*, recorded: bool) -> None:
    """CF2: that undo overwrote what this step had left, and forcing it would bring back what the older one had left."""
    shop = a_shop(OnConflict.FORCE)
    shop.set("tea", 1, "run-1")
    shop.set("tea", 2, "run-2")
    shop.apply(shop.plan("run-1", may_force=True), reason="the rows are ours")
    assert shop.rows["tea"] is None
    if not recorded:  # the same, up to where the process that did it died
        died = Shop()
        died.setting.action = shop.setting.action
        for entry in shop.entries():
            if not isinstance(entry.event, CompensationEnded) and entry.run.run_id in ("run-1", "run-2"):
                died.put(entry.run.run_id, entry.event)
        died.rows["tea"], shop = None, died

    plan = shop.plan("run-2", may_force=True)
    assert decisions(plan) == (("2", "review: conflict"),)
    assert "the undo of run-1/1, which is older, has put its target back since" in decision_of(plan).detail
    shop.apply(plan, reason="the rows are ours")
    assert shop.rows["tea"] is None


def test_what_was_put_back_before_the_step_was_made_is_nothing_to_its_being_forced() -> None:
    shop = a_shop(OnConflict.FORCE)
    shop.rows["tea"] = 0
    shop.set("tea", 1, "run-1")
    shop.apply(shop.plan("run-1"))
    shop.rows["tea"] = 5
    shop.set("tea", 2, "run-2")
    shop.rows["tea"] = 0

    shop.apply(shop.plan("run-2", may_force=True), reason="the rows are ours")
    assert shop.rows["tea"] == 5


def test_a_forced_restore_whose_deadline_is_past_is_for_a_person() -> None:
    shop = a_shop(OnConflict.FORCE)
    shop.set("tea", 1, allowed_until=shop.clock.now())
    shop.rows["tea"] = 9

    assert decisions(shop.plan(may_force=True)) == (("1", "review: past_deadline"),)


# --- merge (CF1, CF2, CF3) ---


def test_a_merge_takes_out_what_the_step_did_and_leaves_what_others_did() -> None:
    shop = changed_since(OnConflict.MERGE)
    plan = shop.plan()
    decision = decision_of(plan)
    assert isinstance(decision, Restore)
    assert decision.note.startswith("merged with a later change: ")
    assert shop.rows["tea"] == 9

    assert shop.apply(plan).counts == {"merged": 1}
    assert shop.rows["tea"] == 11  # 5 - 2 = 3, + 6 = 9; without the step: 5 + 6
    assert overwritten(shop) == [Overwrites(policy="merge", version=version(9), leaves=version(11))]
    with nothing_appended(shop):
        assert shop.apply().counts == {"already_undone": 1}


def test_several_steps_are_merged_one_after_the_other() -> None:
    shop = a_shop(OnConflict.MERGE)
    shop.rows["tea"] = 10
    shop.set("tea", 11)
    shop.set("tea", 13)
    shop.rows["tea"] += 5

    assert shop.apply().counts == {"merged": 2}
    assert shop.rows["tea"] == 15


def test_a_change_that_comes_after_the_plan_is_merged_as_well() -> None:
    shop = a_shop(OnConflict.MERGE)
    shop.rows["tea"] = 5
    shop.set("tea", 3)
    plan = shop.plan()
    shop.rows["tea"] = 9

    assert shop.apply(plan).counts == {"merged": 1}
    assert shop.rows["tea"] == 11


def test_a_change_during_a_merge_is_merged_too() -> None:
    shop = changed_since(OnConflict.MERGE)
    changes = iter([10, 20])

    def change(record: StepRecord) -> None:
        value = next(changes, None)
        if value is not None:
            shop.rows["tea"] = value

    shop.setting.before_undo = change
    assert shop.apply().counts == {"merged": 1}
    assert shop.rows["tea"] == 22


def test_a_merge_that_cannot_be_made_is_for_a_person() -> None:
    shop = changed_since(OnConflict.MERGE)
    shop.rows["tea"] = "many"

    assert shop.apply().steps[0].reason == "conflict"
    assert shop.rows["tea"] == "many"


@pytest.mark.parametrize(("error", "word"), [(Transient("busy"), "merged"), (ValueError("no"), "review")])
def test_a_merging_function_is_tried_again_as_any_handler(error: Exception, word: str) -> None:
    shop = changed_since(OnConflict.MERGE)
    shop.setting.before_merge = raising(error)

    assert shop.apply().counts == {word: 1}


def test_a_merge_whose_reply_was_lost_is_not_made_twice() -> None:
    """CF3."""
    shop = changed_since(OnConflict.MERGE)
    undo = shop.setting.undo

    def lose_the_reply(record: StepRecord, idempotency_key: str) -> None:
        undo(record, idempotency_key)
        raise TimeoutError

    shop.setting.undo = lose_the_reply  # type: ignore[method-assign]
    assert shop.apply().counts == {"merged": 1}
    assert shop.rows["tea"] == 11


def begun(shop: Shop) -> None:
    """A process has died during a merge of 9 that was to become 11."""
    overwrites = Overwrites(policy="merge", version=version(9), leaves=version(11))
    intent = CompensationIntended(
        step_id="1", kind="restore", idempotency_key="undo:run-1:1", plan_digest="d", overwrites=overwrites
    )
    shop.put("run-1", intent)


@pytest.mark.parametrize(
    ("now", "left", "word"), [(11, 11, "merged"), (9, 11, "merged"), (13, 13, "review"), (5, 5, "restored")]
)
def test_who_comes_after_a_merge_that_died_looks(now: int, left: int, word: str) -> None:
    """CF3: done, not done, or changed since, so that nobody knows."""
    shop = changed_since(OnConflict.MERGE)
    begun(shop)
    shop.rows["tea"] = now

    result = shop.apply()
    assert (result.counts, shop.rows["tea"]) == ({word: 1}, left)
    assert result.steps[0].reason in ("", "in_doubt")


def test_what_a_merge_left_may_by_chance_be_what_the_step_had_left() -> None:
    """CF3: then it looks like a step that was never undone."""
    shop = a_shop(OnConflict.MERGE)
    shop.set("tea", 1)
    shop.rows["tea"] = 1
    overwrites = Overwrites(policy="merge", version=version(2), leaves=version(1))
    shop.put(
        "run-1",
        CompensationIntended(step_id="1", kind="restore", idempotency_key="k", plan_digest="d", overwrites=overwrites),
    )

    assert shop.apply().counts == {"merged": 1}
    assert shop.rows["tea"] == 1


def test_a_merge_that_died_is_looked_at_in_its_turn_as_well() -> None:
    shop = changed_since(OnConflict.MERGE)
    begun(shop)
    plan = shop.plan()
    shop.rows["tea"] = 13

    assert shop.apply(plan).steps[0].reason == "in_doubt"


def test_a_restore_that_died_before_it_could_say_so_is_not_merged_as_well() -> None:
    """CF3: the row was put back, and then changed; to take the step's part out of that would take it out twice."""
    shop = a_shop(OnConflict.MERGE)
    shop.rows["tea"] = 10
    shop.set("tea", 13)
    shop.put("run-1", CompensationIntended(step_id="1", kind="restore", idempotency_key="k", plan_digest="p"))
    shop.rows["tea"] = 10 + 100

    assert decisions(shop.plan()) == (("1", "review: in_doubt"),)
    shop.apply()
    assert shop.rows["tea"] == 110


@pytest.mark.parametrize("died_before", [True, False])
def test_a_restore_that_may_have_happened_is_not_merged_if_the_target_is_changed_after_the_plan(
    *, died_before: bool
) -> None:
    """CF3."""
    shop = a_shop(OnConflict.MERGE)
    shop.rows["tea"] = 10
    shop.set("tea", 13)
    if died_before:
        shop.put("run-1", CompensationIntended(step_id="1", kind="restore", idempotency_key="k", plan_digest="p"))
    plan = shop.plan()
    tries: list[StepRecord] = []

    def lose_the_reply(record: StepRecord) -> None:
        tries.append(record)
        if len(tries) == 1:
            shop.rows["tea"] = 110 if not died_before else 113
            raise TimeoutError

    shop.setting.before_undo = lose_the_reply

    assert shop.apply(plan).counts == {"review": 1}
    (task,) = list_tasks(shop.journal)
    assert (task.reason, shop.rows["tea"] in (110, 113)) == ("in_doubt", True)


def test_a_part_of_a_merged_step_is_not_merged_as_well() -> None:
    """What the inner call added is a part of what the outer one added."""
    shop = a_shop(OnConflict.MERGE)
    shop.rows["tea"] = 5
    before = Snapshot.of(5)
    outer = shop.intend("row.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=before)
    shop.set("tea", 6, causal_parents=(outer.step_id,))
    shop.rows["tea"] = 8
    shop.end(outer, Completed(), Snapshot.of(8))
    shop.rows["tea"] = 9

    result = shop.apply()
    assert {step.step.step_id: step.word for step in result.steps} == {"1": "merged", "2": "review"}
    assert shop.rows["tea"] == 6


# --- the journal ---


def test_old_journals_know_nothing_of_overwriting_and_read_the_same() -> None:
    event = CompensationIntended(step_id="1", kind="restore", idempotency_key="k", plan_digest="d")
    assert b"overwrites" not in msgspec.json.encode(event)
    assert msgspec.json.decode(msgspec.json.encode(event), type=CompensationIntended) == event


def test_a_merge_is_over_once_the_step_is_accounted_for() -> None:
    shop = changed_since(OnConflict.MERGE)
    shop.apply()
    record = read_steps(shop.journal, ["run-1"])[0]
    assert (record.compensation_open, record.overwriting) == (False, None)
