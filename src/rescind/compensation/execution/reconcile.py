"""Reconciling the journal with what target systems know: steps in doubt are asked about and get their end.

A call that lost its reply keeps its idempotency key for itself: nobody knows whether it may be made again, so a
repeated call is refused (`StepInDoubt`). Once the target system has said what became of it, the journal says so, too,
and a repeated call is answered with the recorded result, or made.

The laws of asking are DT1 to DT3 of `doubt`. Those of recording, which the tests cite:

RC1. *Asking changes nothing*, neither at a target nor in the journal.
RC2. *As it was asked.* What is recorded is what was asked and answered: the answer and the end it makes stand in one
    append. Of a step that got its end meanwhile, nothing is recorded.
RC3. *No guess.* A step whose target cannot tell goes to a person, as in an undo: one review task for all steps of one
    action. One of which something may still arrive, or that could not be asked about here, stays as it is.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import msgspec

from rescind.clock import Clock, from_us
from rescind.compensation.awaiting import Waiter
from rescind.compensation.decision import Settle
from rescind.compensation.doubt import Resolved, as_known, doubt_of, is_in_doubt, resolve_step
from rescind.compensation.planning.selection import Selection, read_steps, select_steps
from rescind.compensation.port import Compensator, Prober, ReviewReason
from rescind.errors import JournalUnavailable
from rescind.guard.flow import name_of
from rescind.journal.behind import again
from rescind.journal.port import Draft, Journal
from rescind.model.entry import (
    AnswersRecorded,
    CompensationEnded,
    Disposition,
    Ended,
    Event,
    Probed,
    ReviewOpened,
    RunOpened,
    StepRef,
)
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed
from rescind.model.probe import Answer, Probe, ProbeResult
from rescind.model.step import RunInfo, Snapshot, Target, canonical_json
from rescind.recovery.review import Resolved as TasksResolved
from rescind.recovery.review import resolved_tasks

RECONCILE_AGENT = "rescind-reconcile"
"""The agent name of the runs that hold the record of a reconciliation, and its review tasks."""

STEPS_PER_APPEND = 2_000
"""Steps whose ends become durable together: some megabytes. Who is killed in between goes on with the rest."""


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a step in doubt.

    Attributes:
        step, action, target: The step.
        answer: What its target system said, or why that is no end.
        outcome, after: What the journal says of it once that is recorded; None if nothing is recorded.
        detail: Why there is no outcome, in words.
        probed: The answer as it came; None if the target was not asked.
        idempotency_key: What was asked about.
        task_id: The review task that it was in before, which somebody has resolved as `retry`; None if it was in none.
    """

    step: StepRef
    action: str
    target: Target | None = None
    answer: Answer
    outcome: Completed | Failed | None = None
    after: Snapshot | None = None
    detail: str = ""
    probed: ProbeResult | None = None
    idempotency_key: str = ""
    task_id: str | None = None


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """What target systems said of the steps in doubt of a selection.

    Attributes:
        steps: One for each, in order of intent; may be empty.
        in_review: Steps in doubt that a person has to decide about already; they were not asked about.
        tenant: Whose they all are; empty if they are of several.
    """

    steps: tuple[Reconciled, ...]
    in_review: tuple[StepRef, ...] = ()
    tenant: str = ""

    @property
    def digest(self) -> str:
        """Over what would be recorded, hexadecimal: the same answers to the same steps have the same."""
        said = [[each.step, each.answer, each.outcome, each.after, each.task_id] for each in self.steps]
        return hashlib.sha256(canonical_json(msgspec.to_builtins(said))).hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Steps by answer, in the order of `Answer`."""
        counts = Counter(each.answer for each in self.steps)
        return {answer.value: counts[answer] for answer in Answer if counts[answer]}

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be recorded."""
        return not any(is_recorded(each) for each in self.steps)


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    Attributes:
        steps: What was recorded.
        moved_on: Steps that had got their end, or were taken up by an undo, before theirs was recorded.
        tasks: Ids of the review tasks that were opened.
    """

    steps: tuple[Reconciled, ...]
    moved_on: tuple[StepRef, ...] = ()
    tasks: tuple[str, ...] = ()


def reconcile(
    journal: Journal,
    selection: Selection,
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    live_runs: Container[str] = (),
) -> list[Reconciled]:
    """Ask about the selected steps that are in doubt, and record what was found and what was not; no task is opened.

    Args: as `ask_about`. Returns: what was asked about, in order of intent. Raises: as `ask_about`.
    """
    asked = ask_about(journal, selection, compensators, clock, live_runs=live_runs)
    known = msgspec.structs.replace(asked, steps=tuple(each for each in asked.steps if each.outcome is not None))
    record_answers(known, journal, clock, actor=RECONCILE_AGENT)
    return list(asked.steps)


def ask_about(
    journal: Journal,
    selection: Selection,
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    parallel: int = 8,
    live_runs: Container[str] = (),
) -> Reconciliation:
    """Ask the target systems of the selected steps that are in doubt (RC1).

    Args: as for `make_plan`; handlers not declared parallel are asked one after the other.

    Returns: What was not found counts only once nothing of the call can arrive any more (DT2).
    Raises: UsageError, for a selection that names what the journal does not know; JournalUnavailable.
    """
    decided = resolved_tasks(journal)
    records = [each for each in select_steps(journal, selection) if is_in_doubt(each) and not each.is_held]
    tenants = {record.run.tenant for record in records}
    left = [record for record in records if _is_open(record, decided)]
    return Reconciliation(
        steps=tuple(_ask_about(left, compensators, clock, parallel, live_runs)),
        in_review=tuple(record.ref for record in records if _is_in_review(record, decided)),
        tenant=tenants.pop() if len(tenants) == 1 else "",
    )


def record_answers(asked: Reconciliation, journal: Journal, clock: Clock, *, actor: str, reason: str = "") -> Recorded:
    """Record what was asked and answered (RC2), and open review tasks for what nobody can tell (RC3).

    Durable on return. Killed in between, what is recorded stays, and asking again finds the rest.

    Args:
        asked: What was asked.
        journal: Where the steps are.
        clock: The time.
        actor: On whose behalf.
        reason: Why.

    Raises: JournalUnavailable.
    """
    to_record = [each for each in asked.steps if is_recorded(each)]
    done: list[Reconciled] = []
    tasks: list[str] = []
    for start in range(0, len(to_record), STEPS_PER_APPEND):
        recorded, opened = _record(to_record[start : start + STEPS_PER_APPEND], asked, journal, clock, actor, reason)
        done += recorded
        tasks += opened
    kept = {each.step for each in done}
    moved_on = tuple(each.step for each in to_record if each.step not in kept)
    return Recorded(steps=tuple(done), moved_on=moved_on, tasks=tuple(tasks))


def is_recorded(said: Reconciled) -> bool:
    """Whether the answer has a consequence in the journal: an end, or a review task."""
    return said.outcome is not None or said.answer is Answer.CANNOT_TELL


# --- asking ---


def _is_open(record: StepRecord, decided: TasksResolved) -> bool:
    """Whether nobody has accounted for the step: no undo, and no person."""
    return record.disposition is None or (
        record.disposition is Disposition.REVIEW and (record.task_id or "") in decided.retried
    )


def _is_in_review(record: StepRecord, decided: TasksResolved) -> bool:
    known = decided.retried | decided.settled
    return record.disposition is Disposition.REVIEW and (record.task_id or "") not in known


def _ask_about(
    records: Sequence[StepRecord],
    compensators: Mapping[str, Compensator],
    clock: Clock,
    parallel: int,
    live_runs: Container[str],
) -> list[Reconciled]:
    def ask(record: StepRecord) -> Reconciled:
        return _look_into(as_known(record), compensators.get(record.step.action), clock, waiter, live_runs)

    apart = [each for each in records if each.step.action in compensators and compensators[each.step.action].parallel]
    with Waiter() as waiter, ThreadPoolExecutor(max(1, min(parallel, len(apart))), "rescind-ask") as pool:
        said = dict(zip((each.ref for each in apart), pool.map(ask, apart), strict=True))
        return [said.get(record.ref) or ask(record) for record in records]


def _look_into(
    record: StepRecord, compensator: Compensator | None, clock: Clock, waiter: Waiter, live_runs: Container[str]
) -> Reconciled:
    said = Reconciled(
        step=record.ref,
        action=record.step.action,
        target=record.step.target,
        answer=Answer.NOT_ASKED,
        idempotency_key=record.step.idempotency_key,
        task_id=record.task_id,
    )
    if isinstance(record.outcome, Completed):  # an undo has asked before
        return _with(said, answer=Answer.FOUND, outcome=record.outcome, after=record.after)
    if compensator is None:
        return _with(said, detail=f"the application declares no action {record.step.action!r}")
    if problem := compensator.accepts(record.step.arguments):
        return _with(said, detail=problem)
    # Who lives is looked at first: a process that dies between both looks may have done it after it was asked for.
    if record.run.run_id in live_runs and record.outcome is None:
        return _with(said, answer=Answer.NOT_YET, detail="its process still lives, and may record the end itself")
    if not compensator.action.probed:
        detail = f"{doubt_of(record)}; {record.step.action!r} has no probe"
        return _with(said, answer=Answer.CANNOT_TELL, detail=detail)
    answer = _ask(cast("Prober", compensator), record, waiter)
    said = _with(said, probed=answer)
    now = from_us(clock.now_us())
    match resolve_step(record, compensator.action, answer, now, doubt=doubt_of(record), is_live=False):
        case Resolved(completed):
            return _with(said, answer=Answer.FOUND, outcome=cast("Completed", completed.outcome), after=completed.after)
        case Settle(because=because):
            return _with(said, answer=Answer.NOT_FOUND, outcome=Failed(because))
        case review:
            not_yet = answer.answer is Probe.NOT_FOUND
            return _with(said, answer=Answer.NOT_YET if not_yet else Answer.CANNOT_TELL, detail=review.detail)


def _with(said: Reconciled, **changes: object) -> Reconciled:
    return msgspec.structs.replace(said, **changes)


def _ask(prober: Prober, record: StepRecord, waiter: Waiter) -> ProbeResult:
    try:
        answer: ProbeResult = waiter.result_of(prober.probe(record, record.step.idempotency_key))
    except Exception as error:  # noqa: BLE001  # whatever a target system raises, it has told nothing (DT3)
        return ProbeResult(answer=Probe.CANNOT_TELL, detail=name_of(error))
    return answer


# --- recording ---


def _record(
    steps: Sequence[Reconciled], asked: Reconciliation, journal: Journal, clock: Clock, actor: str, reason: str
) -> tuple[list[Reconciled], list[str]]:
    """In one append, of the steps that are in doubt still; whoever writes to their runs meanwhile makes it fail."""

    def turn() -> tuple[list[Reconciled], list[str]]:
        positions = {run_id: _next_position(journal, run_id) for run_id in {each.step.run_id for each in steps}}
        records = {each.ref: each for each in read_steps(journal, positions)}
        left = [each for each in steps if _is_as_asked(each, records.get(each.step))]
        if not left:
            return [], []
        digest = asked.digest
        info = RunInfo(run_id=f"reconcile_{digest[:16]}", agent_name=RECONCILE_AGENT, tenant=asked.tenant)
        tasks = list(_tasks_of(left, digest))
        counts = dict(Counter(each.answer.value for each in left))
        of_run: list[Event] = [
            RunOpened(run=info, guard_id=info.run_id),
            AnswersRecorded(digest=digest, counts=counts, actor=actor, reason=reason),
            *tasks,
        ]
        now_us = clock.now_us()
        drafts = [Draft(run_id=info.run_id, event=event, recorded_at_us=now_us) for event in of_run]
        in_task = {step: task for task in tasks for step in task.steps}
        for each in left:
            for event in _events_of(each, digest, in_task.get(each.step)):
                run_id = each.step.run_id
                expected = positions[run_id]
                drafts.append(Draft(run_id=run_id, event=event, recorded_at_us=now_us, expected_position=expected))
                positions[run_id] += 1
        journal.append(drafts)
        return left, [task.task_id for task in tasks]

    busy = "the runs of these steps are being written to by others all the time; try again later"
    return again(turn, busy=JournalUnavailable(busy))


def _next_position(journal: Journal, run_id: str) -> int:
    head = journal.head(run_id)
    assert head is not None, "a step of it was read"
    return head.position + 1


def _is_as_asked(said: Reconciled, record: StepRecord | None) -> bool:
    if record is None or not is_in_doubt(record):
        return False
    return record.disposition is None or (record.disposition is Disposition.REVIEW and record.task_id == said.task_id)


def _tasks_of(steps: Iterable[Reconciled], digest: str) -> Iterator[ReviewOpened]:
    groups: defaultdict[str, list[Reconciled]] = defaultdict(list)
    for each in steps:
        if each.answer is Answer.CANNOT_TELL:
            groups[each.action].append(each)
    for action, group in sorted(groups.items()):
        named = canonical_json([digest, str(group[0].step), ReviewReason.IN_DOUBT.value])
        others = len({each.detail for each in group}) - 1
        yield ReviewOpened(
            task_id="review_" + hashlib.sha256(named).hexdigest()[:16],
            action=action,
            reason=ReviewReason.IN_DOUBT,
            detail=group[0].detail + (f"; and {others} other accounts" if others else ""),
            steps=tuple(each.step for each in group),
        )


def _events_of(said: Reconciled, digest: str, task: ReviewOpened | None) -> Iterator[Event]:
    step_id = said.step.step_id
    if said.probed is not None:
        yield Probed(
            step_id=step_id,
            idempotency_key=said.idempotency_key,
            answer=said.probed.answer,
            result=said.probed.result,
            after=said.probed.after,
            plan_digest=digest,
        )
    if said.outcome is not None:
        yield Ended(step_id=step_id, outcome=said.outcome, after=said.after)
    elif task is not None:
        yield CompensationEnded(
            step_id=step_id,
            disposition=Disposition.REVIEW,
            plan_digest=digest,
            reason=ReviewReason.IN_DOUBT,
            detail=said.detail,
            task_id=task.task_id,
        )
