"""Steps that nobody knows the end of, and what their target system says: laws DT1 to DT6."""

from datetime import timedelta
from typing import Any

import pytest

from compensation.undo_world import Charging, Mailing, RowSetting, Shop, decisions, nothing_appended, raising, row_of
from rescind.errors import Transient
from rescind.model.action import IN_DOUBT_AFTER, Action, EffectClass
from rescind.model.entry import CompensationIntended, Probed
from rescind.model.history import StepRecord
from rescind.model.outcome import Unknown
from rescind.model.probe import Found, Probe, ProbeResult
from rescind.model.step import Snapshot
from rescind.recovery.review import list_tasks, resolve_task

LATER_S = IN_DOUBT_AFTER.total_seconds()


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    shop.charging = Charging(probed=True)
    return shop


def answers(shop: Shop) -> list[tuple[str, str]]:
    return [
        (each.event.idempotency_key, each.event.answer) for each in shop.entries() if isinstance(each.event, Probed)
    ]


# --- found (DT1) ---


@pytest.mark.parametrize("outcome", [None, Unknown("no reply in 30 s")])
def test_what_was_found_is_compensated_with_the_result_that_the_probe_gave(shop: Shop, outcome: Any) -> None:
    shop.lose_charge(happened=True, outcome=outcome)
    plan = shop.plan()
    assert decisions(plan) == (("1", "compensate"),)
    assert not answers(shop)

    assert shop.apply(plan).counts == {"compensated": 1}
    assert shop.charging.results == ["charge-1"]
    assert answers(shop) == [("run-1/1", "found")]


def test_found_counts_at_once_even_of_a_living_process(shop: Shop) -> None:
    shop.lose_charge(happened=True)
    assert decisions(shop.plan(live_runs={"run-1"})) == (("1", "compensate"),)


def test_an_effect_that_was_found_once_is_not_asked_for_again(shop: Shop) -> None:
    """DT5."""
    shop.lose_charge(happened=True)
    shop.put("run-1", Probed(step_id="1", idempotency_key="run-1/1", answer=Probe.FOUND, result="charge-1"))

    assert shop.apply().counts == {"compensated": 1}
    assert (shop.charging.asked, shop.charging.results) == ([], ["charge-1"])


def test_an_answer_is_durable_before_anything_is_done_by_it(shop: Shop) -> None:
    """DT5."""
    shop.lose_charge(happened=True)
    seen: list[Any] = []
    shop.charging.before_undo = lambda record: seen.append(answers(shop))
    shop.apply()

    assert seen == [[("run-1/1", "found")]]


def test_a_mail_that_was_found_is_for_a_person_who_is_told_so() -> None:
    shop = Shop()
    shop.mailing = ProbedMailing(Probe.FOUND)
    shop.intend("mail.send", EffectClass.IRREVERSIBLE)

    assert shop.plan().items[0].decision.detail == (  # type: ignore[union-attr]
        "a mail cannot be unsent; and its target system says that it took effect"
    )


class ProbedMailing(Mailing):
    def __init__(self, answer: Any) -> None:
        self.action = Action(
            name="mail.send", effect_class=EffectClass.IRREVERSIBLE, irreversible_because="a mail cannot be unsent",
            probed=True,
        )  # fmt: skip
        self._answer = answer

    def probe(self, record: StepRecord, idempotency_key: str) -> ProbeResult:
        return ProbeResult.read(self._answer)


# --- not found (DT2) ---


@pytest.mark.parametrize("outcome", [None, Unknown("no reply in 30 s")])
def test_what_was_not_found_may_still_arrive_for_a_while(shop: Shop, outcome: Any) -> None:
    shop.lose_charge(happened=False, outcome=outcome)
    decision: Any = shop.plan().items[0].decision
    assert decision.reason == "in_doubt"
    assert "it may still arrive until 2026-" in decision.detail

    shop.clock.advance(LATER_S)
    assert decisions(shop.plan()) == (("1", "settle: never_took_effect"),)
    assert shop.apply().counts == {"never_took_effect": 1}
    assert answers(shop) == [("run-1/1", "not_found")]
    with nothing_appended(shop):
        shop.apply()


