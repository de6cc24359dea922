"""Carrying out a plan, law by law. Dying is in `test_crash`, people and other runners are in `test_runners`."""

import asyncio
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from builders import NOON
from compensation.undo_world import Charging, RowSetting, Shop, decisions, nothing_appended, raising
from rescind.compensation.execution.trying import backoff_s
from rescind.compensation.paperwork import plan_run_of
from rescind.compensation.planning.selection import read_steps
from rescind.compensation.result import UndoStopped
from rescind.errors import Conflict, Transient, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft, Query
from rescind.model.action import EffectClass
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    Disposition,
    PlanFinished,
    PlanStarted,
    Released,
    RunOpened,
    StepRef,
)
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed
from rescind.model.step import HeldUntil
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
        pending=1,
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


def a_chain(shop: Shop, steps: int) -> list[StepRef]:
    """Charges that were made one after another; the newest first."""
    return [shop.charge(causal_parents=(str(number),) if number else ()) for number in range(steps)][::-1]


def test_a_step_of_a_chain_is_intended_in_the_append_that_ends_the_one_before_it() -> None:
    appends: list[list[tuple[str, str]]] = []

    def note(drafts: Sequence[Draft]) -> bool:
        appends.append([
            (type(draft.event).__name__, draft.event.step_id)
            for draft in drafts
            if isinstance(draft.event, CompensationIntended | CompensationEnded)
        ])  # fmt: skip
        return False

    shop = Shop(FaultyJournal(MemoryJournal(), note))
    a_chain(shop, 3)
    appends.clear()
    shop.apply()

    assert [append for append in appends if append] == [
        [("CompensationIntended", "3")],
        [("CompensationEnded", "3"), ("CompensationIntended", "2")],
        [("CompensationEnded", "2"), ("CompensationIntended", "1")],
        [("CompensationEnded", "1")],
    ]


@pytest.mark.parametrize("parallel", [1, 4])
def test_what_waited_for_an_end_that_was_not_recorded_does_not_begin(parallel: int) -> None:
    full = False
    shop = Shop(FaultyJournal(MemoryJournal(), lambda drafts: full))
    newest, older, _ = a_chain(shop, 3)
    row = shop.set("tea", 1, causal_parents=("3",))

    def fill_disk(record: StepRecord) -> None:
        nonlocal full
        full = record.ref == newest

    shop.charging.before_undo = fill_disk
    with pytest.raises(UndoStopped):
        shop.apply(parallel=parallel)

    assert shop.charging.order == [newest]
    assert shop.ends() == {row: [Disposition.RESTORED]}
    attempts = {record.ref: record.compensation_attempts for record in read_steps(shop.journal, ["run-1"])}
    assert (attempts[newest], attempts[older]) == (1, 0)


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


def test_a_transient_error_is_tried_again_after_a_growing_wait(shop: Shop) -> None:
    charge = shop.charge()
    shop.charging.before_undo = raising(Transient("busy"), Transient("busy"))

    assert shop.apply().counts == {"compensated": 1}
    record = read_steps(shop.journal, ["run-1"])[0]
    waits_s = [backoff_s(record, 1), backoff_s(record, 2)]
    assert shop.clock.monotonic_s() == pytest.approx(sum(waits_s), abs=0.01)
    assert 0.25 <= waits_s[0] <= 0.5 <= waits_s[1] <= 1
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


class Unshowable(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [OSError("no such file: caf\udce9"), Unshowable(), ValueError("x" * 3_000_000)])
def test_an_error_is_recorded_whatever_its_text_is(shop: Shop, error: Exception) -> None:
    """U12. Names of files that are no UTF-8 stand in errors as lone surrogates."""

    def cannot_look(record: StepRecord) -> None:
        raise error

    shop.charge()
    shop.set("tea", 1)
    plan = shop.plan()
    shop.charging.before_undo = raising(error)
    shop.setting.before_undo = raising(error)
    result = shop.apply(plan)
    assert result.counts == {"review": 2}
    assert len(list_tasks(shop.journal)) == 2
    assert all(len(step.detail) < 5_000 for step in result.steps)

    shop.steps += 1
    shop.set("milk", 1)
    shop.setting.observe = cannot_look  # type: ignore[method-assign]
    assert shop.apply().counts["review"] == 3
    assert len(list_tasks(shop.journal)) == 3


@pytest.mark.parametrize("error", [TimeoutError("caf\udce9"), Transient("caf\udce9")])
def test_a_system_is_lost_whatever_it_says_last(shop: Shop, error: Exception) -> None:
    for _ in range(8):
        shop.charge()
    shop.charging = Charging(idempotent=True)
    shop.charging.before_undo = raising(*[error] * 1_000)
    result = shop.apply(parallel=8, retries=1)
    assert result.lost_systems == {"card.charge": f"{type(error).__name__}: caf?"}
    assert not result.is_complete


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


