"""What an alert says, and that nobody can make it say something else."""

import json

import msgspec
import pytest

from builders import NOON, a_lift, an_order
from rescind.model.level import Level
from rescind.switch.alerts import (
    Alert,
    alert_of_cannot_store,
    alert_of_lift,
    alert_of_order,
    alert_of_stores_again,
)
from rescind.switch.alerts.text import without_mentions

HOSTILE = "done\nby: nobody\x1b[2J \u202ekcab \u200b \ud800 <b>*bold*</b>"


def test_an_order_is_told_with_all_that_the_reader_needs() -> None:
    alert = alert_of_order(an_order("ord-1", "agent:billing-agent"), "sw-1")

    assert alert.title == "STOP halted agent:billing-agent"
    assert alert.body.splitlines() == [
        "reason: a test",
        "level: halted",
        "scope: agent:billing-agent",
        "by: ops",
        "at: 2026-11-21 12:00:00 UTC",
        "order: ord-1",
        "switch: sw-1",
        'to lift: rescind resume ord-1 --reason "…"',
    ]
    assert (alert.kind, alert.subject, alert.at) == ("order.placed", "order/ord-1", NOON)
    assert alert.data["order"]["level"] == "halted"


@pytest.mark.parametrize(
    ("level", "severity"),
    [
        (Level.HALTED, "critical"),
        (Level.PAUSED, "critical"),
        (Level.READ_ONLY, "warning"),
        (Level.SUPERVISED, "warning"),
    ],
)
def test_severity_follows_the_level(level: Level, severity: str) -> None:
    assert alert_of_order(an_order(level=level), "sw-1").severity == severity


def test_a_lift_says_whether_it_lifts_and_what_it_waits_for() -> None:
    lift = a_lift("ord-2", "ord-1")
    waiting = alert_of_lift(lift, in_force=False, waits_for="a second person", switch_id="sw-1")
    lifted = alert_of_lift(lift, in_force=True, waits_for="", switch_id="sw-1")

    assert (waiting.kind, waiting.title, waiting.severity) == ("lift.waiting", "LIFT WAITS ord-1, ord-2", "warning")
    assert waiting.body.startswith("waits for: a second person\n")
    assert (lifted.kind, lifted.title, lifted.severity) == ("lift.in_force", "LIFTED ord-1, ord-2", "info")
    assert waiting.data["waits_for"] == "a second person"
    assert lifted.data["lift"]["order_ids"] == ["ord-1", "ord-2"]


def test_a_lift_of_many_orders_names_a_few_and_counts_the_rest() -> None:
    lift = a_lift(*(f"ord-{number}" for number in range(9)))
    alert = alert_of_lift(lift, in_force=True, waits_for="", switch_id="sw-1")

    assert alert.title.endswith("ord-4 and 4 more")


def test_the_same_thing_has_the_same_id_from_each_switch_and_different_things_have_different_ones() -> None:
    order, lift = an_order("ord-1"), a_lift("ord-1")
    told = [
        alert_of_order(order, "sw-1"),
        alert_of_order(order, "sw-2"),
        alert_of_order(an_order("ord-2"), "sw-1"),
        alert_of_lift(lift, in_force=False, waits_for="a second person", switch_id="sw-1"),
        alert_of_lift(lift, in_force=False, waits_for="one more switch", switch_id="sw-1"),
        alert_of_lift(lift, in_force=True, waits_for="", switch_id="sw-1"),
        alert_of_cannot_store("disk full", switch_id="sw-1", at=NOON),
        alert_of_stores_again(switch_id="sw-1", at=NOON),
    ]

    assert told[0].alert_id == told[1].alert_id
    assert len({alert.alert_id for alert in told}) == len(told) - 1


def hostile_alerts() -> list[Alert]:
    order = msgspec.structs.replace(an_order(HOSTILE), reason=HOSTILE, actor=HOSTILE)
    lift = msgspec.structs.replace(a_lift(HOSTILE, lift_id=HOSTILE), reason=HOSTILE, actor=HOSTILE)
    return [
        alert_of_order(order, HOSTILE),
        alert_of_lift(lift, in_force=False, waits_for=HOSTILE, switch_id=HOSTILE),
        alert_of_cannot_store(HOSTILE, switch_id=HOSTILE, at=NOON),
        alert_of_stores_again(switch_id=HOSTILE, at=NOON),
    ]


@pytest.mark.parametrize("alert", hostile_alerts(), ids=lambda alert: alert.kind)
def test_hostile_text_makes_no_line_and_no_header_of_its_own(alert: Alert) -> None:
    assert all(line.isprintable() for line in (alert.title, alert.subject, *alert.body.split("\n")))
    assert "\nby: nobody" not in alert.body
    assert alert.alert_id.isascii()
    assert alert.alert_id.replace("_", "").replace("-", "").isalnum()
    json.loads(msgspec.json.encode(alert.data))


def test_the_command_that_lifts_can_be_pasted_whatever_the_order_is_called() -> None:
    alert = alert_of_order(an_order("x; rm -rf $HOME"), "sw-1")

    assert "rescind resume 'x; rm -rf $HOME' --reason" in alert.body


def test_an_endless_reason_is_cut() -> None:
    alert = alert_of_order(msgspec.structs.replace(an_order(), reason="x" * 100_000), "sw-1")

    assert len(alert.body) < 3_000


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("@everyone look", "@ everyone look"),
        ("<!channel> and <@U123>", "< !channel> and < @U123>"),
        ("by alice@example.com", "by alice@example.com"),
        ("@Here, @heresy", "@ Here, @heresy"),
    ],
)
def test_a_reason_calls_nobody_up(typed: str, shown: str) -> None:
    assert without_mentions(typed) == shown
