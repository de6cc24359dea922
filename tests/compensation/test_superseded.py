"""What was skipped because of a later change, and what becomes of it when that change goes: law CF5."""

from pathlib import Path

import msgspec

from compensation.crew import Crew, events
from compensation.undo_world import Shop, decisions, nothing_appended
from rescind.compensation.decision import Review
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan, make_share
from rescind.compensation.port import ReviewReason
from rescind.compensation.sharing.followed import result_of_submission
from rescind.compensation.sharing.shares import held_to
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import CompensationEnded, PlanShare
from rescind.recovery.review import list_tasks, resolve_task

BOTH = Selection(run_ids=("run-1", "run-2"))


def an_action(policy: OnConflict) -> Action:
    return Action(name="row.set", effect_class=EffectClass.REVERSIBLE, on_conflict=policy)


def superseded_by_another_run() -> Shop:
    """Run 1 has made 3 of 5, run 2 has made 9 of that, and the undo of run 1 has left it so."""
    shop = Shop()
    shop.setting.action = an_action(OnConflict.SKIP)
    shop.rows["tea"] = 5
    shop.set("tea", 3, run="run-1")
    shop.set("tea", 9, run="run-2")
    assert shop.apply(shop.plan("run-1")).counts == {"superseded": 1}
    return shop


def test_what_was_superseded_is_undone_together_with_what_stands_in_its_place() -> None:
    shop = superseded_by_another_run()

    assert shop.apply(shop.plan("run-1", "run-2")).counts == {"restored": 2}
    assert shop.rows["tea"] == 5
    with nothing_appended(shop):
        assert shop.apply(shop.plan("run-1", "run-2")).counts == {"already_undone": 2}


def test_a_restore_that_would_bring_back_what_was_superseded_is_for_a_person() -> None:
    shop = superseded_by_another_run()
    plan = shop.plan("run-2")
    review = plan.items[0].decision
    assert isinstance(review, Review)
    assert review.reason is ReviewReason.CONFLICT
    assert "would bring back what run-1/1 had left" in review.detail
    assert "--run run-1" in review.detail
    assert (shop.apply(plan).counts, shop.rows["tea"]) == ({"review": 1}, 9)

    resolve_task(shop.journal, list_tasks(shop.journal)[0].task_id, "retry", actor="ann", clock=shop.clock)
    assert shop.apply(shop.plan("run-1", "run-2")).counts == {"restored": 2}
    assert shop.rows["tea"] == 5


def test_also_by_force_nothing_superseded_is_brought_back() -> None:
    shop = superseded_by_another_run()
    shop.setting.action = an_action(OnConflict.FORCE)
    shop.mailing.action = msgspec.structs.replace(shop.mailing.action, on_conflict=OnConflict.SKIP)
    shop.rows["tea"] = 11

    assert decisions(shop.plan("run-2", may_force=True)) == (("2", "review: conflict"),)


def test_a_step_under_one_that_stays_stays_with_it() -> None:
    shop = superseded_by_another_run()
    shop.set("tea", 12, run="run-3")
    assert shop.apply(shop.plan("run-2")).counts == {"superseded": 1}

    assert decisions(shop.plan("run-3")) == (("3", "review: conflict"),)
    review = shop.plan("run-3", "run-2").items[0].decision
    assert isinstance(review, Review)
    assert "(add --run run-1)" in review.detail
    assert shop.apply(shop.plan("run-3", "run-2", "run-1")).counts == {"restored": 3}
    assert shop.rows["tea"] == 5


def test_what_was_superseded_is_undone_once_its_target_is_as_it_left_it() -> None:
    shop = superseded_by_another_run()
    shop.rows["tea"] = 3

    assert decisions(shop.plan()) == (("1", "restore"),)
    assert (shop.apply().counts, shop.rows["tea"]) == ({"restored": 1}, 5)


def test_what_is_superseded_once_more_in_its_turn_says_so_again() -> None:
    shop = superseded_by_another_run()
    shop.rows["tea"] = 3
    plan = shop.plan()
    shop.rows["tea"] = 7

    assert (shop.apply(plan).counts, shop.rows["tea"]) == ({"superseded": 1}, 7)


def test_what_another_undo_of_a_superseded_step_did_first_is_left_alone() -> None:
    shop = superseded_by_another_run()
    shop.rows["tea"] = 3
    plan = shop.plan()
    shop.apply()
    shop.rows["tea"] = 3

    assert (shop.apply(plan).counts, shop.rows["tea"]) == ({"already_undone": 1}, 3)


# --- left to workers ---


def test_workers_undo_it_together_with_what_stands_in_its_place(tmp_path: Path) -> None:
    shop = superseded_by_another_run()
    crew = Crew(shop, tmp_path)
    crew.hire()
    plan = make_plan(shop.journal, BOTH, shop.compensators, shop.clock)
    submission = crew.submit_plan(plan)
    (share,) = submission.shares
    assert share.superseded == (1,)
    ended = crew.see_to_its_end(submission)

    assert ended.finished
    assert shop.rows["tea"] == 5
    assert result_of_submission(shop.journal, plan, ended).counts == {"restored": 2}


def test_a_plan_without_any_is_written_as_ever(tmp_path: Path) -> None:
    shop = superseded_by_another_run()
    crew = Crew(shop, tmp_path)
    crew.hire()
    shop.set("jam", 3, run="run-1")
    crew.submit()

    (share,) = events(shop.journal, PlanShare)
    assert b"superseded" not in msgspec.json.encode(share)


def test_what_a_worker_finds_changed_once_more_is_superseded_by_this_undo_as_well(tmp_path: Path) -> None:
    """So that the plan comes to its end: what the earlier undo has said of it does not count for this one."""
    shop = superseded_by_another_run()
    shop.rows["tea"] = 3
    crew = Crew(shop, tmp_path)
    crew.hire()
    plan = make_plan(shop.journal, Selection(run_ids=("run-1",)), shop.compensators, shop.clock)
    submission = crew.submit_plan(plan)
    (share,) = submission.shares
    shop.rows["tea"] = 7
    fresh = make_share(shop.journal, share.steps, shop.compensators, shop.clock)
    held = held_to(share, fresh, plan.digest)
    assert (fresh.counts, held.counts) == ({"already_undone": 1}, {"settle": 1})
    shop.apply(held)

    (_, last) = events(shop.journal, CompensationEnded)
    assert last.plan_digest == plan.digest
    assert result_of_submission(shop.journal, plan, submission).counts == {"superseded": 1}


def test_what_no_worker_has_come_to_is_not_called_superseded(tmp_path: Path) -> None:
    shop = superseded_by_another_run()
    shop.rows["tea"] = 3
    crew = Crew(shop, tmp_path)
    crew.hire()
    plan = make_plan(shop.journal, Selection(run_ids=("run-1",)), shop.compensators, shop.clock)
    submission = crew.submit_plan(plan)

    assert result_of_submission(shop.journal, plan, submission).counts == {"not_reached": 1}
