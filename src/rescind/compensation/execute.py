"""Carrying out a plan, so that it can be killed at any instant and continued by planning again.

The laws, which the tests try to break by dying before and after every request:

U8.  *Intent before effect.* Nothing is undone whose intent is not durable. An intent without an end says: look.
U9.  *At most once.* A compensation that may have happened is sent again only under the same idempotency key, and only
     if its action says that this is safe. Otherwise it goes to a person.
U10. *One runner per step.* Of all runners that intend a step after the state that was planned from, only the one
     whose intent stands first in the journal carries it out.
U11. *Look again.* A restore counts as done when the target is seen at the version from before the step.
U12. *No task is lost.* A review task and the ends of its steps are one append: all of it is durable, or nothing.
U13. *Twice is once.* Applying again what is settled appends nothing.
U14. *Parallel is declared.* Of steps whose handlers were not declared parallel, one is under way at a time, from its
     first look to its last. Nobody can see in a handler whether it shares a file with another.
U15. *Held is dropped first.* What is still held is dropped before anything is undone, and whoever released it a moment
     before wins: the step then moved on, and is planned again.

U10 needs no lock and no expected position: positions move with every other append to the run, while first place in the
journal is something each runner can see for itself by reading on from where it planned. A lock around planning and
applying (the command line holds one) spares a second runner the work, and is no condition of safety.

What looks like a conflict may be a matter of order that nobody declared: a row cannot be deleted while rows of another
run refer to it. So a restore in conflict is held back, with everything that waits for it, and tried again when nothing
else is left to do, if anything was undone since it was begun. What is held back and has no such hope goes to a person,
the newest first, because the older ones may have waited for just that.

Endings that need a person are collected until the work is over, so that 340 mails that fail for one reason are one task
and not 340. Dying before that loses nothing: each such step has an intent without an end, or was never begun, and the
next plan decides about it again.
"""

import contextvars
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, assert_never

from rescind.clock import Clock, IdSource
from rescind.compensation.awaiting import Waiter
from rescind.compensation.claims import Claims
from rescind.compensation.decision import (
    AlreadyInReview,
    AlreadyUndone,
    Compensate,
    Drop,
    Plan,
    PlanItem,
    Restore,
    Review,
    Settle,
    blocks,
    is_undo,
    is_work,
)
from rescind.compensation.flow import (
    Done,
    Ending,
    ForPerson,
    Intend,
    Job,
    MovedOn,
    Observe,
    Record,
    Request,
    Undo,
    Wait,
    undo_flow,
)
from rescind.compensation.held import Held
from rescind.compensation.paperwork import Paperwork, plan_run_of
from rescind.compensation.plan import blocked_by, outcome_word
from rescind.compensation.port import Compensator, ReviewReason
from rescind.compensation.result import StepResult, UndoResult, UndoStopped, moved_on, result_of
from rescind.compensation.schedule import Schedule
from rescind.compensation.staying import Staying
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.port import Journal
from rescind.model.entry import Disposition, StepRef
from rescind.model.history import StepRecord

Progress = Callable[[StepResult], None]


def apply_plan(
    plan: Plan,
    journal: Journal,
    compensators: Mapping[str, Compensator],
    clock: Clock,
    ids: IdSource,
    *,
    parallel: int = 8,
    retries: int = 3,
    actor: str,
    reason: str = "",
    progress: Progress | None = None,
) -> UndoResult:
    """Do what the plan says.

    A step that moved on since the plan was made is left alone. An interrupt (`KeyboardInterrupt`) lets the steps that
    are under way come to their end, and begins no more; the result says so. Who cannot wait for them may kill the
    process: nothing is lost.

    Args:
        plan: As `make_plan` made it, a moment ago; check its digest against the one that was shown.
        journal: Where the steps are, and where everything is recorded.
        compensators: The declared actions by name.
        clock: The time, and the waiting between tries.
        ids: The name of this runner.
        parallel: Steps that are undone at once, at most; 1 means one by one in the plan's order. Of steps whose
            handlers were not declared parallel there is never more than one.
        retries: Further tries of a step, where trying again may help and is safe.
        actor: Who applies it.
        reason: Why.
        progress: Told each result as it is known, in the calling thread; must not raise.

    Raises:
        UndoStopped: The journal failed. What is done is done, nothing is lost, and a new plan goes on from there.
        UsageError: The plan needs an action that `compensators` has not; nothing was done.
    """
    if parallel < 1 or retries < 0:
        raise UsageError(f"an undo needs parallel >= 1 and retries >= 0, not {parallel} and {retries}")
    undo = _Undo(plan, journal, compensators, clock, progress)
    if undo.pending:
        with Waiter() as waiter:
            undo.run(waiter, parallel, retries + 1, (ids.new_id("undo"), actor, reason))
    return undo.result


