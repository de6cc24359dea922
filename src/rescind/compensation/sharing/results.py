"""What became of the steps of a plan that was left to workers: read off the journal."""

from collections.abc import Iterable

from rescind.compensation.result import StepResult
from rescind.compensation.sharing.shares import superseded_of
from rescind.compensation.sharing.submission import Submission
from rescind.compensation.way import Way
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.model.entry import CompensationEnded, Disposition, Entry, StepRef
from rescind.model.history import fold_steps
from rescind.model.outcome import Failed
from rescind.recovery.review import resolved_tasks


def results_of(journal: Journal, submission: Submission, steps: Iterable[tuple[StepRef, str]]) -> list[StepResult]:
    """Where these steps, each with its action, stand now: what the submitted plan did, and what others did.

    What another plan did counts as long as it stands: not if a redo or a reviewer's `retry` has opened it again, nor if
    it left as superseded what this plan undoes (CF5).
    """
    digest, way = submission.submitted.plan_digest, submission.way
    wanted = dict(steps)
    ends: dict[StepRef, CompensationEnded] = {}
    failed: dict[StepRef, str] = {}
    for run_id in dict.fromkeys(step.run_id for step in wanted):
        _read_ends(journal, run_id, digest, way, ends, failed)
    for step in superseded_of(submission.shares):
        if step in ends and ends[step].disposition is Disposition.SUPERSEDED and ends[step].plan_digest != digest:
            del ends[step]
    return [_result(step, action, ends.get(step), failed.get(step), digest) for step, action in wanted.items()]


def _read_ends(
    journal: Journal,
    run_id: str,
    digest: str,
    way: Way,
    ends: dict[StepRef, CompensationEnded],
    failed: dict[StepRef, str],
) -> None:
    """Add the ends of a run that stand; and the steps that need none since they failed themselves, each with why."""
    found: dict[StepRef, CompensationEnded] = {}

    def noting(entries: Iterable[Entry]) -> Iterable[Entry]:
        for entry in entries:
            if (end := way.hear(entry.event)) is not None:
                found[StepRef(run_id, end.step_id)] = end
            yield entry

    records = [way.see(record) for record in fold_steps(noting(every_entry(journal, Query(run_id=run_id))))]
    opened_again = {record.ref for record in records if record.disposition is None}
    if any(end.task_id is not None for end in found.values()):
        retried = resolved_tasks(journal).retried
        opened_again |= {step for step, end in found.items() if end.task_id in retried}
    ends |= {step: end for step, end in found.items() if end.plan_digest == digest or step not in opened_again}
    for record in records:
        if record.disposition is None and isinstance(record.outcome, Failed):
            failed[record.ref] = record.outcome.reason


def _result(step: StepRef, action: str, end: CompensationEnded | None, failed: str | None, digest: str) -> StepResult:
    if end is None and failed is not None:
        return StepResult(
            step=step,
            action=action,
            disposition=Disposition.NEVER_TOOK_EFFECT,
            detail=f"it failed and changed nothing: {failed}",
            earlier=True,
            failed=True,
        )
    if end is None:
        return StepResult(step=step, action=action, disposition=None)
    return StepResult(
        step=step,
        action=action,
        disposition=end.disposition,
        reason=end.reason,
        detail=end.detail,
        task_id=end.task_id,
        earlier=end.plan_digest != digest,
        by=end.by or "",
    )
