"""Looking after a submitted plan: is it as it was shown, its shares, what they left to each other, and its end.

    submitted ─▶ checked by workers that have the tools ─▶ started ─▶ shares ─▶ once more what hindered each other
              └▶ stopped: stale, and nothing was done            ─▶ review tasks ─▶ finished (or stopped: incomplete)

Every arrow is in the journal, or can be found again by doing the same once more. So this can die at any instant, and
two may do it at once: jobs are started by ids that say the same of the same work, and what is appended to the plan's
run is appended after what was read, or not at all (Z3).

Y1. *Nothing before all is looked at.* If a target, a run or a tool is not as it was when the plan was shown, nothing at
    all is undone, and the journal says why.
Y2. *Only who can.* A share goes only to workers that declare its actions as the plan's maker did.
Y3. *Another try.* A share whose worker has left or failed is begun again, by whoever can, with pauses; after some
    failures its steps are reported as not reached.
Y4. *Held back is tried again.* What one share could not restore while another had not been undone is tried again when
    all are done, as long as anything comes of it.
Y5. *One task for one kind.* What all shares leave to a person is grouped as if there were one share.
Y6. *A cancel needs no worker.* What was cancelled, or is out of time, ends also while nobody can carry out its shares.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import msgspec

from rescind.clock import Clock, IdSource
from rescind.compensation.planning.redo import find_applied, redo_steps
from rescind.compensation.planning.scope import scope_of
from rescind.compensation.planning.selection import Selection, select_steps
from rescind.compensation.port import Compensator, ReviewReason
from rescind.compensation.sharing.attempts import Attempts, Task
from rescind.compensation.sharing.carrying import Left, Orders, ShareResult, Shares, result_as_json
from rescind.compensation.sharing.ending import end
from rescind.compensation.sharing.results import results_of
from rescind.compensation.sharing.shares import forced_of, forces_at, places_of, superseded_of
from rescind.compensation.sharing.submission import Submission, append, read_submission
from rescind.config import SystemLimits
from rescind.errors import SequenceConflict, UsageError
from rescind.journal.behind import again
from rescind.journal.port import Journal
from rescind.model.entry import PlanLeft, PlanShare, PlanStarted, RunOpened, StepRef
from rescind.model.step import RunInfo
from rescind.recovery.control import UNDO_AGENT
from rescind.recovery.engine import Engine, Job, JobReport
from rescind.recovery.locks import Locks
from rescind.recovery.workers import WorkerInfo

PLAN_QUEUE = "plans-2"
"""Where jobs wait that look after a plan. They need no tools, so every worker listens on it.

