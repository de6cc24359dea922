"""What the journal holds: events, and the entry that carries each.

An event is what happened; an entry is an event with its place in the journal and in its run's hash chain. Everything
else that we know of a run (see `history`) is folded from its events.
"""

import enum
from datetime import datetime
from typing import Any

import msgspec

from rescind.model.outcome import Outcome
from rescind.model.probe import Probe
from rescind.model.signal import Signal
from rescind.model.step import Arguments, RunInfo, Snapshot, Step, Target


class RunOpened(msgspec.Struct, frozen=True, gc=False, tag="run_opened", kw_only=True):
    """A process began to act for the run. The first event of every run; a continued run has several."""

    run: RunInfo
    guard_id: str


class RunClosed(msgspec.Struct, frozen=True, gc=False, tag="run_closed", kw_only=True):
    """The process will not act for the run again. `how` is `ended`, `failed` or `halted`.

    `reads` counts the reads that it gave to the journal; unset, and not written, if none. Fewer `Read` events mean that
    some were lost.
    """

    guard_id: str
    how: str
    detail: str = ""
    reads: int | msgspec.UnsetType = msgspec.UNSET


class Intended(msgspec.Struct, frozen=True, gc=False, tag="intended"):
    """The step is about to run. Durable before the tool starts."""

    step: Step


class Released(msgspec.Struct, frozen=True, gc=False, tag="released", kw_only=True):
    """A held step is about to run. Durable before its tool starts; there is at most one for a step.

    `before` is the target as it was found then; `releaser` the guard that does it.
    """

    step_id: str
    releaser: str
    before: Snapshot | None = None


class Ended(msgspec.Struct, frozen=True, gc=False, tag="ended", kw_only=True):
    """The step has an outcome. `after` is what was seen at the target right after the effect."""

    step_id: str
    outcome: Outcome
    after: Snapshot | None = None


class Read(msgspec.Struct, frozen=True, gc=False, tag="read", kw_only=True):
    """The run has read a target. Recorded after the read, without waiting; the same read again may stand for many."""

    action: str
    target: Target


class Verified(msgspec.Struct, frozen=True, gc=False, tag="verified", kw_only=True):
    """The step's postcondition was checked. `detail` says what does not hold."""

    step_id: str
    holds: bool
    detail: str = ""


class Checkpointed(msgspec.Struct, frozen=True, gc=False, tag="checkpointed", kw_only=True):
    """The run is at a boundary that it may be carried on from.

    Attributes:
        checkpoint_id: Unique.
        name: What people call it; may be empty.
        state: What the program needs to go on from here, as JSON values.
        verified: Whether its postconditions held, when it was made.
        detail: If not, what does not.
    """

    checkpoint_id: str
    name: str = ""
    state: Any = None
    verified: bool
    detail: str = ""


class Resumed(msgspec.Struct, frozen=True, gc=False, tag="resumed", kw_only=True):
    """A person decided to carry the run on from a checkpoint; empty for its beginning.

    `level` and `allow` are what it is held at and limited to from here; empty if it is not.
    """

    checkpoint_id: str
    actor: str
    reason: str
    level: str = ""
    allow: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True, gc=False, tag="refused", kw_only=True):
    """The gate refused a call. Recorded once per run, action and change of orders, not once per attempt."""

    action: str
    level: str
    reason: str
    order_ids: tuple[str, ...] = ()


class Disposition(enum.StrEnum):
    """Where a write ends after an undo; every write in scope has exactly one."""

    RESTORED = "restored"
    MERGED = "merged"  # its part was taken out of what others have made of the target since
    COMPENSATED = "compensated"
    SUPERSEDED = "superseded"  # a later change stands in its place, and its action says to leave that
    NEVER_TOOK_EFFECT = "never_took_effect"
    REVIEW = "review"


