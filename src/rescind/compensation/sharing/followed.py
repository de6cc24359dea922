"""What became of a plan that was left to the workers, in the words of an undo that was done here."""

from collections.abc import Sequence

from rescind.compensation.decision import AlreadyInReview, AlreadyUndone, Plan, PlanItem
from rescind.compensation.result import StepResult, UndoResult, result_of
from rescind.compensation.sharing.results import results_of
from rescind.compensation.sharing.submission import Submission
from rescind.journal.port import Journal
from rescind.model.entry import Disposition


def result_of_submission(journal: Journal, plan: Plan, ended: Submission) -> UndoResult:
    """What the workers did of this plan, and what was over before; the steps in the order of the plan."""
    found = results_of(journal, ended, [(item.step, item.action) for item in plan.items])
    return result_from(ended, [_before(item) or now for item, now in zip(plan.items, found, strict=True)])


def result_from(ended: Submission, steps: Sequence[StepResult]) -> UndoResult:
    """What the undo did, of these steps."""
    return UndoResult(
        plan_digest=ended.submitted.plan_digest,
        plan_run=ended.plan_run,
        steps=tuple(steps),
        tasks=ended.tasks,
        left_because="" if ended.stopped is None else ended.stopped.why,
        left_detail="" if ended.stopped is None else ended.stopped.detail,
    )


def _before(item: PlanItem) -> StepResult | None:
    """The result of a step that was over before, as an embedded undo says it."""
    match item.decision:
        case AlreadyUndone(disposition, because):
            return result_of(item, disposition, detail=because, earlier=True, failed=item.outcome == "failed")
        case AlreadyInReview(task_id, reason):
            return result_of(item, Disposition.REVIEW, reason=reason, task_id=task_id, earlier=True)
        case _:
            return None
