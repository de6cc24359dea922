"""What guards and verifiers tell a switch of what they have noticed: further documents of `wire`.

`docs/switch.md` tells the protocol. A signal is evidence: it says what was noticed, with the numbers, and may ask for
orders that its sender's policy wants and cannot place by itself, since they would hold the runs of other guards too.
"""

import re
from datetime import datetime
from typing import Any

import msgspec

from rescind.model.order import Measure, Order
from rescind.model.signal import Signal

ASKS_MAX = 10
"""Orders that one signal may ask for."""

FACTS_BYTES_MAX = 8 * 1024
"""Facts of one signal or verdict, as JSON. They are numbers by name, and no place to keep a transcript."""

RULE_LENGTH_MAX = 64
RULE_WORD = re.compile(rf"[a-z][a-z0-9_]{{0,{RULE_LENGTH_MAX - 1}}}")
"""What a signal's or a verdict's rule is, the whole of it. `RULE_LENGTH_MAX` is in characters."""


class AskDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order that the sender's policy wants.

    Attributes:
        scope, level, measure: As of an order. Of an agent, the scope is taken within its identity.
        rule: Which rule of the policy wants it.
        order_id: Of an order about the sender's own run: the id under which its guard holds that already, so that one
            lift lifts both. Otherwise the switch chooses one.
    """

    scope: str
    level: str
    rule: str
    measure: str = Measure.LEVEL.value
    order_id: str = ""


class SignalDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signal, with the fields of `model.signal.Signal` as text.

    Attributes:
        source: The id of the guard that noticed it; its evidence counts while it is connected.
        asks: Orders that its policy wants.
        incident: The incident that its policy has opened or joined; people are told then, however severe it is.
    """

    signal_id: str
    kind: str
    rule: str
    severity: str
    scope: str
    detail: str
    noticed_at: datetime
    facts: dict[str, Any] = {}
    run_id: str = ""
    step_id: str = ""
    source: str = ""
    asks: tuple[AskDoc, ...] = ()
    incident: str = ""


class VerdictDoc(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an external verifier says: a rule engine, another model, a person.

    Attributes:
        verdict_id: Chosen by whoever posts it, so that the same verdict may be sent twice; empty: the switch chooses.
        scope: Whom it is about; or:
        run_id, step_id: Which run, or which step of it.
        holds: Whether what was checked is as it should be; or:
        severity: How bad it is. Without one, what does not hold is `high`, and what does is `info`.
        reason: Why, for people.
        rule: What was checked, in one lower-case word; verdicts of one rule on one scope are grouped.
        facts: The evidence, as JSON values by name.
        judged_at: When; empty: now.
    """

    reason: str
    verdict_id: str = ""
    scope: str = ""
    run_id: str = ""
    step_id: str = ""
    holds: bool | None = None
    severity: str = ""
    rule: str = ""
    facts: dict[str, Any] = {}
    judged_at: datetime | None = None


class Noticed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a signal or a verdict.

    Attributes:
        signal_id: Its id.
        known_before: Whether the switch had it already; then nothing was done.
        placed: Ids of the orders that were placed for it.
        outcome: What became of it, for people, a part for each order that was asked for.
    """

    switch_id: str
    signal_id: str
    known_before: bool = False
    placed: tuple[str, ...] = ()
    outcome: str = ""


class NoticedDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A signal as a switch remembers it, and what became of it. `person` is the name on its sender's token."""

    signal: SignalDoc
    received_at: datetime
    person: str
    placed: tuple[str, ...] = ()
    outcome: str = ""


class NoticedPage(msgspec.Struct, frozen=True, kw_only=True):
    """What a switch has been told lately, newest first, from its memory."""

    switch_id: str
    signals: tuple[NoticedDoc, ...]


def signal_doc(signal: Signal, *, asks: tuple[AskDoc, ...] = (), incident: str = "") -> SignalDoc:
    """The document of a signal."""
    return SignalDoc(
        signal_id=signal.signal_id,
        kind=signal.kind.value,
        rule=signal.rule,
        severity=signal.severity.label,
        scope=str(signal.scope),
        detail=signal.detail,
        noticed_at=signal.noticed_at,
        facts=signal.facts,
        run_id=signal.run_id,
        step_id=signal.step_id,
        source=signal.source,
        asks=asks,
        incident=incident,
    )


def ask_doc(order: Order, *, keeps_id: bool = False) -> AskDoc:
    """The document that asks for an order that a policy has placed, by its `trigger`, where it was noticed."""
    return AskDoc(
        scope=str(order.scope),
        level=order.level.label,
        rule=order.trigger,
        measure=order.measure.value,
        order_id=order.order_id if keeps_id else "",
    )
