"""What an undo would do: a pure function of the journal, the declared actions and what was seen at the targets.

The laws of a plan, which the tests cite:

U1. *Accounted for.* Every step in scope is in the plan exactly once.
U2. *Order.* A step comes after all that were declared to depend on it, that it caused, and that touched its target
    later. Declared edges are never dropped for inferred ones; of what is not ordered, the newest comes first.
U3. *Nothing in silence.* A restore is planned only if the target was seen, or will be, at the version that the step
    left. Anything else that is there is a conflict, and the action's policy or a person decides (CF1-CF5).
U4. *Doubt is a person's.* Whether an effect took place is decided by looking at its own target, by asking its target
    system (DT1-DT6), or by a person. A compensation that may have happened is repeated only if the action says
    that repeating is safe, or its target system that it has not happened.
U5. *Declared means needed.* If an effect may stay, what it was declared to depend on stays too, for as long as a
    person may still decide about it.
U6. *Same again.* The same steps, declarations and versions give the same digest, in whatever order they are given.
U7. *Once is enough.* What an undo or a person has settled is planned as settled, so that a second undo does nothing.

U21. *Alone unless asked.* Later steps of other runs that depend on what is undone (see `impact`) are left as they are,
    and the plan says how many there are. With a cascade they are in scope like the chosen ones, but for those that
    were excluded by name, and all the laws above hold for all of them together.

(U8 to U20 are those of `execute`.)

What is decided about each step by itself stands in `decide`.
"""

from collections.abc import Iterable
from typing import Any

from rescind.compensation.decision import Decision, Plan, PlanItem, Review, blocks, digest_of_plan, is_undo
from rescind.compensation.planning.decide import decide, settled
from rescind.compensation.planning.forecast import Forecast
from rescind.compensation.planning.known import Known
from rescind.compensation.planning.nesting import WithOuter
from rescind.compensation.planning.order import Order, order_steps
from rescind.compensation.planning.outside import Outside
from rescind.compensation.port import ReviewReason
from rescind.compensation.staying import Staying
from rescind.model.entry import Disposition, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed, Unknown


def plan_undo(records: Iterable[StepRecord], known: Known, *, selection: dict[str, Any] | None = None) -> Plan:
    """Plan the undo of these steps, each given once, in any order.

    Args:
        records: The steps in scope, with all that the journal knows of them.
        known: Everything else.
        selection: What was asked for; kept with the plan, and no part of its digest.
    """
    return plan_ordered(order_steps(records, known.actions), known, selection=selection or {})


def plan_ordered(order: Order, known: Known, *, selection: dict[str, Any]) -> Plan:
    """Plan the undo of steps whose order is known; it depends on nothing that looking at their targets could change."""
    items = tuple(_items(order, known))
    tenants = {record.run.tenant for record in order.records}
    return Plan(
        digest=digest_of_plan(items, order.gates),
        items=items,
        gates=order.gates,
        tenant=tenants.pop() if len(tenants) == 1 else "",
        selection=selection,
    )


def _items(order: Order, known: Known) -> Iterable[PlanItem]:
    forecast = Forecast()
    staying = Staying(order.blocks_on, order.gates_of, order.gates, order.cyclic)
    outside = Outside(known)
    nested = WithOuter(order.inside)
    for record, place, waits_for in zip(order.records, order.places, order.waits_for, strict=True):
        seen = known.version_seen(record.ref)
        site = forecast.site_of(place)
        decision = decide(record, site, known, in_cycle=bool(order.cyclic) and record.ref in order.cyclic)
        decision = nested.decide(record, decision, seen)
        if is_undo(decision):
            decision = _held_back(record, staying, outside) or decision
        if record.disposition is Disposition.SUPERSEDED and not is_undo(decision):
            decision = (
                settled(record, known) or decision
            )  # it stays as it was left, and may be undone another time (CF5)
        if blocks(decision):
            staying.add(record.ref)
        nested.note(record, decision, seen)
        site.foresee(record, decision, seen)
        yield _item(record, decision, waits_for, order)


def _held_back(record: StepRecord, staying: Staying, outside: Outside) -> Review | None:
    """The decision about a step that others hold back; None if none do (U5)."""
    blocker = staying.blocker_of(record.ref)
    if blocker is not None:
        return blocked_by(blocker)
    beyond = outside.dependent_of(record)
    if beyond is None:
        return None
    detail = f"step {beyond.step.step_id} ({beyond.step.action}) depends on it and is outside this selection"
    return Review(ReviewReason.BLOCKED, detail)


def blocked_by(dependent: StepRef) -> Review:
    """The decision about a step that a dependent one holds back (U5)."""
    return Review(ReviewReason.BLOCKED, f"blocked by {dependent}, which was declared to depend on it and is not undone")


def _item(record: StepRecord, decision: Decision, waits_for: tuple[StepRef, ...], order: Order) -> PlanItem:
    ref = record.ref
    return PlanItem(
        step=ref,
        action=record.step.action,
        target=record.step.target,
        decision=decision,
        waits_for=waits_for,
        blocks_on=order.blocks_on.get(ref, ()) if order.blocks_on else (),
        gates=order.gates_of.get(ref, ()) if order.gates_of else (),
        intended_sequence=record.intended_sequence,
        outcome=outcome_word(record),
        attempts=record.compensation_attempts,
        earlier_task=record.task_id,
        superseded=record.disposition is Disposition.SUPERSEDED and is_undo(decision),
    )


def outcome_word(record: StepRecord) -> str:
    """How the step ended, in one word: `completed`, `failed`, `unknown`, or `none` without a recorded end."""
    match record.outcome:
        case Completed():
            return "completed"
        case Failed():
            return "failed"
        case Unknown():
            return "unknown"
        case None:
            return "none"
