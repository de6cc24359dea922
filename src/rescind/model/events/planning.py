"""What becomes of a plan as a whole: begun, left to workers, paused, finished; and of answers about doubts."""

from typing import Any

import msgspec

from rescind.model.step import StepRef


class PlanStarted(msgspec.Struct, frozen=True, gc=False, tag="plan_started", kw_only=True):
    """An undo began to apply a plan. The plan's own run holds this and the review tasks it opens.

    `pending` counts the steps that were not accounted for when it began; unset in older journals. `shown` says that
    whoever applies it shows that it lives (`recovery.appliers`); unset where nothing is shown.
    """

    plan_digest: str
    selection: dict[str, Any]
    runs: tuple[str, ...]
    steps: int
    actor: str
    reason: str = ""
    pending: int | msgspec.UnsetType = msgspec.UNSET
    shown: bool | msgspec.UnsetType = msgspec.UNSET


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


class PlanControlled(msgspec.Struct, frozen=True, gc=False, tag="plan_controlled", kw_only=True):
    """Somebody has intervened in an undo in progress. `what` is `pause`, `resume` or `cancel`.

    Whoever applies the plan, wherever that is, obeys; see `recovery.control`.
    """

    plan_digest: str
    what: str
    actor: str
    reason: str = ""


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
        superseded: Places of those that an earlier undo has left as superseded, and this one undoes. Unset as above.
    """

    plan_digest: str
    number: int
    digest: str
    steps: tuple[StepRef, ...]
    left: tuple[int, ...] = ()
    actions: tuple[str, ...] = ()
    alone: bool = False
    forces: tuple[tuple[int, str], ...] | msgspec.UnsetType = msgspec.UNSET
    superseded: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


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


class PlanRequested(msgspec.Struct, frozen=True, gc=False, tag="plan_requested", kw_only=True):
    """Somebody without the tools asks for a plan, or for the plan that was shown to be applied. In a run of its own.

    Attributes:
        what: `plan`, or `apply`.
        selection: What is to be planned.
        digest: Which plan is to be applied; empty for `plan`.
        actor: Who asks.
        reason: Why.
        force: Whether later changes may be overwritten where their action says `force`.
        parallel: Steps of a share at once; None for what the worker's configuration says.
        within_s: So many seconds after it is submitted, no further step is begun; None for what the worker's
            configuration says.
    """

    what: str
    selection: dict[str, Any]
    digest: str = ""
    actor: str
    reason: str = ""
    force: bool = False
    parallel: int | None = None
    within_s: float | None = None


class RequestTaken(msgspec.Struct, frozen=True, gc=False, tag="request_taken", kw_only=True):
    """A worker answers what was asked last. While it lives, nobody else does."""

    worker_id: str


class PlanPart(msgspec.Struct, frozen=True, gc=False, tag="plan_part", kw_only=True):
    """Some items of a plan that is shown, in its order, as JSON values. What shows the plan comes after all of them."""

    digest: str
    number: int
    items: tuple[dict[str, Any], ...]


class RequestAnswered(msgspec.Struct, frozen=True, gc=False, tag="request_answered", kw_only=True):
    """What was asked last is answered.

    Attributes:
        how: `shown` (a plan), `submitted` (it was left to the workers), `settled` (there is nothing left to do), or why
            not: `lacking` (no worker has the tools), `outdated` (it is another plan by now), `live` (a run may still
            write), `refused`.
        detail: For people.
        worker_id: Who answers.
        digest: The plan as it is now; empty if none was made.
        facts: What is to be known of it besides its items, as JSON values.
        parts: How many parts were recorded of it.
    """

    how: str
    detail: str = ""
    worker_id: str
    digest: str = ""
    facts: dict[str, Any] = {}
    parts: int = 0
