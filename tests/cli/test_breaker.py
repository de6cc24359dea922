"""`rescind breaker`: which are open, open one by hand, reset it."""

from pathlib import Path

import pytest

from builders import NOON_US, an_order
from cli.conftest import Rescind
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.switch.probes import Claim
from rescind.switch.store import SqliteOrders
from rescind.triggers.probing import US, ProbeRule

RULE = ProbeRule.of(cooldown_s=600, probes=3)


@pytest.fixture
def store(folder: Path) -> SqliteOrders:
    return SqliteOrders(folder / ".rescind")


def a_trip(order_id: str = "ord_trip", scope: str = "action:invoice.void") -> Order:
    return an_order(order_id, scope, Level.READ_ONLY, measure=Measure.TRIP, cause="sig_1", trigger="default")


def test_a_breaker_is_forced_open_listed_and_reset(rescind: Rescind, store: SqliteOrders) -> None:
    opened = rescind("breaker", "force-open", "action:invoice.void", "--reason", "wrong totals", "--json")
    assert opened.status == 0
    (order,) = store.standing().orders
    assert (order.measure, order.level, order.reason) == (Measure.FORCED_OPEN, Level.READ_ONLY, "wrong totals")
    assert opened.json["order"]["order_id"] == order.order_id

    shown = rescind("breaker", "list")
    assert shown.status == 0
    assert "forced open  action:invoice.void" in shown.out
    assert "wrong totals" in shown.out

    assert rescind("breaker", "reset", "action:invoice.void", "--reason", "fixed").status == 0
    assert store.standing().orders == ()
    assert "no breaker is open" in rescind("breaker", "list").out


def test_the_list_says_how_far_a_tripped_one_is(rescind: Rescind, store: SqliteOrders) -> None:
    store.place(a_trip())
    (shown,) = rescind("breaker", "list", "--json").json["breakers"]
    assert (shown["state"], shown["probes"], shown["order"]["trigger"]) == ("open", [], "default")
    text = rescind("breaker", "list").out
    assert "rescind breaker reset ord_trip --reason" in text
    assert "closes  by itself, once 3 writes that it admits now have succeeded" in text  # NOON is long ago

    now_us = NOON_US + 600 * US
    claims = [store.claim_probe([a_trip()], by="guard-1", now_us=now_us, rule=RULE) for _ in range(2)]
    assert isinstance(claims[0], Claim)
    store.end_probe(claims[0], succeeded=True, now_us=now_us)
    text = rescind("breaker", "list").out
    assert "half-open  action:invoice.void" in text
    assert "round 1: 1 succeeded, 0 failed, 1 call under way" in text
    assert "for sig_1, by the rule default" in text

    assert isinstance(claims[1], Claim)
    store.end_probe(claims[1], succeeded=False, now_us=now_us)
    assert "open  action:invoice.void" in rescind("breaker", "list").out.splitlines()


def test_reset_lifts_breakers_and_leaves_other_orders_of_the_scope(rescind: Rescind, store: SqliteOrders) -> None:
    stop = an_order("ord_stop", "action:invoice.void")
    for order in (a_trip(), stop, a_trip("ord_other", "action:mail.send")):
        store.place(order)

    answer = rescind("breaker", "reset", "action:invoice.void", "--reason", "fixed", "--json")

    assert answer.status == 0
    assert [each["order_id"] for each in answer.json["lifted"]] == ["ord_trip"]
    assert {order.order_id for order in store.standing().orders} == {"ord_stop", "ord_other"}


def test_reset_names_what_is_open_where_the_scope_is_not(rescind: Rescind, store: SqliteOrders) -> None:
    store.place(a_trip())
    store.place(an_order("ord_stop", "agent:billing-agent"))

    answer = rescind("breaker", "reset", "agent:billing-agent", "--reason", "fixed")

    assert answer.status == 2
    assert "no order of forced_open or trip stands with exactly the scope 'agent:billing-agent'" in answer.err
    assert "ord_trip (action:invoice.void)" in answer.err
    assert len(store.standing().orders) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reset", "action:a"), "--reason"),
        (("reset", "action:a", "--reason", "  "), "--reason"),
        (("reset", "--reason", "fixed"), "rescind breaker list"),
        (("force-open", "acton:a"), "did you mean 'action'"),
        (("force-open", "action:a", "--cause", "sig\n1"), "is no signal and no incident"),
    ],
)
def test_bad_input_changes_nothing_and_says_how_to_mend_it(
    rescind: Rescind, store: SqliteOrders, words: tuple[str, ...], message: str
) -> None:
    answer = rescind("breaker", *words)

    assert answer.status == 2
    assert message in answer.err
    assert store.standing().orders == ()


def test_hostile_text_of_an_order_does_not_reach_the_terminal(rescind: Rescind, store: SqliteOrders) -> None:
    store.place(an_order("ord_1", level=Level.READ_ONLY, measure=Measure.TRIP, reason="\x1b[2Jgone", actor="\x07me"))
    shown = rescind("breaker", "list").out
    assert "\x1b" not in shown
    assert "\x07" not in shown