def test_a_call_that_was_cut_short_counts_from_then(shop: Shop) -> None:
    ref = shop.lose_charge(happened=False)
    shop.clock.advance(LATER_S - 1)
    shop.end(ref, Unknown("no reply"))
    shop.clock.advance(LATER_S - 1)
    assert decisions(shop.plan()) == (("1", "review: in_doubt"),)
    shop.clock.advance(1)
    assert decisions(shop.plan()) == (("1", "settle: never_took_effect"),)


def test_what_a_living_process_is_in_the_middle_of_may_arrive_at_any_time(shop: Shop) -> None:
    shop.lose_charge(happened=False)
    shop.clock.advance(10 * LATER_S)
    decision: Any = shop.plan(live_runs={"run-1"}).items[0].decision
    assert (decision.reason, decision.detail.endswith("but its process still lives")) == ("in_doubt", True)


def test_a_living_process_whose_call_is_over_is_in_the_middle_of_nothing(shop: Shop) -> None:
    shop.lose_charge(happened=False, outcome=Unknown("no reply"))
    shop.clock.advance(LATER_S)
    assert decisions(shop.plan(live_runs={"run-1"})) == (("1", "settle: never_took_effect"),)


def test_an_action_says_itself_how_long_its_calls_may_take() -> None:
    shop = Shop()
    shop.charging = Charging(probed=True, in_doubt_after=timedelta(seconds=2))
    shop.lose_charge(happened=False)
    shop.clock.advance(2)
    assert decisions(shop.plan()) == (("1", "settle: never_took_effect"),)


def test_a_mail_that_was_not_found_needs_no_person() -> None:
    shop = Shop()
    shop.mailing = ProbedMailing(Probe.NOT_FOUND)
    shop.intend("mail.send", EffectClass.IRREVERSIBLE)
    shop.clock.advance(LATER_S)

    assert shop.apply().counts == {"never_took_effect": 1}


def test_who_asks_for_another_try_once_it_is_over_gets_it(shop: Shop) -> None:
    shop.lose_charge(happened=False)
    assert shop.apply().counts == {"review": 1}
    shop.clock.advance(LATER_S)
    resolve_task(shop.journal, list_tasks(shop.journal)[0].task_id, "retry", actor="ann", clock=shop.clock)

    assert shop.apply().counts == {"never_took_effect": 1}


# --- no answer (DT3) ---


@pytest.mark.parametrize("error", [TimeoutError("30 s"), Transient("busy"), KeyError("odd")])
def test_a_probe_that_raises_has_told_nothing(shop: Shop, error: Exception) -> None:
    shop.lose_charge(happened=True)
    shop.charging.before_probe = raising(error)
    decision: Any = shop.plan().items[0].decision

    assert decision.reason == "in_doubt"
    assert f"its target system was asked, and cannot tell: {type(error).__name__}" in decision.detail


def test_a_step_without_a_probe_is_for_a_person_as_ever() -> None:
    shop = Shop()
    shop.lose_charge(happened=True)
    assert decisions(shop.plan()) == (("1", "review: in_doubt"),)
    assert not shop.charging.asked


def test_nobody_is_asked_about_what_is_known(shop: Shop) -> None:
    shop.charge()
    shop.apply()
    assert not shop.charging.asked


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (Probe.FOUND, "found"),
        (Found(), "found"),
        (True, "found"),
        (False, "not_found"),
        (None, "cannot_tell"),
        ("yes", "cannot_tell"),
        (1, "cannot_tell"),
    ],
)
def test_only_what_is_clearly_said_is_an_answer(answer: Any, read: str) -> None:
    assert ProbeResult.read(answer).answer == read


# --- asked twice (DT4) ---


def test_the_answer_is_a_part_of_the_digest(shop: Shop) -> None:
    shop.lose_charge(happened=False)
    shop.clock.advance(LATER_S)
    absent = shop.plan().digest
    assert shop.plan().digest == absent
    shop.charging.charged["run-1/1"] = "late"
    assert shop.plan().digest != absent


