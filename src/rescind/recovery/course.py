"""Driving the course of an incident: contain, snapshot, classify, compensate, reconcile, resume.

IC1. *In order.* A stage begins once all before it are done. What it found is on record before the next one begins.
IC2. *Anywhere, again.* Every stage may be killed at any instant and is done again from its beginning: what it orders
     has an id that follows from the incident, what it undoes is under the laws of an undo, and the rest only looks. Of
     two who drive one incident, the second finds the first one's record in its way, and looks again.
IC3. *A person's gates.* Compensating needs the approval of exactly the plan that was shown, by its digest; resuming
     another one. A plan that has changed is shown, and asked for, again. Compensation starts without a person only if
     the policy names the kind of the incident's signals, and only five kinds can be named (`MAY_COMPENSATE_ON`).
IC4. *Never worse.* After the undo the world is compared with what it was to be, and every invariant with how it was
     before. Whatever is worse leaves the incident open, with what it is.
IC5. *Nothing begins again by itself.* The last stage only says from where each run could be carried on; carrying it on,
     lifting orders and closing the incident are acts of a person.
IC6. *Not past what cannot be read.* A run with an entry that cannot be read is contained, and nothing of it is undone.
     The others are; reconciling fails for that one, with the entry, so that the incident stays open.
"""

import contextlib

import msgspec

from rescind.clock import Clock
from rescind.containment.incident import incident_of
from rescind.containment.timeline import Incident
from rescind.errors import (
    AlreadySettled,
    PlanOutdated,
    PlanUnknown,
    RescindError,
    SequenceConflict,
    UsageError,
)
from rescind.journal.behind import again
from rescind.journal.pages import every_entry
from rescind.journal.port import Draft, Journal, Query
from rescind.model.entry import Event, StageApproved, StageEnded
from rescind.model.signal import SignalKind
from rescind.recovery.stage_work import RECOVERY_ACTOR, STAGES, Means
from rescind.recovery.stages import FAILED, Course, Stage, fold_course
from rescind.triggers.policy import MAY_COMPENSATE_ON

