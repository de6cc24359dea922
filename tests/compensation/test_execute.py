"""Carrying out a plan, one law at a time. Dying in the middle is in `test_crash`."""

import asyncio
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from builders import NOON
from compensation.undo_world import Charging, RowSetting, Shop, decisions, nothing_appended
from rescind.compensation.flow import backoff_s
from rescind.compensation.paperwork import plan_run_of
from rescind.compensation.result import StepResult, UndoStopped
from rescind.compensation.selection import read_steps
from rescind.errors import Conflict, Transient, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft, Query
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    Disposition,
    PlanFinished,
    PlanStarted,
    ReviewOpened,
    RunOpened,
    StepRef,
)
from rescind.model.history import StepRecord
from rescind.recovery.review import list_tasks, resolve_task
from rescind.testing.faulty import FaultyJournal


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_an_undo_puts_back_what_was_there_and_says_so_in_the_journal(shop: Shop) -> None:
    shop.rows["tea"] = 7
    set_tea, charge, mail = shop.set("tea", 1), shop.charge(), shop.mail()

    result = shop.apply(reason="wrong prices")

    assert shop.rows == {"tea": 7}
    assert shop.charging.refunds == {"undo:run-1:2": 1}
    assert result.is_complete
    assert result.counts == {"compensated": 1, "restored": 1, "review": 1}
    assert shop.ends() == {
        set_tea: [Disposition.RESTORED],
        charge: [Disposition.COMPENSATED],
        mail: [Disposition.REVIEW],
    }


def test_the_plan_has_a_run_of_its_own(shop: Shop) -> None:
    shop.charge()
    plan = shop.plan()
    shop.apply(plan, reason="wrong prices")

    entries = shop.journal.entries(Query(run_id=plan_run_of(plan)))
    opened, started, finished = (entry.event for entry in entries)
    assert isinstance(opened, RunOpened)
    assert (opened.run.agent_name, opened.run.tenant) == ("rescind-undo", "acme")
    assert started == PlanStarted(
        plan_digest=plan.digest,
        selection={"run_ids": ["run-1"]},
        runs=("run-1",),
        steps=1,
        actor="ops",
        reason="wrong prices",
    )
    assert finished == PlanFinished(plan_digest=plan.digest, counts={"compensated": 1})


def test_an_intent_is_durable_before_anything_is_undone(shop: Shop) -> None:
    """U8."""
    seen: list[bool] = []

    def look(record: StepRecord) -> None:
        seen.append(read_steps(shop.journal, ["run-1"])[0].compensation_open)

    shop.charging.before_undo = look
    shop.charge()
    shop.apply()

    assert seen == [True]


def test_a_second_undo_appends_nothing(shop: Shop) -> None:
    """U13."""
    shop.set("tea", 1)
    shop.charge()
    shop.mail()
    plan = shop.plan()
    shop.apply(plan)

    with nothing_appended(shop):
        assert shop.apply().counts == {"already_undone": 2, "review": 1}
    with nothing_appended(shop):
        assert shop.apply(plan).is_complete


def test_an_undo_of_nothing_does_nothing(shop: Shop) -> None:
    shop.put("run-1", CompensationIntended(step_id="0", kind="", idempotency_key="", plan_digest=""))
    with nothing_appended(shop):
        assert shop.apply().counts == {}


# --- order and parallelism (U2) ---


