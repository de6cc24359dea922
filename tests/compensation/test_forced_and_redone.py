"""Undos that overwrite later changes, and redos, left to workers: SH5, RD1-RD3, and workers that are too old."""

from pathlib import Path

import msgspec
import pytest

from compensation.crew import Crew, events
from compensation.dying import Died
from compensation.undo_world import RowSetting, Shop, row_of
from rescind.compensation.planning.survey import make_share
from rescind.compensation.sharing.coordinator import PLAN_QUEUE
from rescind.compensation.sharing.followed import result_of_submission
from rescind.compensation.sharing.shares import held_to
from rescind.errors import Conflict, UsageError
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import (
    CompensationIntended,
    Overwrites,
    PlanNeeds,
    PlanShare,
    RedoIntended,
    StepRef,
)
from rescind.model.history import StepRecord
from rescind.model.step import Snapshot
from rescind.recovery.engine import Job, JobState
from rescind.recovery.review import list_tasks


@pytest.fixture
def shop() -> Shop:
    """An agent has set tea and jam; somebody has set tea since, and jam not."""
    shop = Shop()
    shop.rows.update(tea=0, jam=0)
    shop.setting = RowSetting(
        shop.rows, Action(name="row.set", effect_class=EffectClass.REVERSIBLE, on_conflict=OnConflict.FORCE)
    )
    shop.set("tea", 1)
    shop.set("jam", 1)
    shop.rows["tea"] = "somebody's"
    return shop


@pytest.fixture
def crew(shop: Shop, tmp_path: Path) -> Crew:
    return Crew(shop, tmp_path)


def overwritten(shop: Shop) -> list[Overwrites]:
    found = [event.overwrites for event in events(shop.journal, CompensationIntended)]
    return [each for each in found if isinstance(each, Overwrites)]


# --- over a later change ---


def test_what_was_shown_is_overwritten_and_the_journal_says_by_whom_and_why(crew: Crew, shop: Shop) -> None:
    crew.hire()
    submission = crew.submit(may_force=True, actor="ann", reason="the list is ours")
    (share,) = submission.shares
    assert share.forces == ((1, Snapshot.of("somebody's").version),)
    ended = crew.see_to_its_end(submission)

    assert ended.finished
    assert shop.rows == {"tea": 0, "jam": 0}
    (only,) = overwritten(shop)  # CF1
    assert (only.actor, only.reason) == ("ann", "the list is ours")


def test_a_plan_that_overwrites_nothing_asks_for_nothing_and_is_written_as_ever(crew: Crew, shop: Shop) -> None:
    shop.rows["tea"] = 1
    crew.hire(knows=())
    submission = crew.submit(may_force=True)

    assert not events(shop.journal, PlanNeeds)
    (share,) = events(shop.journal, PlanShare)
    assert b"forces" not in msgspec.json.encode(share)
    assert submission.needs == ()


def test_it_takes_a_reason(crew: Crew, shop: Shop) -> None:
    crew.hire()
    with pytest.raises(UsageError, match="takes a reason"):
        crew.submit(may_force=True, reason=" ")
    assert not events(shop.journal, PlanShare)


def test_a_change_after_it_was_shown_lets_nothing_begin(crew: Crew, shop: Shop) -> None:
    """Y1, CF2."""
    crew.hire()
    submission = crew.submit(may_force=True)
    shop.rows["tea"] = "somebody else's"
    stopped = crew.see_to_its_end(submission).stopped

    assert stopped is not None
    assert stopped.why == "stale"
    assert shop.rows == {"tea": "somebody else's", "jam": 1}
    assert not events(shop.journal, CompensationIntended)


@pytest.mark.parametrize("then", ["dies", "lives"])
def test_a_change_after_it_was_begun_is_left_to_a_person(crew: Crew, shop: Shop, then: str) -> None:
    """SH5: also by a successor, who plans anew, and to whom it is a change like any other."""
    crew.hire()
    submission = crew.submit(may_force=True)

    def change(record: StepRecord) -> None:
        if record.step.target == row_of("jam") and shop.rows["tea"] == "somebody's":
            shop.rows["tea"] = "somebody else's"
            if then == "dies":
                raise Died

    shop.setting.before_undo = change
    assert crew.see_to_its_end(submission).finished
    assert shop.rows == {"tea": "somebody else's", "jam": 0}
    assert [(task.reason, task.steps) for task in list_tasks(shop.journal)] == [("conflict", (StepRef("run-1", "1"),))]
    assert not overwritten(shop)


def test_what_was_to_be_restored_plainly_is_not_overwritten_beside_what_may_be(crew: Crew, shop: Shop) -> None:
    """SH5: the share may overwrite tea, which says nothing of jam."""
    crew.hire()
    submission = crew.submit(may_force=True)
    shop.rows["jam"] = "somebody's"
    (share,) = submission.shares
    fresh = make_share(shop.journal, share.steps, shop.compensators, shop.clock, may_force=True)
    assert fresh.counts == {"restore": 2}
    held = held_to(share, fresh, fresh.digest)

    assert {item.target: item.decision.__struct_config__.tag for item in held.items} == {
        row_of("tea"): "restore",
        row_of("jam"): "review",
    }


def test_what_is_tried_again_in_the_end_is_held_to_what_was_shown(crew: Crew, shop: Shop) -> None:
    """Y4 and SH5: a conflict of another kind is tried again, with the version that may be overwritten."""
    for number in range(60):
        shop.set(f"order-{number}", 1)

    def refer(record: StepRecord) -> None:
        if record.step.target == row_of("tea") and any(
            value is not None for name, value in shop.rows.items() if name.startswith("order")
        ):
            raise Conflict("orders refer to it")

    shop.setting.before_undo = refer
    crew.hire(), crew.hire()
    submission = crew.submit(may_force=True)
    assert len(submission.shares) > 1

    assert crew.see_to_its_end(submission).finished
    assert {name: value for name, value in shop.rows.items() if value is not None} == {"tea": 0, "jam": 0}
    assert not list_tasks(shop.journal)


