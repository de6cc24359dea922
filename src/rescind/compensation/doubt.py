"""What is made of an effect that nobody knows the end of, once its target system was asked. Pure.

A step is in doubt if its outcome is unknown or was never recorded; a compensation, if it was begun and has no recorded
end. The laws of asking, which the tests cite:

DT1. *Found counts.* What the target system has found took place: the step is treated as completed, the compensation as
    done.
DT2. *Not found counts late.* It says "not yet" as well as "never". It counts only once nothing of the call can arrive
    at the target any more: no living process acts for the run of a step without an end, and the action's
    `in_doubt_after` has passed since the call was cut short or, without an end, since it was begun; a held step is
    begun when it is released.
DT3. *Silence is no answer.* If the target system cannot tell, or asking raises, a person decides.
DT4. *Asked twice.* A plan is made by the first answer and says so in its digest. When the step's turn comes the target
    system is asked again, and if it says something else, nothing is done and a person decides.
DT5. *On record first.* What is done by an answer is done after the answer is durable. An effect that was found once is
    not asked for again.
DT6. *By its own key.* A compensation is asked for only if the probe was declared to tell it from its step: one that
    goes by the arguments alone would find the step, and nobody would ever get the money back.

Clocks: `in_doubt_after` is held against the difference of two machines' clocks, so it should be much longer than these
ever differ.
"""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from rescind.compensation.decision import Asks, Compensate, Decision, Restore, Review, Settle
from rescind.compensation.port import ReviewReason
from rescind.model.action import Action, EffectClass
from rescind.model.entry import Disposition
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.model.probe import Probe, ProbeResult

if TYPE_CHECKING:
    from rescind.model.history import StepRecord


_KNOWN = (Completed, Failed)  # written out in the function, it would be made anew for each of a plan's steps


class Resolved(msgspec.Struct, frozen=True):
    """It took place: the step, as completed as its target system knows it."""

    record: "StepRecord"


def is_in_doubt(record: "StepRecord") -> bool:
    """Whether nobody has recorded how the step ended."""
    return not isinstance(record.outcome, _KNOWN)


def as_known(record: "StepRecord") -> "StepRecord":
    """The step with what its target system is on record to have found (DT5)."""
    return record if record.found is None or not is_in_doubt(record) else as_completed(record, record.found)


def as_completed(record: "StepRecord", probe: ProbeResult) -> "StepRecord":
    """The step with what its target system has found (DT1)."""
    return msgspec.structs.replace(
        record, outcome=Completed(probe.result, probe.result is not None), after=probe.after or record.after
    )


def whom_to_ask(record: "StepRecord", action: Action, decision: Decision) -> Asks:
    """What the target system can be asked about a step that would be left to a person otherwise."""
    if not isinstance(decision, Review) or decision.reason not in (ReviewReason.IN_DOUBT, ReviewReason.IRREVERSIBLE):
        return Asks.NOTHING
    if is_in_doubt(as_known(record)):
        return Asks.STEP if action.probed else Asks.NOTHING
    compensates = action.effect_class is EffectClass.COMPENSATABLE and record.compensation_open
    return Asks.COMPENSATION if compensates and action.compensation_probed else Asks.NOTHING


def resolve_step(
    record: "StepRecord", action: Action, probe: ProbeResult | None, now: datetime, *, doubt: str, is_live: bool
) -> Resolved | Settle | Review:
    """What is made of a step in doubt.

    Args:
        record: The step.
        action: Its action.
        probe: What its target system said; None if it was not asked.
        now: The time.
        doubt: Why nobody knows, in words.
        is_live: Whether a living process acts for the step's run.
    """
    if probe is None:
        return Review(ReviewReason.IN_DOUBT, doubt)
    match probe.answer:
        case Probe.FOUND:
            return Resolved(as_completed(record, probe))
        case Probe.CANNOT_TELL:
            return Review(ReviewReason.IN_DOUBT, f"{doubt}{_silence(probe)}")
        case Probe.NOT_FOUND:
            pass
    if is_live and record.outcome is None:
        return Review(ReviewReason.IN_DOUBT, f"{doubt}; its target knows nothing of it, but its process still lives")
    late = _may_arrive(record.ended_at or record.released_at or record.intended_at, action, now)
    if late:
        return Review(ReviewReason.IN_DOUBT, f"{doubt}; its target knows nothing of it, but {late}")
    return Settle(Disposition.NEVER_TOOK_EFFECT, "its target system knows nothing of it", asks=Asks.STEP)


def resolve_compensation(
    record: "StepRecord", action: Action, probe: ProbeResult | None, now: datetime
) -> Compensate | Settle | Review:
    """What is made of a compensation in doubt that must not simply be repeated."""
    doubt = "its compensation was begun and has no recorded end: it may have happened"
    if probe is None:
        return Review(ReviewReason.IN_DOUBT, doubt)
    match probe.answer:
        case Probe.FOUND:
            because = "its target system has found the compensation that was begun"
            return Settle(Disposition.COMPENSATED, because, asks=Asks.COMPENSATION)
        case Probe.CANNOT_TELL:
            return Review(ReviewReason.IN_DOUBT, f"{doubt}{_silence(probe)}")
        case Probe.NOT_FOUND:
            late = _may_arrive(record.compensation_begun_at or now, action, now)
    if late:
        return Review(ReviewReason.IN_DOUBT, f"{doubt}; its target knows nothing of it, but {late}")
    return Compensate("begun before; its target system knows nothing of it", asks=Asks.COMPENSATION)


def answer_planned_by(decision: Restore | Compensate | Settle) -> Probe:
    """By which answer this was planned, if it asks at all (DT4)."""
    match decision:
        case Settle(Disposition.NEVER_TOOK_EFFECT) | Compensate(asks=Asks.COMPENSATION):
            return Probe.NOT_FOUND
        case _:
            return Probe.FOUND


def asking(decision: Decision, asks: Asks) -> Decision:
    """The decision about a step in doubt that was decided by this answer, so that it asks again."""
    if asks is Asks.NOTHING or not isinstance(decision, Restore | Compensate | Settle):
        return decision
    return msgspec.structs.replace(decision, asks=asks)


def doubt_of(record: "StepRecord") -> str:
    """Why nobody knows, in words."""
    if isinstance(record.outcome, Unknown):
        return f"nobody knows whether it took effect: {record.outcome.reason}"
    return "it was begun and has no recorded end, so nobody knows whether it took effect"


def _silence(probe: ProbeResult) -> str:
    return f"; its target system was asked, and cannot tell: {probe.detail}" if probe.detail else ""


def _may_arrive(begun: datetime, action: Action, now: datetime) -> str:
    """Why something of a call begun or cut short then may still arrive; empty if nothing may."""
    until = begun + action.in_doubt_after
    return "" if now >= until else f"it may still arrive until {until.isoformat()}; `retry` its task after that"
