"""What an undo did, step by step, as a value."""

from collections import Counter

import msgspec

from rescind.compensation.decision import PlanItem
from rescind.errors import JournalUnavailable
from rescind.model.entry import Disposition, StepRef
from rescind.model.history import StepRecord


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """Where a step stands after the undo.

    Attributes:
        disposition: None if the undo did not get to it; the next one will.
        reason: For a review: one of `ReviewReason`.
        detail: In words.
        task_id: For a review: the task.
        earlier: Whether it stood there before this undo.
        failed: Whether the step itself had failed, so that there was nothing to undo.
        by: The worker that has carried it out; empty if none has.
    """

    step: StepRef
    action: str
    disposition: Disposition | None
    reason: str = ""
    detail: str = ""
    task_id: str | None = None
    earlier: bool = False
    failed: bool = False
    by: str = ""

    @property
    def word(self) -> str:
        """`restored`, `compensated`, `never_took_effect`, `review`, `already_undone`, or `not_reached`."""
        if self.disposition is None:
            return "not_reached"
        if self.earlier and not self.failed and (self.disposition is not Disposition.REVIEW or self.task_id is None):
            return "already_undone"
        return self.disposition.value


class UndoResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an undo did.

    Attributes:
        plan_digest: The plan that was applied.
        plan_run: The run that holds its record and its review tasks; empty if there was nothing to do.
        steps: One result for each item of the plan, in its order.
        tasks: Ids of the review tasks it opened, in order.
        interrupted: Whether somebody stopped it where it ran.
        left_because: Why it ended before its end, as in `PlanLeft`: `interrupted`, `cancelled`, `out_of_time`; empty if
            it did not.
        left_detail: In words, such as by whom.
        lost_systems: Target systems that did not answer, so that their steps were not reached, and their last word.
    """

    plan_digest: str
    plan_run: str
    steps: tuple[StepResult, ...]
    tasks: tuple[str, ...] = ()
    interrupted: bool = False
    left_because: str = ""
    left_detail: str = ""
    lost_systems: dict[str, str] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Steps by `StepResult.word`; words without steps are left out."""
        return dict(sorted(Counter(step.word for step in self.steps).items()))

    @property
    def by_worker(self) -> dict[str, int]:
        """Steps that this undo has brought to their end, by the worker that carried them out; empty if none did."""
        return dict(sorted(Counter(step.by for step in self.steps if step.by and not step.earlier).items()))

    @property
    def is_complete(self) -> bool:
        """Whether every step is accounted for."""
        return all(step.disposition is not None for step in self.steps)


class UndoStopped(JournalUnavailable):
    """The journal failed in the middle of an undo, which stopped there. Nothing is lost; `result` says what is done."""

    def __init__(self, result: UndoResult, *, cause: str) -> None:
        left = sum(step.disposition is None for step in result.steps)
        super().__init__(
            f"the undo stopped because the journal failed ({cause}); {len(result.steps) - left} of "
            f"{len(result.steps)} steps are accounted for. Mend the journal's disk, then run the same undo again: "
            "it goes on where this one stopped"
        )
        self.result = result


def moved_on(item: PlanItem, record: StepRecord | None) -> StepResult:
    """The result of a step that is not as the plan saw it; `record` is how it is now, if that is known."""
    if record is not None and record.disposition is not None:
        return result_of(
            item, record.disposition, reason=record.disposition_reason, task_id=record.task_id, earlier=True
        )
    return result_of(item, None, detail="it moved on since the plan was made; plan again to see where it stands")


def result_of(
    item: PlanItem,
    disposition: Disposition | None,
    *,
    reason: str = "",
    detail: str = "",
    task_id: str | None = None,
    earlier: bool = False,
    failed: bool = False,
) -> StepResult:
    """Where this item's step stands."""
    return StepResult(
        step=item.step,
        action=item.action,
        disposition=disposition,
        reason=reason,
        detail=detail,
        task_id=task_id,
        earlier=earlier,
        failed=failed,
    )