def test_a_charge_that_arrives_after_the_plan_is_for_a_person(shop: Shop) -> None:
    shop.lose_charge(happened=False)
    shop.clock.advance(LATER_S)
    plan = shop.plan()
    shop.charging.charged["run-1/1"] = "late"

    result = shop.apply(plan)
    assert (result.counts, result.steps[0].reason) == ({"review": 1}, "in_doubt")
    assert "said 'not found' for the plan, and says 'found' now" in result.steps[0].detail
    assert not answers(shop)


def test_a_probe_that_raises_in_its_turn_leaves_it_to_a_person(shop: Shop) -> None:
    shop.lose_charge(happened=True)
    plan = shop.plan()
    shop.charging.before_probe = raising(TimeoutError())

    assert shop.apply(plan).steps[0].reason == "in_doubt"
    assert not shop.charging.refunds


# --- compensations in doubt (DT6) ---


def begun(shop: Shop, *, happened: bool) -> None:
    """A process has died during the compensation of a charge."""
    ref = shop.charge()
    key = f"undo:{ref.run_id}:{ref.step_id}"
    shop.put(
        "run-1", CompensationIntended(step_id=ref.step_id, kind="compensate", idempotency_key=key, plan_digest="d")
    )
    if happened:
        shop.charging.refunds[key] = 1


@pytest.mark.parametrize("happened", [True, False])
def test_a_compensation_in_doubt_is_asked_for_by_its_key(*, happened: bool) -> None:
    shop = Shop()
    shop.charging = Charging(probed=True, compensation_probed=True)
    begun(shop, happened=happened)
    shop.clock.advance(LATER_S)

    assert shop.apply().counts == {"compensated": 1}
    assert shop.charging.refunds == {"undo:run-1:1": 1}
    assert answers(shop) == [("undo:run-1:1", "found" if happened else "not_found")]


def test_a_compensation_that_was_not_found_may_still_arrive_for_a_while() -> None:
    shop = Shop()
    shop.charging = Charging(probed=True, compensation_probed=True)
    begun(shop, happened=False)

    assert decisions(shop.plan()) == (("1", "review: in_doubt"),)


def test_a_probe_that_makes_no_promise_is_not_asked_for_compensations(shop: Shop) -> None:
    """DT6."""
    begun(shop, happened=True)
    shop.clock.advance(LATER_S)

    assert decisions(shop.plan()) == (("1", "review: in_doubt"),)
    assert not shop.charging.asked


# --- what can be restored ---


class ProbedRows(RowSetting):
    def __init__(self, rows: dict[str, Any], answer: Any) -> None:
        super().__init__(rows, Action(name="row.set", effect_class=EffectClass.REVERSIBLE, probed=True))
        self.answer, self.asked = answer, 0

    def probe(self, record: StepRecord, idempotency_key: str) -> ProbeResult:
        self.asked += 1
        return ProbeResult.read(self.answer)


def a_lost_row(answer: Any, *, now: Any) -> Shop:
    shop = Shop()
    shop.setting = ProbedRows(shop.rows, answer)
    shop.intend("row.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=Snapshot.of(5))
    shop.rows["tea"] = now
    shop.clock.advance(LATER_S)
    return shop


def test_looking_goes_before_asking() -> None:
    shop = a_lost_row(Probe.FOUND, now=5)
    assert shop.apply().counts == {"never_took_effect": 1}
    assert shop.setting.asked == 0  # type: ignore[attr-defined]


def test_a_row_that_somebody_else_changed_is_left_alone_if_the_step_never_took_effect() -> None:
    shop = a_lost_row(Probe.NOT_FOUND, now=9)
    assert shop.apply().counts == {"never_took_effect": 1}
    assert shop.rows["tea"] == 9


def test_a_row_is_restored_if_the_target_system_knows_what_the_step_left() -> None:
    shop = a_lost_row(Found(after=9), now=9)
    assert shop.apply().counts == {"restored": 1}
    assert shop.rows["tea"] == 5


def test_a_row_is_a_conflict_if_it_is_not_what_the_step_left() -> None:
    shop = a_lost_row(Found(after=7), now=9)
    assert decisions(shop.plan()) == (("1", "review: conflict"),)


def test_a_row_is_for_a_person_if_nobody_knows_what_the_step_left() -> None:
    shop = a_lost_row(Probe.FOUND, now=9)
    assert decisions(shop.plan()) == (("1", "review: no_snapshot"),)
