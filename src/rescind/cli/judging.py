"""A verdict where there is no switch: recorded in the journal of the store, and answered there as the policy says.

    order placed ─▶ incident ─▶ verdict in the journal

in the order in which a guard does it: if we die in between, what was judged bad is contained, and the paper is missing.
A verdict about a run is answered by the rules of the policy for its agent. One about a scope is about no run that they
could be asked for: if it is critical, the writes of that scope wait for a person, as at a switch.
"""

from typing import TYPE_CHECKING

import msgspec

from rescind.cli.stores import journal_of
from rescind.clock import SystemClock, SystemIds
from rescind.config import load_settings
from rescind.containment.incident import note, open_or_join
from rescind.errors import SequenceConflict
from rescind.journal.behind import drafts_behind
from rescind.journal.pages import every_entry
from rescind.journal.port import Draft, Journal, Query
from rescind.model.entry import Event, Intended, RunOpened, Signalled
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal
from rescind.model.step import RunInfo
from rescind.recovery.reading import every_run, unknown_name
from rescind.switch.desk import new_order, open_store, place_order
from rescind.triggers.policy_file import default_policy, load_policy

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

VERDICT_AGENT = "rescind-verdict"
"""The agent name of the runs that verdicts about scopes are recorded in: each has one of its own, named by its id."""

ACTOR = "policy"
SCOPE_RULE = "verdict"
SCOPE_LEVEL = Level.READ_ONLY


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict led to.

    Attributes:
        known_before: Whether the journal had it already; then nothing was done.
        orders: What was placed for it.
        incident_id: Where it belongs; empty if it called for no incident.
        rule: The rule that decided.
        shadow: Whether the rule only reports, so that nothing was done.
        responses: What the rule says, in words.
    """

    known_before: bool = False
    orders: tuple[Order, ...] = ()
    incident_id: str = ""
    rule: str = ""
    shadow: bool = False
    responses: tuple[str, ...] = ()


def judge_here(store: "StoreAt", signal: Signal) -> Judged:
    """Record a verdict in the store's journal, and answer it. Durable on return.

    Raises: UsageError, for a run or step that the journal does not know; ConfigError, for a policy that cannot be read;
        OrdersUnavailable, JournalUnavailable.
    """
    with journal_of(store) as journal:
        run = _run_of(journal, signal)
        if _is_known(journal, signal):
            return Judged(known_before=True)
        answer = _by_scope(signal) if run is None else _by_policy(signal, run)
        orders = _place(store, signal, answer)
        judged = Judged(
            orders=orders,
            incident_id=_join(journal, signal, orders, run) if answer.opens_incident else "",
            rule=answer.rule,
            shadow=answer.shadow,
            responses=answer.responses,
        )
        _record(journal, signal, judged, run)
    return judged


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done about a verdict."""

    wanted: tuple[tuple[Measure, Level, Scope], ...]
    opens_incident: bool
    rule: str
    shadow: bool = False
    responses: tuple[str, ...]


def _by_policy(signal: Signal, run: RunInfo) -> _Answer:
    source = load_settings().source
    decision = (default_policy() if source is None else load_policy(source)).decide(signal, run, "")
    # What a policy holds "for 60s" is held by the process of the run, which is not this one.
    wanted = tuple(
        (measure, level, response.scope_for(signal, run, ""))
        for response in decision.responses
        for measure, level in response.measures
    )
    return _Answer(
        wanted=() if decision.shadow else wanted,
        opens_incident=decision.opens_incident,
        rule=decision.rule_name,
        shadow=decision.shadow,
        responses=decision.words,
    )


def _by_scope(signal: Signal) -> _Answer:
    holds = signal.severity is Severity.CRITICAL
    return _Answer(
        wanted=((Measure.LEVEL, SCOPE_LEVEL, signal.scope),) if holds else (),
        opens_incident=signal.severity >= Severity.HIGH,
        rule=SCOPE_RULE,
        responses=(f"{SCOPE_LEVEL.label} on {signal.scope}",) if holds else ("report",),
    )


def _place(store: "StoreAt", signal: Signal, answer: _Answer) -> tuple[Order, ...]:
    if not answer.wanted:
        return ()
    clock, ids = SystemClock(), SystemIds()
    placed: list[Order] = []
    orders = open_store(store, create=True)
    try:
        standing = orders.standing().orders
        for measure, level, scope in answer.wanted:
            if any((each.trigger, each.measure, each.scope) == (answer.rule, measure, scope) for each in standing):
                continue
            reason = f"verdict of {signal.source}: {signal.detail}"
            order = new_order(
                scope,
                level,
                measure=measure,
                reason=reason,
                actor=ACTOR,
                cause=signal.signal_id,
                trigger=answer.rule,
                clock=clock,
                ids=ids,
            )
            place_order(orders, order, clock=clock)
            placed.append(order)
    finally:
        orders.close()
    return tuple(placed)


def _join(journal: Journal, signal: Signal, orders: tuple[Order, ...], run: RunInfo | None) -> str:
    clock = SystemClock()
    tenant, agent = (run.tenant, run.agent) if run is not None else ("", "")
    joined = open_or_join(journal, signal, clock=clock, guard_id=signal.source, tenant=tenant, agent=agent)
    for order in orders:
        what = f"{order.what} by rule {order.trigger}"
        note(journal, joined.incident_id, "order", order.order_id, what, clock=clock, actor=order.actor)
    return joined.incident_id


def _record(journal: Journal, signal: Signal, judged: Judged, run: RunInfo | None) -> None:
    event = Signalled(signal, responses=judged.responses, shadow=judged.shadow)
    now_us = SystemClock().now_us()
    if run is not None:
        journal.append([Draft(run_id=run.run_id, event=event, recorded_at_us=now_us)])
        return
    own = RunInfo(run_id=signal.signal_id, agent_name=VERDICT_AGENT)
    events: list[Event] = [RunOpened(run=own, guard_id=signal.source), event]
    try:
        told = ((own.run_id, each) for each in events)
        journal.append(drafts_behind(own.run_id, told, position=-1, at_us=now_us))
    except SequenceConflict:
        return  # the same verdict was given at the same moment, and recorded


def _is_known(journal: Journal, signal: Signal) -> bool:
    run_id = signal.run_id or signal.signal_id
    return any(
        isinstance(entry.event, Signalled) and entry.event.signal.signal_id == signal.signal_id
        for entry in every_entry(journal, Query(run_id=run_id))
    )


def _run_of(journal: Journal, signal: Signal) -> RunInfo | None:
    if not signal.run_id:
        return None
    run = journal.run(signal.run_id)
    if run is None:
        raise unknown_name(signal.run_id, (each.run_id for each in every_run(journal, Query())), what="run")
    if signal.step_id:
        entries = every_entry(journal, Query(run_id=signal.run_id))
        steps = [entry.event.step.step_id for entry in entries if isinstance(entry.event, Intended)]
        if signal.step_id not in steps:
            raise unknown_name(f"{signal.run_id}/{signal.step_id}", steps, what="step")
    return run
