"""One worker's part: looking whether a plan is as it was shown, and carrying out a share of it."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from rescind.clock import Clock, IdSource
from rescind.compensation.decision import Plan, PlanItem, Review, is_work
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.execution.limits import Limiter, Limits, TokenBuckets
from rescind.compensation.execution.schedule import system_of
from rescind.compensation.paperwork import Paperwork
from rescind.compensation.planning.mirror import mirrored
from rescind.compensation.planning.redo import find_applied, make_redo_share
from rescind.compensation.planning.survey import make_share
from rescind.compensation.port import Compensator, ReviewReason
from rescind.compensation.result import StepResult, UndoResult
from rescind.compensation.sharing.shares import digest_of_share, held_to
from rescind.compensation.sharing.submission import Submission
from rescind.compensation.way import Way
from rescind.config import SystemLimits
from rescind.journal.port import Journal
from rescind.model.entry import PlanShare, StepRef
from rescind.recovery.control import ControlReader, cancel_words
from rescind.recovery.locks import Locks


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A step that a share has left to a person, of which nothing is recorded yet."""

    step: StepRef
    action: str
    reason: ReviewReason
    detail: str


class ShareResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a share.

    Attributes:
        left: What a person has to decide about, in the order in which it ended.
        undone: How many steps were undone in it.
        again: Whether its worker left before the end: somebody else has to go on.
        ended: Why nobody has to: `cancelled` or `out_of_time`; empty if it came to its end.
        detail: In words.
    """

    left: tuple[Left, ...] = ()
    undone: int = 0
    again: bool = False
    ended: str = ""
    detail: str = ""


class Orders:
    """What stands against going on with a submission, for whoever looks after it while no share can see it (U17)."""

    def __init__(self, journal: Journal, clock: Clock, submission: Submission) -> None:
        self._clock, self._submission = clock, submission
        submitted = submission.submitted
        self._control = ControlReader(
            journal, digest=submitted.plan_digest, selection=submitted.selection, asked_at=submission.sequence
        )

    def look(self) -> ShareResult | None:
        """How every share ends that is not under way; None if nothing stands against it."""
        cancel = self._control.look().cancel
        if cancel is not None:
            return ShareResult(ended="cancelled", detail=cancel_words(cancel))
        return out_of_time(self._submission, self._clock)


def out_of_time(submission: Submission, clock: Clock) -> ShareResult | None:
    """How a share ends that comes too late; None if it does not."""
    left_s = submission.left_s(clock.now_us())
    return None if left_s is None or left_s > 0 else ShareResult(ended="out_of_time", detail="its time was over")


class SharePaper(Paperwork):
    """The records of a share: the plan's own are written by whoever looks after it, and so are the review tasks."""

    def __init__(self, plan: Plan, journal: Journal, clock: Clock, way: Way, *, by: str, asked_at: int) -> None:
        super().__init__(plan, journal, clock, way, by=by)
        self._asked_at = asked_at
        self.left: list[Left] = []

    def open(self, runner_id: str, actor: str, reason: str, *, pending: int) -> int:
        """Nothing: see above. Where in the journal the plan was submitted."""
        return self._asked_at

    def finish(self, result: UndoResult) -> None:
        """Nothing: see above."""

    def leave(self, result: UndoResult, why: str, detail: str) -> None:
        """Nothing: see above."""

    def open_tasks(self, reviews: Iterable[tuple[PlanItem, Review]]) -> Iterator[StepResult]:
        """Remember them for whoever looks after the plan. Dying before that loses nothing: see `execute`."""
        self.left += [
            Left(step=item.step, action=item.action, reason=review.reason, detail=review.detail)
            for item, review in reviews
        ]
        yield from ()


