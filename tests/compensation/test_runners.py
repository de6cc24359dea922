"""An undo among others: people who decide, a second runner, an interrupt, a journal that fails."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from compensation.undo_world import Charging, Shop, decisions, nothing_appended, raising
from rescind.compensation.planning.selection import read_steps
from rescind.compensation.result import StepResult, UndoStopped
from rescind.errors import UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    Disposition,
    PlanFinished,
    PlanStarted,
    ReviewOpened,
    StepRef,
)
from rescind.model.history import StepRecord
from rescind.recovery.review import list_tasks, resolve_task
from rescind.testing.faulty import FaultyJournal


@pytest.fixture
def shop() -> Shop:
    return Shop()


# --- people (U12) ---


def test_many_reviews_of_one_kind_are_one_task_and_few_appends() -> None:
    appends: list[int] = []

    def count(drafts: Sequence[Draft]) -> bool:
        appends.append(len(drafts))
        return False

    shop = Shop(FaultyJournal(MemoryJournal(), count))
    mails = [shop.mail() for _ in range(340)]
    for _ in range(60):
        shop.intend("row.set", None)
    plan = shop.plan()
    appends.clear()
    result = shop.apply(plan)

    assert len(result.tasks) == 2
    assert len(appends) == 4
    task = list_tasks(shop.journal)[0]
    assert (task.action, task.reason, task.detail) == ("mail.send", "irreversible", "a mail cannot be unsent")
    assert set(task.steps) == set(mails)


def test_many_failures_of_one_kind_are_one_task(shop: Shop) -> None:
    for _ in range(20):
        shop.charge()
    shop.charging.before_undo = raising(*[ValueError(f"failure {number}") for number in range(20)])
    result = shop.apply(parallel=4)

    assert len(result.tasks) == 1
    task = list_tasks(shop.journal)[0]
    assert len(task.steps) == 20
    assert "and 19 other accounts" in task.detail
    details = {entry.event.detail for entry in shop.entries() if isinstance(entry.event, CompensationEnded)}
    assert len(details) == 20


def test_retry_frees_the_steps_of_a_task_and_opens_another_one_if_need_be(shop: Shop) -> None:
    shop.charge()
    shop.mail()
    shop.charging.before_undo = raising(ValueError("no"))
    tasks = shop.apply().tasks
    for task_id in tasks:
        resolve_task(shop.journal, task_id, "retry", actor="ops", clock=shop.clock)

    assert decisions(shop.plan()) == (("2", "review: irreversible"), ("1", "compensate"))
    again = shop.apply()
    assert again.counts == {"compensated": 1, "review": 1}
    assert set(again.tasks).isdisjoint(tasks)
    assert [task.task_id for task in list_tasks(shop.journal)] == list(again.tasks)
    with nothing_appended(shop):
        shop.apply()


@pytest.mark.parametrize("resolution", ["done", "not_needed"])
def test_what_a_person_settled_is_settled(shop: Shop, resolution: str) -> None:
    shop.mail()
    (task_id,) = shop.apply().tasks
    resolve_task(shop.journal, task_id, resolution, actor="ops", clock=shop.clock)

    plan = shop.plan()
    assert decisions(plan) == (("1", "already_undone: review"),)
    with nothing_appended(shop):
        assert shop.apply(plan).counts == {"already_undone": 1}


# --- two runners, and one that is stopped (U10) ---


def test_of_two_runners_only_one_undoes_a_step(shop: Shop) -> None:
    """U10."""
    for _ in range(4):
        shop.charge()
    plan = shop.plan()
    entered: list[StepRef] = []

    def let_the_other_in(record: StepRecord) -> None:
        if not entered:
            entered.append(record.ref)
            others.append(shop.apply(plan))

    others: list[Any] = []
    shop.charging.before_undo = let_the_other_in
    mine = shop.apply(plan)

    assert set(shop.charging.refunds.values()) == {1}
    assert len(shop.charging.refunds) == 4
    assert others[0].counts == {"compensated": 3, "not_reached": 1}
    assert mine.counts == {"compensated": 1, "not_reached": 3}
    assert shop.plan().is_settled


def test_what_a_step_taken_by_another_runner_depends_on_is_left_to_that_one(shop: Shop) -> None:
    shop.charge()
    shop.charge(depends_on=("1",))
    plan = shop.plan()
    event = CompensationIntended(step_id="2", kind="compensate", idempotency_key="k", plan_digest="d")
    shop.put("run-1", event)

    result = shop.apply(plan)
    assert [step.word for step in result.steps] == ["not_reached", "review"]
    assert not shop.charging.refunds


def test_a_step_that_another_runner_has_undone_is_not_given_to_a_person_afterwards() -> None:
    """U10. Resolving such a task with `retry` would have it undone twice."""
    others: list[Any] = []

    def overtake(drafts: Sequence[Draft]) -> bool:
        if not others and any(isinstance(draft.event, CompensationIntended) for draft in drafts):
            others.append("under way")
            others.append(shop.apply(plan))
        return False

    shop = Shop(FaultyJournal(MemoryJournal(), overtake))
    shop.charge()
    shop.charge(depends_on=("1",))
    plan = shop.plan()
    mine = shop.apply(plan)

    assert others[1].counts == {"compensated": 2}
    assert mine.counts == {"not_reached": 2}
    assert not list_tasks(shop.journal)
    assert list(shop.ends().values()) == [[Disposition.COMPENSATED]] * 2
    assert decisions(shop.plan()) == (("2", "already_undone: compensated"), ("1", "already_undone: compensated"))


def test_what_was_planned_for_a_person_is_left_to_who_has_undone_it_meanwhile(shop: Shop) -> None:
    """U10."""
    shop.set("tea", 1)
    shop.charge()
    shop.rows["tea"] = 99
    plan = shop.plan()
    shop.rows["tea"] = 1
    theirs = shop.plan()

    def overtake(drafts: Sequence[Draft]) -> bool:
        if not others and any(isinstance(draft.event, PlanStarted) for draft in drafts):
            others.append("under way")
            others.append(shop.apply(theirs))
        return False

    others: list[Any] = []
    shop.journal = FaultyJournal(shop.journal, overtake)
    shop.apply(plan)

    assert others[1].counts == {"compensated": 1, "restored": 1}
    assert not list_tasks(shop.journal)
    assert shop.plan().is_settled


def test_an_interrupt_lets_what_is_under_way_finish_and_begins_no_more(shop: Shop) -> None:
    for _ in range(5):
        shop.charge()
    shop.mail()
    calls: list[StepResult] = []
    told = threading.Event()

    def wait_in_the_second(record: StepRecord) -> None:
        if len(shop.charging.order) == 1:
            assert told.wait(timeout=20)

    def interrupt_once(result: StepResult) -> None:
        calls.append(result)
        if len(calls) == 1:
            # The handler waits for us, so that the undo is in the middle of it; the runner takes note before it ends.
            threading.Timer(0.05, told.set).start()
            raise KeyboardInterrupt

    shop.charging.before_undo = wait_in_the_second
    result = shop.apply(progress=interrupt_once)
    assert result.interrupted
    assert not result.is_complete
    assert result.counts["not_reached"] >= 3
    assert result.left_because == "interrupted"
    assert sum(shop.charging.refunds.values()) == result.counts["compensated"]
    assert not any(isinstance(entry.event, PlanFinished) for entry in shop.entries())

    assert shop.apply().counts["compensated"] == result.counts["not_reached"]
    assert set(shop.charging.refunds.values()) == {1}


@pytest.mark.parametrize("good_appends", range(12))
def test_a_journal_that_fails_stops_the_undo_and_loses_nothing(good_appends: int) -> None:
    left = [10**6]

    def fails(drafts: Sequence[Draft]) -> bool:
        left[0] -= 1
        return left[0] < 0

    shop = Shop(FaultyJournal(MemoryJournal(), fails))
    shop.charging = Charging(idempotent=True)
    shop.mail()
    for number in range(4):
        shop.charge()
        shop.set(f"row-{number}", number)
    plan = shop.plan()
    left[0] = good_appends
    with pytest.raises(UndoStopped, match="run the same undo again") as stopped:
        shop.apply(plan)
    done = stopped.value.result.counts
    assert sum(shop.charging.refunds.values()) - done.get("compensated", 0) in (0, 1)

    left[0] = 10**6
    assert shop.apply().is_complete
    assert len(shop.charging.refunds) == 4
    assert shop.rows == {f"row-{number}": None for number in range(4)}


def test_a_handler_that_leaves_the_process_leaves_the_step_in_doubt(shop: Shop) -> None:
    shop.charge()

    def leave(record: StepRecord) -> None:
        raise SystemExit(3)

    shop.charging.before_undo = leave
    with pytest.raises(SystemExit):
        shop.apply()
    assert decisions(shop.plan()) == (("1", "review: in_doubt"),)


def test_a_plan_for_undeclared_actions_is_refused_whole(shop: Shop) -> None:
    shop.charge()
    plan = shop.plan()
    shop.charging = Charging(name="another")
    with nothing_appended(shop), pytest.raises(UsageError, match="not declared here"):
        shop.apply(plan)


def test_reviews_of_reviews_keep_their_tasks(shop: Shop) -> None:
    """U12: a step in review names a task, and that task names it."""
    shop.mail()
    shop.set("tea", 1)
    shop.rows["tea"] = 99
    shop.apply()

    opened = {e.event.task_id: e.event.steps for e in shop.entries() if isinstance(e.event, ReviewOpened)}
    for record in read_steps(shop.journal, ["run-1"]):
        assert record.ref in opened[record.task_id or ""]
