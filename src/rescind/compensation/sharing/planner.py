"""A worker's answers to requests for plans: laws PA1 to PA4 of `requests`.

Planning looks at targets and changes nothing (law C1), so a successor may plan again. Applying only submits: it is
carried out by whoever is free, as any plan that was left to the workers.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from rescind.clock import Clock, IdSource
from rescind.compensation.decision import Plan, PlanItem, Restore, Review
from rescind.compensation.paperwork import plan_run_of
from rescind.compensation.planning.selection import Selection, select_steps
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.port import Compensator
from rescind.compensation.sharing.requests import DONE, OpenRequests, PlanRequest, has_tools, refuse_lacking
from rescind.compensation.sharing.submission import append, read_submission, submit
from rescind.config import UndoConfig
from rescind.errors import (
    EngineUnavailable,
    EntryUnreadable,
    JournalUnavailable,
    OrdersUnavailable,
    SequenceConflict,
    UsageError,
)
from rescind.journal.port import Journal
from rescind.model.action import OnConflict
from rescind.model.entry import PlanPart, RequestAnswered, RequestTaken
from rescind.recovery.workers import WorkerInfo

ITEMS_OF_PART, PARTS_AT_ONCE = 200, 16
"""A part is some 80 KiB, and an append some 1.3 MiB: what others write meanwhile does not wait for long."""

_RUNS_NAMED = 100

_TOLD = (UsageError, EntryUnreadable, msgspec.ValidationError)
"""What is wrong with what was asked, and not with this moment: it is the answer, and holds up no other request."""

_log = logging.getLogger("rescind.worker")


class Planner:
    """See above.

    Args:
        worker_id: Who answers.
        journal: The store's journal.
        compensators: The tools of this process.
        workers: Looks who lives now.
        ring: Wakes the workers.
        clock, ids: The time, and new names.
        undo: What is done where a request does not say.
        live_runs: Looks which runs a living process acts for: see `make_plan`.
        may_write: Of these runs, those that may still write.
    """

    def __init__(
        self,
        worker_id: str,
        journal: Journal,
        compensators: Mapping[str, Compensator],
        *,
        workers: Callable[[], Sequence[WorkerInfo]],
        ring: Callable[[], None],
        clock: Clock,
        ids: IdSource,
        undo: UndoConfig,
        live_runs: Callable[[], Container[str]],
        may_write: Callable[[Sequence[str]], list[str]],
    ) -> None:
        self._worker_id, self._journal, self._compensators = worker_id, journal, compensators
        self._workers, self._ring, self._clock, self._ids = workers, ring, clock, ids
        self._undo, self._live_runs, self._may_write = undo, live_runs, may_write
        self._open = OpenRequests(journal)

    def answer_open(self) -> str:
        """Answer what this worker should. Returns what is to be told of it.

        Raises: JournalUnavailable, EngineUnavailable; what was taken is answered the next time.
        """
        told: list[str] = []
        for request in self._open.read():
            with contextlib.suppress(SequenceConflict):  # somebody else has it (PA2)
                taken = self._take(request)
                if taken is not None:
                    told.append(self._answer(taken))
        return "; ".join(told)

    def _take(self, request: PlanRequest) -> PlanRequest | None:
        """The request, now this worker's; None if it is another one's (PA1)."""
        if request.taken_by == self._worker_id:
            return request  # and answering it has failed
        workers = self._workers()
        if request.taken_by and any(worker.worker_id == request.taken_by for worker in workers):
            return None
        actions = self._actions(request)
        if not self._has_tools(actions) and any(has_tools(worker, actions) for worker in workers):
            return None
        event = RequestTaken(worker_id=self._worker_id)
        position = append(self._journal, self._clock, request.run_id, [event], after=request.position)
        return msgspec.structs.replace(request, taken_by=self._worker_id, position=position)

    def _has_tools(self, actions: set[str]) -> bool:
        # What this process has it knows by itself: it may be so busy that others take it for stuck.
        return actions <= self._compensators.keys()

    def _actions(self, request: PlanRequest) -> set[str]:
        try:
            return {record.step.action for record in select_steps(self._journal, _selection(request))}
        except _TOLD:  # when it is answered
            return set()

    def _answer(self, request: PlanRequest) -> str:
        plan: Plan | None = None
        actions = self._actions(request)
        try:
            if not self._has_tools(actions):
                answer = self._lacking(actions)
            else:
                plan, answer = self._planned(request) if request.asked.what == "plan" else self._applied(request)
        except _TOLD as error:
            answer = self._says("refused", str(error))
        except (JournalUnavailable, OrdersUnavailable, EngineUnavailable, SequenceConflict):
            raise  # it is answered the next time
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the same the next time
            _log.exception("request %s cannot be answered", request.request_id)
            answer = self._says("refused", f"planning failed ({type(error).__name__}); the worker's log says more")
        self._record(request, plan, answer)
        if answer.how in DONE:
            self._ring()
        return f"request {request.request_id}: {answer.how}"

    def _lacking(self, actions: set[str]) -> RequestAnswered:
        try:
            refuse_lacking(actions, self._workers())
        except UsageError as error:
            return self._says("lacking", str(error))
        return self._says("lacking", "a worker that has the tools has come just now; ask again")

    # --- plans ---

    def _planned(self, request: PlanRequest) -> tuple[Plan, RequestAnswered]:
        plan = self._plan(request)
        parts = -(-len(plan.items) // ITEMS_OF_PART)
        shown = RequestAnswered(
            how="shown", worker_id=self._worker_id, digest=plan.digest, facts=_facts(plan), parts=parts
        )
        return plan, shown

    def _plan(self, request: PlanRequest) -> Plan:
        return make_plan(
            self._journal,
            _selection(request),
            self._compensators,
            self._clock,
            parallel=self._parallel(request),
            live_runs=self._live_runs(),
            may_force=request.asked.force,
        )

    def _parallel(self, request: PlanRequest) -> int:
        return self._undo.parallel if request.asked.parallel is None else request.asked.parallel

    # --- applying ---

    def _applied(self, request: PlanRequest) -> tuple[None, RequestAnswered]:
        asked = request.asked
        if self._was_submitted(request):  # by a worker that died before it could say so (PA4)
            return None, self._says("submitted", digest=asked.digest)
        plan = self._plan(request)
        if plan.digest != asked.digest:  # PA3
            detail = (
                f"the plan has changed since it was shown (shown {asked.digest[:12]}, now {plan.digest[:12]}); nothing "
                "was done. Ask for the plan again, look at it, and apply that one"
            )
            return None, self._says("outdated", detail, digest=plan.digest)
        if plan.is_settled:
            return None, self._says("settled", "everything is accounted for; nothing is left to do", digest=plan.digest)
        live = self._may_write(plan.runs)
        if live:
            named = ", ".join(live[:5]) + (f" and {len(live) - 5} more" if len(live) > 5 else "")
            detail = f"selected runs may still write: {named}. Stop them first, then apply the plan as it is then"
            return None, self._says("live", detail, digest=plan.digest, live=live[:_RUNS_NAMED])
        submit(
            plan,
            self._journal,
            self._compensators,
            self._workers(),
            self._clock,
            self._ids,
            parallel=self._parallel(request),
            retries=self._undo.retries,
            within_s=self._undo.within_s if asked.within_s is None else asked.within_s,
            actor=asked.actor,
            reason=asked.reason,
        )
        return None, self._says("submitted", digest=plan.digest)

    def _was_submitted(self, request: PlanRequest) -> bool:
        """Whether the plan was submitted after it was asked for."""
        digest = request.asked.digest
        there = read_submission(self._journal, plan_run_of(Plan(digest=digest, items=())))
        return there is not None and there.submitted.plan_digest == digest and there.sequence > request.sequence

    # --- records ---

    def _says(self, how: str, detail: str = "", *, digest: str = "", **facts: Any) -> RequestAnswered:
        return RequestAnswered(how=how, detail=detail, worker_id=self._worker_id, digest=digest, facts=facts)

    def _record(self, request: PlanRequest, plan: Plan | None, answer: RequestAnswered) -> None:
        """The parts of the plan, if it is shown, and the answer after all of them. Raises: SequenceConflict (PA2)."""
        position = request.position
        parts = _parts_of(plan) if plan is not None and answer.how == "shown" else iter(())
        while some := list(islice(parts, PARTS_AT_ONCE)):
            position = append(self._journal, self._clock, request.run_id, some, after=position)
        append(self._journal, self._clock, request.run_id, [answer], after=position)


def _selection(request: PlanRequest) -> Selection:
    return msgspec.convert(request.asked.selection, Selection)


def _parts_of(plan: Plan) -> Iterator[PlanPart]:
    items = iter(plan.items)
    number = 0
    while some := tuple(islice(items, ITEMS_OF_PART)):
        yield PlanPart(digest=plan.digest, number=number, items=tuple(_shown(item) for item in some))
        number += 1


def _shown(item: PlanItem) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(item)
    return fields


def _facts(plan: Plan) -> dict[str, Any]:
    reviews = Counter(item.decision.reason.value for item in plan.items if isinstance(item.decision, Review))
    return {
        "steps": len(plan.items),
        "counts": plan.counts,
        "reviews": dict(sorted(reviews.items())),
        "runs": list(plan.runs[:_RUNS_NAMED]),
        "runs_total": len(plan.runs),
        "settled": plan.is_settled,
        "forces": sum(
            isinstance(item.decision, Restore) and item.decision.policy is OnConflict.FORCE for item in plan.items
        ),
        "dependents": msgspec.to_builtins(plan.dependents),
    }
