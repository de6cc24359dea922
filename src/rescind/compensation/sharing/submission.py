"""Plans that were left to the workers: folded from the journal, where they are all that there is.

Z1. *The journal first.* A submitted plan is durable with all its shares before anything of it begins; whoever dies
    then, it is found there and carried on.
Z2. *One of a kind.* Of the same plan there is one submission under way; who submits it again joins it.
Z3. *Ended once.* A submission ends as finished or as stopped, in one entry, however many look after it.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from rescind.clock import Clock, IdSource, to_us
from rescind.compensation.decision import AlreadyInReview, Plan, forced_over, refuse_forced_without_reason
from rescind.compensation.paperwork import plan_run_of
from rescind.compensation.planning.mirror import FORTH
from rescind.compensation.planning.redo import redone_by
from rescind.compensation.port import Compensator
from rescind.compensation.sharing.able import Demand, refuse_unable
from rescind.compensation.sharing.shares import split
from rescind.compensation.way import BACK, Way
from rescind.errors import UsageError
from rescind.journal.behind import again, drafts_behind
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.model.entry import (
    Entry,
    Event,
    PlanFinished,
    PlanLeft,
    PlanNeeds,
    PlanShare,
    PlanStarted,
    PlanSubmitted,
    ReviewOpened,
    RunOpened,
)
from rescind.model.step import RunInfo
from rescind.recovery.control import UNDO_AGENT
from rescind.recovery.toolset import ToolInfo, tool_info
from rescind.recovery.workers import WorkerInfo

_log = logging.getLogger("rescind.worker")

_ENDS = ("stale", "failed", "incomplete", "cancelled", "out_of_time")
"""Why nobody goes on with a submission. What else `PlanLeft` says is of somebody who applied the same plan himself."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that was left to the workers, as it stands.

    Attributes:
        plan_run: The run that holds it.
        number: From 1: which of the submissions of this plan.
        position: The last position of the run that was read.
        sequence: Where in the journal it was submitted.
        submitted_at: When.
        needs: What a worker's rescind has to know of: see `workers.KNOWS`.
        started: Whether what was shown was found to be so, and the work has begun.
        finished: Whether every write is accounted for.
        stopped: How it ended otherwise.
        tasks: Ids of the review tasks that it has opened, in order.
    """

    plan_run: str
    number: int
    position: int
    sequence: int
    submitted_at: datetime
    tenant: str
    submitted: PlanSubmitted
    shares: tuple[PlanShare, ...]
    needs: tuple[str, ...] = ()
    started: bool = False
    finished: bool = False
    stopped: PlanLeft | None = None
    tasks: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nobody has to look after it any more."""
        return self.finished or self.stopped is not None

    def left_s(self, now_us: int) -> float | None:
        """Seconds for which steps may still be begun; None if there is no such deadline."""
        within_s = self.submitted.within_s
        return None if within_s is None else within_s - (now_us - to_us(self.submitted_at)) / 1e6

    @property
    def redoes(self) -> str | None:
        """The digest of the undo that it takes back; None if it is an undo itself."""
        return redone_by(self.submitted.selection)

    @property
    def way(self) -> Way:
        """Which way its steps are taken."""
        return BACK if self.redoes is None else FORTH

    @property
    def demand(self) -> Demand:
        """What it asks of workers."""
        return Demand(self.submitted.signatures, self.needs)

    @property
    def prefix(self) -> str:
        """What the ids of its jobs begin with."""
        return f"{self.plan_run}.{self.number}."


def submit(
    plan: Plan,
    journal: Journal,
    compensators: Mapping[str, Compensator],
    workers: Sequence[WorkerInfo],
    clock: Clock,
    ids: IdSource,
    *,
    parallel: int,
    retries: int,
    within_s: float | None = None,
    actor: str,
    reason: str,
) -> Submission:
    """Leave a plan to the workers; durable on return (Z1). Ring for them afterwards.

    What the plan overwrites of somebody else's is overwritten if it is still what was shown, and nothing that came
    after it. Whether `actor` may have that done is for the caller to know.

    Args: as `apply_plan`; `compensators` are the declared actions, not mirrored ones, also for a redo.

    Raises: UsageError, if no live worker can execute some of the plan's actions, or if the plan overwrites later
        changes without a reason; nothing was changed then.
    """
    refuse_forced_without_reason(plan, reason)
    shares = shares_of(plan, compensators, workers)
    submitted = PlanSubmitted(
        plan_digest=plan.digest,
        selection=plan.selection,
        steps=len(plan.items),
        shares=len(shares),
        signatures={name: tool.signature for name, tool in _tools_of(plan, compensators).items()},
        actor=actor,
        reason=reason,
        settled=_settled(plan, shares),
        parallel=parallel,
        retries=retries,
        within_s=within_s,
    )
    info = RunInfo(run_id=plan_run_of(plan), agent_name=UNDO_AGENT, tenant=plan.tenant)
    opening = RunOpened(run=info, guard_id=ids.new_id("submit"))
    needs = needs_of(plan)
    stated = [PlanNeeds(plan_digest=plan.digest, needs=needs)] if needs else []

    def turn() -> Submission:
        there = read_submission(journal, info.run_id)
        if there is not None and not there.is_over:
            return there  # Z2
        head = journal.head(info.run_id)
        last = -1 if head is None else head.position
        append(journal, clock, info.run_id, [opening, submitted, *stated, *shares], after=last)
        done = read_submission(journal, info.run_id)
        assert done is not None, "it was appended just now"
        return done

    return again(turn, busy=UsageError(f"the run {info.run_id} is being written to by others all the time; try again"))