_ATTEMPTS_MAX = 20  # Each means that somebody else drove the same incident, or wrote to it, in between.


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where the course stands after it was driven as far as it goes.

    Attributes:
        course: All of it.
        stage: The stage it stands at; None if every stage is done.
        waits: Whether a person has to let that stage begin.
        detail: Why it does not go on, for people.
        subject: What a person would approve.
    """

    course: Course
    stage: Stage | None = None
    waits: bool = False
    detail: str = ""
    subject: str = ""


def read_course(journal: Journal, incident_id: str) -> Course:
    """The course of this incident, by its whole id."""
    return fold_course(every_entry(journal, Query(run_id=incident_id)))


def drive(incident_id: str, means: Means) -> Standing:
    """Drive the course as far as it goes without a person. What is done is durable on return.

    Raises: UsageError, for an unknown incident, or one that is closed; JournalUnavailable and OrdersUnavailable, after
        which driving it again goes on where this left off.
    """
    for _ in range(_ATTEMPTS_MAX * len(Stage)):
        incident = incident_of(means.journal, incident_id)
        if not incident.is_open:
            raise UsageError(f"incident {incident_id} is closed; what is noticed from now on is another one")
        course = read_course(means.journal, incident_id)
        stage = course.next
        if stage is None:
            return Standing(course=course)
        if course.waits_for_approval(stage):
            if _let_begin(incident, course, stage, means):
                continue
            why = _why_waits(course, stage)
            return Standing(course=course, stage=stage, waits=True, detail=why, subject=course.subject_of(stage))
        ended = STAGES[stage](incident, course, means)
        if _is_known(course, ended):
            return Standing(course=course, stage=stage, detail=ended.detail)
        if not _append(means, course, ended):
            continue
        if ended.how == FAILED:
            now = read_course(means.journal, incident_id)
            return Standing(course=now, stage=stage, detail=ended.detail)
    raise RescindError(f"incident {incident_id} is being driven by others all the time; nothing is lost, try again")


def approve(
    journal: Journal, incident_id: str, stage: Stage, subject: str, *, actor: str, note: str = "", clock: Clock
) -> Course:
    """A person lets a stage begin. Durable on return.

    Args:
        journal: Where the incident is.
        incident_id: Its whole id.
        stage: The stage that waits.
        subject: What is approved: the plan's digest, or its beginning of 8 characters or more.
        actor: Who approves it.
        note: Why.
        clock: The time.

    Raises:
        UsageError: It is not this stage that waits.
        PlanOutdated: It is another plan by now; nothing was approved.
        PlanUnknown: The incident never had this plan; nothing was approved.
    """

    def turn() -> Course:
        course = read_course(journal, incident_id)
        if course.next is not stage or not course.waits_for_approval(stage):
            at = "every stage is done" if course.next is None else f"its next stage is {course.next.value}"
            raise AlreadySettled(f"incident {incident_id} does not wait for {stage.value} to be approved; {at}")
        current = course.subject_of(stage)
        if len(subject) < 8 or not current.startswith(subject.lower()):
            raise _other_plan(journal, incident_id, subject.lower(), current)
        event = StageApproved(incident_id=incident_id, stage=stage.value, subject=current, actor=actor, note=note)
        journal.append([_draft(incident_id, event, clock, course.length)])
        return read_course(journal, incident_id)

    return again(turn, busy=UsageError(f"incident {incident_id} is being written to by others all the time; try again"))


def _other_plan(journal: Journal, incident_id: str, subject: str, current: str) -> PlanOutdated | PlanUnknown:
    events = (entry.event for entry in every_entry(journal, Query(run_id=incident_id)))
    classified = (str(event.facts.get("digest", "")) for event in events if isinstance(event, StageEnded))
    if len(subject) >= 8 and any(digest.startswith(subject) for digest in classified):
        return PlanOutdated(shown=subject, current=current)
    return PlanUnknown(named=subject, current=current, known_by=f"was ever made for incident {incident_id}")


def _let_begin(incident: Incident, course: Course, stage: Stage, means: Means) -> bool:
    """Let compensation begin without a person, if the policy allows it for every reason of this incident (IC3)."""
    kinds = {str(line.facts.get("kind", "")) for line in incident.of("signal")}
    allowed = {kind.value for kind in means.compensate_on if kind in MAY_COMPENSATE_ON}
    reasons = [MAY_COMPENSATE_ON[SignalKind(kind)] for kind in sorted(kinds & allowed)]
    if stage is not Stage.COMPENSATE or not reasons:
        return False
    event = StageApproved(
        incident_id=incident.incident_id,
        stage=stage.value,
        subject=course.subject_of(stage),
        actor=RECOVERY_ACTOR,
        note=f"the policy allows it: {'; '.join(reasons)}",
    )
    with contextlib.suppress(SequenceConflict):  # somebody else has written; what stands now is read anew
        means.journal.append([_draft(incident.incident_id, event, means.clock, course.length)])
    return _approved_now(incident, stage, means)


def _approved_now(incident: Incident, stage: Stage, means: Means) -> bool:
    return not read_course(means.journal, incident.incident_id).waits_for_approval(stage)


def _why_waits(course: Course, stage: Stage) -> str:
    if stage is Stage.COMPENSATE:
        return (
            f"a person has to approve the plan {course.subject_of(stage)[:16]}: {course.ended[Stage.CLASSIFY].detail}"
        )
    return "a person has to say that its runs may go on"


def _is_known(course: Course, ended: StageEnded) -> bool:
    """Whether the stage failed as it did before: who drives a course again and again records that once."""
    before = course.ended.get(Stage(ended.stage))
    return (
        before is not None
        and (before.how, before.detail) == (FAILED, ended.detail)
        and ended.how == FAILED
        and before.facts == msgspec.to_builtins(ended.facts)
    )


def _append(means: Means, course: Course, ended: StageEnded) -> bool:
    """Record a stage's end, if nobody has written to the incident since; else it is looked at anew (IC2)."""
    expected = read_course(means.journal, ended.incident_id)
    if (expected.ended, expected.approved) != (course.ended, course.approved):
        return False
    try:
        means.journal.append([_draft(ended.incident_id, ended, means.clock, expected.length)])
    except SequenceConflict:
        return False
    return True


def _draft(incident_id: str, event: Event, clock: Clock, position: int) -> Draft:
    return Draft(run_id=incident_id, event=event, recorded_at_us=clock.now_us(), expected_position=position)
