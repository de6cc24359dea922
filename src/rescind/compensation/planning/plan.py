"""What an undo would do: a pure function of the journal, the declared actions and what was seen at the targets.

The laws of a plan, which the tests cite:

U1. *Accounted for.* Every step in scope is in the plan exactly once.
U2. *Order.* A step comes after all that were declared to depend on it, that it caused, and that touched its target
    later. Declared edges are never dropped for inferred ones; of what is not ordered, the newest comes first.
U3. *Nothing in silence.* A restore is planned only if the target was seen, or will be, at the version that the step
    left. Anything else that is there is a conflict, and the action's policy or a person decides (CF1-CF4).
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

How each step is decided, first rule first:

    settled by an undo or a person, or failed       -> nothing
    still held                                      -> drop
    waiting for a person                            -> nothing yet
    in a cycle of declared dependencies             -> review
    action not declared, or declared otherwise      -> review (or with other parameters)
    irreversible                                    -> review, unless its target system knows nothing of it
    compensatable: in doubt                         -> as its target system says, else review
                   past its deadline                -> review; else compensate
    reversible:                                        by the version at the target, see `_reversible`
    and what is to be undone, but is blocked (U5)   -> review
"""

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from rescind.compensation.conflict import by_policy, merge_begun
from rescind.compensation.decision import (
    AlreadyInReview,
    AlreadyUndone,
    Asks,
    Compensate,
    Decision,
    Drop,
    Plan,
    PlanItem,
    Restore,
    Review,
    Settle,
    blocks,
    digest_of_plan,
    is_undo,
)
from rescind.compensation.doubt import (
    Resolved,
    as_known,
    asking,
    doubt_of,
    is_in_doubt,
    resolve_compensation,
    resolve_step,
)
from rescind.compensation.planning.forecast import Forecast, Site, View
from rescind.compensation.planning.nesting import end_of
from rescind.compensation.planning.order import Order, order_steps
from rescind.compensation.port import ReviewReason
from rescind.compensation.staying import Staying
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import Disposition, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.model.probe import ProbeResult
from rescind.model.step import Snapshot, Target

_NAMED_MAX = 3  # Steps named in a sentence; more are counted.
_LOOKED_BACK_MAX = 100  # Steps at one target looked through for a sentence, since each of thousands may need one.


class Observation(msgspec.Struct, frozen=True, gc=False):
    """What a look at a step's target gave: a version, or why there is none."""

    version: str = ""
    problem: str = ""

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> "Observation":
        """What this snapshot says."""
        if snapshot is None or not snapshot.version:
            return cls(problem="its effect cannot tell the target's version")
        return cls(version=snapshot.version)


