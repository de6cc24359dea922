"""Steps in doubt get their end in the journal, once their target system has said it (DT1 to DT3)."""

from collections.abc import Sequence
from typing import Any

import pytest

from builders import a_guard, a_step, ended, intended, opened, steps_of
from compensation.undo_world import Charging, Shop, nothing_appended, raising
from rescind.compensation.execution.reconcile import ask_about, reconcile, record_answers
from rescind.compensation.planning.selection import Selection, read_steps
from rescind.errors import NothingChanged, StepInDoubt
from rescind.guard.effect import PastStep
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.action import IN_DOUBT_AFTER
from rescind.model.entry import AnswersRecorded, StepRef
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.model.probe import Found, Probe
from rescind.testing import ManualClock


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    shop.charging = Charging(probed=True)
    return shop


def reconciled(shop: Shop, **options: Any) -> Any:
    found = reconcile(shop.journal, Selection(run_ids=("run-1",)), shop.compensators, shop.clock, **options)
    return [(each.step.step_id, each.outcome) for each in found]


def test_what_was_found_is_completed_and_what_was_not_has_failed_once_it_cannot_come_any_more(shop: Shop) -> None:
    shop.charge()
    shop.lose_charge(happened=True, outcome=Unknown("no reply"))
    shop.lose_charge(happened=False)
    assert reconciled(shop) == [("2", Completed("charge-2")), ("3", None)]

    shop.clock.advance(IN_DOUBT_AFTER.total_seconds())
    assert reconciled(shop) == [("3", Failed("its target system knows nothing of it"))]
    assert [record.outcome for record in read_steps(shop.journal, ["run-1"])] == [
        Completed(12),
        Completed("charge-2"),
        Failed("its target system knows nothing of it"),
    ]
    with nothing_appended(shop):
        assert reconciled(shop) == []
    assert shop.apply().counts == {"compensated": 2, "never_took_effect": 1}


def test_a_step_that_gets_its_end_before_that_is_recorded_keeps_it(shop: Shop) -> None:
    """RC2."""
    shop.lose_charge(happened=True)
    shop.lose_charge(happened=True)
    asked = ask_about(shop.journal, Selection(run_ids=("run-1",)), shop.compensators, shop.clock)
    shop.journal.append([ended("1", Completed("by its own process"))])

    recorded = record_answers(asked, shop.journal, shop.clock, actor="eve")

    assert ([each.step.step_id for each in recorded.steps], recorded.moved_on) == (["2"], (StepRef("run-1", "1"),))
    assert [record.outcome for record in read_steps(shop.journal, ["run-1"])] == [
        Completed("by its own process"),
        Completed("charge-2"),
    ]


class Crowded(MemoryJournal):
    """A journal in which somebody else ends step 1 right before answers are appended."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd = [ended("1", Completed("by its own process"))]

    def append(self, drafts: Sequence[Draft], *args: Any, **kwargs: Any) -> Any:
        if self.crowd and any(isinstance(draft.event, AnswersRecorded) for draft in drafts):
            super().append([self.crowd.pop()])
        return super().append(drafts, *args, **kwargs)


def test_of_two_that_write_to_a_run_at_once_one_reads_it_again(shop: Shop) -> None:
    """RC2: the append of the answers expects the places that were read."""
    shop.journal = Crowded()
    shop.charging.charged.clear()
    shop.journal.append([opened("run-1")])
    for number in ("1", "2"):
        shop.journal.append([intended(a_step(number, action="card.charge", idempotency_key=f"key-{number}"))])
        shop.charging.charged[f"key-{number}"] = f"charge-{number}"

    found = reconcile(shop.journal, Selection(run_ids=("run-1",)), shop.compensators, shop.clock)

    assert len(found) == 2
    assert [record.outcome for record in read_steps(shop.journal, ["run-1"])] == [
        Completed("by its own process"),
        Completed("charge-2"),
    ]


def test_what_nobody_can_tell_stays_in_doubt(shop: Shop) -> None:
    shop.lose_charge(happened=True)
    shop.charging.before_probe = raising(TimeoutError())
    with nothing_appended(shop):
        assert reconciled(shop) == [("1", None)]


def test_a_living_process_may_still_end_its_call(shop: Shop) -> None:
    shop.lose_charge(happened=False)
    shop.clock.advance(IN_DOUBT_AFTER.total_seconds())
    with nothing_appended(shop):
        assert reconciled(shop, live_runs={"run-1"}) == [("1", None)]


def test_a_process_that_dies_after_its_target_was_asked_may_have_done_it_by_then(shop: Shop) -> None:
    """DT2: it was alive when the target said that it knows nothing."""
    live_runs = {"run-1"}
    shop.lose_charge(happened=False)
    shop.clock.advance(IN_DOUBT_AFTER.total_seconds())
    shop.charging.before_probe = lambda record: live_runs.clear()
    assert reconciled(shop, live_runs=live_runs) == [("1", None)]


@pytest.mark.parametrize("answer", [Found("re_1"), Probe.NOT_FOUND])
def test_a_repeated_call_gets_the_recorded_result_or_is_made(answer: Any) -> None:
    guard, paid = a_guard(), list[str]()

    @guard.write("refund.pay", key=lambda order: order, irreversible="the customer has the money")
    def pay(order: str) -> str:
        paid.append(order)
        if len(paid) == 1:
            raise TimeoutError
        return "re_2"

    @pay.probe
    def _(step: PastStep) -> Any:
        assert step.idempotency_key == "o-1"
        return answer

    with guard.run("support@1") as run, pytest.raises(TimeoutError):
        pay("o-1")
    with guard.run("support@1"), pytest.raises(StepInDoubt):
        pay("o-1")

    clock = ManualClock()
    clock.advance(10 * 365 * 86_400)  # whatever the guard's clock says
    reconcile(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, clock)
    with guard.run("support@1"):
        assert pay("o-1") == ("re_1" if isinstance(answer, Found) else "re_2")
    assert len(paid) == (1 if isinstance(answer, Found) else 2)
    assert steps_of(guard.journal, run.run_id)[0].outcome is not None


def test_a_step_that_vouches_for_itself_is_in_no_doubt() -> None:
    guard = a_guard()

    @guard.write("refund.pay", irreversible="a test")
    def pay() -> None:
        raise NothingChanged

    @pay.probe
    def _(step: PastStep) -> bool:
        raise AssertionError(step)

    with guard.run("support@1") as run, pytest.raises(NothingChanged):
        pay()
    assert not reconcile(guard.journal, Selection(run_ids=(run.run_id,)), guard.compensators, ManualClock())
