"""What is decided about one step by itself. The first rule that fits decides.

    settled by an undo or a person, or failed       -> nothing, unless superseded and now as the step left it (CF5)
    still held                                      -> drop
    waiting for a person                            -> nothing yet
    in a cycle of declared dependencies             -> review
    action not declared, or declared otherwise      -> review (or with other parameters)
    irreversible                                    -> review, unless its target system knows nothing of it
    compensatable: in doubt                         -> as its target system says, else review
                   past its deadline                -> review; else compensate
    reversible:                                        by the version at the target, see `_reversible`

What else is in the plan comes after that: a step that was made inside another one (see `nesting`), and one that is
held back by what depends on it (U5).
"""

import msgspec

from rescind.compensation.conflict import by_policy, merge_begun
from rescind.compensation.decision import (
    AlreadyInReview,
    AlreadyUndone,
    Asks,
    Compensate,
    Decision,
    Drop,
    Restore,
    Review,
    Settle,
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
from rescind.compensation.planning.explaining import explain_conflict
from rescind.compensation.planning.forecast import Site
from rescind.compensation.planning.known import Known
from rescind.compensation.port import ReviewReason
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import Disposition
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed


def decide(record: StepRecord, site: Site, known: Known, *, in_cycle: bool) -> Decision:
    """What is to be done about this step, by itself. Ask in the order in which the steps are undone."""
    already = settled(record, known)
    if already is not None and record.disposition is Disposition.SUPERSEDED:
        return _superseded(record, site, known, in_cycle=in_cycle) or already
    if already is not None:
        return already
    if record.is_held:
        return Drop()
    if known.given and record.ref in known.given:
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
    misfit = known.misfits.get(record.ref) if known.misfits else None
    if recorded is EffectClass.COMPENSATABLE:
        decision = _compensatable(record, action, known)
        return Review(ReviewReason.NOT_DECLARED, misfit) if misfit and is_undo(decision) else decision
    return Review(ReviewReason.NOT_DECLARED, misfit) if misfit else _reversible_or_in_doubt(record, action, site, known)


def _superseded(record: StepRecord, site: Site, known: Known, *, in_cycle: bool) -> Restore | None:
    """The restore of a superseded step whose target is, or will be, as the step left it; None if it is not (CF5)."""
    anew = msgspec.structs.replace(record, disposition=None)
    decision = decide(anew, site, known, in_cycle=in_cycle)
    return decision if isinstance(decision, Restore) and decision.policy is OnConflict.REVIEW else None


def settled(record: StepRecord, known: Known) -> Decision | None:
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
        return past_deadline(record, known) or asking(decision, asks)
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
    possible = (view.version, seen)
    if not completed:
        if before.version in possible:
            because = "the target will be as before, if it never took effect; that is checked in its turn"
            return Settle(Disposition.NEVER_TOOK_EFFECT, because, expects=before.version)
        return Review(ReviewReason.IN_DOUBT, f"{doubt_of(record)}; the target is not as before it")
    if after is None or not after.version:
        if action.on_conflict is OnConflict.FORCE and known.may_force and view.version:
            why = "what the step left at the target was not recorded"
            return past_deadline(record, known) or by_policy(record, action, view.version, why, may_force=True)
        return Review(ReviewReason.NO_SNAPSHOT, "what the step left at the target was not recorded")
    # Nobody knows before which version a merge leaves, so what comes after one is seen in its turn.
    foreseen = bool(view.version) and not site.moves_others(view)
    if foreseen and before.version not in possible and after.version not in possible:
        why = explain_conflict(record, site, known)
        decision = by_policy(record, action, view.version, why, may_force=known.may_force)
        return (past_deadline(record, known) if is_undo(decision) else None) or decision
    note = (
        "" if view.version == after.version else "after the newer steps at its target are put back; checked again then"
    )
    return past_deadline(record, known) or Restore(leaves=before.version, expects=after.version, note=note)


def _as_before(*, completed: bool) -> Settle:
    if completed:
        return Settle(Disposition.RESTORED, "the target is as before already")
    return Settle(Disposition.NEVER_TOOK_EFFECT, "the target is as before")


def past_deadline(record: StepRecord, known: Known) -> Review | None:
    """What is to be said of a step that was to be undone until a moment that has passed; None of any other."""
    until = record.step.compensation.allowed_until if record.step.compensation else None
    if until is None or known.now < until:
        return None
    return Review(ReviewReason.PAST_DEADLINE, f"it could be undone until {until.isoformat()}")
