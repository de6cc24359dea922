"""The work on the steps of a plan, as the runner asks for it: what is tried, where it is recorded, what becomes of it.

Of the laws of `execute`, kept here: U5 while it is carried out, by `Staying`; U10, by `Claims`; U20, at a step's turn.

What looks like a conflict may be a matter of order that nobody declared: a row cannot be deleted while rows of another
run refer to it. So a restore in conflict is deferred, with everything that waits for it, and tried again when nothing
else is left to do, if anything was undone since it was begun. What is deferred and has no such hope goes to a person,
the newest first, because the older ones may have waited for just that.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, assert_never, cast

import msgspec

from rescind.clock import Clock, from_us
from rescind.compensation.awaiting import Waiter
from rescind.compensation.conflict import HOW_TO_FORCE, RESTORE_IN_DOUBT
from rescind.compensation.decision import (
    Compensate,
    PlanItem,
    Restore,
    Review,
    Settle,
    blocks,
    is_undo,
)
from rescind.compensation.execution.account import Account
from rescind.compensation.execution.claims import Claims
from rescind.compensation.execution.deferred import Deferred
from rescind.compensation.execution.flow import undo_flow
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
from rescind.compensation.execution.runner import Work
from rescind.compensation.execution.schedule import Schedule
from rescind.compensation.execution.trying import late_words
from rescind.compensation.paperwork import Paperwork
from rescind.compensation.planning.plan import blocked_by
from rescind.compensation.port import Compensator, Merger, Prober, ReviewReason
from rescind.compensation.result import moved_on, result_of
from rescind.compensation.staying import Staying
from rescind.journal.port import Draft
from rescind.model.action import OnConflict
from rescind.model.entry import CompensationEnded, CompensationIntended, Disposition, Event, StepRef


class Stepping(Work):
    """See `runner.Work`.

    Args:
        plan_digest: The plan.
        account: What is known of its steps.
        claims: Who came first.
        staying: The steps whose effects may stay.
        schedule: What may begin when.
        compensators: The declared actions by name.
        paper: Writes it down.
        clock: The time.
        waiter: Waits for handlers that are coroutines.
        tries_max: How often a step is tried, at least once.
        actor: Who applies the plan.
        reason: Why.
    """

    def __init__(
        self,
        plan_digest: str,
        account: Account,
        claims: Claims,
        staying: Staying,
        schedule: Schedule,
        compensators: Mapping[str, Compensator],
        paper: Paperwork,
        clock: Clock,
        waiter: Waiter,
        *,
        tries_max: int,
        actor: str,
        reason: str,
    ) -> None:
        self._plan_digest, self._account, self._claims, self._staying = plan_digest, account, claims, staying
        self._schedule, self._compensators, self._paper = schedule, compensators, paper
        self._clock, self._waiter, self._tries_max = clock, waiter, tries_max
        self._actor, self._reason = actor, reason
        self._deferred = Deferred()
        self._last_words: set[StepRef] = set()
        self._perhaps_restored: set[StepRef] = set()
        self._undone = 0
        self._tries: Counter[StepRef] = Counter()
        self.late: dict[StepRef, tuple[PlanItem, Review]] = {}
        """What turned out to be for a person, in the order in which it did. Nothing of that is recorded yet."""

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
        return undo_flow(self._job_of(item))

    def _job_of(self, item: PlanItem) -> Job:
        assert isinstance(item.decision, Restore | Compensate | Settle)
        action = self._compensators[item.action].action
        return Job(
            record=self._claims.records[item.step],
            decision=item.decision,
            plan_digest=self._plan_digest,
            repeatable=isinstance(item.decision, Restore) or action.compensation_idempotent,
            tries_max=self._tries_max,
            tried=self._tries[item.step],
            last_word=action.on_conflict if item.step in self._last_words else OnConflict.REVIEW,
            actor=self._actor,
            reason=self._reason,
        )

    def perform(self, request: Request, item: PlanItem) -> Any:
        """See `Work`. In a thread of the crew, unlike all else here."""
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
        appended = self._paper.append_drafts(drafts)
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
                self._account.leave(item.step, detail)
                return
            case Done(disposition, because):
                self._account.know([result_of(item, disposition, detail=because)])
                return  # what waited for it has begun: see `ends`
            case MovedOn():
                self._staying.add(item.step)
                self._account.know([moved_on(item, None)])
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
        self.late[item.step] = (item, review)
        if blocks(review):
            self._staying.add(item.step)
        self._schedule.finish(item.step)


def _is_plain_restore(item: PlanItem) -> bool:
    return isinstance(item.decision, Restore) and item.decision.policy is OnConflict.REVIEW