# --- forth again ---


def undone(shop: Shop) -> str:
    """Undo what can be undone without overwriting anything; the plan's digest."""
    shop.rows["tea"] = 1
    plan = shop.plan()
    shop.apply(plan)
    assert shop.rows == {"tea": 0, "jam": 0}
    return plan.digest


def test_a_redo_is_carried_out_by_workers_as_it_is_here(crew: Crew, shop: Shop) -> None:
    digest = undone(shop)
    crew.hire()
    plan = shop.redo_plan(digest)
    submission = crew.submit_plan(plan)
    assert submission.redoes == digest
    ended = crew.see_to_its_end(submission)

    assert ended.finished
    assert shop.rows == {"tea": 1, "jam": 1}
    assert {event.idempotency_key for event in events(shop.journal, RedoIntended)} == {"redo:run-1:1", "redo:run-1:2"}
    result = result_of_submission(shop.journal, plan, ended)
    assert (result.counts, result.is_complete) == ({"restored": 2}, True)
    assert shop.redo_plan(digest).is_settled


def test_what_was_changed_since_the_undo_is_a_task_of_the_redo(crew: Crew, shop: Shop) -> None:
    """RD2."""
    digest = undone(shop)
    shop.rows["tea"] = "somebody's"
    crew.hire()
    ended = crew.see_to_its_end(crew.submit_plan(shop.redo_plan(digest)))

    assert ended.finished
    assert shop.rows == {"tea": "somebody's", "jam": 1}
    (task,) = list_tasks(shop.journal)
    assert (task.reason, task.steps, task.task_id) == ("conflict", (StepRef("run-1", "1"),), ended.tasks[0])


def test_a_redo_that_somebody_did_himself_meanwhile_is_not_done_again(crew: Crew, shop: Shop) -> None:
    """RD1: what was undone anew since belongs to the undo that did it."""
    digest = undone(shop)
    crew.hire()
    submission = crew.submit_plan(shop.redo_plan(digest))
    shop.redo(digest)
    shop.apply()

    assert crew.see_to_its_end(submission).finished
    assert shop.rows == {"tea": 0, "jam": 0}


def test_a_redo_spreads_over_several_shares_and_what_was_offset_is_one_task(crew: Crew, shop: Shop) -> None:
    for number in range(100):
        shop.set(f"row-{number}", number)
        shop.charge()
    digest = undone_all(shop)
    crew.hire(), crew.hire()
    submission = crew.submit_plan(shop.redo_plan(digest))
    assert len(submission.shares) > 2
    ended = crew.see_to_its_end(submission)

    assert ended.finished
    assert shop.rows == {"tea": 1, "jam": 1} | {f"row-{number}": number for number in range(100)}
    assert [(task.reason, len(task.steps)) for task in list_tasks(shop.journal)] == [("compensated", 100)]


def undone_all(shop: Shop) -> str:
    shop.rows["tea"] = 1
    plan = shop.plan()
    shop.apply(plan)
    return plan.digest


# --- workers of an older rescind ---


@pytest.mark.parametrize("what", ["force", "redo"])
def test_workers_that_know_nothing_of_it_are_named_before_anything_begins(what: str, crew: Crew, shop: Shop) -> None:
    plan = shop.plan(may_force=True) if what == "force" else shop.redo_plan(undone(shop))
    crew.hire(module="old:guard", knows=())
    with pytest.raises(UsageError, match=rf"worker_1 \(old:guard\): of an older rescind, .* know nothing of {what}"):
        crew.submit_plan(plan)
    assert not events(shop.journal, PlanShare)


def test_beside_an_older_worker_it_is_left_to_the_newer_one(crew: Crew, shop: Shop) -> None:
    old = crew.hire(module="old:guard", knows=())
    crew.hire()
    submission = crew.submit_plan(shop.redo_plan(undone(shop)))
    assert crew.see_to_its_end(submission).finished
    assert shop.rows == {"tea": 1, "jam": 1}
    assert old.worker_id not in {each.worker_id for each in crew.kept.reports.values()}
    assert crew.infos[old.worker_id].queue not in {each.queue for each in crew.kept.reports.values()}


def test_an_older_rescind_cannot_read_the_plan_and_leaves_it_alone(crew: Crew, shop: Shop) -> None:
    """What is said in a kind of entry that it does not know is nothing that it can skip."""
    crew.hire()
    submission = crew.submit(may_force=True)
    kinds = [
        type(entry.event).__struct_config__.tag
        for entry in every_entry(shop.journal, Query(run_id=submission.plan_run))
    ]
    assert kinds == ["run_opened", "plan_submitted", "plan_needs", "plan_share"]
    assert submission.needs == ("force",)


def test_a_job_that_waits_for_older_workers_who_are_gone_is_taken_over(crew: Crew, shop: Shop) -> None:
    shop.rows["tea"] = 1
    old, new = crew.hire(knows=()), crew.hire()
    submission = crew.submit()
    old.engine.start([Job(job_id=f"{submission.prefix}plan.1", kind="undo.plan", queue="plans")])
    crew.dead.add(old.worker_id)
    new.keeper.keep()

    assert crew.kept.reports[f"{submission.prefix}plan.1"].state is JobState.CANCELLED
    assert crew.kept.reports[f"{submission.prefix}plan.2"].queue == PLAN_QUEUE
    assert crew.see_to_its_end(submission).finished