class ForeignStep(msgspec.Struct, frozen=True):
    """A step at a target of the plan that is not in the plan."""

    ref: StepRef
    agent: str
    intended_sequence: int


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan is made from, besides the steps.

    Attributes:
        actions: The declared actions by name.
        observations: What was seen for some of the steps: at least for the newest of each action at each target.
        now: The time that deadlines are held against.
        foreign_steps: Steps of others, by target, in order; needed only to explain conflicts.
        retried_tasks: Review tasks that were resolved with `retry`; their steps are planned again.
        settled_tasks: Review tasks that a person resolved otherwise.
        outside: Steps of the same runs that are not in scope, in order of intent; what they depend on stays (U5).
        misfits: For steps that their action cannot undo as it is declared now: why.
        given: What is known beforehand to be for a person, and why.
        probes: What target systems said when they were asked about steps, or compensations, in doubt.
        live_runs: Ids of runs that a living process acts for: what has not happened there may still happen.
        may_force: Whether later changes may be overwritten where their action allows it.
    """

    actions: Mapping[str, Action]
    observations: Mapping[StepRef, Observation]
    now: datetime
    foreign_steps: Mapping[Target, Sequence[ForeignStep]] = {}
    retried_tasks: Collection[str] = frozenset()
    settled_tasks: Collection[str] = frozenset()
    outside: Sequence[StepRecord] = ()
    misfits: Mapping[StepRef, str] = {}
    given: Mapping[StepRef, Review] = {}
    probes: Mapping[tuple[StepRef, Asks], ProbeResult] = {}
    live_runs: Container[str] = ()
    may_force: bool = False


def plan_undo(records: Iterable[StepRecord], known: Known, *, selection: dict[str, Any] | None = None) -> Plan:
    """Plan the undo of these steps, each given once, in any order.

    Args:
        records: The steps in scope, with all that the journal knows of them.
        known: Everything else.
        selection: What was asked for; kept with the plan, and no part of its digest.
    """
    order = order_steps(records, known.actions)
    items = tuple(_items(order, known))
    tenants = {record.run.tenant for record in order.records}
    return Plan(
        digest=digest_of_plan(items, order.gates),
        items=items,
        gates=order.gates,
        tenant=tenants.pop() if len(tenants) == 1 else "",
        selection=selection or {},
    )


def _items(order: Order, known: Known) -> Iterable[PlanItem]:
    forecast = Forecast()
    staying = Staying(order.blocks_on, order.gates_of, order.gates, order.cyclic)
    outside = _Outside(known)
    whole: dict[StepRef, _PutBack] = {}
    for record in order.records:
        ref = record.ref
        site = forecast.site_of(record)
        decision = _decide(record, site, known, in_cycle=ref in order.cyclic)
        seen = _seen_of(ref, known)
        outer = whole.get(order.inside[ref]) if ref in order.inside else None
        if outer is not None and _is_part_of(outer, decision, seen):
            decision = _with_the_outer(outer)
            whole[ref] = outer
        if is_undo(decision):
            blocker = staying.blocker_of(ref)
            beyond = outside.dependent_of(record)
            if blocker is not None:
                decision = blocked_by(blocker)
            elif beyond is not None:
                detail = (
                    f"step {beyond.step.step_id} ({beyond.step.action}) depends on it and is outside this selection"
                )
                decision = Review(ReviewReason.BLOCKED, detail)
        if blocks(decision):
            staying.add(ref)
        if record.step.before is not None and _is_restored(decision):
            whole.setdefault(ref, _PutBack(ref, seen, record.step.before.version))
        elif _is_merged(decision):
            whole.setdefault(ref, _PutBack(ref, seen, ""))
        _foresee(record, decision, site, known)
        yield _item(record, decision, order)


class _Outside:
    """What steps outside the scope were declared to depend on, as long as their effects may stay."""

    def __init__(self, known: Known) -> None:
        self._named: dict[StepRef, StepRecord] = {}
        self._newest: dict[tuple[str, str], StepRecord] = {}
        for record in known.outside:
            if not _may_stay(record, known):
                continue
            run_id = record.run.run_id
            for name in record.step.depends_on:
                other_run, _, step_id = name.rpartition("/")
                self._named[StepRef(run_id, name)] = self._named[StepRef(other_run, step_id)] = record
            action = known.actions.get(record.step.action)
            for earlier in action.after if action else ():
                self._newest[run_id, earlier] = record

    def dependent_of(self, record: StepRecord) -> StepRecord | None:
        """A step outside that depends on this one; None if there is none."""
        newest = self._newest.get((record.run.run_id, record.step.action))
        if newest is not None and newest.intended_sequence < record.intended_sequence:
            newest = None
        return self._named.get(record.ref, newest)


def _may_stay(record: StepRecord, known: Known) -> bool:
    """Whether the effect of this step outside the scope stays for now; what stays for good holds nothing back."""
    if record.step.effect_class is EffectClass.IRREVERSIBLE or _past_deadline(record, known) is not None:
        return False
    settled = _settled(record, known)
    return settled is None or blocks(settled)


class _PutBack(msgspec.Struct, frozen=True, gc=False):
    """A step whose target, seen at one version now, is or will be at the version from before it; empty: merged."""

    step: StepRef
    seen: str | None
    version: str


def _is_restored(decision: Decision) -> bool:
    match decision:
        case Restore(policy=policy):
            return policy is not OnConflict.MERGE
        case Settle(disposition) | AlreadyUndone(disposition):
            return disposition is Disposition.RESTORED
        case _:
            return False


def _is_merged(decision: Decision) -> bool:
    match decision:
        case Restore(policy=policy):
            return policy is OnConflict.MERGE
        case Settle(disposition) | AlreadyUndone(disposition):
            return disposition is Disposition.MERGED
        case _:
            return False


def _with_the_outer(outer: _PutBack) -> Decision:
    """What becomes of a step that is a part of an outer one's way back."""
    if outer.version:
        return Settle(Disposition.RESTORED, f"put back with step {outer.step.step_id}", expects=outer.version)
    # The outer one's merge has taken out what was made inside it, or it has not: that is the merge's affair. To merge
    # the inner one as well could take it out twice.
    detail = f"it was made inside step {outer.step.step_id}, which is merged; look whether that has taken it out, too"
    return Review(ReviewReason.CONFLICT, detail)