class Shares:
    """Carries out shares with the tools of this process.

    Args:
        journal: Where the plans are, and where everything is recorded.
        compensators: The tools.
        clock: The time.
        ids: Names of runners.
        is_leaving: Whether to begin no more steps.
        systems: What may be asked of each target system by all workers together.
        live_runs: Looks which runs a living process acts for: see `make_plan`.
        locks: What keeps to the limits of a system among all workers.
        worker_id: Whose process this is.
    """

    def __init__(
        self,
        journal: Journal,
        compensators: Mapping[str, Compensator],
        clock: Clock,
        ids: IdSource,
        is_leaving: Callable[[], bool],
        systems: Mapping[str, SystemLimits],
        live_runs: Callable[[], Container[str]] = tuple,
        *,
        locks: Locks,
        worker_id: str,
    ) -> None:
        self._systems, self._live_runs, self._worker_id = systems, live_runs, worker_id
        self._locks = locks
        self._limiters: dict[int, Limiter] = {}
        self._journal, self._compensators, self._clock, self._ids = journal, compensators, clock, ids
        self._is_leaving = is_leaving

    def stale(self, submission: Submission, numbers: Sequence[int]) -> list[int]:
        """Those of these shares that are not as they were shown any more."""
        return [number for number in numbers if not self._is_as_shown(submission, submission.shares[number])]

    def _is_as_shown(self, submission: Submission, share: PlanShare) -> bool:
        return digest_of_share(self._plan(submission, share).items) == share.digest

    def carry_out(self, submission: Submission, share: PlanShare, *, workers: int) -> ShareResult:
        """Undo, or redo, what is left of this share, as one of so many workers. Raises: UndoStopped."""
        if (late := out_of_time(submission, self._clock)) is not None:
            return late
        plan = self._plan_held(submission, share)
        limits = Limits(self._systems, share=max(1, workers))
        shared = limits.shared_at(_systems_of(plan))
        with self._locks.permits(shared, sharers=limits.share, is_leaving=self._is_leaving) as permits:
            if permits is None:
                return ShareResult(again=True)
            if permits.waited:  # then the plan is of before
                if (late := out_of_time(submission, self._clock)) is not None:
                    return late
                plan = self._plan_held(submission, share)
                if not limits.shared_at(_systems_of(plan)).keys() <= shared.keys():
                    return ShareResult(again=True)
            return self._apply(submission, plan, msgspec.structs.replace(limits, permits=permits.held))

    def _plan_held(self, submission: Submission, share: PlanShare) -> Plan:
        fresh = held_to(share, self._plan(submission, share), submission.submitted.plan_digest)
        return msgspec.structs.replace(fresh, selection=submission.submitted.selection)

    def _apply(self, submission: Submission, plan: Plan, limits: Limits) -> ShareResult:
        submitted, way = submission.submitted, submission.way
        paper = SharePaper(plan, self._journal, self._clock, way, by=self._worker_id, asked_at=submission.sequence)
        limiter = self._limiters.setdefault(limits.share, TokenBuckets(limits, self._clock))
        left_s = submission.left_s(self._clock.now_us())
        result = apply_plan(
            plan,
            self._journal,
            self._compensators if submission.redoes is None else mirrored(self._compensators),
            self._clock,
            self._ids,
            way=way,
            parallel=submitted.parallel,
            retries=submitted.retries,
            limits=limits,
            limiter=limiter,
            within_s=None if left_s is None else max(left_s, 1e-3),  # what is to be looked at takes time, too
            asked_at=submission.sequence,
            actor=submitted.actor,
            reason=submitted.reason,
            paper=paper,
            is_leaving=self._is_leaving,
        )
        undone = sum(step.word in ("restored", "merged", "compensated") for step in result.steps)
        ended = "" if result.interrupted else result.left_because
        lost = "; ".join(f"{system} does not answer: {heard}" for system, heard in result.lost_systems.items())
        return ShareResult(
            left=tuple(paper.left),
            undone=undone,
            again=result.interrupted,
            ended=ended,
            detail=result.left_detail or lost,
        )

    def _plan(self, submission: Submission, share: PlanShare) -> Plan:
        tools, parallel = self._compensators, submission.submitted.parallel
        if submission.redoes is not None:
            undone = find_applied(self._journal, submission.redoes)
            return make_redo_share(self._journal, undone, share.steps, tools, self._clock, parallel=parallel)
        return make_share(
            self._journal,
            share.steps,
            tools,
            self._clock,
            parallel=parallel,
            live_runs=self._live_runs(),
            may_force=bool(share.forces),
        )


def result_as_json(result: ShareResult) -> dict[str, Any]:
    """The result as an engine keeps it."""
    plain: dict[str, Any] = msgspec.to_builtins(result)
    return plain


def _systems_of(plan: Plan) -> set[str]:
    """The systems that the plan asks for something."""
    return {system_of(item) for item in plan.items if is_work(item.decision)}
