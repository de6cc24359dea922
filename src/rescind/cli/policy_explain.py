"""`rescind policy explain`: why a call was refused, by which rule, and what lifts it."""

import re
from typing import TYPE_CHECKING, Any

import click

from rescind.cli.moments import spoken, time_of_day
from rescind.cli.narrative import tell
from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stopping import resume_command
from rescind.cli.stores import command_line, find_store, history_of, journal_of
from rescind.errors import ConfigError, UsageError
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import Entry, Intended, Refused, Signalled
from rescind.model.level import Level
from rescind.model.order import Measure, Order, OrderSet
from rescind.recovery.reading import every_run, the_one_meant

if TYPE_CHECKING:
    from rescind.database.address import StoreAt
    from rescind.journal.port import Journal
    from rescind.triggers.policy import Policy

_SIGNAL_ID = re.compile(r"\bsig_[0-9a-z]+\b")
_RULE = re.compile(r"\brule (.+?), signal sig_")

_BEHIND = len("  lifted by ")

SHOWN_MAX = 50
"""Refusals that are explained; a run records at most a few dozen, but may be continued often."""


class Explained:
    """One refusal with all that belongs to it.

    Attributes:
        entry, refused: The refusal.
        signals: What was noticed that led to it, of this run.
        orders: The orders that held it, as far as this store knows them.
        rule: The rule of the policy; empty if none was involved.
    """

    def __init__(
        self, entry: Entry, refused: Refused, signals: list[Signalled], orders: list[Order], rule: str
    ) -> None:
        self.entry, self.refused, self.signals, self.orders, self.rule = entry, refused, signals, orders, rule


@click.command(short_help="Say why calls of a run were refused, and what lifts it.")
@click.argument("step", metavar="RUN[/STEP]")
@common
def explain(*, step: str, out: Out) -> int:
    """Say why calls of a run were refused: which rule, which signal with which numbers, and what lifts it.

    With a STEP, only what was refused after it and before the next one. The beginning of a run's id will do.
    """
    store = find_store(given_store())
    with journal_of(store) as journal:
        run_id, step_id = _named(journal, step)
        entries = list(every_entry(journal, Query(run_id=run_id)))
    history = history_of(store)
    policy = _policy()
    noticed = [entry for entry in entries if isinstance(entry.event, Signalled)]
    found = _explained(_around(entries, run_id, step_id), noticed, history)[-SHOWN_MAX:]
    for each in found:
        if not each.rule and each.signals and policy is not None:  # a hold does not say by which rule
            each.rule = policy.decide(each.signals[0].signal, each.entry.run, each.refused.action).rule_name
    if out.json:
        out.emit(
            {
                "run_id": run_id,
                "step_id": step_id,
                "refusals": [_as_json(each, history, policy, store) for each in found],
            }
        )
        return 0
    if not found:
        out.say(f"nothing of {safe(f'{run_id}/{step_id}' if step_id else run_id)} was refused by an order or a rule")
        waited = command_line("approvals", "list", "--all", store=store)
        out.say(f"  what waited for a person, and what was decided: {waited}")
        for entry in noticed:
            out.say(f"  {time_of_day(entry.recorded_at)}  {tell(entry)}")
        return 0
    for each in found:
        _say(each, history, policy, store, out)
    return 0


def _named(journal: "Journal", text: str) -> tuple[str, str]:
    # A run's id may hold a slash, so the whole is tried as a run first.
    known = [run.run_id for run in every_run(journal, Query())]
    run, slash, step_id = text.rpartition("/")
    if text in known or not slash:
        return the_one_meant(text, known, what="run"), ""
    return the_one_meant(run, known, what="run"), step_id


def _around(entries: list[Entry], run_id: str, step_id: str) -> list[Entry]:
    if not step_id:
        return entries
    intended = [(place, entry.event) for place, entry in enumerate(entries) if isinstance(entry.event, Intended)]
    places, steps = [place for place, _ in intended], [event.step.step_id for _, event in intended]
    if step_id not in steps:
        raise UsageError(
            f"run {run_id} has no step {step_id!r}. A refused call has none: give the run alone, or the step before it"
        )
    nth = steps.index(step_id)
    return entries[places[nth] : places[nth + 1] if nth + 1 < len(places) else None]


