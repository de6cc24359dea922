"""One alert: what happened, in words for people and in data for programs."""

import hashlib
import re
import shlex
from datetime import UTC, datetime
from typing import Any, Literal, cast

import msgspec

from rescind.clock import to_us
from rescind.model.level import Level
from rescind.model.order import Lift, Measure, Order
from rescind.switch.alerts.text import encodable, line_of
from rescind.switch.wire import lift_doc, order_doc

Severity = Literal["critical", "warning", "info"]

_TITLE_SCOPE_LENGTH_MAX = 120
_IDS_SHOWN = 5
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody outside should hear of.

    Attributes:
        alert_id: The same whenever the same thing is told again, by whichever switch, so that receivers see it once.
            Letters, digits, `_` and `-` only.
        kind: `order.placed`, `lift.in_force`, `lift.waiting`, `switch.cannot_store`, `switch.stores_again`, …
        severity: `critical` if agents were stopped or cannot be; `warning` if somebody should look; else `info`.
        title: One line of printable text.
        body: Lines of printable text; hostile parts are escaped, and none of them makes a line of its own.
        subject: What it is about: `order/ID`, `lift/ID` or `switch/ID`.
        switch_id: The switch that says so.
        at: When it happened, aware, UTC.
        data: Plain JSON, not escaped: the documents of `rescind/switch/wire.py`.
        source: Who says so, if it is no switch: a path such as `/rescind/journal`.
    """

    alert_id: str
    kind: str
    severity: Severity
    title: str
    body: str
    subject: str
    switch_id: str
    at: datetime
    data: dict[str, Any] = {}  # msgspec copies an empty default
    source: str = ""


def alert_of_order(order: Order, switch_id: str) -> Alert:
    """The alert of an order that is on the switch's disk."""
    level = order.level.label
    severity: Severity = "critical" if order.level >= Level.PAUSED else "warning"
    verb = f"STOP {level}" if order.measure is Measure.LEVEL else f"CONTAIN {order.measure.value}"
    lines = {
        "reason": line_of(order.reason) or "none given",
        "level": level,
        **({} if order.measure is Measure.LEVEL else {"measure": order.measure.value}),
        "scope": line_of(order.scope),
        **({"origin": line_of(order.origin)} if order.origin else {}),
        "by": line_of(order.actor) or "nobody named",
        "at": _moment(order.placed_at),
        "order": line_of(order.order_id),
        "switch": line_of(switch_id),
        "to lift": _resume([order.order_id]),
    }
    return Alert(
        alert_id=_id("order-placed", order.order_id),
        kind="order.placed",
        severity=severity,
        title=f"{verb} {line_of(order.scope, _TITLE_SCOPE_LENGTH_MAX)}",
        body=_body(lines),
        subject=f"order/{line_of(order.order_id)}",
        switch_id=switch_id,
        at=order.placed_at,
        data={"order": _plain(order_doc(order))},
    )


def alert_of_lift(lift: Lift, *, in_force: bool, waits_for: str, switch_id: str) -> Alert:
    """The alert of a lift that is on the switch's disk.

    Args:
        lift: The lift.
        in_force: Whether it lifts by now.
        waits_for: If not, what is missing, for people: `a second person`. The same lift that waits for something else
            later is another alert.
        switch_id: The switch that says so.
    """
    order_ids = sorted(lift.order_ids)
    lines = {
        "reason": line_of(lift.reason) or "none given",
        "orders": _named(order_ids),
        "by": line_of(lift.actor) or "nobody named",
        "at": _moment(lift.lifted_at),
        "lift": line_of(lift.lift_id),
        "switch": line_of(switch_id),
    }
    if not in_force:
        lines = {"waits for": line_of(waits_for) or "somebody's consent", **lines, "until then": "the orders stand"}
    kind = "lift.in_force" if in_force else "lift.waiting"
    parts = (lift.lift_id,) if in_force else (lift.lift_id, waits_for)
    return Alert(
        alert_id=_id(kind.replace(".", "-"), *parts),
        kind=kind,
        severity="info" if in_force else "warning",
        title=f"{'LIFTED' if in_force else 'LIFT WAITS'} {_named(order_ids)}",
        body=_body(lines),
        subject=f"lift/{line_of(lift.lift_id)}",
        switch_id=switch_id,
        at=lift.lifted_at,
        data={"lift": _plain(lift_doc(lift)), "in_force": in_force, "waits_for": encodable(waits_for)},
    )


def alert_of_cannot_store(problem: str, *, switch_id: str, at: datetime) -> Alert:
    """The alert of a switch that could not take a stop now: its disk is full, read-only or hangs."""
    title = f"SWITCH {line_of(switch_id)} cannot take a stop"
    remedy = "stop through another switch until this one's disk is mended"
    lines = {"problem": line_of(problem), "at": _moment(at), "switch": line_of(switch_id), "remedy": remedy}
    return _alert_of_switch("cannot_store", "critical", title, lines, switch_id, at, {"problem": encodable(problem)})


def alert_of_stores_again(*, switch_id: str, at: datetime) -> Alert:
    """The alert of a switch that takes stops again."""
    title = f"SWITCH {line_of(switch_id)} takes stops again"
    lines = {"at": _moment(at), "switch": line_of(switch_id)}
    return _alert_of_switch("stores_again", "info", title, lines, switch_id, at, {})


def _alert_of_switch(
    what: str,
    severity: Severity,
    title: str,
    lines: dict[str, str],
    switch_id: str,
    at: datetime,
    data: dict[str, Any],
) -> Alert:
    return Alert(
        alert_id=_id(f"switch-{what}", switch_id, str(to_us(at))),
        kind=f"switch.{what}",
        severity=severity,
        title=title,
        body=_body(lines),
        subject=f"switch/{line_of(switch_id)}",
        switch_id=switch_id,
        at=at,
        data=data,
    )


def _id(kind: str, *parts: str) -> str:
    """An id for a header. Whoever places an order chooses its id, so an odd one is replaced by its hash."""
    text = "_".join(parts)
    if _PLAIN_ID.fullmatch(text) is None:
        text = hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]
    return f"{kind}_{text}"


def _plain(document: msgspec.Struct) -> dict[str, Any]:
    """The document as plain JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(document)
    return {name: _plain_value(value) for name, value in found.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list | tuple):
        return [encodable(str(item)) for item in cast("list[object]", value)]  # ids
    return value


def _body(lines: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _named(order_ids: list[str]) -> str:
    shown = ", ".join(line_of(order_id, 80) for order_id in order_ids[:_IDS_SHOWN])
    return shown if len(order_ids) <= _IDS_SHOWN else f"{shown} and {len(order_ids) - _IDS_SHOWN} more"


def _resume(order_ids: list[str]) -> str:
    # Quoted, since somebody will paste it into a shell.
    return f'rescind resume {shlex.join(line_of(order_id) for order_id in order_ids)} --reason "…"'


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
