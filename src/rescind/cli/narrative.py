"""Entries in words: one line each, for `rescind audit log`."""

from msgspec import UnsetType

from rescind.cli.safe import safe
from rescind.cli.words import count_of, why_left
from rescind.model.action import OnConflict
from rescind.model.entry import (
    AnswersRecorded,
    ApprovalAsked,
    ApprovalDecided,
    ApprovalUsed,
    Checkpointed,
    CompensationEnded,
    CompensationIntended,
    CompensationWithdrawn,
    EffectHeld,
    Ended,
    Entry,
    Event,
    IncidentClosed,
    IncidentNoted,
    IncidentOpened,
    Intended,
    Overwrites,
    PlanControlled,
    PlanFinished,
    PlanLeft,
    PlanNeeds,
    PlanPart,
    PlanRequested,
    PlanShare,
    PlanStarted,
    PlanSubmitted,
    Probed,
    Read,
    RedoEnded,
    RedoIntended,
    Refused,
    Released,
    RequestAnswered,
    RequestTaken,
    Resumed,
    ReviewNoted,
    ReviewOpened,
    ReviewResolved,
    RunClosed,
    RunOpened,
    RunSnapshot,
    Signalled,
    StageApproved,
    StageEnded,
    Verified,
)
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.step import HeldUntil, RunInfo


def tell(entry: Entry) -> str:
    """What happened, as one safe line without time and run, such as `step 7  completed`."""
    return safe(_words(entry.event))


def _words(event: Event) -> str:
    match event:
        case RunOpened():
            return f"opened by {_who(event.run)}"
        case RunClosed():
            return f"{event.how}{_because(event.detail)}"
        case Intended(step):
            target = f" on {step.target}" if step.target else ""
            held = f", held until {_held_until(step.held)}" if isinstance(step.held, HeldUntil) else ""
            return f"step {step.step_id}  intends {step.action}{target}{held}"
        case Checkpointed():
            verified = "verified" if event.verified else f"not verified{_because(event.detail)}"
            named = f" {event.name}" if event.name else ""
            return f"checkpoint {event.checkpoint_id}{named}, {verified}"
        case StageEnded():
            return f"incident {event.incident_id}: {event.stage} {event.how}{_because(event.detail)}"
        case StageApproved():
            return f"incident {event.incident_id}: {event.stage} approved by {event.actor}{_because(event.note)}"
        case Resumed():
            return f"carried on from {event.checkpoint_id or 'its beginning'} by {event.actor}{_because(event.reason)}"
        case Released():
            return f"step {event.step_id}  released"
        case EffectHeld():
            return f"holds {event.step}  {event.action}"
        case Ended():
            by = f" (by {event.dropped_by})" if event.dropped_by else ""
            return f"step {event.step_id}  {_outcome(event.outcome)}{by}"
        case Read():
            return f"read {event.target} by {event.action}"
        case Verified():
            holds = "postcondition holds" if event.holds else "postcondition does not hold"
            return f"step {event.step_id}  {holds}{_because(event.detail)}"
        case Refused():
            return f"refused {event.action} at level {event.level}{_because(event.reason)}"
        case CompensationIntended() | CompensationEnded() | CompensationWithdrawn():
            return f"step {event.step_id}  {_compensation(event)}"
        case RedoIntended():
            attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"step {event.step_id}  redo begun{_by(event.by)}{attempt}"
        case RedoEnded():
            how = "in effect again" if event.redone else "not redone"
            return f"step {event.step_id}  {how}{_by(event.by)}{_because(event.reason)}"
        case Probed():
            answer = event.answer.replace("_", " ")
            return f"step {event.step_id}  the target was asked for key {event.idempotency_key}: {answer}"
        case ReviewOpened():
            steps = count_of(len(event.steps), "step")
            return f"review {event.task_id} opened: {event.action}, {steps}{_because(event.reason)}"
        case ReviewNoted():
            return f"review {event.task_id} {_noted(event)}"
        case ReviewResolved():
            how = event.resolution + (f" ({event.reference})" if event.reference else "")
            return f"review {event.task_id} resolved as {how} by {event.actor}{_because(event.note)}"
        case PlanStarted():
            return f"undo of {count_of(event.steps, 'step')} begun by {event.actor}{_because(event.reason)}"
        case PlanFinished():
            counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in event.counts.items())
            return f"undo finished: {counts or 'nothing to do'}"
        case PlanLeft():
            return f"undo left unfinished; {why_left(event.why, event.detail)}"
        case PlanControlled():
            return f"{event.what} of the undo ordered by {event.actor}{_because(event.reason)}"
        case AnswersRecorded():
            counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in event.counts.items())
            return f"steps in doubt were asked about by {event.actor}: {counts}{_because(event.reason)}"
        case PlanSubmitted():
            shares = count_of(event.shares, "share")
            steps = count_of(event.steps, "step")
            return f"undo of {steps} left to workers in {shares} by {event.actor}{_because(event.reason)}"
        case PlanShare():
            return f"share {event.number} of the undo: {count_of(len(event.steps), 'step')}"
        case PlanRequested():
            what = "a plan" if event.what == "plan" else f"plan {event.digest[:16]} to be applied"
            return f"{event.actor} asked workers for {what}{_because(event.reason)}"
        case RequestTaken():
            return f"taken by worker {event.worker_id}"
        case PlanPart():
            return f"part {event.number} of plan {event.digest[:16]}: {count_of(len(event.items), 'step')}"
        case RequestAnswered():
            return f"answered by worker {event.worker_id}: {event.how}{_because(event.detail)}"
        case PlanNeeds():
            return f"only workers that know of {' and '.join(event.needs)} may carry it out"
        case Signalled():
            return _signal(event)
        case ApprovalAsked():
            return f"approval {event.approval_id} asked for {event.action}{_because(event.because)}"
        case ApprovalDecided():
            return f"approval {event.approval_id} {event.decision} by {event.actor}{_because(event.note)}"
        case ApprovalUsed():
            return f"approval {event.approval_id} used by step {event.step}"
        case RunSnapshot():
            running = f", {count_of(len(event.in_flight), 'step')} in flight" if event.in_flight else ""
            return f"state at level {event.level}: {count_of(event.calls, 'call')}{running}"
        case IncidentOpened():
            return f"incident {event.incident_id} opened, {event.severity}{_because(event.title)}"
        case IncidentNoted():
            return f"incident {event.incident_id}: {event.what} {event.ref}{_because(event.detail)}"
        case IncidentClosed():
            return f"incident {event.incident_id} closed by {event.actor}{_because(event.note)}"


