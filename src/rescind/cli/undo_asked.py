"""`rescind undo … --workers` without an application: workers plan, since they have the tools, and do what was shown."""

from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

import msgspec

from rescind.cli.forcing import approver_of
from rescind.cli.out import Out
from rescind.cli.stores import Guards, find_store, journal_of, orders_of
from rescind.cli.undo_session import Session, plan_as_json, show_plan
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.decision import Dependents, Plan, PlanItem, digest_of_plan
from rescind.compensation.execution.comparison import Comparison
from rescind.compensation.planning.selection import select_steps
from rescind.compensation.sharing.requests import (
    PlanRequest,
    ask_for_plan,
    ask_to_apply,
    items_of,
    read_request,
    refuse_lacking,
)
from rescind.compensation.sharing.submission import Submission, read_submission
from rescind.config import load_settings
from rescind.errors import PlanOutdated, RunStillLive, UsageError
from rescind.recovery.control import plan_run_id
from rescind.recovery.places import register_of
from rescind.recovery.workers import WorkerInfo, working

if TYPE_CHECKING:
    from rescind.cli.undo_request import UndoRequest
    from rescind.compensation.result import UndoResult

_LOOK_S, _ALONE_AFTER_S = 0.05, 5.0
"""Between two looks for an answer; and how long nobody has lived when waiting for one is given up."""


def run_asked(request: "UndoRequest", out: Out) -> int:
    """Have workers show the plan, or apply it. Returns the exit status.

    Raises: UsageError, if no live worker has the tools; nothing was changed then.
    """
    if request.tree:
        raise UsageError("--tree needs the tools here, and so --app; without it the plan is shown as a list")
    store = find_store(request.store)
    settings = load_settings()
    if request.force and request.apply:
        actor = approver_of(settings, request.actor, clock=SystemClock())
        request = msgspec.structs.replace(request, actor=actor)
    undo = settings.config.undo
    with journal_of(store) as journal, orders_of(store) as orders, closing(Guards(store)) as guards:
        session = AskedSession(
            request=request,
            store=store,
            guards=guards,
            journal=journal,
            orders=orders,
            compensators={},
            parallel=undo.parallel if request.parallel is None else request.parallel,
            retries=undo.retries,
            by_workers=True,
            within_s=undo.within_s if request.within_s is None else request.within_s,
        )
        if request.apply:
            from rescind.cli.undo_apply import apply_undo

            return apply_undo(session, out)
        plan = session.plan()
        show_plan(plan, session, out)
        out.emit(plan_as_json(plan, session))
        return 0


class AskedSession(Session, frozen=True, kw_only=True):
    """An undo whose tools are elsewhere."""

    def plan(self) -> Plan:
        """The plan as of now, as a worker sees it. Raises: UsageError, if none can."""
        records = select_steps(self.journal, self.request.selection)
        if not records:
            return Plan(digest=digest_of_plan((), ()), items=())
        with closing(register_of(self.store)) as register:
            refuse_lacking({record.step.action for record in records}, working(register.look(now_us=_now_us())))
            request = ask_for_plan(
                self.journal,
                self.request.selection,
                actor=self.request.actor,
                reason=self.request.reason,
                force=self.request.force,
                parallel=self.parallel,
                within_s=self.within_s,
                clock=SystemClock(),
                ids=SystemIds(),
            )
            register.ring()
        return self._plan_of(self._answered(request))

    def refuse_unable(self, plan: Plan) -> None:
        """Nothing: who has made the plan has the tools for it."""

    def submit(self, plan: Plan, workers: list[WorkerInfo]) -> Submission:
        """Have a worker submit it, if it is still what was shown. Raises: PlanOutdated, RunStillLive, UsageError."""
        request = ask_to_apply(
            self.journal, plan.digest, actor=self.request.actor, reason=self.request.reason, clock=SystemClock()
        )
        with closing(register_of(self.store)) as register:
            register.ring()
        self._answered(request)
        submission = read_submission(self.journal, plan_run_id(plan.digest))
        assert submission is not None, "a worker has said that it is submitted"
        return submission

    def compare(self, plan: Plan, result: "UndoResult") -> Comparison:
        """Nothing: looking at targets takes the tools."""
        return Comparison()

    def _answered(self, request: PlanRequest) -> PlanRequest:
        """The request once it is answered. Raises: as `submit`."""
        clock = SystemClock()
        seen_s = clock.monotonic_s()
        with closing(register_of(self.store)) as register:
            while request.answer is None:
                if working(register.look(now_us=_now_us())):
                    seen_s = clock.monotonic_s()
                elif clock.monotonic_s() - seen_s > _ALONE_AFTER_S:
                    raise UsageError(
                        f"no worker lives any more to answer request {request.request_id}; start one where the tools "
                        "are (`rescind worker MODULE`), and run this again. Nothing was undone"
                    )
                clock.sleep(_LOOK_S)
                request = read_request(self.journal, request.run_id) or request
        if request.answer.how not in ("shown", "submitted"):
            _refuse(request)
        return request

    def _plan_of(self, request: PlanRequest) -> Plan:
        assert request.shown is not None, "it was answered with a plan"
        facts = request.shown.facts
        items = items_of(self.journal, request, limit=int(facts["steps"]))
        return Plan(
            digest=request.shown.digest,
            items=msgspec.convert(items, tuple[PlanItem, ...]),
            selection=request.asked.selection,
            dependents=msgspec.convert(facts["dependents"], Dependents),
        )


def _refuse(request: PlanRequest) -> NoReturn:
    answer = request.answer
    assert answer is not None, "only what was answered is refused"
    if answer.how == "outdated":
        raise PlanOutdated(shown=request.asked.digest, current=answer.digest)
    if answer.how == "live":
        raise RunStillLive([str(each) for each in answer.facts.get("live", ())], remedy=answer.detail)
    raise UsageError(f"{answer.detail}. Nothing was undone")


def _now_us() -> int:
    return SystemClock().now_us()
