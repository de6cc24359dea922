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
U14. *Parallel is declared.* Of steps whose handlers were not declared parallel, one is under way at a time, from the
     beginning of a try to its end. Nobody can see in a handler whether it shares a file with another.
U15. *Held is dropped first.* What is still held is dropped before anything is undone, and whoever released it a moment
     before wins: the step then moved on, and is planned again.
U16. *A pause outlives its runner.* While a pause stands in the journal no step begins and none is tried again, whoever
     applies the plan or the rest of it, wherever that is; what is under way comes to its end.
U17. *A cancel is the end.* After it, nothing begins; what is under way comes to its end, and all the rest is not
     reached, which the journal says. It counts for what was asked for before it, however often that is continued.
U18. *Waiting holds nobody up.* A step that waits, for another try or for its system, has no thread and no place among
     the steps under way: others go on. What waits for it by the plan goes on waiting.
U19. *A system that does not answer costs a few tries, not all.* Then it rests, one step probes it, and if it stays away
     its other steps are not reached: nothing was tried, so nobody is asked to decide about them.
U20. *Never late.* A step whose `allowed_until` passes before its turn, or between two tries that changed nothing, goes
     to a person as past its deadline. It is never tried after that moment.

The end of a step and the intents of those that waited for it may be one append (`runner`): U8 holds, since nothing is
undone before that append is durable, and it is so as a whole or not at all.

U10 needs no lock and no expected position: positions move with every other append to the run, while first place in the
journal is something each runner can see for itself by reading on from where it planned. A lock around planning and
applying (the command line holds one) spares a second runner the work, and is no condition of safety.

What looks like a conflict may be a matter of order that nobody declared: a row cannot be deleted while rows of another
run refer to it. So a restore in conflict is deferred, with everything that waits for it, and tried again when nothing
else is left to do, if anything was undone since it was begun. What is deferred and has no such hope goes to a person,
the newest first, because the older ones may have waited for just that.

Endings that need a person are collected until the work is over, so that 340 mails that fail for one reason are one task
and not 340. Dying before that loses nothing: each such step has an intent without an end, or was never begun, and the
next plan decides about it again.
"""

import contextvars
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, assert_never, cast

import msgspec

from rescind.clock import Clock, IdSource, from_us
from rescind.compensation.awaiting import Waiter
from rescind.compensation.conflict import HOW_TO_FORCE, RESTORE_IN_DOUBT
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
    refuse_forced_without_reason,
)
from rescind.compensation.execution.claims import Claims
from rescind.compensation.execution.deferred import Deferred
from rescind.compensation.execution.flow import undo_flow
from rescind.compensation.execution.limits import Limiter, Limits, TokenBuckets
from rescind.compensation.execution.requests import (
    Ask,
    Done,
    Ending,
    ForPerson,
    Job,
    Merge,
    MovedOn,
    NotReached,
    Observe,
    Request,
    Undo,
    UndoFlow,
)
from rescind.compensation.execution.runner import Runner
from rescind.compensation.execution.schedule import Schedule, system_of
from rescind.compensation.execution.stopping import Stopping
from rescind.compensation.execution.systems import Systems
from rescind.compensation.execution.trying import late_words
from rescind.compensation.paperwork import Paperwork, plan_run_of
from rescind.compensation.planning.plan import blocked_by, outcome_word
from rescind.compensation.port import Compensator, Merger, Prober, ReviewReason
from rescind.compensation.result import StepResult, UndoResult, UndoStopped, moved_on, result_of
from rescind.compensation.staying import Staying
from rescind.compensation.way import BACK, Way
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.port import Draft, Journal
from rescind.model.action import EffectClass, OnConflict
from rescind.model.entry import CompensationEnded, CompensationIntended, Disposition, Event, StepRef
from rescind.model.history import StepRecord
from rescind.recovery.control import ControlReader

Progress = Callable[[StepResult], None]

NO_LIMITS = Limits()
"""What systems take by themselves."""


def apply_plan(
    plan: Plan,
    journal: Journal,
    compensators: Mapping[str, Compensator],
    clock: Clock,
    ids: IdSource,
    *,
    parallel: int = 8,
    retries: int = 3,
    limits: Limits = NO_LIMITS,
    limiter: Limiter | None = None,
    within_s: float | None = None,
    asked_at: int | None = None,
    way: Way = BACK,
    actor: str,
    reason: str = "",
    progress: Progress | None = None,
    paper: Paperwork | None = None,
    is_leaving: Callable[[], bool] = lambda: False,
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
        parallel: Steps that are undone at once, at most; 1 means that they are begun one by one in the plan's order. Of
            steps whose handlers were not declared parallel there is never more than one.
        retries: Further tries of a step, where trying again may help and is safe.
        limits: What may be asked of each target system.
        limiter: Counts the tries per second; by default this process counts its own, within `limits`.
        within_s: Seconds after which no further step is begun, and none tried again; None for no such deadline. What is
            not reached by then is left to a later undo.
        asked_at: Where in the journal this application was asked for, if it goes on with what another process left: a
            cancel after that counts (U17). By default, it is asked for now.
        way: Back, or `redo.FORTH` for a plan that `make_redo_plan` made.
        actor: Who applies it.
        reason: Why.
        progress: Told each result as it is known, in the calling thread; must not raise.
        paper: What writes about the undo itself; by default, what a whole plan needs.
        is_leaving: Whether to begin no more steps, as after an interrupt; asked again and again.

    Raises:
        UndoStopped: The journal failed. What is done is done, nothing is lost, and a new plan goes on from there.
        UsageError: The plan overwrites later changes and there is no reason (whether `actor` may have that done is for
            the caller to know), or it needs an action that `compensators` has not; nothing was done.
    """
    refuse_forced_without_reason(plan, reason)
    if parallel < 1 or retries < 0:
        raise UsageError(f"an undo needs parallel >= 1 and retries >= 0, not {parallel} and {retries}")
    if within_s is not None and not within_s > 0:
        raise UsageError(f"an undo needs some time: within_s is {within_s}, and must be above 0, or None")
    news: queue.SimpleQueue[StepResult | None] = queue.SimpleQueue()
    stopping = Stopping(clock, within_s=within_s, is_leaving=is_leaving)
    tell = None if progress is None else news.put
    told = paper or Paperwork(plan, journal, clock, way)
    undo = _Undo(plan, journal, compensators, clock, stopping, tell, told, way, (actor, reason))
    if undo.pending:
        systems = Systems(limits, limiter or TokenBuckets(limits, clock), rests_max=retries + 1)
        opening = (ids.new_id("undo"), actor, reason)
        _aside(lambda: undo.run(systems, parallel, retries + 1, opening, asked_at), stopping, news, progress)
    return undo.result


