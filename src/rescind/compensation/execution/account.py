"""What one application of a plan knows of its steps: what was over before, what has ended since, what is left."""

from collections.abc import Callable, Iterable, Mapping

from rescind.compensation.decision import AlreadyInReview, AlreadyUndone, Plan, PlanItem, blocks, is_work
from rescind.compensation.execution.schedule import system_of
from rescind.compensation.execution.stopping import Stopping
from rescind.compensation.paperwork import plan_run_of
from rescind.compensation.planning.plan import outcome_word
from rescind.compensation.result import StepResult, UndoResult, moved_on, result_of
from rescind.model.action import EffectClass
from rescind.model.entry import Disposition, StepRef
from rescind.model.history import StepRecord

Progress = Callable[[StepResult], None]


class Account:
    """Where each step of a plan stands.

    Args:
        plan: The plan.
        records: Its steps as they stand now; not needed if the plan is settled. A step that moved on since the plan was
            made is left alone.
        tell: Told each result as it is known.
    """

    def __init__(self, plan: Plan, records: Mapping[StepRef, StepRecord], tell: Progress | None) -> None:
        self._plan, self._records, self._tell = plan, records, tell
        self._results: dict[StepRef, StepResult] = {}
        self._left: dict[StepRef, str] = {}
        self.lost: dict[str, str] = {}
        """Systems that did not answer, and what was last heard of them."""
        self.pending = [item for item in plan.items if not self._is_over(item)]
        """What something is to be done for."""

    def _is_over(self, item: PlanItem) -> bool:
        """Whether nothing is to be done for it (any more). If so, its result is known."""
        match item.decision:
            case AlreadyUndone(disposition, because):
                self._results[item.step] = result_of(
                    item, disposition, detail=because, earlier=True, failed=item.outcome == "failed"
                )
                return True
            case AlreadyInReview(task_id, reason):
                self._results[item.step] = result_of(
                    item, Disposition.REVIEW, reason=reason, task_id=task_id, earlier=True
                )
                return True
            case _:
                record = self._records.get(item.step)
                if record is not None and _is_as_planned(record, item):
                    return False
                self._results[item.step] = moved_on(item, record)
                return True

    def may_stay(self, item: PlanItem) -> bool:
        """Whether its effect may stay: as planned, or because it has moved on since (U5)."""
        result = self._results.get(item.step)
        if result is None or isinstance(item.decision, AlreadyUndone | AlreadyInReview):
            return blocks(item.decision)
        record = self._records.get(item.step)
        if record is not None and record.step.effect_class is EffectClass.IRREVERSIBLE:
            return False  # what stays for good holds nothing back
        return result.disposition in (None, Disposition.REVIEW)

    def know(self, results: Iterable[StepResult]) -> None:
        """These steps have come to an end."""
        for result in results:
            self._results[result.step] = result
            if self._tell is not None:
                self._tell(result)

    def leave(self, step: StepRef, why: str) -> None:
        """The undo ends without having come to an end with this step."""
        self._left[step] = why

    def result(self, tasks: Iterable[str], stopping: Stopping) -> UndoResult:
        """What is known by now.

        Args:
            tasks: The ids of the review tasks that were opened, in order.
            stopping: What has ended it before its end, if anything.
        """
        steps = [self._results.get(item.step) or self._not_reached(item) for item in self._plan.items]
        return UndoResult(
            plan_digest=self._plan.digest,
            plan_run=plan_run_of(self._plan) if self.pending else "",
            steps=tuple(steps),
            tasks=tuple(tasks),
            interrupted=stopping.why == "interrupted",
            left_because=stopping.why,
            left_detail=stopping.detail,
            lost_systems=self.lost,
        )

    def _not_reached(self, item: PlanItem) -> StepResult:
        lost = self.lost.get(system_of(item)) if is_work(item.decision) else None
        words = "" if lost is None else f"{system_of(item)} does not answer: {lost}"
        return result_of(item, None, detail=self._left.get(item.step, words))


def _is_as_planned(record: StepRecord, item: PlanItem) -> bool:
    return (
        record.compensation_attempts == item.attempts
        and record.task_id == item.earlier_task
        and (record.disposition in (None, Disposition.REVIEW) or item.superseded)
        and outcome_word(record) == item.outcome
    )
