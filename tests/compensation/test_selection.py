"""Which steps an undo is about."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from builders import NOON
from compensation.undo_world import Shop
from rescind.compensation.selection import Selection, select_steps
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