def holding(shop: Shop, *needs: tuple[str, str]) -> None:
    """For each `(row, other)`: the row cannot be put back while the other one is there, as with foreign keys."""

    def refuse(record: StepRecord) -> None:
        assert record.step.target is not None
        for row, other in needs:
            if record.step.target.id == row and shop.rows.get(other) is not None:
                raise Conflict(f"{other} refers to {row}")

    shop.setting.before_undo = refuse


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_conflict_that_others_of_the_plan_resolve_is_none(shop: Shop, parallel: int) -> None:
    holding(shop, ("customer", "order"), ("order", "parcel"))
    shop.set("parcel", 1, run="run-1")
    shop.set("order", 1, run="run-2")
    shop.set("customer", 1, run="run-3")
    plan = shop.plan("run-1", "run-2", "run-3")

    assert shop.apply(plan, parallel=parallel).counts == {"restored": 3}
    assert not list_tasks(shop.journal)
    with nothing_appended(shop):
        shop.apply(plan)


def test_what_waits_for_a_step_held_back_goes_on_waiting(shop: Shop) -> None:
    holding(shop, ("customer", "order"))
    order = shop.set("order", 1, run="run-1")
    shop.set("name", 1, run="run-2")
    customer = shop.set("customer", 1, run="run-2", causal_parents=("2",))
    results: list[StepRef] = []
    shop.apply(shop.plan("run-1", "run-2"), progress=lambda result: results.append(result.step))

    assert results == [order, customer, StepRef("run-2", "2")]


def test_a_conflict_that_stays_goes_to_a_person_and_lets_the_rest_go_on(shop: Shop) -> None:
    """The customer's order waits for a step that is a conflict for good; the customer is none all the same."""
    holding(shop, ("customer", "order"))
    shop.set("customer", 1, run="run-1")
    order = shop.set("order", 1, run="run-2")
    price = shop.set("price", 1, run="run-2", causal_parents=(order.step_id,))
    plan = shop.plan("run-1", "run-2")
    shop.rows["price"] = 99

    result = shop.apply(plan, parallel=4)
    assert result.counts == {"restored": 2, "review": 1}
    assert [step.step for step in result.steps if step.reason == "conflict"] == [price]
    attempts = [each.event for each in shop.entries() if isinstance(each.event, CompensationIntended)]
    assert [each.attempt for each in attempts if each.step_id == price.step_id] == [1]


def test_what_a_failed_step_was_declared_to_depend_on_stays(shop: Shop) -> None:
    """U5, when it turns out only now."""
    shop.charge()
    shop.charge(depends_on=("1",))
    shop.charge(depends_on=("2",))
    shop.charging.before_undo = raising(ValueError("no"))

    result = shop.apply(parallel=4)
    assert [step.reason for step in result.steps] == ["in_doubt", "blocked", "blocked"]
    assert not shop.charging.refunds


@pytest.mark.parametrize("before_it_begins", [True, False])
def test_what_a_step_was_declared_to_depend_on_stays_if_that_was_released_since_the_plan(
    shop: Shop, *, before_it_begins: bool
) -> None:
    """U5, U15: it was to be dropped, and is done."""
    first = shop.set("tea", 1)
    held = shop.intend("card.charge", EffectClass.COMPENSATABLE, depends_on=(first.step_id,), held=HeldUntil())
    plan = shop.plan()
    assert decisions(plan) == ((held.step_id, "drop"), (first.step_id, "restore"))

    def release() -> None:
        shop.put(held.run_id, Released(step_id=held.step_id, releaser="worker-1"))
        shop.end(held, Completed(12))

    def release_as_the_undo_begins(drafts: Sequence[Draft]) -> bool:
        if not before_it_begins and any(isinstance(draft.event, PlanStarted) for draft in drafts):
            release()
        return False

    if before_it_begins:
        release()
    real, shop.journal = shop.journal, FaultyJournal(shop.journal, release_as_the_undo_begins)
    result = shop.apply(plan)
    shop.journal = real
    assert result.counts == {"not_reached": 1, "review": 1}
    assert shop.rows["tea"] == 1

    resolve_task(shop.journal, result.tasks[0], "retry", actor="ann", clock=shop.clock)
    assert shop.apply().counts == {"compensated": 1, "restored": 1}


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
        shop.apply(None, **options)


def test_the_wait_is_bounded(shop: Shop) -> None:
    shop.charge()
    record = read_steps(shop.journal, ["run-1"])[0]
    assert all(backoff_s(record, tries) <= 30 for tries in range(1, 50))
    assert shop.clock.now() == NOON


def test_an_undo_that_is_to_try_all_night_does_so(shop: Shop) -> None:
    for _ in range(2):
        shop.charge()
    shop.charging.before_undo = raising(*[Transient("down")] * 2_500)
    result = shop.apply(parallel=2, retries=3_000)
    assert result.counts == {"compensated": 2}
