"""Carrying out a plan, so that it can be killed at any instant and continued by planning again.

The laws, which the tests try to break by dying before and after every request:

U8.  *Intent before effect.* Nothing is undone whose intent is not durable. An intent without an end says: look.
U9.  *At most once.* A compensation that may have happened is sent again only under the same idempotency key, and only
     if its action says that this is safe. Otherwise it goes to a person.
U10. *One runner per step.* Of all runners that intend a step after the state that was planned from, only the one
     whose intent stands first in the journal carries it out. Who has a step for a person without having tried it
     leaves it alone, if another one has taken it up by then.
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

Kept elsewhere: U8 and U9 in `trying`, U10 in `claims`, U11 in `trying` and `over_later`, U12 in `paperwork`, U14 in
`schedule`, U16 and U17 in `stopping`, U18 in `runner`, U19 in `systems`, U20 in `stepping`.

Endings that need a person are collected until the work is over, so that 340 mails that fail for one reason are one task
and not 340. Dying before that loses nothing: each such step has an intent without an end, or was never begun, and the
next plan decides about it again.
"""

import queue
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext

from rescind.clock import Clock, IdSource
from rescind.compensation.awaiting import Waiter
from rescind.compensation.decision import (
    Drop,
    Plan,
    PlanItem,
    Review,
    Settle,
    is_work,
    refuse_forced_without_reason,
)
from rescind.compensation.execution.account import Account, Progress
from rescind.compensation.execution.aside import aside
from rescind.compensation.execution.claims import Claims
from rescind.compensation.execution.limits import Limiter, Limits, TokenBuckets
from rescind.compensation.execution.runner import Runner
from rescind.compensation.execution.schedule import Schedule
from rescind.compensation.execution.stepping import Stepping
from rescind.compensation.execution.stopping import Stopping
from rescind.compensation.execution.systems import Systems
from rescind.compensation.paperwork import Paperwork, plan_run_of
from rescind.compensation.port import Compensator
from rescind.compensation.result import StepResult, UndoResult, UndoStopped, moved_on
from rescind.compensation.staying import Staying
from rescind.compensation.way import BACK, Way
from rescind.errors import JournalUnavailable, UsageError
from rescind.journal.port import Journal
from rescind.recovery.appliers import Appliers
from rescind.recovery.control import ControlReader

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
    appliers: Appliers | None = None,
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
        appliers: Where this process shows that it applies the plan; None, if that is shown otherwise, or nowhere.

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
    with nullcontext(False) if appliers is None else appliers.here(plan_run_of(plan)) as shown:
        told = paper or Paperwork(plan, journal, clock, way, shown=shown)
        undo = _Undo(plan, journal, compensators, clock, stopping, tell, told, way, (actor, reason))
        if undo.pending:
            systems = Systems(limits, limiter or TokenBuckets(limits, clock), rests_max=retries + 1)
            opening = (ids.new_id("undo"), actor, reason)
            aside(lambda: undo.run(systems, parallel, retries + 1, opening, asked_at), stopping, news, progress)
        return undo.result


class _Undo:
    """One application of a plan. Its methods are called in the runner's thread."""

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
        self._plan, self._compensators, self._clock = plan, compensators, clock
        self._journal, self._stopping, self._paper = journal, stopping, paper
        self._claims = Claims(journal, () if plan.is_settled else plan.runs, way)
        self._account = Account(plan, self._claims.records, tell)
        self.pending = self._account.pending
        for item in self.pending:
            if is_work(item.decision) and item.action not in compensators:
                raise UsageError(f"the plan undoes {item.step} of action {item.action!r}, which is not declared here")
        self._staying = Staying(
            {item.step: item.blocks_on for item in plan.items},
            {item.step: item.gates for item in plan.items},
            plan.gates,
            (item.step for item in plan.items if self._account.may_stay(item)),
        )

    @property
    def result(self) -> UndoResult:
        """What is known by now."""
        return self._account.result(self._paper.tasks, self._stopping)

    def run(
        self, systems: Systems, parallel: int, tries_max: int, opening: tuple[str, str, str], asked_at: int | None
    ) -> None:
        """Carry out what is pending. `opening` is for `Paperwork.open`. Raises: as `apply_plan`."""
        know, paper = self._account.know, self._paper
        try:
            begun_at = paper.open(*opening, pending=len(self.pending))
            control = ControlReader(
                self._journal,
                digest=self._plan.digest,
                selection=self._plan.selection,
                asked_at=begun_at if asked_at is None else asked_at,
            )
            self._stopping.obey(control)
            self._drop()
            know(paper.settle(self._settles()))
            know(paper.open_tasks(self._not_taken(self._reviews())))
            know(paper.open_tasks(self._not_taken(self._work(systems, parallel, tries_max))))
            self._close()
        except JournalUnavailable as error:
            raise UndoStopped(self.result, cause=str(error)) from error

    def _close(self) -> None:
        result = self.result
        if result.is_complete:
            self._paper.finish(result)
            return
        lost = ", ".join(f"{name}: {heard}" for name, heard in self._account.lost.items())
        why = self._stopping.why or ("unavailable" if lost else "overtaken")
        self._paper.leave(result, why, self._stopping.detail or lost)

    def _drop(self) -> None:
        """Drop what is held (U15); what was released before that has moved on, and its effect stays for now (U5)."""
        held = [item for item in self.pending if isinstance(item.decision, Drop)]
        self._account.know(self._paper.drop(held, self._actor))
        for item in held:
            if self._account.may_stay(item):
                self._staying.add(item.step)

    def _settles(self) -> list[tuple[PlanItem, Settle]]:
        found = [(item, item.decision) for item in self.pending if not is_work(item.decision)]
        return [(item, decision) for item, decision in found if isinstance(decision, Settle)]

    def _reviews(self) -> list[tuple[PlanItem, Review]]:
        return [(item, item.decision) for item in self.pending if isinstance(item.decision, Review)]

    def _not_taken(self, reviews: Iterable[tuple[PlanItem, Review]]) -> list[tuple[PlanItem, Review]]:
        """Those that no other runner has taken up meanwhile (U10): an end of ours after his would free them again."""
        left = list(reviews)
        taken = self._claims.taken_by_others([item.step for item, _ in left])
        self._account.know(moved_on(item, None) for item, _ in left if item.step in taken)
        return [(item, review) for item, review in left if item.step not in taken]

    def _work(self, systems: Systems, parallel: int, tries_max: int) -> Iterable[tuple[PlanItem, Review]]:
        """Call the handlers of all that they are needed for. What turned out to be for a person."""
        work = {item.step: self._compensators[item.action] for item in self.pending if is_work(item.decision)}
        if not work:
            return ()
        schedule = Schedule(self._plan, work.keys(), {step for step, each in work.items() if not each.parallel})
        try:
            with Waiter() as waiter:
                stepping = Stepping(
                    self._plan.digest,
                    self._account,
                    self._claims,
                    self._staying,
                    schedule,
                    self._compensators,
                    self._paper,
                    self._clock,
                    waiter,
                    tries_max=tries_max,
                    actor=self._actor,
                    reason=self._reason,
                )
                at_once = min(parallel, len(work))
                Runner(stepping, schedule, systems, self._stopping, self._clock, parallel=at_once).run()
        finally:
            self._account.lost = systems.lost
        return stepping.late.values()
