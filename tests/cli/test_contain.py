"""`rescind contain`: measures as orders, shown by status and given back by resume."""

from pathlib import Path

import pytest

from cli.conftest import Answer, Rescind
from rescind.model.level import Level
from rescind.model.order import Measure, OrderSet
from rescind.switch.store import SqliteOrders

pytestmark = pytest.mark.usefixtures("shop")


def placed_measures(answer: Answer) -> set[tuple[str, str, str]]:
    orders = [each["order"] for each in answer.json["orders"]]
    return {(order["measure"], order["scope"], order["level"]) for order in orders}


def history() -> OrderSet:
    orders = SqliteOrders(Path("store"))
    try:
        return orders.history()
    finally:
        orders.close()


@pytest.mark.parametrize(
    ("flag", "measure", "level"),
    [
        ("--revoke", "revoke", "paused"),
        ("--quarantine", "quarantine", "halted"),
        ("--block-fan-out", "block_fan_out", "normal"),
        ("--pause-queue", "pause_queue", "normal"),
        ("--open-breaker", "forced_open", "read_only"),
    ],
)
def test_each_measure_is_an_order_at_the_least_level_that_it_takes(
    rescind: Rescind, flag: str, measure: str, level: str
) -> None:
    answer = rescind("contain", "run:run-1", flag, "--cause", "sig-7", "--reason", "rogue", "--json")

    assert answer.status == 0
    assert placed_measures(answer) == {(measure, "run:run-1", level)}
    (order,) = history().standing
    assert (order.measure, order.cause, order.reason) == (Measure(measure), "sig-7", "rogue")


def test_several_measures_are_several_orders_and_a_level_is_one_more(rescind: Rescind) -> None:
    answer = rescind("contain", "tenant:acme", "--revoke", "--pause-queue", "--level", "read-only", "--json")

    assert answer.json["durable"] is True
    assert placed_measures(answer) == {
        ("revoke", "tenant:acme", "paused"),
        ("pause_queue", "tenant:acme", "normal"),
        ("level", "tenant:acme", "read_only"),
    }


@pytest.mark.parametrize("scope", ["run:run-1", "tree:run-1"])
def test_a_coordinator_is_isolated_with_all_that_it_has_started(rescind: Rescind, scope: str) -> None:
    answer = rescind("contain", scope, "--isolate", "--json")

    assert {(measure, scope) for measure, scope, _ in placed_measures(answer)} == {
        ("quarantine", "tree:run-1"),
        ("revoke", "tree:run-1"),
        ("block_fan_out", "tree:run-1"),
    }


def test_what_was_contained_is_shown_with_what_it_answers_and_what_it_does(rescind: Rescind) -> None:
    said = rescind("contain", "run:run-1", "--quarantine", "--cause", "inc-3")

    assert "quarantine run:run-1 (halted): runs end, and are neither retried nor resumed" in said.out
    assert "for inc-3" in said.out
    shown = rescind("status")
    assert "quarantine run:run-1 (halted)" in shown.out
    assert "for inc-3" in shown.out
    (order,) = rescind("status", "--json").json["orders"]
    assert (order["measure"], order["cause"], order["trigger"]) == ("quarantine", "inc-3", "")


def test_resume_gives_back_every_measure_on_a_scope_and_names_them(rescind: Rescind) -> None:
    rescind("contain", "tree:run-1", "--isolate")

    answer = rescind("resume", "tree:run-1", "--reason", "it was the wrong one")

    assert answer.status == 0
    for measure in ("quarantine tree:run-1", "revoke tree:run-1", "block_fan_out tree:run-1"):
        assert f"  {measure}" in answer.out
    assert history().standing == ()


def test_resume_by_id_gives_back_one_measure_and_names_those_that_stay(rescind: Rescind) -> None:
    placed = rescind("contain", "run:run-1", "--revoke", "--block-fan-out", "--json").json["orders"]
    (revoke,) = [each["order"]["order_id"] for each in placed if each["order"]["measure"] == "revoke"]

    answer = rescind("resume", revoke, "--reason", "mended", "--json").json

    assert [order["measure"] for order in answer["lifted"]] == ["revoke"]
    assert [order["measure"] for order in answer["still_covering"]] == ["block_fan_out"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run:run-1"], "say what to do about run:run-1: --revoke"),
        (["rn:run-1", "--revoke"], "did you mean 'run'?"),
        (["tenant:acme", "--isolate"], "write run:ID or tree:ID, not tenant:acme"),
        (["run:a+tree:b", "--isolate"], "write run:ID or tree:ID"),
        (["run:a+action:pay", "--quarantine"], "leave out `action:…`"),
        (["run:a", "--revoke", "--cause", "a\nb"], "is no signal and no incident"),
        (["run:a", "--level", "normal"], "holds nothing"),
        (["run:a", "--level", "frozen"], "the levels are"),
    ],
)
def test_what_cannot_be_contained_is_refused_with_a_remedy_and_nothing_stands(
    rescind: Rescind, words: list[str], says: str
) -> None:
    answer = rescind("contain", *words)

    assert answer.status == 2
    assert says in answer.err
    assert history().standing == ()


def test_a_revocation_may_be_for_one_action(rescind: Rescind) -> None:
    rescind("contain", "run:run-1+action:thing.sell", "--revoke")

    (order,) = history().standing
    assert (order.measure, order.level) == (Measure.REVOKE, Level.PAUSED)