class Overwrites(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """That a restore is about to replace a later change of somebody else's.

    Attributes:
        policy: `force` or `merge`.
        version: What it replaces, and nothing else.
        leaves: The version that the target will be at.
        actor: Who forced it; empty for a merge, which the action itself provides for.
        reason: Why.
    """

    policy: str
    version: str
    leaves: str
    actor: str = ""
    reason: str = ""


class CompensationIntended(msgspec.Struct, frozen=True, gc=False, tag="compensation_intended", kw_only=True):
    """The compensation of a step is about to run. Durable before it starts.

    `attempt` counts from 1; the idempotency key is the same for all attempts of one step. `overwrites` is unset, and
    not written, unless the target is not as the step left it.
    """

    step_id: str
    kind: str
    idempotency_key: str
    plan_digest: str
    attempt: int = 1
    overwrites: Overwrites | msgspec.UnsetType = msgspec.UNSET


class CompensationEnded(msgspec.Struct, frozen=True, gc=False, tag="compensation_ended", kw_only=True):
    """The step is accounted for. With disposition `review`, `reason` and `detail` say what a person has to decide."""

    step_id: str
    disposition: Disposition
    plan_digest: str
    reason: str = ""
    detail: str = ""
    task_id: str | None = None


class CompensationWithdrawn(msgspec.Struct, frozen=True, gc=False, tag="compensation_withdrawn", kw_only=True):
    """The compensation that was intended has not happened, and this undo will not try it again.

    The step is as it was before that intent: the next plan decides about it anew.
    """

    step_id: str
    plan_digest: str
    detail: str = ""


class Probed(msgspec.Struct, frozen=True, gc=False, tag="probed", kw_only=True):
    """The target system was asked whether an effect took place, and the undo acts upon its answer.

    Attributes:
        step_id: The step in doubt.
        idempotency_key: What was asked about: the step's own key, or that of its compensation.
        answer: What the target system said.
        result, after: See `Found`.
        plan_digest: The plan that was made by this answer.
    """

    step_id: str
    idempotency_key: str
    answer: Probe
    result: Any = None
    after: Snapshot | None = None
    plan_digest: str = ""


class StepRef(msgspec.Struct, frozen=True, gc=False, order=True):
    """A step, named from outside its run."""

    run_id: str
    step_id: str

    def __str__(self) -> str:
        return f"{self.run_id}/{self.step_id}"


class EffectHeld(msgspec.Struct, frozen=True, gc=False, tag="effect_held", kw_only=True):
    """A step was intended and held. In the run that lists what its run holds, together with the intent."""

    step: StepRef
    action: str


class RedoIntended(msgspec.Struct, frozen=True, gc=False, tag="redo_intended", kw_only=True):
    """What an undo restored is about to be put back to what the step had left. Durable before it starts."""

    step_id: str
    idempotency_key: str
    plan_digest: str
    attempt: int = 1


class RedoEnded(msgspec.Struct, frozen=True, gc=False, tag="redo_ended", kw_only=True):
    """The redo of a step has ended. If it is not `redone`, it stays undone, and a person has to decide in the task."""

    step_id: str
    plan_digest: str
    redone: bool
    reason: str = ""
    detail: str = ""
    task_id: str | None = None


class ReviewOpened(msgspec.Struct, frozen=True, gc=False, tag="review_opened", kw_only=True):
    """A person has to decide about these steps: one task for all steps of one action with one reason."""

    task_id: str
    action: str
    reason: str
    detail: str
    steps: tuple[StepRef, ...]


class ReviewNoted(msgspec.Struct, frozen=True, gc=False, tag="review_noted", kw_only=True):
    """Something was said of a review task before or after it was decided.

    Attributes:
        what: `assigned` (`text` is to whom; empty: to nobody any more), `comment` (`text`), `due` (`due_at`; None: at
            no time any more), or `exported` (`text` is where to, `state` what was told there: `opened` or `resolved`).
        actor: Who said it.
    """

    task_id: str
    what: str
    actor: str
    text: str = ""
    state: str = ""
    due_at: datetime | None = None


class ReviewResolved(msgspec.Struct, frozen=True, gc=False, tag="review_resolved", kw_only=True):
    """A person decided. `resolution` is `done`, `compensated`, `not_needed` or `retry`.

    `reference` names what was done elsewhere: a ticket, a credit note, a booking.
    """

    task_id: str
    resolution: str
    actor: str
    note: str = ""
    reference: str = ""


class PlanStarted(msgspec.Struct, frozen=True, gc=False, tag="plan_started", kw_only=True):
    """An undo began to apply a plan. The plan's own run holds this and the review tasks it opens.

    `pending` counts the steps that were not accounted for when it began; unset in older journals.
    """

    plan_digest: str
    selection: dict[str, Any]
    runs: tuple[str, ...]
    steps: int
    actor: str
    reason: str = ""
    pending: int | msgspec.UnsetType = msgspec.UNSET


class PlanFinished(msgspec.Struct, frozen=True, gc=False, tag="plan_finished", kw_only=True):
    """Every write of the plan is accounted for; the counts are by disposition."""

    plan_digest: str
    counts: dict[str, int]


class PlanLeft(msgspec.Struct, frozen=True, gc=False, tag="plan_left", kw_only=True):
    """Whoever applied the plan has left it with steps that were not reached. The counts are by `StepResult.word`.

    `why` is `cancelled`, `interrupted`, `out_of_time`, `unavailable` (a target system did not answer), or `overtaken`
    (somebody else took steps of it). Of a plan that was left to workers also `stale` (it is not as it was shown, and
    nothing was done), `failed` (it could not be looked after), or `incomplete`.
    """

    plan_digest: str
    why: str
    detail: str = ""
    counts: dict[str, int] = {}


class PlanSubmitted(msgspec.Struct, frozen=True, gc=False, tag="plan_submitted", kw_only=True):
    """A plan was left to the workers. In the plan's own run, together with its shares; durable before any of it begins.

    Attributes:
        selection: What was asked for; a worker that plans anew asks for the same.
        steps: How many steps were selected.
        shares: How many `PlanShare` follow.
        signatures: What was declared of the plan's actions where it was made: only a worker that declares the same may
            carry them out.
        settled: How many steps are in no share since nothing is to be done about them, by word as in `StepResult`.
        parallel: Steps of a share at once.
        retries: Further tries of a step.
        within_s: So many seconds after this, no further step is begun; None for no such deadline.
    """

    plan_digest: str
    selection: dict[str, Any]
    steps: int
    shares: int
    signatures: dict[str, str]
    actor: str
    reason: str = ""
    settled: dict[str, int] = {}
    parallel: int = 8
    retries: int = 3
    within_s: float | None = None


class PlanShare(msgspec.Struct, frozen=True, gc=False, tag="plan_share", kw_only=True):
    """Steps of a submitted plan that nothing of its other shares waits for.

    Attributes:
        number: From 0, within the submission.
        digest: Of what is to be done about its steps, as it was shown.
        steps: In the order of the plan.
        left: Places, in `steps`, of those that the plan leaves to a person.
        actions: The declared actions of its steps: what a worker needs to carry it out.
        alone: Whether some of its handlers may be called by only one worker at a time.
        forces: Places, in `steps`, of those whose restore overwrites a later change, each with the version that was
            shown: that one may be overwritten, and none that came after it. Unset, and not written, if there is none.
    """

    plan_digest: str
    number: int
    digest: str
    steps: tuple[StepRef, ...]
    left: tuple[int, ...] = ()
    actions: tuple[str, ...] = ()
    alone: bool = False
    forces: tuple[tuple[int, str], ...] | msgspec.UnsetType = msgspec.UNSET


class PlanNeeds(msgspec.Struct, frozen=True, gc=False, tag="plan_needs", kw_only=True):
    """What a worker has to know of to carry out the plan that was submitted: `force`, `redo`. Together with its shares.

    A rescind that is too old for it cannot read this entry, and so leaves the whole plan alone.
    """

    plan_digest: str
    needs: tuple[str, ...]


class AnswersRecorded(msgspec.Struct, frozen=True, gc=False, tag="answers_recorded", kw_only=True):
    """Somebody had target systems asked about steps in doubt, and what they said is recorded in the same append.

    In a run of its own. `digest` is over all that was asked; `counts` are of the steps of this append, by `Answer`.
    """

    digest: str
    counts: dict[str, int]
    actor: str
    reason: str = ""


class PlanControlled(msgspec.Struct, frozen=True, gc=False, tag="plan_controlled", kw_only=True):
    """Somebody has intervened in an undo in progress. `what` is `pause`, `resume` or `cancel`.

    Whoever applies the plan, wherever that is, obeys; see `recovery.control`.
    """

    plan_digest: str
    what: str
    actor: str
    reason: str = ""


class Signalled(msgspec.Struct, frozen=True, gc=False, tag="signalled"):
    """A detector has noticed something. `responses` are what the policy did about it, for people.

    In shadow mode nothing was done, and `responses` say what would have been.
    """

    signal: Signal
    responses: tuple[str, ...] = ()
    shadow: bool = False


class ApprovalAsked(msgspec.Struct, frozen=True, gc=False, tag="approval_asked", kw_only=True):
    """A write waits for a person. In the approval's own run; `arguments_digest` covers action and arguments.

    Attributes:
        approval_id: The run that holds this approval's events.
        run: Who asks; the step has no intent yet.
        arguments: As they would be executed and recorded, redacted ones blotted out.
        because: Why it needs one: the order, or the rule.
        expires_at: Until when a decision counts.
    """

    approval_id: str
    run: RunInfo
    action: str
    arguments: Arguments
    arguments_digest: str
    target: Target | None = None
    because: str = ""
    expires_at: datetime


class ApprovalDecided(msgspec.Struct, frozen=True, gc=False, tag="approval_decided", kw_only=True):
    """A named person decided: `approved` or `denied`. Or who asked does not want it any more: `withdrawn`.

    `arguments_digest` is of what was decided about. Only of a withdrawal, `actor` is a guard.
    """

    approval_id: str
    decision: str
    actor: str
    arguments_digest: str
    note: str = ""


class ApprovalUsed(msgspec.Struct, frozen=True, gc=False, tag="approval_used", kw_only=True):
    """The approved write was begun: an approval is good for one execution. Together with the step's intent."""

    approval_id: str
    step: StepRef


class RunSnapshot(msgspec.Struct, frozen=True, gc=False, tag="run_snapshot", kw_only=True):
    """The state of a run at the moment when it was contained, as its own process saw it.

    Attributes:
        order_id: The order that contained it.
        level: The level it was held at from then on.
        calls, steps: How many it had made.
        in_flight: Steps that were running.
        children: Runs that it had open.
        facts: What detectors knew of it, as JSON values.
    """

    order_id: str
    level: str
    calls: int
    steps: int
    in_flight: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    facts: dict[str, Any] = {}


class IncidentOpened(msgspec.Struct, frozen=True, gc=False, tag="incident_opened", kw_only=True):
    """An incident began. In the incident's own run. `cause` is what further signals are grouped by."""

    incident_id: str
    cause: str
    scope: str
    title: str
    severity: str


class IncidentNoted(msgspec.Struct, frozen=True, gc=False, tag="incident_noted", kw_only=True):
    """Something belongs to the incident's timeline.

    `what` is `signal`, `order`, `lift`, `snapshot`, `alert` or `note`; `ref` the id of the thing, the same thing is
    noted once.
    """

    incident_id: str
    what: str
    ref: str
    detail: str
    actor: str = ""
    facts: dict[str, Any] = {}


class StageEnded(msgspec.Struct, frozen=True, gc=False, tag="stage_ended", kw_only=True):
    """A stage of an incident's course came to its end. In the incident's own run.

    Attributes:
        stage: `contain`, `snapshot`, `classify`, `compensate`, `reconcile` or `resume`.
        how: `done`, or `failed`: what stands against it is in `detail`, and it is done again.
        detail: For people.
        actor: Who drove it.
        facts: What it found, as JSON values.
    """

    incident_id: str
    stage: str
    how: str
    detail: str
    actor: str = ""
    facts: dict[str, Any] = {}


class StageApproved(msgspec.Struct, frozen=True, gc=False, tag="stage_approved", kw_only=True):
    """A person, or a policy that may, let a stage begin. `subject` is what was approved: a plan's digest."""

    incident_id: str
    stage: str
    subject: str
    actor: str
    note: str = ""


class IncidentClosed(msgspec.Struct, frozen=True, gc=False, tag="incident_closed", kw_only=True):
    """A person closed the incident."""

    incident_id: str
    actor: str
    note: str = ""


Event = (
    RunOpened
    | RunClosed
    | Intended
    | Released
    | Ended
    | Read
    | Verified
    | Checkpointed
    | Resumed
    | Refused
    | EffectHeld
    | CompensationIntended
    | CompensationEnded
    | RedoIntended
    | RedoEnded
    | CompensationWithdrawn
    | Probed
    | ReviewOpened
    | ReviewNoted
    | ReviewResolved
    | PlanStarted
    | PlanFinished
    | PlanLeft
    | PlanControlled
    | PlanSubmitted
    | PlanShare
    | PlanNeeds
    | AnswersRecorded
    | Signalled
    | ApprovalAsked
    | ApprovalDecided
    | ApprovalUsed
    | RunSnapshot
    | IncidentOpened
    | IncidentNoted
    | StageEnded
    | StageApproved
    | IncidentClosed
)


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An event in its place.

    Attributes:
        sequence: Place in the whole journal, from 1, without gaps.
        position: Place in the run's chain, from 0, without gaps.
        run: The run it belongs to, with agent, tenant, workflow, session, trace and ancestors.
        recorded_at: When the event was handed to the journal; aware, UTC.
        event: What happened.
        hash: This entry's link of the chain, hexadecimal; see `journal.chain`.
    """

    sequence: int
    position: int
    run: RunInfo
    recorded_at: datetime
    event: Event
    hash: str