All workers of rescinds that read the same of a plan's run listen on the same one; the first one's was `plans`.
"""

LOOK_AFTER, CHECK, SHARE = "undo.plan", "undo.check", "undo.share"

_TURNS_MAX = 20  # Of trying again what was held back; each has undone something, or it is the last.
_HELD_BACK = (ReviewReason.CONFLICT, ReviewReason.BLOCKED)


class Coordinator:
    """Carries out the jobs of undos, in a worker.

    Args:
        journal: The store's journal.
        compensators: The tools of this process.
        engine: Who keeps the jobs.
        workers: Looks who lives now.
        locks: What keeps handlers apart that are not parallel.
        clock: The time.
        ids: Names of runners.
        is_leaving: Whether this worker takes nothing further.
        systems: What may be asked of each target system by all workers together.
        live_runs: Looks which runs a living process acts for: see `make_plan`.
        worker_id: Whose process this is.
        ring: Tells the other workers that jobs wait for them.
    """

    def __init__(
        self,
        journal: Journal,
        compensators: Mapping[str, Compensator],
        engine: Engine,
        workers: Callable[[], Sequence[WorkerInfo]],
        locks: Locks,
        clock: Clock,
        ids: IdSource,
        is_leaving: Callable[[], bool],
        systems: Mapping[str, SystemLimits],
        live_runs: Callable[[], Container[str]] = tuple,
        *,
        worker_id: str,
        ring: Callable[[], None],
    ) -> None:
        self._journal, self._engine, self._workers, self._locks = journal, engine, workers, locks
        self._clock, self._ids, self._is_leaving = clock, ids, is_leaving
        self._attempts = Attempts(engine, workers, clock, is_leaving, ring)
        self._shares = Shares(
            journal, compensators, clock, ids, is_leaving, systems, live_runs, locks=locks, worker_id=worker_id
        )

    def perform(self, job: Job) -> dict[str, Any]:
        """Carry out one job: see `engine.Perform`."""
        submission = read_submission(self._journal, str(job.payload["plan_run"]))
        if submission is None or submission.number != job.payload["number"] or submission.is_over:
            return {}  # it has ended in the meantime, by another's hand
        if job.kind == LOOK_AFTER:
            return self._look_after(submission)
        with self._locks.held(alone=bool(job.payload["alone"]), is_leaving=self._is_leaving) as is_held:
            if not is_held:
                return {"again": True}
            if job.kind == CHECK:
                return {"stale": self._shares.stale(submission, job.payload["shares"])}
            share = msgspec.convert(job.payload["share"], PlanShare)
            return result_as_json(self._shares.carry_out(submission, share, workers=len(self._workers())))

    # --- a plan, from its submission to its end ---

    def _look_after(self, submission: Submission) -> dict[str, Any]:
        orders = Orders(self._journal, self._clock, submission)
        try:
            if not submission.started:
                found = self._check(submission, orders)
                if found is None:
                    return {"again": True}
                if (over := orders.look()) is not None:
                    self._append(submission, [_left(submission, over.ended, over.detail)])
                    return {}
                if found:
                    self._append(submission, [_left(submission, "stale", found)])
                    return {}
                submission = self._begin(submission)
            ended = self._apply(submission, orders)
            if ended is None:
                return {"again": True}
            return self._end(submission, *ended)
        except SequenceConflict:
            return {"again": True}  # somebody else wrote to the plan's run: look again from the beginning

    def _check(self, submission: Submission, orders: Orders) -> str | None:
        """What is not as it was shown; empty if nothing, None if this worker leaves (Y1)."""
        submitted = submission.submitted
        try:
            steps = self._count_steps(submission)
        except (UsageError, msgspec.ValidationError) as error:
            return f"what was selected cannot be found here: {error}"
        if steps != submitted.steps:
            return f"{submitted.steps:,} steps were selected when it was shown, and now it is {steps:,}"
        groups: defaultdict[tuple[str, bool], list[PlanShare]] = defaultdict(list)
        for share in submission.shares:
            groups["+".join(share.actions), share.alone].append(share)
        tasks = [
            Task(
                kind=CHECK,
                actions=group[0].actions,
                alone=alone,
                payload={"shares": [share.number for share in group], "alone": alone},
            )
            for (_, alone), group in sorted(groups.items())
        ]
        results = self._see_through(submission, "check", tasks, orders)
        if results is None:
            return None
        failed = [report.problem for report in results if report.problem]
        if failed:
            return f"its targets cannot be looked at: {failed[0]}"
        stale = sum(len(report.result.get("stale", ())) for report in results)
        return f"{stale} of {len(submission.shares)} shares are not as they were shown" if stale else ""

    def _count_steps(self, submission: Submission) -> int:
        """How many steps are selected now. Raises: UsageError, ValidationError."""
        if submission.redoes is not None:
            return len(redo_steps(self._journal, find_applied(self._journal, submission.redoes)))
        selection = msgspec.convert(submission.submitted.selection, Selection)
        if selection.cascade:
            return len(scope_of(self._journal, selection).records)
        return len(select_steps(self._journal, selection))

    def _begin(self, submission: Submission) -> Submission:
        submitted = submission.submitted
        info = RunInfo(run_id=submission.plan_run, agent_name=UNDO_AGENT, tenant=submission.tenant)
        started = PlanStarted(
            plan_digest=submitted.plan_digest,
            selection=submitted.selection,
            runs=tuple(sorted({step.run_id for share in submission.shares for step in share.steps})),
            steps=submitted.steps,
            actor=submitted.actor,
            reason=submitted.reason,
            pending=submitted.steps - sum(submitted.settled.values()),
        )
        opening = RunOpened(run=info, guard_id=self._ids.new_id("undo"))
        return self._append(submission, [opening, started])

    def _append(self, submission: Submission, events: Sequence[Any]) -> Submission:
        position = append(self._journal, self._clock, submission.plan_run, events, after=submission.position)
        return msgspec.structs.replace(submission, position=position)

    # --- shares ---

    def _apply(self, submission: Submission, orders: Orders) -> tuple[list[Left], PlanLeft] | None:
        """What all shares leave to a person, and what to say if steps are not reached; None if this worker leaves."""
        left: dict[StepRef, Left] = {}
        why, problem = "incomplete", ""
        shares: Sequence[PlanShare] = submission.shares
        for turn in range(_TURNS_MAX):
            tasks = [_share_task(share) for share in shares]
            reports = self._see_through(submission, f"share{turn}", tasks, orders)
            if reports is None:
                return None
            undone = 0
            ended: list[PlanShare] = []
            for share, report in zip(shares, reports, strict=True):
                if report.problem:
                    problem = problem or report.problem
                    continue
                result = msgspec.convert(report.result, ShareResult)
                left |= {each.step: each for each in result.left}
                undone += result.undone
                problem = problem or result.detail
                if result.ended:
                    why, problem = result.ended, result.detail
                ended.append(share)
            rest = self._rest(submission, ended, left)
            # The shares of the first turn could hinder each other; later ones go on as long as anything comes of it.
            hopeful = len(shares) > 1 if turn == 0 else undone > 0
            if not rest or not hopeful or why != "incomplete":
                break
            shares = self._together(submission, rest)
            for step in rest:
                left.pop(step, None)
        return list(left.values()), _left(submission, why, problem)

    def _rest(self, submission: Submission, ended: Sequence[PlanShare], left: Mapping[StepRef, Left]) -> set[StepRef]:
        """Of what the plan undoes: what was held back, and what another runner had under way."""
        person = {share.steps[place] for share in submission.shares for place in share.left}
        held = {step for step, each in left.items() if each.reason in _HELD_BACK} - person
        steps = [(step, "") for share in ended for step in share.steps if step not in left]
        results = results_of(self._journal, submission, steps)
        return held | {result.step for result in results if result.disposition is None}

    def _together(self, submission: Submission, rest: set[StepRef]) -> list[PlanShare]:
        """The rest in one share, if one worker can do all of it; else in one for each kind of worker."""
        parts = [(share, [step for step in share.steps if step in rest]) for share in submission.shares]
        parts = [(share, steps) for share, steps in parts if steps]
        forced, superseded = forced_of(submission.shares), superseded_of(submission.shares)
        actions = tuple(sorted({action for share, _ in parts for action in share.actions}))
        groups: defaultdict[tuple[str, ...], list[tuple[PlanShare, list[StepRef]]]] = defaultdict(list)
        for share, steps in parts:
            groups[actions if self._able(submission, actions) else share.actions].append((share, steps))
        shares: list[PlanShare] = []
        for number, (needed, group) in enumerate(sorted(groups.items())):
            together = tuple(step for _, steps in group for step in steps)
            share = PlanShare(
                plan_digest=submission.submitted.plan_digest,
                number=number,
                digest="",
                steps=together,
                actions=needed,
                alone=any(share.alone for share, _ in group),
                forces=forces_at(together, forced),
                superseded=places_of(together, superseded),
            )
            shares.append(share)
        return shares

    # --- jobs ---

    def _see_through(
        self, submission: Submission, stage: str, tasks: Sequence[Task], orders: Orders
    ) -> list[JobReport] | None:
        def over() -> dict[str, Any] | None:
            # What waits for a worker begins nothing any more: it finds the plan ended, or sees the same orders.
            result = orders.look()
            return None if result is None else result_as_json(result)

        return self._attempts.see_through(submission, stage, tasks, over)

    def _able(self, submission: Submission, actions: Sequence[str]) -> bool:
        return any(submission.demand.is_met_by(worker, actions) for worker in self._workers())

    # --- the end ---

    def _end(self, submission: Submission, left: Sequence[Left], otherwise: PlanLeft) -> dict[str, Any]:
        """Open the review tasks, and say that it is over (Y5, Z3)."""

        def turn() -> dict[str, Any]:
            there = read_submission(self._journal, submission.plan_run)
            if there is not None and there.number == submission.number and not there.is_over:
                end(self._journal, self._clock, there, left, otherwise)
            return {}

        return again(turn)  # a person may decide about a task, or another look after the plan as well


def look_after_job(submission: Submission, attempt: int) -> Job:
    """The job that looks after a submitted plan, for whoever finds that nobody does."""
    return Job(
        job_id=f"{submission.prefix}plan.{attempt}",
        kind=LOOK_AFTER,
        queue=PLAN_QUEUE,
        payload={"plan_run": submission.plan_run, "number": submission.number},
    )


def _share_task(share: PlanShare) -> Task:
    payload = {"share": msgspec.to_builtins(share), "alone": share.alone}
    return Task(kind=SHARE, actions=share.actions, alone=share.alone, payload=payload)


def _left(submission: Submission, why: str, detail: str) -> PlanLeft:
    return PlanLeft(plan_digest=submission.submitted.plan_digest, why=why, detail=detail)