def _is_part_of(outer: _PutBack, decision: Decision, seen: str | None) -> bool:
    """Whether the step, made inside the outer one, is put back with it, so that nothing is left for its own restore.

    Only if a look of its own saw what a look of the outer one's saw, or the outer one put back already: under one
    coarse target the two may have written to different things.
    """
    match decision:
        case Restore() | Review(ReviewReason.CONFLICT | ReviewReason.IN_DOUBT | ReviewReason.PAST_DEADLINE):
            pass
        case Settle(expects=expects) if expects:
            pass
        case _:
            return False
    return not outer.version or (bool(seen) and seen in (outer.seen, outer.version))


def _seen_of(ref: StepRef, known: Known) -> str | None:
    observation = known.observations.get(ref)
    return observation.version if observation else None


def blocked_by(dependent: StepRef) -> Review:
    """The decision about a step that a dependent one holds back (U5)."""
    return Review(ReviewReason.BLOCKED, f"blocked by {dependent}, which was declared to depend on it and is not undone")


def _item(record: StepRecord, decision: Decision, order: Order) -> PlanItem:
    ref = record.ref
    return PlanItem(
        step=ref,
        action=record.step.action,
        target=record.step.target,
        decision=decision,
        waits_for=order.waits_for.get(ref, ()),
        blocks_on=order.blocks_on.get(ref, ()),
        gates=order.gates_of.get(ref, ()),
        intended_sequence=record.intended_sequence,
        outcome=outcome_word(record),
        attempts=record.compensation_attempts,
        earlier_task=record.task_id,
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


# --- one step ---


def _decide(record: StepRecord, site: Site, known: Known, *, in_cycle: bool) -> Decision:
    settled = _settled(record, known)
    if settled is not None:
        return settled
    if record.is_held:
        return Drop()
    if record.ref in known.given:
        return known.given[record.ref]
    if in_cycle:
        return Review(ReviewReason.CYCLE, "its declared dependencies form a cycle, so there is no right order")
    action = known.actions.get(record.step.action)
    recorded = record.step.effect_class
    record = as_known(record)
    if recorded is EffectClass.IRREVERSIBLE:
        return _irreversible(record, action, known)
    if action is None:
        return Review(ReviewReason.NOT_DECLARED, f"the application declares no action {record.step.action!r}")
    if recorded is not action.effect_class:
        was = f"was {recorded.value}" if recorded else "had no effect class"
        return Review(ReviewReason.NOT_DECLARED, f"it {was} when it was made, and is {action.effect_class.value} now")
    misfit = known.misfits.get(record.ref)
    if recorded is EffectClass.COMPENSATABLE:
        decision = _compensatable(record, action, known)
        return Review(ReviewReason.NOT_DECLARED, misfit) if misfit and is_undo(decision) else decision
    return Review(ReviewReason.NOT_DECLARED, misfit) if misfit else _reversible_or_in_doubt(record, action, site, known)


def _settled(record: StepRecord, known: Known) -> Decision | None:
    """What is to be said of a step that needs nothing; None if it does need something."""
    match record.disposition:
        case None if isinstance(record.outcome, Failed):
            why = record.outcome.reason
            dropped = record.step.held is not msgspec.UNSET and why.startswith("dropped")
            return AlreadyUndone(
                Disposition.NEVER_TOOK_EFFECT, why if dropped else f"it failed and changed nothing: {why}"
            )
        case None:
            return None
        case Disposition.REVIEW if record.task_id in known.retried_tasks:
            return None
        case Disposition.REVIEW if record.task_id in known.settled_tasks:
            return AlreadyUndone(Disposition.REVIEW, f"settled by a person in {record.task_id}")
        case Disposition.REVIEW:
            return AlreadyInReview(record.task_id or "", record.disposition_reason)
        case disposition:
            return AlreadyUndone(disposition, "by an earlier undo")


def _resolved(record: StepRecord, action: Action, known: Known, doubt: str = "") -> Resolved | Settle | Review:
    """What is made of a step in doubt (U4)."""
    probe, live = known.probes.get((record.ref, Asks.STEP)), record.run.run_id in known.live_runs
    return resolve_step(record, action, probe, known.now, doubt=doubt or doubt_of(record), is_live=live)


def _irreversible(record: StepRecord, action: Action | None, known: Known) -> Decision:
    because = action.irreversible_because if action else "it was declared so"
    if action is not None and is_in_doubt(record) and not isinstance(found := _resolved(record, action, known), Review):
        if isinstance(found, Settle):
            return found
        because += "; and its target system says that it took effect"
    return Review(ReviewReason.IRREVERSIBLE, because)


def _compensatable(record: StepRecord, action: Action, known: Known) -> Decision:
    asks = Asks.NOTHING
    if is_in_doubt(record):
        found = _resolved(record, action, known)
        if not isinstance(found, Resolved):
            return found
        record, asks = found.record, Asks.STEP
    decision: Decision = Compensate()
    if record.compensation_open and action.compensation_idempotent:
        decision = Compensate("begun before; repeated with the same idempotency key")
    elif record.compensation_open:
        probe = known.probes.get((record.ref, Asks.COMPENSATION))
        decision = resolve_compensation(record, action, probe, known.now)
    if isinstance(decision, Compensate):
        return _past_deadline(record, known) or asking(decision, asks)
    return decision


def _reversible_or_in_doubt(record: StepRecord, action: Action, site: Site, known: Known) -> Decision:
    decision = _reversible(record, action, site, known)
    if not (is_in_doubt(record) and isinstance(decision, Review) and decision.reason is ReviewReason.IN_DOUBT):
        return decision
    found = _resolved(record, action, known, decision.detail)
    if not isinstance(found, Resolved):
        return found
    return asking(_reversible(found.record, action, site, known), Asks.STEP)


def _reversible(record: StepRecord, action: Action, site: Site, known: Known) -> Decision:
    before, after = record.step.before, record.after
    if before is None or not before.version:
        return Review(ReviewReason.NO_SNAPSHOT, "what was at the target before was not recorded, only that it happened")
    completed = isinstance(record.outcome, Completed)
    if completed and after is not None and after.version == before.version:
        return Settle(Disposition.RESTORED, "it left the target as it had found it")
    observation = known.observations.get(record.ref)
    if observation is not None and observation.problem:
        return Review(ReviewReason.CANNOT_LOOK, observation.problem)
    seen = observation.version if observation else None
    view = site.view_of(record.step.action, seen)
    if view is None:
        return Review(ReviewReason.CANNOT_LOOK, "nobody has looked at its target")
    # What was seen of this step's own target is a fact for as long as no newer step there is undone first. All else is
    # a forecast: good enough to plan by, and compared with the target again when the step's turn comes.
    if seen == before.version and not site.undone:
        return _as_before(completed=completed)
    begun = merge_begun(record, view.version if site.undone else seen or view.version)
    if begun is not None:
        return begun
    possible = {view.version, seen}
    if not completed:
        if before.version in possible:
            because = "the target will be as before, if it never took effect; that is checked in its turn"
            return Settle(Disposition.NEVER_TOOK_EFFECT, because, expects=before.version)
        return Review(ReviewReason.IN_DOUBT, f"{doubt_of(record)}; the target is not as before it")
    if after is None or not after.version:
        if action.on_conflict is OnConflict.FORCE and known.may_force and view.version:
            why = "what the step left at the target was not recorded"
            return _past_deadline(record, known) or by_policy(record, action, view.version, why, may_force=True)
        return Review(ReviewReason.NO_SNAPSHOT, "what the step left at the target was not recorded")
    # Nobody knows before which version a merge leaves, so what comes after one is seen in its turn.
    foreseen = bool(view.version) and not site.moves_others(view)
    if possible.isdisjoint((before.version, after.version)) and foreseen:
        why = _explain_conflict(record, site, known)
        decision = by_policy(record, action, view.version, why, may_force=known.may_force)
        return (_past_deadline(record, known) if is_undo(decision) else None) or decision
    note = (
        "" if view.version == after.version else "after the newer steps at its target are put back; checked again then"
    )
    return _past_deadline(record, known) or Restore(leaves=before.version, expects=after.version, note=note)


def _as_before(*, completed: bool) -> Settle:
    if completed:
        return Settle(Disposition.RESTORED, "the target is as before already")
    return Settle(Disposition.NEVER_TOOK_EFFECT, "the target is as before")


def _foresee(record: StepRecord, decision: Decision, site: Site, known: Known) -> None:
    match decision:
        case Restore(leaves=version):
            view = site.view_of(record.step.action, _seen_of(record.ref, known))
            assert isinstance(view, View)
            site.restore(view, version)
            site.later.append(record)
        case Compensate():
            site.undone += 1
            site.later.append(record)
        case Review() | AlreadyInReview() | Settle(Disposition.SUPERSEDED):
            site.staying.append(record.ref)
        case Drop() | Settle() | AlreadyUndone():
            pass


# --- in words ---


def _past_deadline(record: StepRecord, known: Known) -> Review | None:
    until = record.step.compensation.allowed_until if record.step.compensation else None
    if until is None or known.now < until:
        return None
    return Review(ReviewReason.PAST_DEADLINE, f"it could be undone until {until.isoformat()}")


def _explain_conflict(record: StepRecord, site: Site, known: Known) -> str:
    """Who may have changed the target after this step, as far as the journal knows."""
    foreign = known.foreign_steps.get(record.step.target, ()) if record.step.target else ()
    later = [f"{each.ref} of {each.agent}" for each in foreign if each.intended_sequence > record.intended_sequence]
    if later:
        return f"the target was changed after this step by {_named(later)}"
    if site.staying:
        return f"the target was changed after this step by {_named([str(ref) for ref in site.staying])}, which stays"
    if site.later:
        return _explain_by_plan(record, site.later)
    return "the target was changed after this step, outside the journal"


def _explain_by_plan(record: StepRecord, later: Sequence[StepRecord]) -> str:
    """Who of those that are undone before this step may have changed its target, or what came between."""
    overlapping = [str(each.ref) for each in later[-_LOOKED_BACK_MAX:] if each.intended_sequence < end_of(record)]
    if overlapping:
        return f"the target was changed while this step was under way by {_named(overlapping[::-1])}"
    nearest = later[-1].ref
    return f"undoing {nearest} does not give what this step left: the target was changed between the two"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