def _aside(
    work: Callable[[], None],
    stopping: Stopping,
    news: "queue.SimpleQueue[StepResult | None]",
    progress: Progress | None,
) -> None:
    """Do the work in a thread of its own, where no interrupt can tear it apart, and tell its news in this one.

    Raises: what the work raises; KeyboardInterrupt, at the second one.
    """
    failures: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread that asked for the work
            failures.append(error)
        finally:
            news.put(None)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(do,), name="rescind-undo")
    thread.start()
    try:
        while True:
            try:
                while (result := news.get()) is not None:
                    if progress is not None:
                        progress(result)
                break
            except KeyboardInterrupt:
                if stopping.interrupted:
                    raise
                stopping.interrupt()
    finally:
        stopping.interrupt()  # only if something was raised here is there anything left to stop
        thread.join()
    if failures:
        raise failures[0]


class _Undo:
    """One application of a plan: what is known so far. Its methods are called in the runner's thread, but `perform`."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        compensators: Mapping[str, Compensator],
        clock: Clock,
        stopping: Stopping,
        tell: Progress | None,
        paper: Paperwork,
        way: Way,
        actor_and_reason: tuple[str, str],
    ) -> None:
        self._actor, self._reason = actor_and_reason
        self._plan, self._compensators, self._clock, self._tell = plan, compensators, clock, tell
        self._journal, self._stopping = journal, stopping
        self.paper = paper
        self._results: dict[StepRef, StepResult] = {}
        self._late: dict[StepRef, tuple[PlanItem, Review]] = {}
        self._left: dict[StepRef, str] = {}
        self._lost: dict[str, str] = {}
        self._deferred = Deferred()
        self._last_words: set[StepRef] = set()
        self._perhaps_restored: set[StepRef] = set()
        self._undone = 0
        self._tries: Counter[StepRef] = Counter()
        self._claims = Claims(journal, () if plan.is_settled else plan.runs, way)
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
        """Whether its effect may stay: as planned, or because it has moved on since."""
        result = self._results.get(item.step)
        if result is None or isinstance(item.decision, AlreadyUndone | AlreadyInReview):
            return blocks(item.decision)
        record = self._claims.records.get(item.step)
        if record is not None and record.step.effect_class is EffectClass.IRREVERSIBLE:
            return False  # what stays for good holds nothing back
        return result.disposition in (None, Disposition.REVIEW)

    @property
    def result(self) -> UndoResult:
        """What is known by now."""
        steps = [self._results.get(item.step) or self._not_reached(item) for item in self._plan.items]
        return UndoResult(
            plan_digest=self._plan.digest,
            plan_run=plan_run_of(self._plan) if self.pending else "",
            steps=tuple(steps),
            tasks=tuple(self.paper.tasks),
            interrupted=self._stopping.why == "interrupted",
            left_because=self._stopping.why,
            left_detail=self._stopping.detail,
            lost_systems=self._lost,
        )

    def _not_reached(self, item: PlanItem) -> StepResult:
        lost = self._lost.get(system_of(item)) if is_work(item.decision) else None
        words = "" if lost is None else f"{system_of(item)} does not answer: {lost}"
        return result_of(item, None, detail=self._left.get(item.step, words))

    # --- the whole ---

    def run(
        self, systems: Systems, parallel: int, tries_max: int, opening: tuple[str, str, str], asked_at: int | None
    ) -> None:
        """Carry out what is pending. `opening` is for `Paperwork.open`. Raises: as `apply_plan`."""
        try:
            begun_at = self.paper.open(*opening, pending=len(self.pending))
            control = ControlReader(
                self._journal,
                digest=self._plan.digest,
                selection=self._plan.selection,
                asked_at=begun_at if asked_at is None else asked_at,
            )
            self._stopping.obey(control)
            self._drop()
            self._know(self.paper.settle(self._settles()))
            self._know(self.paper.open_tasks(self._reviews()))
            self._work(systems, parallel, tries_max)
            self._know(self.paper.open_tasks(self._late.values()))
            self._close()
        except JournalUnavailable as error:
            raise UndoStopped(self.result, cause=str(error)) from error

    def _close(self) -> None:
        result = self.result
        if result.is_complete:
            self.paper.finish(result)
            return
        lost = ", ".join(f"{name}: {heard}" for name, heard in self._lost.items())
        why = self._stopping.why or ("unavailable" if lost else "overtaken")
        self.paper.leave(result, why, self._stopping.detail or lost)

    def _drop(self) -> None:
        """Drop what is held (U15); what was released before that has moved on, and its effect stays for now (U5)."""
        self._know(self.paper.drop([item for item in self.pending if isinstance(item.decision, Drop)]))
        for item in self.pending:
            if isinstance(item.decision, Drop) and self._may_stay(item):
                self._staying.add(item.step)

    def _settles(self) -> list[tuple[PlanItem, Settle]]:
        found = [(item, item.decision) for item in self.pending if not is_work(item.decision)]
        return [(item, decision) for item, decision in found if isinstance(decision, Settle)]

    def _reviews(self) -> list[tuple[PlanItem, Review]]:
        return [(item, item.decision) for item in self.pending if isinstance(item.decision, Review)]

    def _know(self, results: Iterable[StepResult]) -> None:
        for result in results:
            self._results[result.step] = result
            if self._tell is not None:
                self._tell(result)

    # --- work: see `runner.Work` ---

    def _work(self, systems: Systems, parallel: int, tries_max: int) -> None:
        work = {item.step for item in self.pending if is_work(item.decision)}
        if not work:
            return
        alone = {
            item.step for item in self.pending if item.step in work and not self._compensators[item.action].parallel
        }
        self._schedule, self._tries_max = Schedule(self._plan, work, alone), tries_max
        runner = Runner(self, self._schedule, systems, self._stopping, self._clock, parallel=min(parallel, len(work)))
        try:
            with Waiter() as self._waiter:
                runner.run()
        finally:
            self._lost = systems.lost

    def end_at_once(self, item: PlanItem) -> Ending | None:
        """See `Work`."""
        if not is_undo(item.decision):
            return None
        blocker = self._staying.blocker_of(item.step)
        if blocker is not None:
            review = blocked_by(blocker)
            return ForPerson(review.reason, review.detail)
        if self.is_late(item):
            return ForPerson(ReviewReason.PAST_DEADLINE, late_words(self._claims.records[item.step]))
        return None

    def is_late(self, item: PlanItem) -> bool:
        """See `Work`."""
        compensation = self._claims.records[item.step].step.compensation
        until = None if compensation is None else compensation.allowed_until
        return until is not None and is_undo(item.decision) and from_us(self._clock.now_us()) >= until

    def flow_of(self, item: PlanItem) -> UndoFlow:
        """See `Work`."""
        self._deferred.begin(item, undone=self._undone)
        return undo_flow(self.job_of(item, self._tries_max))

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
            last_word=action.on_conflict if item.step in self._last_words else OnConflict.REVIEW,
            actor=self._actor,
            reason=self._reason,
        )

    def perform(self, request: Request, item: PlanItem) -> Any:
        """See `Work`. In a thread of the crew."""
        compensator = self._compensators[item.action]
        match request:
            case Undo(record, key):
                return self._waiter.result_of(compensator.undo(record, key))
            case Observe():
                return self._waiter.result_of(compensator.observe(self._claims.records[item.step]))
            case Merge(record, key, now):
                return self._waiter.result_of(cast("Merger", compensator).merge(record, key, now))
            case Ask(key):
                return self._waiter.result_of(cast("Prober", compensator).probe(self._claims.records[item.step], key))
            case _:
                raise AssertionError(f"{request} is not for a handler")

    def append(self, events: Sequence[tuple[StepRef, Event]]) -> tuple[int, ...]:
        """See `Work`."""
        now_us = self._clock.now_us()
        drafts = [Draft(run_id=step.run_id, event=event, recorded_at_us=now_us) for step, event in events]
        for step, event in events:
            self._tries[step] += isinstance(event, CompensationIntended)
        appended = self.paper.append_drafts(drafts)
        self._claims.note(drafts, appended)
        return appended.sequences

    def is_first(self, step: StepRef, sequence: int) -> bool:
        """See `Work`."""
        return self._claims.is_first(step, sequence)

    @property
    def is_holding(self) -> bool:
        """See `Work`."""
        return bool(self._deferred)

    def turn_to_deferred(self) -> bool:
        """See `Work`. Those are tried again that may succeed now; or else the newest is given up."""
        if not self._deferred:
            return False
        hopeful = self._deferred.take_hopeful(undone=self._undone)
        for item in hopeful:
            self._schedule.again(item.step)
        if not hopeful:
            item, conflict = self._deferred.take_newest()
            self._end_by_policy(item, conflict)
        return True

    def _end_by_policy(self, item: PlanItem, conflict: ForPerson) -> None:
        """A conflict that nothing resolves; one that the plan has not shown is never forced (CF2)."""
        policy = self._compensators[item.action].action.on_conflict
        if policy is OnConflict.MERGE and item.step in self._perhaps_restored:
            self._end_for_person(item, ForPerson(ReviewReason.IN_DOUBT, RESTORE_IN_DOUBT))
            return
        if policy in (OnConflict.SKIP, OnConflict.MERGE) and _is_plain_restore(item):
            self._last_words.add(item.step)
            self._schedule.again(item.step)
            return
        if policy is OnConflict.FORCE:
            conflict = msgspec.structs.replace(conflict, detail=f"{conflict.detail}; {HOW_TO_FORCE}")
        self._end_for_person(item, conflict)

    def ends(self, item: PlanItem, event: CompensationEnded) -> None:
        """See `Work`."""
        self._undone += is_undo(item.decision) and event.disposition is not Disposition.SUPERSEDED
        self._schedule.finish(item.step)

    def end(self, item: PlanItem, ending: Ending) -> None:
        """See `Work`."""
        match ending:
            case ForPerson(ReviewReason.CONFLICT) if self._may_wait(item):
                self._deferred.defer(item, ending)
                if ending.may_be_restored:
                    self._perhaps_restored.add(item.step)
                return
            case NotReached(detail):
                self._left[item.step] = detail
                return
            case Done(disposition, because):
                self._know([result_of(item, disposition, detail=because)])
                return  # what waited for it has begun: see `ends`
            case MovedOn():
                self._staying.add(item.step)
                self._know([moved_on(item, None)])
            case ForPerson():
                self._end_for_person(item, ending)
                return
            case _:
                assert_never(ending)
        self._schedule.finish(item.step)

    def _may_wait(self, item: PlanItem) -> bool:
        return isinstance(item.decision, Restore) and item.step not in self._last_words

    def _end_for_person(self, item: PlanItem, ending: ForPerson) -> None:
        review = Review(ending.reason, ending.detail)
        self._late[item.step] = (item, review)
        if blocks(review):
            self._staying.add(item.step)
        self._schedule.finish(item.step)


def _is_plain_restore(item: PlanItem) -> bool:
    return isinstance(item.decision, Restore) and item.decision.policy is OnConflict.REVIEW


def _is_as_planned(record: StepRecord, item: PlanItem) -> bool:
    return (
        record.compensation_attempts == item.attempts
        and record.task_id == item.earlier_task
        and record.disposition in (None, Disposition.REVIEW)
        and outcome_word(record) == item.outcome
    )
