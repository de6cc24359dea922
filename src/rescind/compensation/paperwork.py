"""What an undo writes about itself: its plan's run, settled steps, and review tasks with their steps' ends (U12)."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from rescind.clock import Clock
from rescind.compensation.decision import Plan, PlanItem, Review, Settle
from rescind.compensation.result import StepResult, UndoResult, moved_on, result_of
from rescind.compensation.way import BACK, Way
from rescind.journal.port import Appended, Draft, Journal
from rescind.model.entry import (
    CompensationEnded,
    CompensationIntended,
    Disposition,
    Event,
    PlanFinished,
    PlanLeft,
    PlanStarted,
    RedoEnded,
    RedoIntended,
    ReviewOpened,
    RunOpened,
)
from rescind.model.step import RunInfo, canonical_json
from rescind.recovery.control import UNDO_AGENT, plan_run_id
from rescind.recovery.held import drop_held

TASK_STEPS_MAX = 10_000
"""Steps of one review task, and so entries of one append: some 5 MB, which a store commits at once."""

_SETTLES_PER_APPEND = 500  # Independent of each other; a thousand would make others wait for the disk for longer.


def plan_run_of(plan: Plan) -> str:
    """The id of the run that holds the plan's record and its review tasks."""
    return plan_run_id(plan.digest)


class Paperwork:
    """The records of one application of a plan. What a method returned is durable.

    Args:
        plan: The plan.
        journal: Where they stand.
        clock: The time.
        way: Which way the steps are taken.
        by: The worker that does it, which its records then name; empty for none.
        shown: Whether this process shows that it lives: see `recovery.appliers`.
    """

    def __init__(
        self, plan: Plan, journal: Journal, clock: Clock, way: Way = BACK, *, by: str = "", shown: bool = False
    ) -> None:
        self._plan, self._journal, self._clock, self._way, self._by = plan, journal, clock, way, by
        self._shown = shown
        self.tasks: list[str] = []

    def open(self, runner_id: str, actor: str, reason: str, *, pending: int) -> int:
        """The undo begins, or goes on, in the run of its plan. Where in the journal that stands."""
        info = RunInfo(run_id=plan_run_of(self._plan), agent_name=UNDO_AGENT, tenant=self._plan.tenant)
        started = PlanStarted(
            plan_digest=self._plan.digest,
            selection=self._plan.selection,
            runs=self._plan.runs,
            steps=len(self._plan.items),
            actor=actor,
            reason=reason,
            pending=pending,
            shown=self._shown or msgspec.UNSET,
        )
        opened = self.append([(info.run_id, RunOpened(run=info, guard_id=runner_id)), (info.run_id, started)])
        return opened.sequences[-1]

    def finish(self, result: UndoResult) -> None:
        """Every step is accounted for."""
        finished = PlanFinished(plan_digest=self._plan.digest, counts=result.counts)
        self.append([(plan_run_of(self._plan), finished)])

    def leave(self, result: UndoResult, why: str, detail: str) -> None:
        """The undo ends with steps that it did not reach; `why` as in `PlanLeft`."""
        left = PlanLeft(plan_digest=self._plan.digest, why=why, detail=detail, counts=result.counts)
        self.append([(plan_run_of(self._plan), left)])

    def append(self, events: Iterable[tuple[str, Event]]) -> Appended:
        """Append events, each to the run of this id: all or none."""
        now_us = self._clock.now_us()
        return self.append_drafts(
            [Draft(run_id=run_id, event=event, recorded_at_us=now_us) for run_id, event in events]
        )

    def append_drafts(self, drafts: Sequence[Draft]) -> Appended:
        """As `append`."""
        said = [msgspec.structs.replace(draft, event=self._signed(self._way.say(draft.event))) for draft in drafts]
        appended = self._journal.append(said)
        assert isinstance(appended, Appended), "nothing here claims a slot"
        return appended

    def _signed(self, event: Event) -> Event:
        if self._by and isinstance(event, CompensationIntended | CompensationEnded | RedoIntended | RedoEnded):
            return msgspec.structs.replace(event, by=self._by)
        return event

    def drop(self, items: Sequence[PlanItem], actor: str) -> Iterator[StepResult]:
        """Drop what is held, run by run, for who applies the plan; what is held no more has moved on."""
        by_run: defaultdict[str, list[PlanItem]] = defaultdict(list)
        for item in items:
            by_run[item.step.run_id].append(item)
        for run_id, held in by_run.items():
            because = f"undo {self._plan.digest[:16]}"
            step_ids = {item.step.step_id for item in held}
            dropped = drop_held(self._journal, run_id, step_ids, because=because, actor=actor, clock=self._clock)
            for item in held:
                if item.step.step_id in dropped:
                    yield result_of(item, Disposition.NEVER_TOOK_EFFECT, detail="dropped while it was held")
                else:
                    yield moved_on(item, None)

    def settle(self, settles: Sequence[tuple[PlanItem, Settle]]) -> Iterator[StepResult]:
        """Record steps that need no undo, some hundred in one append."""
        for start in range(0, len(settles), _SETTLES_PER_APPEND):
            batch = settles[start : start + _SETTLES_PER_APPEND]
            self.append(
                (item.step.run_id, self._ended(item, settle.disposition, settle.because)) for item, settle in batch
            )
            for item, settle in batch:
                yield result_of(item, settle.disposition, detail=settle.because)

    def open_tasks(self, reviews: Iterable[tuple[PlanItem, Review]]) -> Iterator[StepResult]:
        """One task for all steps of one action with one reason, and the ends of these steps (U12)."""
        groups: defaultdict[tuple[str, str], list[tuple[PlanItem, Review]]] = defaultdict(list)
        for item, review in reviews:
            groups[item.action, review.reason].append((item, review))
        for _, group in sorted(groups.items()):
            for start in range(0, len(group), TASK_STEPS_MAX):
                yield from self._open_task(group[start : start + TASK_STEPS_MAX])

    def _open_task(self, group: Sequence[tuple[PlanItem, Review]]) -> Iterator[StepResult]:
        first, review = group[0]
        task_id = _task_id(self._plan.digest, first, review)
        details = dict.fromkeys(each.detail for _, each in group)
        task = ReviewOpened(
            task_id=task_id,
            action=first.action,
            reason=review.reason,
            detail=review.detail if len(details) == 1 else f"{review.detail}; and {len(details) - 1} other accounts",
            steps=tuple(item.step for item, _ in group),
        )
        ends = [
            (item.step.run_id, self._ended(item, Disposition.REVIEW, each.detail, reason=each.reason, task_id=task_id))
            for item, each in group
        ]
        self.append([(plan_run_of(self._plan), task), *ends])
        self.tasks.append(task_id)
        for item, each in group:
            yield result_of(item, Disposition.REVIEW, reason=each.reason, detail=each.detail, task_id=task_id)

    def _ended(
        self, item: PlanItem, disposition: Disposition, detail: str, *, reason: str = "", task_id: str | None = None
    ) -> CompensationEnded:
        return CompensationEnded(
            step_id=item.step.step_id,
            disposition=disposition,
            plan_digest=self._plan.digest,
            reason=reason,
            detail=detail,
            task_id=task_id,
        )


def _task_id(digest: str, first: PlanItem, review: Review) -> str:
    # The steps of a task are in no other task of the plan, so the first one names it.
    named = canonical_json([digest, first.step, review.reason])
    return "review_" + hashlib.sha256(named).hexdigest()[:16]
