"""Which steps an undo is about."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import NOON
from compensation.undo_world import Charging, Shop, decisions
from rescind.compensation.planning.selection import Selection, select_steps
from rescind.compensation.planning.survey import make_plan
from rescind.errors import UsageError
from rescind.model.entry import CompensationEnded, CompensationIntended, Disposition, StepRef
from rescind.model.outcome import Completed

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def shop() -> Shop:
    """Three runs; each has a step an hour, of which run-1 has two."""
    shop = Shop()
    for run, info in (
        ("run-1", {}),
        ("run-2", {"agent_version": "2.3.0", "trace_id": "other-trace"}),
        ("run-3", {"agent_name": "mail-agent", "tenant": "umbrella"}),
    ):
        shop.put(run, CompensationIntended(step_id="0", kind="", idempotency_key="", plan_digest=""), **info)
    for run in ("run-1", "run-2", "run-1", "run-3"):
        shop.charge(run)
        shop.clock.advance(3600)
    return shop


def chosen(shop: Shop, **conditions: Any) -> list[str]:
    return [str(record.ref) for record in select_steps(shop.journal, Selection(**conditions))]


@pytest.mark.parametrize(
    ("conditions", "steps"),
    [
        ({"run_ids": ("run-1",)}, ["run-1/1", "run-1/3"]),
        ({"run_ids": ("run-3", "run-1", "run-1")}, ["run-1/1", "run-1/3", "run-3/4"]),
        ({"trace_id": TRACE}, ["run-1/1", "run-1/3", "run-3/4"]),
        ({"trace_id": "4bf92f35"}, ["run-1/1", "run-1/3", "run-3/4"]),
        ({"agent": "billing-agent"}, ["run-1/1", "run-2/2", "run-1/3"]),
        ({"agent": "billing-agent@2.3.0"}, ["run-2/2"]),
        ({"tenant": "umbrella"}, ["run-3/4"]),
        ({"tenant": "umbrella", "run_ids": ("run-1",)}, []),
        ({"agent": "billing-agent", "trace_id": TRACE}, ["run-1/1", "run-1/3"]),
        ({"since": NOON + timedelta(hours=1)}, ["run-2/2", "run-1/3", "run-3/4"]),
        ({"until": NOON + timedelta(hours=1)}, ["run-1/1"]),
        ({"run_ids": ("run-1",), "since": NOON + timedelta(hours=1)}, ["run-1/3"]),
        ({"since": NOON + timedelta(minutes=1), "until": NOON + timedelta(minutes=2)}, []),
    ],
)
def test_all_conditions_must_hold(shop: Shop, conditions: dict[str, Any], steps: list[str]) -> None:
    assert chosen(shop, **conditions) == steps


def test_what_was_recorded_after_the_range_of_time_counts_all_the_same(shop: Shop) -> None:
    ref = shop.intend("card.charge", None)
    until = shop.clock.now() + timedelta(minutes=1)
    shop.clock.advance(7200)
    shop.end(ref, Completed())
    ended = CompensationEnded(step_id=ref.step_id, disposition=Disposition.RESTORED, plan_digest="d")
    shop.put(ref.run_id, ended)

    records = select_steps(shop.journal, Selection(until=until, run_ids=("run-1",)))
    assert records[-1].ref == ref
    assert records[-1].outcome == Completed()
    assert records[-1].disposition is Disposition.RESTORED


def test_pages_are_read_to_their_end() -> None:
    shop = Shop()
    refs = [StepRef("run-1", str(number)) for number in range(1, 1201)]
    for _ in refs:
        shop.charge()

    assert [record.ref for record in select_steps(shop.journal, Selection(run_ids=("run-1",)))] == refs


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"run_ids": ("run-4",)}, r"no run 'run-4'; did you mean 'run-\d'"),
        ({"run_ids": ("run-",)}, "could be any of 3: run-1, run-2, run-3"),
        ({"run_ids": ("ru",)}, "knows no run 'ru'"),
        ({"trace_id": "4bf93"}, "no trace '4bf93'"),
        ({"agent": "biling-agent"}, "no agent 'biling-agent'; did you mean 'billing-agent'"),
        ({"agent": "billing"}, "no agent 'billing'"),
        ({"agent": "billing-agent@2.4.1"}, "did you mean 'billing-agent@2.4.0'"),
        ({"agent": "billing agent"}, "cannot read agent"),
        ({"tenant": "acmee"}, "no tenant 'acmee'; did you mean 'acme'"),
    ],
)
def test_what_the_journal_does_not_know_is_refused_with_the_nearest_it_does(
    shop: Shop, conditions: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        select_steps(shop.journal, Selection(**conditions))


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({}, "choose what to undo"),
        ({"since": datetime(2026, 11, 21)}, "since 2026-11-21T00:00:00 has no time zone"),  # noqa: DTZ001  # the point
        ({"since": NOON, "until": NOON}, "no time lies between"),
        ({"run_ids": ("",)}, "the run to undo is empty"),
        ({"trace_id": " "}, "the trace to undo is empty"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Selection(**conditions)


def test_a_selection_is_recorded_as_json_values() -> None:
    assert Selection(run_ids=("run-1",), since=NOON).as_dict() == {
        "run_ids": ["run-1"],
        "since": "2026-11-21T12:00:00Z",
    }


# --- parts of runs ---


@pytest.fixture
def parts() -> Shop:
    """Two runs over two rows, with a charge and a mail."""
    shop = Shop()
    shop.set("tea", 1)
    shop.set("jam", 1)
    shop.charge()
    shop.set("tea", 2, run="run-2")
    shop.mail(run="run-2")
    return shop


RUNS = ("run-1", "run-2")


@pytest.mark.parametrize(
    ("conditions", "steps"),
    [
        ({"actions": ("row.set",)}, ["run-1/1", "run-1/2", "run-2/4"]),
        ({"actions": ("row.set", "mail.send")}, ["run-1/1", "run-1/2", "run-2/4", "run-2/5"]),
        ({"targets": ("shop/row/tea",)}, ["run-1/1", "run-2/4"]),
        ({"targets": ("shop/row",)}, ["run-1/1", "run-1/2", "run-2/4"]),
        ({"targets": ("shop",), "actions": ("row.set",), "exclude": ("shop/row/tea",)}, ["run-1/2"]),
        ({"exclude": ("run-1/2",)}, ["run-1/1", "run-1/3", "run-2/4", "run-2/5"]),
        ({"exclude": ("row.set", "run-2/5")}, ["run-1/3"]),
        ({"exclude": ("shop/row", "card.charge", "mail.send")}, []),
    ],
)
def test_a_part_of_the_runs_can_be_chosen(parts: Shop, conditions: dict[str, Any], steps: list[str]) -> None:
    assert chosen(parts, run_ids=RUNS, **conditions) == steps


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ({"actions": ("row.sett",)}, r"no action 'row.sett'; did you mean 'row.set'\?"),
        ({"targets": ("shop/row/tee",)}, r"no target 'shop/row/tee'; did you mean 'shop/row/tea'\?"),
        ({"exclude": ("run-1/9",)}, r"no step, action or target 'run-1/9'; did you mean 'run-1/"),
        ({"exclude": ("zzz",)}, r"no step, action or target 'zzz'; there are: "),
        ({"exclude": ("",)}, r"excluded name to undo is empty"),
    ],
)
def test_a_name_that_the_runs_do_not_have_is_a_slip(parts: Shop, conditions: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        chosen(parts, run_ids=RUNS, **conditions)


def test_leaving_out_alone_chooses_nothing() -> None:
    with pytest.raises(UsageError, match="choose what to undo"):
        Selection(exclude=("row.set",))


def test_a_step_that_several_runs_have_is_left_out_by_name_only() -> None:
    shop = Shop()
    shop.charge(run="run-10", step_id="1")
    shop.charge(run="run-11", step_id="1")

    with pytest.raises(UsageError, match="could be any of 2"):
        chosen(shop, run_ids=("run-10", "run-11"), exclude=("run-/1",))
    assert chosen(shop, run_ids=("run-10", "run-11"), exclude=("run-10/1",)) == ["run-11/1"]


@pytest.mark.parametrize("conditions", [{"actions": ("card.charge",)}, {"exclude": ("card.refund",)}])
def test_what_a_step_left_out_was_declared_to_depend_on_stays(conditions: dict[str, Any]) -> None:
    """U5."""
    shop = Shop()
    other = Charging(name="card.refund")
    shop.charge()
    shop.charge(action="card.refund", depends_on=("1",))
    chosen = Selection(run_ids=("run-1",), **conditions)

    plan = make_plan(shop.journal, chosen, shop.compensators | {"card.refund": other}, shop.clock)

    assert decisions(plan) == (("1", "review: blocked"),)
