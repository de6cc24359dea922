"""What was skipped because of a later change, and what becomes of it when that change goes: law CF5."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from compensation.crew import Crew, events
from compensation.undo_world import Shop, decisions, nothing_appended
from rescind.compensation.decision import Plan, Review
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan, make_share
from rescind.compensation.port import ReviewReason
from rescind.compensation.sharing.followed import result_of_submission
from rescind.compensation.sharing.shares import held_to
from rescind.compensation.sharing.submission import Submission
from rescind.errors import JournalUnavailable
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import PAGE_LIMIT, Appended, Draft, Query, SlotTaken
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import CompensationEnded, Entry, PlanFinished, PlanShare
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


def test_nor_is_it_after_the_policy_was_changed() -> None:
    shop = superseded_by_another_run()
    for policy in (OnConflict.REVIEW, OnConflict.MERGE, OnConflict.FORCE):
        shop.setting.action = an_action(policy)
        assert decisions(shop.plan("run-2")) == (("2", "review: conflict"),)
        assert decisions(shop.plan("run-1", "run-2")) == (("2", "restore"), ("1", "restore"))


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


def test_what_somebody_has_decided_for_again_is_not_what_was_superseded() -> None:
    shop = superseded_by_another_run()
    shop.set("tea", 3, run="run-3")
    shop.set("tea", 8, run="run-4")

    assert shop.apply(shop.plan("run-4")).counts == {"restored": 1}
    assert shop.rows["tea"] == 3


def test_what_found_it_so_has_not_decided_for_it() -> None:
    shop = Shop()
    shop.setting.action = an_action(OnConflict.SKIP)
    shop.set("tea", 3, run="run-1")
    shop.set("tea", 3, run="run-2")
    shop.set("tea", 9, run="run-3")
    assert shop.apply(shop.plan("run-1")).counts == {"superseded": 1}

    assert decisions(shop.plan("run-3")) == (("3", "review: conflict"),)


def test_what_was_superseded_is_undone_once_its_target_is_as_it_left_it() -> None:
    shop = superseded_by_another_run()
    shop.rows["tea"] = 3

    assert decisions(shop.plan()) == (("1", "restore"),)
    assert (shop.apply().counts, shop.rows["tea"]) == ({"restored": 1}, 5)


def test_what_was_superseded_and_is_held_back_now_stays_as_it_was_left() -> None:
    """U5, and twice is once: no task is opened for it, and once nothing holds it back it is undone."""
    shop = superseded_by_another_run()
    shop.lose_charge("run-1", happened=True, depends_on=("1",))
    shop.rows["tea"] = 3
    assert shop.apply().counts == {"already_undone": 1, "review": 1}
    with nothing_appended(shop):
        assert shop.apply().counts == {"already_undone": 1, "review": 1}

    resolve_task(shop.journal, list_tasks(shop.journal)[0].task_id, "done", actor="ann", clock=shop.clock)
    assert shop.apply().counts == {"already_undone": 1, "restored": 1}
    assert shop.rows["tea"] == 5


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


# --- where to look ---


class Asked(MemoryJournal):
    """A journal that counts how often it is asked about a target, and can be out of order when an undo ends."""

    def __init__(self) -> None:
        super().__init__()
        self.targets = 0
        self.takes_ends = True

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        self.targets += query.target is not None
        return super().entries(query, after=after, limit=limit)

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        if not self.takes_ends and any(isinstance(draft.event, PlanFinished) for draft in drafts):
            raise JournalUnavailable("out of order")
        return super().append(drafts)


def asked_shop() -> tuple[Shop, Asked]:
    journal = Asked()
    shop = Shop(journal)
    shop.setting.action = an_action(OnConflict.SKIP)
    return shop, journal


def test_where_nothing_was_skipped_no_target_is_asked_about() -> None:
    shop, journal = asked_shop()
    for number in range(50):
        shop.set(f"row-{number}", 3, run="run-1")
    shop.set("tea", 3, run="run-2")
    assert shop.apply(shop.plan("run-2")).counts == {"restored": 1}
    journal.targets = 0

    assert {word for _, word in decisions(shop.plan("run-1"))} == {"restore"}
    assert journal.targets == 0


def test_what_was_skipped_is_found_among_more_runs_than_there_are_targets() -> None:
    shop, journal = asked_shop()
    for number in range(3):
        shop.set(f"row-{number}", 3, run=f"older-{number}")
        shop.set(f"row-{number}", 9, run="run-2" if number == 1 else "run-3")
        assert shop.apply(shop.plan(f"older-{number}")).counts == {"superseded": 1}
    journal.targets = 0

    review = shop.plan("run-2").items[0].decision
    assert isinstance(review, Review)
    assert "would bring back what older-1/" in review.detail
    assert journal.targets > 0
    assert {word for _, word in decisions(shop.plan("run-3"))} == {"review: conflict"}


def test_what_an_undo_has_skipped_that_died_before_its_end_is_found_too() -> None:
    shop, journal = asked_shop()
    shop.set("tea", 3, run="run-1")
    shop.set("tea", 9, run="run-2")
    plan = shop.plan("run-1")
    journal.takes_ends = False
    with pytest.raises(JournalUnavailable):
        shop.apply(plan)
    journal.takes_ends = True
    assert decisions(shop.plan("run-2")) == (("2", "review: conflict"),)

    # Who goes on with the same plan finds the step accounted for, and counts it as that.
    shop.set("jam", 3, run="run-1")
    assert "superseded" not in shop.apply(plan).counts
    assert decisions(shop.plan("run-2")) == (("2", "review: conflict"),)


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


def submitted_once_it_is_as_it_was_left(folder: Path) -> tuple[Shop, Plan, Submission]:
    """The later change is gone, and workers are to undo run 1."""
    shop = superseded_by_another_run()
    shop.rows["tea"] = 3
    crew = Crew(shop, folder)
    crew.hire()
    plan = make_plan(shop.journal, Selection(run_ids=("run-1",)), shop.compensators, shop.clock)
    return shop, plan, crew.submit_plan(plan)


def test_what_a_worker_finds_changed_once_more_is_superseded_by_this_undo_as_well(tmp_path: Path) -> None:
    """So that the plan comes to its end: what the earlier undo has said of it does not count for this one."""
    shop, plan, submission = submitted_once_it_is_as_it_was_left(tmp_path)
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
    shop, plan, submission = submitted_once_it_is_as_it_was_left(tmp_path)

    assert result_of_submission(shop.journal, plan, submission).counts == {"not_reached": 1}