def shares_of(
    plan: Plan, compensators: Mapping[str, Compensator], workers: Sequence[WorkerInfo]
) -> tuple[PlanShare, ...]:
    """The plan in shares for these workers.

    Raises: UsageError, if they cannot execute all of it; it names the actions, and what the workers have instead.
    """
    tools = _tools_of(plan, compensators)
    demand = Demand({name: tool.signature for name, tool in tools.items()}, needs_of(plan))
    shares = split(plan, tools, workers=len(workers), able=lambda actions: demand.able(actions, workers))
    refuse_unable(shares, demand, workers)
    return shares


def needs_of(plan: Plan) -> tuple[str, ...]:
    """What a worker's rescind has to know of to carry out this plan."""
    force = any(forced_over(item.decision) is not None for item in plan.items)
    return ("force",) * force + ("redo",) * (redone_by(plan.selection) is not None)


def _tools_of(plan: Plan, compensators: Mapping[str, Compensator]) -> dict[str, ToolInfo]:
    actions = {item.action for item in plan.items if item.action in compensators}
    return {action: tool_info(compensators[action]) for action in sorted(actions)}


def append(journal: Journal, clock: Clock, run_id: str, events: Iterable[Event], *, after: int) -> int:
    """Append to one run, right after this position; durable on return. Returns the last position.

    Raises: SequenceConflict, if somebody else was first; nothing was appended then.
    """
    drafts = drafts_behind(run_id, ((run_id, event) for event in events), position=after, at_us=clock.now_us())
    journal.append(drafts)
    return after + len(drafts)


def read_submission(journal: Journal, plan_run: str) -> Submission | None:
    """The last submission in this run; None if there is none."""
    return fold_submission(every_entry(journal, Query(run_id=plan_run)))


def fold_submission(entries: Iterable[Entry]) -> Submission | None:
    """The last submission that these entries of one run tell of."""
    fold = SubmissionFold()
    for entry in entries:
        fold.take(entry)
    return fold.submission


class SubmissionFold:
    """The last submission of one run, folded entry by entry, in order. `earlier` are those before the first entry."""

    def __init__(self, *, earlier: int = 0) -> None:
        self.number = earlier
        self._last: Submission | None = None
        self._position = -1
        self._shares: list[PlanShare] = []
        self._tasks: list[str] = []

    @property
    def submission(self) -> Submission | None:
        """As it stands; None if there is none."""
        if self._last is None:
            return None
        return msgspec.structs.replace(
            self._last, position=self._position, shares=tuple(self._shares), tasks=tuple(self._tasks)
        )

    @property
    def is_over(self) -> bool:
        """Whether nobody has to look after it any more."""
        return self._last is None or self._last.is_over

    def take(self, entry: Entry) -> None:
        """Take in the next entry of the run."""
        self._position = entry.position
        if isinstance(entry.event, PlanSubmitted):
            self.number += 1
            self._shares, self._tasks = [], []
            self._last = Submission(
                plan_run=entry.run.run_id,
                number=self.number,
                position=entry.position,
                sequence=entry.sequence,
                submitted_at=entry.recorded_at,
                tenant=entry.run.tenant,
                submitted=entry.event,
                shares=(),
            )
        elif self._last is not None:
            self._go_on(self._last, entry.event)

    def _go_on(self, last: Submission, event: Event) -> None:
        match event:
            case PlanNeeds(needs=needs):
                self._last = msgspec.structs.replace(last, needs=needs)
            case PlanShare():
                self._shares.append(event)
            case _ if last.is_over:
                pass
            case PlanStarted():
                self._last = msgspec.structs.replace(last, started=True)
            case PlanFinished():
                self._last = msgspec.structs.replace(last, finished=True)
            case PlanLeft(why=why) if why in _ENDS:
                self._last = msgspec.structs.replace(last, stopped=event)
            case ReviewOpened():
                self._tasks.append(event.task_id)
            case _:
                pass


def _settled(plan: Plan, shares: Iterable[PlanShare]) -> dict[str, int]:
    shared = {step for share in shares for step in share.steps}
    rest = [item for item in plan.items if item.step not in shared]
    return dict(Counter("review" if isinstance(item.decision, AlreadyInReview) else "already_undone" for item in rest))