def _explained(entries: list[Entry], noticed: list[Entry], history: OrderSet) -> list[Explained]:
    signals = {entry.event.signal.signal_id: entry.event for entry in noticed if isinstance(entry.event, Signalled)}
    orders = {order.order_id: order for order in history.orders}
    found: list[Explained] = []
    for entry in entries:
        refused = entry.event
        if not isinstance(refused, Refused):
            continue
        held = [orders[order_id] for order_id in refused.order_ids if order_id in orders]
        ids = dict.fromkeys([*_SIGNAL_ID.findall(refused.reason), *(order.cause for order in held)])
        rule = _RULE.search(refused.reason)
        triggers = [order.trigger for order in held if order.trigger]
        name = rule[1] if rule else triggers[0] if triggers else ""
        found.append(Explained(entry, refused, [signals[each] for each in ids if each in signals], held, name))
    return found


def _say(each: Explained, history: OrderSet, policy: "Policy | None", store: "StoreAt", out: Out) -> None:
    refused = each.refused
    level = f" at level {refused.level}" if refused.level != "normal" else ""
    out.say(f"{time_of_day(each.entry.recorded_at)}  {safe(refused.action)} was refused{safe(level)}", style="bold")
    out.tell(f"  why       {safe(refused.reason)}", behind=_BEHIND)
    for signalled in each.signals:
        signal = signalled.signal
        numbers = ", ".join(f"{name}={value}" for name, value in signal.facts.items())
        what = f"{safe(signal.kind.value)}.{safe(signal.rule)}, {signal.severity.label}: {safe(signal.detail)}"
        out.tell(f"  signal    {what}", behind=_BEHIND)
        if numbers:
            out.tell(f"            {safe(numbers)}", behind=_BEHIND)
    if each.rule:
        out.tell(f"  rule      {safe(each.rule)}, {safe(_origin(each.rule, policy))}", behind=_BEHIND)
    for order in each.orders:
        out.say(f"  order     {safe(order.order_id)}: {safe(order.what)}")
    for way in _ways_out(each, history, store):
        out.say(f"  lifted by {way}")
    out.say()


def _ways_out(each: Explained, history: OrderSet, store: "StoreAt") -> list[str]:
    standing = {order.order_id for order in history.standing}
    ways: list[str] = []
    for order in each.orders:
        if order.order_id not in standing:
            ways.append(f"nothing any more: order {safe(order.order_id)} has been lifted")
            continue
        lift = resume_command([order.order_id], store)
        itself = (
            "itself, once its cooldown is over and its probes are good; or " if order.measure is Measure.TRIP else ""
        )
        ways.append(f"{itself}{lift}")
    unknown = [order_id for order_id in each.refused.order_ids if order_id not in {o.order_id for o in each.orders}]
    if unknown:
        ways.append(f"whoever holds the order at a switch: `rescind status` shows it ({safe(', '.join(unknown))})")
    if not ways and each.signals:
        holds = [words for signalled in each.signals for words in signalled.responses if " for " in words]
        if each.refused.level != Level.NORMAL.label and holds:
            ways.append(f"itself, in time: the process of the run holds it and forgets it ({safe(', '.join(holds))})")
        else:
            ways.append("nothing that stands: this one call was refused, and the next one is judged anew")
    return ways or ["what the reason says: no order stands behind it"]


def _origin(rule: str, policy: "Policy | None") -> str:
    if policy is None:
        return "of a policy that cannot be read now"
    found = next((each for each in (*policy.rules, *policy.defaults) if each.name == rule), None)
    return found.origin if found is not None else "which the policy in force here does not have"


def _policy() -> "Policy | None":
    from rescind.triggers.policy_file import policy_in_force

    try:
        return policy_in_force()
    except ConfigError:  # it explains what was, and `rescind policy check` says what is wrong now
        return None


def _as_json(each: Explained, history: OrderSet, policy: "Policy | None", store: "StoreAt") -> dict[str, Any]:
    from rescind.cli.stopping import order_as_json

    refused = each.refused
    return {
        "at": spoken(each.entry.recorded_at),
        "action": refused.action,
        "level": refused.level,
        "reason": refused.reason,
        "rule": each.rule,
        "origin": _origin(each.rule, policy) if each.rule else "",
        "signals": [
            {
                "signal_id": signalled.signal.signal_id,
                "signal": signalled.signal.name,
                "severity": signalled.signal.severity.label,
                "detail": signalled.signal.detail,
                "facts": signalled.signal.facts,
                "responses": list(signalled.responses),
            }
            for signalled in each.signals
        ],
        "orders": [order_as_json(order) for order in each.orders],
        "lifted_by": _ways_out(each, history, store),
    }