def test_one_worker_keeps_strictly_to_the_plan(shop: Shop) -> None:
    for number in range(30):
        shop.charge(causal_parents=(str(number // 3),))
    plan = shop.plan()
    shop.apply(plan)

    assert shop.charging.order == [item.step for item in plan.items]


def test_independent_branches_are_undone_at_once(shop: Shop) -> None:
    both = threading.Barrier(2, timeout=20)

    def meet(record: StepRecord) -> None:
        both.wait()

    shop.charging.before_undo = meet
    shop.charge()
    shop.charge()

    assert shop.apply(parallel=2).counts == {"compensated": 2}


def test_several_workers_never_overtake_an_edge(shop: Shop) -> None:
    shop.charging = Charging(after=("row.set",))
    for number in range(40):
        shop.charge(causal_parents=(str(number - 5),), depends_on=(str(number - 11),))
        shop.set(f"row-{number % 4}", number)
    plan = shop.plan()
    done: list[StepRef] = []
    shop.setting.before_undo = shop.charging.before_undo = lambda record: done.append(record.ref)
    finished: list[StepRef] = []
    shop.apply(plan, parallel=8, progress=lambda result: finished.append(result.step))

    begun = {ref: place for place, ref in enumerate(done)}
    assert sorted(finished) == sorted(done)
    for item in plan.items:
        for before in item.waits_for:
            assert begun[before] < begun[item.step]
        for gate in item.gates:
            assert all(begun[step] < begun[item.step] for step in plan.gates[gate].steps)


def test_handlers_see_the_callers_context_variables(shop: Shop) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    def look(record: StepRecord) -> None:
        seen.append(tenant.get())
        tenant.set("changed by a handler")

    shop.charging.before_undo = look
    shop.charge()
    shop.charge()
    token = tenant.set("acme")
    try:
        shop.apply(parallel=2)
    finally:
        tenant.reset(token)

    assert seen == ["acme", "acme"]


def test_asynchronous_handlers_are_awaited_in_one_loop() -> None:
    loops: set[int] = set()

    class AsyncRows(RowSetting):
        async def observe(self, record: StepRecord) -> Any:
            loops.add(id(asyncio.get_running_loop()))
            return RowSetting.observe(self, record)

        async def undo(self, record: StepRecord, idempotency_key: str) -> Any:
            await asyncio.sleep(0)
            loops.add(id(asyncio.get_running_loop()))
            RowSetting.undo(self, record, idempotency_key)

    shop = Shop()
    shop.setting = AsyncRows(shop.rows)
    for row in range(5):
        shop.set(f"row-{row}", row)
    plan = shop.plan()
    loops.clear()

    assert shop.apply(plan, parallel=4).counts == {"restored": 5}
    assert shop.rows == {f"row-{row}": None for row in range(5)}
    assert len(loops) == 1


# --- doubts and conflicts (U3, U4, U9, U11) ---


def test_a_change_since_the_plan_is_not_overwritten(shop: Shop) -> None:
    shop.set("tea", 1)
    plan = shop.plan()
    shop.rows["tea"] = 99

    assert shop.apply(plan).counts == {"review": 1}
    assert shop.rows == {"tea": 99}
    assert list_tasks(shop.journal)[0].reason == "conflict"


def test_a_restore_that_says_it_worked_is_looked_at(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.setting.undo = lambda record, idempotency_key: None  # type: ignore[method-assign]

    assert shop.apply().steps[0].reason == "failed"


def test_a_restore_that_raised_and_worked_counts_as_restored(shop: Shop) -> None:
    shop.set("tea", 1)

    def lose_the_reply(record: StepRecord, idempotency_key: str) -> None:
        shop.rows["tea"] = None
        raise ValueError("half of the reply is missing")

    shop.setting.undo = lose_the_reply  # type: ignore[method-assign]
    assert shop.apply().counts == {"restored": 1}


def raising(*errors: Exception) -> Any:
    left = list(errors)

    def raise_next(record: StepRecord) -> None:
        if left:
            raise left.pop(0)

    return raise_next


def test_a_transient_error_is_tried_again_after_a_growing_wait(shop: Shop) -> None:
    charge = shop.charge()
    shop.charging.before_undo = raising(Transient("busy"), Transient("busy"))

    assert shop.apply().counts == {"compensated": 1}
    record = read_steps(shop.journal, ["run-1"])[0]
    assert shop.clock.slept_s == [backoff_s(record, 1), backoff_s(record, 2)]
    assert 0.25 <= shop.clock.slept_s[0] <= 0.5 <= shop.clock.slept_s[1] <= 1
    intents = [entry.event for entry in shop.entries() if isinstance(entry.event, CompensationIntended)]
    assert [intent.attempt for intent in intents] == [1, 2, 3]
    assert {intent.idempotency_key for intent in intents} == {f"undo:{charge.run_id}:{charge.step_id}"}


def test_a_transient_error_that_stays_goes_to_a_person(shop: Shop) -> None:
    shop.charge()
    shop.charging.before_undo = raising(*[Transient("busy")] * 9)

    result = shop.apply(retries=2)
    assert result.steps[0].reason == "failed"
    assert "nothing happened in 3 tries" in result.steps[0].detail


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError("30 s")])
def test_a_lost_reply_is_repeated_only_if_that_is_safe(error: Exception) -> None:
    """U9."""
    for idempotent, word in ((False, "review"), (True, "compensated")):
        shop = Shop()
        shop.charging = Charging(idempotent=idempotent)
        shop.charging.before_undo = raising(error)
        shop.charge()
        result = shop.apply()
        assert result.counts == {word: 1}
        assert result.steps[0].reason == ("" if idempotent else "in_doubt")


def test_a_lost_reply_of_a_restore_is_repeated(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.setting.before_undo = raising(TimeoutError())

    assert shop.apply().counts == {"restored": 1}


def test_any_other_error_leaves_a_compensation_in_doubt(shop: Shop) -> None:
    shop.charge()
    shop.charging.before_undo = raising(StopIteration("odd"))

    result = shop.apply()
    assert (result.steps[0].reason, shop.clock.slept_s) == ("in_doubt", [])
    assert "StopIteration: odd" in result.steps[0].detail


def test_a_compensation_may_refuse_with_a_conflict(shop: Shop) -> None:
    shop.charge()
    shop.charging.before_undo = raising(Conflict("refunded by hand already"))

    assert shop.apply().steps[0].reason == "conflict"


def test_what_a_failed_step_was_declared_to_depend_on_stays(shop: Shop) -> None:
    """U5, when it turns out only now."""
    shop.charge()
    shop.charge(depends_on=("1",))
    shop.charge(depends_on=("2",))
    shop.charging.before_undo = raising(ValueError("no"))

    result = shop.apply(parallel=4)
    assert [step.reason for step in result.steps] == ["in_doubt", "blocked", "blocked"]
    assert not shop.charging.refunds


def test_a_gate_holds_back_too(shop: Shop) -> None:
    shop.charging = Charging(after=("row.set",))
    shop.set("tea", 1)
    shop.charge()
    shop.set("jam", 1)
    shop.charge()
    shop.charging.before_undo = raising(ValueError("no"))

    result = {step.step.step_id: step.word + step.reason for step in shop.apply().steps}
    assert result == {"4": "reviewin_doubt", "3": "reviewblocked", "2": "compensated", "1": "reviewblocked"}


def test_what_only_came_after_does_not_hold_back(shop: Shop) -> None:
    shop.charge()
    shop.charge(causal_parents=("1",))
    shop.charging.before_undo = raising(ValueError("no"))

    assert shop.apply().counts == {"compensated": 1, "review": 1}


def test_a_settlement_that_does_not_hold_in_its_turn_goes_to_a_person(shop: Shop) -> None:
    before = read_before(shop)
    shop.intend("row.set", before.step.effect_class, target=before.step.target, before=before.step.before)
    shop.set("tea", 5)
    plan = shop.plan()
    shop.setting.before_undo = lambda record: shop.rows.update(tea=99)

    assert {step.step.step_id: step.reason for step in shop.apply(plan).steps} == {
        "3": "conflict",
        "2": "in_doubt",
        "1": "conflict",
    }


def read_before(shop: Shop) -> StepRecord:
    shop.set("tea", 1)
    shop.rows["tea"] = None
    return read_steps(shop.journal, ["run-1"])[0]


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


def test_an_interrupt_lets_what_is_under_way_finish_and_begins_no_more(shop: Shop) -> None:
    for _ in range(5):
        shop.charge()
    shop.mail()
    calls: list[StepResult] = []

    def interrupt_once(result: StepResult) -> None:
        calls.append(result)
        if len(calls) == 3:
            raise KeyboardInterrupt

    result = shop.apply(progress=interrupt_once)
    assert result.interrupted
    assert not result.is_complete
    assert result.counts["not_reached"] >= 2
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


def test_attempts_count_on_from_those_of_an_earlier_process(shop: Shop) -> None:
    shop.charging = Charging(idempotent=True)
    shop.charge()
    event = CompensationIntended(step_id="1", kind="compensate", idempotency_key="undo:run-1:1", plan_digest="d")
    shop.put("run-1", event)
    shop.apply()

    intents = [entry.event for entry in shop.entries() if isinstance(entry.event, CompensationIntended)]
    assert [(intent.attempt, intent.idempotency_key) for intent in intents] == [
        (1, "undo:run-1:1"),
        (2, "undo:run-1:1"),
    ]


@pytest.mark.parametrize("options", [{"parallel": 0}, {"retries": -1}])
def test_nobody_works_with_no_hands(shop: Shop, options: dict[str, int]) -> None:
    shop.charge()
    with nothing_appended(shop), pytest.raises(UsageError, match="parallel >= 1 and retries >= 0"):
        shop.apply(None, **options)  # type: ignore[arg-type]  # mypy takes them for positional ones


def test_the_wait_is_bounded(shop: Shop) -> None:
    shop.charge()
    record = read_steps(shop.journal, ["run-1"])[0]
    assert all(backoff_s(record, tries) <= 30 for tries in range(1, 50))
    assert shop.clock.now() == NOON


def test_reviews_of_reviews_keep_their_tasks(shop: Shop) -> None:
    """U12: a step in review names a task, and that task names it."""
    shop.mail()
    shop.set("tea", 1)
    shop.rows["tea"] = 99
    shop.apply()

    opened = {e.event.task_id: e.event.steps for e in shop.entries() if isinstance(e.event, ReviewOpened)}
    for record in read_steps(shop.journal, ["run-1"]):
        assert record.ref in opened[record.task_id or ""]