class _Undo:
    """One application of a plan: what is known so far, and the threads that find out the rest."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        compensators: Mapping[str, Compensator],
        clock: Clock,
        progress: Progress | None,
    ) -> None:
        self._plan, self._compensators, self._clock, self._progress = plan, compensators, clock, progress
        self.paper = Paperwork(plan, journal, clock)
        self._results: dict[StepRef, StepResult] = {}
        self._late: dict[StepRef, tuple[PlanItem, Review]] = {}
        self._held = Held()
        self._undone = 0
        self._tries: Counter[StepRef] = Counter()
        self._interrupted = False
        self._failure: BaseException | None = None
        self._claims = Claims(journal, () if plan.is_settled else plan.runs)
        self.pending = [item for item in plan.items if not self._is_over(item)]
        for item in self.pending:
            if is_work(item.decision) and item.action not in compensators:
                raise UsageError(f"the plan undoes {item.step} of action {item.action!r}, which is not declared here")
        self._staying = Staying(
            {item.step: item.blocks_on for item in plan.items},
            {item.step: item.gates for item in plan.items},
            plan.gates,
            (item.step for item in plan.items if self._may_stay(item)),
        )

    # --- what was before ---

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
                record = self._claims.records.get(item.step)
                if record is not None and _is_as_planned(record, item):
                    return False
                self._results[item.step] = moved_on(item, record)
                return True

    def _may_stay(self, item: PlanItem) -> bool:
        """Whether its effect may stay: as planned, or because somebody else has taken it since."""
        result = self._results.get(item.step)
        if result is None or not is_work(item.decision):
            return blocks(item.decision)
        return result.disposition in (None, Disposition.REVIEW)

    @property
    def result(self) -> UndoResult:
        """What is known by now."""
        not_reached = (result_of(item, None) for item in self._plan.items)
        return UndoResult(
            plan_digest=self._plan.digest,
            plan_run=plan_run_of(self._plan) if self.pending else "",
            steps=tuple([self._results.get(result.step, result) for result in not_reached]),
            tasks=tuple(self.paper.tasks),
            interrupted=self._interrupted,
        )

    # --- the whole ---

    def run(self, waiter: Waiter, parallel: int, tries_max: int, opening: tuple[str, str, str]) -> None:
        """Carry out what is pending. `opening` is for `Paperwork.open`. Raises: as `apply_plan`."""
        try:
            self.paper.open(*opening)
            self._know(self.paper.drop(self._drops()))
            self._know(self.paper.settle(self._settles()))
            self._know(self.paper.open_tasks(self._reviews()))
            self._work(waiter, parallel, tries_max)
            self._know(self.paper.open_tasks(self._late.values()))
            if self.result.is_complete:
                self.paper.finish(self.result)
        except JournalUnavailable as error:
            raise UndoStopped(self.result, cause=str(error)) from error

    def _drops(self) -> list[PlanItem]:
        return [item for item in self.pending if isinstance(item.decision, Drop)]

    def _settles(self) -> list[tuple[PlanItem, Settle]]:
        found = [(item, item.decision) for item in self.pending if not is_work(item.decision)]
        return [(item, decision) for item, decision in found if isinstance(decision, Settle)]

    def _reviews(self) -> list[tuple[PlanItem, Review]]:
        return [(item, item.decision) for item in self.pending if isinstance(item.decision, Review)]

    def _know(self, results: Iterable[StepResult]) -> None:
        for result in results:
            self._results[result.step] = result
            if self._progress is not None:
                self._progress(result)

    # --- work ---

    def _work(self, waiter: Waiter, parallel: int, tries_max: int) -> None:
        work = {item.step for item in self.pending if is_work(item.decision)}
        if not work:
            return
        alone = {
            item.step for item in self.pending if item.step in work and not self._compensators[item.action].parallel
        }
        schedule = Schedule(self._plan, work, alone)
        running: dict[Future[Ending], PlanItem] = {}
        with ThreadPoolExecutor(min(parallel, len(work)), "rescind-undo") as pool:
            while True:
                try:
                    if not self._is_stopping:
                        self._begin(schedule, running, pool, waiter, parallel, tries_max)
                    if running:
                        self._collect(schedule, running)
                    elif self._is_stopping or not self._held:
                        break
                    else:
                        self._turn_to_held(schedule)
                except KeyboardInterrupt:
                    if self._interrupted:
                        raise
                    self._interrupted = True
        if self._failure is not None:
            raise self._failure

    @property
    def _is_stopping(self) -> bool:
        return self._interrupted or self._failure is not None

    def _begin(
        self,
        schedule: Schedule,
        running: dict[Future[Ending], PlanItem],
        pool: ThreadPoolExecutor,
        waiter: Waiter,
        parallel: int,
        tries_max: int,
    ) -> None:
        while len(running) < parallel:
            item = schedule.next()
            if item is None:
                return
            blocker = self._staying.blocker_of(item.step) if is_undo(item.decision) else None
            if blocker is not None:
                review = blocked_by(blocker)
                self._end(item, ForPerson(review.reason, review.detail), schedule)
                continue
            self._held.begin(item, undone=self._undone)
            worker = _Worker(self, item, waiter, tries_max)
            # The handlers see the context variables of whoever applies the plan, each a copy of its own.
            running[pool.submit(contextvars.copy_context().run, worker.drive)] = item

    def _collect(self, schedule: Schedule, running: dict[Future[Ending], PlanItem]) -> None:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda each: running[each].intended_sequence):
            error = future.exception()
            if error is None:
                self._end(running[future], future.result(), schedule)
            else:
                self._failure = self._failure or error
            del running[future]

    def _turn_to_held(self, schedule: Schedule) -> None:
        """Nothing is ready or under way: try those again that may succeed now, or else give up the newest."""
        hopeful = self._held.take_hopeful(undone=self._undone)
        for item in hopeful:
            schedule.again(item.step)
        if not hopeful:
            item, conflict = self._held.take_newest()
            self._end_for_person(item, conflict, schedule)

    def _end(self, item: PlanItem, ending: Ending, schedule: Schedule) -> None:
        match ending:
            case ForPerson(ReviewReason.CONFLICT) if isinstance(item.decision, Restore):
                self._held.hold(item, ending)
                schedule.pause(item.step)
                return
            case Done(disposition, because):
                self._undone += is_undo(item.decision)
                self._know([result_of(item, disposition, detail=because)])
            case MovedOn():
                self._staying.add(item.step)
                self._know([moved_on(item, None)])
            case ForPerson():
                self._end_for_person(item, ending, schedule)
                return
            case _:
                assert_never(ending)
        schedule.finish(item.step)

    def _end_for_person(self, item: PlanItem, ending: ForPerson, schedule: Schedule) -> None:
        review = Review(ending.reason, ending.detail)
        self._late[item.step] = (item, review)
        if blocks(review):
            self._staying.add(item.step)
        schedule.finish(item.step)

    def job_of(self, item: PlanItem, tries_max: int) -> Job:
        """The item as its flow needs it."""
        assert isinstance(item.decision, Restore | Compensate | Settle)
        action = self._compensators[item.action].action
        return Job(
            record=self._claims.records[item.step],
            decision=item.decision,
            plan_digest=self._plan.digest,
            repeatable=isinstance(item.decision, Restore) or action.compensation_idempotent,
            tries_max=tries_max,
            tried=self._tries[item.step],
        )

    def perform(self, request: Request, item: PlanItem, waiter: Waiter) -> Any:
        """Do what a flow asks for, in a worker's thread."""
        record, run_id = self._claims.records[item.step], item.step.run_id
        match request:
            case Intend(event, is_first_try):
                self._tries[item.step] += 1  # one thread at a time has this step
                appended = self.paper.append([(run_id, event)])
                return not is_first_try or self._claims.is_first(item.step, appended.sequences[0])
            case Record(event):
                self.paper.append([(run_id, event)])
                return None
            case Undo(key):
                return waiter.result_of(self._compensators[item.action].undo(record, key))
            case Observe():
                return waiter.result_of(self._compensators[item.action].observe(record))
            case Wait(duration_s):
                self._clock.sleep(duration_s)
                return None
            case _:
                assert_never(request)


class _Worker:
    """Drives the flow of one step, in a thread of the pool."""

    def __init__(self, undo: _Undo, item: PlanItem, waiter: Waiter, tries_max: int) -> None:
        self._undo, self._item, self._waiter, self._tries_max = undo, item, waiter, tries_max

    def drive(self) -> Ending:
        flow = undo_flow(self._undo.job_of(self._item, self._tries_max))
        try:
            request = next(flow)
            while True:
                try:
                    answer = self._undo.perform(request, self._item, self._waiter)
                except Exception as error:  # noqa: BLE001  # the flow decides what an error means
                    request = flow.throw(error)
                else:
                    request = flow.send(answer)
        except StopIteration as done:
            ending: Ending = done.value
            return ending


def _is_as_planned(record: StepRecord, item: PlanItem) -> bool:
    return (
        record.compensation_attempts == item.attempts
        and record.task_id == item.earlier_task
        and record.disposition in (None, Disposition.REVIEW)
        and outcome_word(record) == item.outcome
    )