def _signal(event: Signalled) -> str:
    signal = event.signal
    what = f"{signal.severity.label} signal {signal.name}{_because(signal.detail)}"
    done = ", ".join(event.responses) or "nothing done"
    return f"{what}; {'would have: ' if event.shadow else ''}{done}"


def _who(run: RunInfo) -> str:
    words = [run.agent]
    words += [f"for {run.tenant}"] if run.tenant else []
    words += [f"in {run.workflow}"] if run.workflow else []
    words += [f"trace {run.trace_id}"] if run.trace_id else []
    return " ".join(words)


def _outcome(outcome: Outcome) -> str:
    match outcome:
        case Completed():
            return "completed"
        case Failed(reason):
            return f"failed, nothing changed{_because(reason)}"
        case Unknown(reason):
            return f"unknown whether it took effect{_because(reason)}"


def _compensation(event: CompensationIntended | CompensationEnded | CompensationWithdrawn) -> str:
    if isinstance(event, CompensationIntended):
        attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
        return f"{event.kind} begun{_by(event.by)}{attempt}{_overwriting(event.overwrites or None)}"
    if isinstance(event, CompensationWithdrawn):
        return f"compensation withdrawn, it has not happened{_because(event.detail)}"
    return f"accounted for: {event.disposition.replace('_', ' ')}{_by(event.by)}{_because(event.reason)}"


def _by(worker: str | UnsetType) -> str:
    return f" by {worker}" if worker else ""


def _overwriting(overwrites: Overwrites | None) -> str:
    if overwrites is None:
        return ""
    if overwrites.policy == OnConflict.MERGE:
        return ", merged with a later change"
    return f", forced over a later change by {overwrites.actor}{_because(overwrites.reason)}"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _noted(event: ReviewNoted) -> str:
    match event.what:
        case "assigned":
            return f"assigned to {event.text or 'nobody'} by {event.actor}"
        case "comment":
            return f"comment by {event.actor}: {event.text}"
        case "due":
            return f"due {event.due_at.isoformat() if event.due_at else 'at no time'}, says {event.actor}"
        case "exported":
            return f"told {event.text}: {event.state}"
        case what:
            return what


def _held_until(held: HeldUntil) -> str:
    return "its run has ended" if held.at is None else held.at.isoformat()
