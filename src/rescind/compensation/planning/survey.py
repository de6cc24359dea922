"""Looking before planning: the steps from the journal, the targets through their effects, and the plan made of both.

As few looks as will do: first one for each action at each target, since a target's older versions follow from the
journal. Only where that ends in a conflict or a doubt are the target's other steps looked at one by one, because they
may look at other parts of it. What is in doubt after that is asked of its target system, where that can be asked.
"""

import gc
from collections.abc import Collection, Container, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.clock import Clock, from_us
from rescind.compensation.awaiting import Waiter
from rescind.compensation.decision import Asks, Plan, PlanItem, Restore, Review, Settle
from rescind.compensation.doubt import whom_to_ask
from rescind.compensation.planning.known import ForeignStep, Known, Observation
from rescind.compensation.planning.looking import Handlers
from rescind.compensation.planning.nesting import end_of
from rescind.compensation.planning.order import ALONE, Place, order_steps, place_of
from rescind.compensation.planning.others import foreign_steps, put_back_before
from rescind.compensation.planning.plan import plan_ordered
from rescind.compensation.planning.scope import scope_of
from rescind.compensation.planning.selection import Selection, read_steps
from rescind.compensation.planning.superseded import Superseded
from rescind.compensation.port import Compensator, ReviewReason
from rescind.journal.port import Journal
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import Disposition, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Failed
from rescind.model.step import Target
from rescind.recovery.review import resolved_tasks

if TYPE_CHECKING:
    from rescind.model.probe import ProbeResult

_UNCERTAIN = (ReviewReason.CONFLICT, ReviewReason.IN_DOUBT, ReviewReason.CANNOT_LOOK)


def make_plan(
    journal: Journal,
    selection: Selection,
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    parallel: int = 8,
    live_runs: Container[str] = (),
    may_force: bool = False,
) -> Plan:
    """Look, and plan. Nothing is changed.

    Args:
        journal: Where the steps are.
        selection: Which steps.
        compensators: The declared actions by name, able to look at their targets.
        clock: The time that deadlines are held against.
        parallel: How many targets to look at at once; those of handlers not declared parallel one by one.
        live_runs: Ids of runs that a living process acts for, as far as somebody can tell.
        may_force: Whether later changes may be overwritten where their action says `force`: if an approver wants it.

    Raises: UsageError, for a selection that names what the journal does not know.
    """
    with _collecting_later():
        scope = scope_of(journal, selection)
        plan = plan_of(
            journal,
            scope.records,
            scope.outside,
            compensators,
            clock,
            parallel=parallel,
            selection=selection.as_dict(),
            explains=True,
            live_runs=live_runs,
            may_force=may_force,
        )
        return msgspec.structs.replace(plan, dependents=scope.dependents)


def plan_of(
    journal: Journal,
    records: list[StepRecord],
    outside: list[StepRecord],
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    parallel: int,
    selection: dict[str, Any],
    given: Mapping[StepRef, Review] | None = None,
    explains: bool = False,
    live_runs: Container[str] = (),
    may_force: bool = False,
) -> Plan:
    """Look at the targets of these steps, and plan. What is not needed any more is dropped from the records.

    Args: as for `make_plan`; `outside` and `given` as in `Known`; `explains`: whether to say of conflicts who else
        wrote to their targets.
    """
    with Waiter() as waiter:
        survey = _Survey(
            journal,
            records,
            outside,
            compensators,
            clock,
            Handlers(compensators, parallel=parallel, waiter=waiter),
            given or {},
            live_runs,
            may_force=may_force,
        )
        return survey.plan(selection, explains=explains)


def observe_all(
    records: list[StepRecord], compensators: Mapping[str, Compensator], *, parallel: int = 8
) -> Mapping[StepRef, Observation]:
    """Look at the target of each of these steps; handlers not declared parallel one by one (C4)."""
    with Waiter() as waiter:
        return Handlers(compensators, parallel=parallel, waiter=waiter).look(records)


@contextmanager
def _collecting_later() -> Generator[None]:
    """Without the collector of cycles, which would look again and again at a million values that all stay.

    It took a quarter of the time of a plan of 100,000 steps, and found nothing.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def make_share(
    journal: Journal,
    steps: Collection[StepRef],
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    parallel: int = 8,
    live_runs: Container[str] = (),
    may_force: bool = False,
) -> Plan:
    """As `make_plan`, for exactly these steps: what else their runs hold is outside, and what it depends on stays."""
    records = read_steps(journal, (step.run_id for step in steps))
    wanted = frozenset(steps)
    chosen = [record for record in records if record.ref in wanted]
    outside = [record for record in records if record.ref not in wanted]
    return plan_of(
        journal,
        chosen,
        outside,
        compensators,
        clock,
        parallel=parallel,
        selection={},
        explains=True,
        live_runs=live_runs,
        may_force=may_force,
    )


class _Survey:
    def __init__(
        self,
        journal: Journal,
        records: list[StepRecord],
        outside: list[StepRecord],
        compensators: Mapping[str, Compensator],
        clock: Clock,
        handlers: Handlers,
        given: Mapping[StepRef, Review],
        live_runs: Container[str],
        *,
        may_force: bool,
    ) -> None:
        self._given, self._live_runs, self._may_force = given, live_runs, may_force
        self._journal, self._records, self._compensators = journal, records, compensators
        self._outside = outside
        self._misfits = {
            record.ref: problem
            for record in records
            if record.step.action in compensators
            and (problem := compensators[record.step.action].accepts(record.step.arguments))
        }
        self._actions: dict[str, Action] = {name: each.action for name, each in compensators.items()}
        self._order = order_steps(records, self._actions)
        self._now = from_us(clock.now_us())
        self._handlers = handlers
        self._resolved = resolved_tasks(journal)
        self._observations: dict[StepRef, Observation] = {}
        self._probes: dict[tuple[StepRef, Asks], ProbeResult] = {}

    def plan(self, selection: dict[str, Any], *, explains: bool) -> Plan:
        self._observations |= self._handlers.look(self._first_looks())
        plan = self._planned(selection)
        uncertain = self._uncertain(plan.items)
        if uncertain:
            self._observations |= self._handlers.look(self._steps_at(uncertain))
            plan = self._planned(selection)
        asked = self._in_doubt(plan.items)
        if asked:
            answers = self._handlers.ask([record for record in self._records if record.ref in asked], asked)
            self._probes |= {(ref, asked[ref]): answer for ref, answer in answers.items()}
            plan = self._planned(selection)
        forced = [item for item in plan.items if _is_forced(item)]
        taken_along = put_back_before(self._journal, forced, self._records) if forced else {}
        if taken_along:
            self._given = {**self._given, **taken_along}
            plan = self._planned(selection)
        # Whatever is declared now: it may have been otherwise when something was skipped.
        if any(isinstance(item.decision, Restore) for item in plan.items):
            plan = self._bringing_nothing_back(plan, selection)
        conflicts = [item for item in plan.items if _is_conflict(item)]
        if not conflicts or not explains:
            return plan
        return self._planned(selection, foreign_steps(self._journal, conflicts, self._records))

    def _bringing_nothing_back(self, plan: Plan, selection: dict[str, Any]) -> Plan:
        """The plan without restores that would bring back what a superseded step had left (CF5)."""
        superseded = Superseded(self._journal, [*self._records, *self._outside], targets=len(plan.items))
        # One that is taken out may have been what another one waited for, so it is looked at again.
        while found := superseded.brought_back(plan.items):
            self._given = {**self._given, **found}
            plan = self._planned(selection)
        return plan

    def _planned(self, selection: dict[str, Any], foreign: Mapping[Target, list[ForeignStep]] | None = None) -> Plan:
        known = Known(
            actions=self._actions,
            observations=self._observations,
            now=self._now,
            foreign_steps=foreign or {},
            retried_tasks=self._resolved.retried,
            settled_tasks=self._resolved.settled,
            outside=self._outside,
            misfits=self._misfits,
            given=self._given,
            probes=self._probes,
            live_runs=self._live_runs,
            may_force=self._may_force,
        )
        return plan_ordered(self._order, known, selection=selection)

    # --- whom to look at ---

    def _first_looks(self) -> list[StepRecord]:
        """The newest step of each action at each target, and every step without a target of its own, or nested."""
        nested = {*self._order.inside, *self._order.inside.values()}
        looks: list[StepRecord] = []
        newest: dict[tuple[int, str], StepRecord] = {}
        for record, place in zip(self._order.records, self._order.places, strict=True):
            if not self._may_be_restored(record):
                continue
            if place == ALONE or record.step.target is None or record.ref in nested:
                looks.append(record)
                continue
            other = newest.setdefault((place, record.step.action), record)
            if end_of(other) < end_of(record):
                newest[place, record.step.action] = record
        return [*looks, *newest.values()]

    def _uncertain(self, items: Iterable[PlanItem]) -> set[StepRef]:
        return {item.step for item in items if _is_uncertain(item) and item.step not in self._observations}

    def _steps_at(self, refs: set[StepRef]) -> list[StepRecord]:
        """All steps, not looked at yet, at the targets of these."""
        places: set[Place | None] = {place_of(record) for record in self._records if record.ref in refs}
        return [
            record
            for record in self._records
            if record.ref not in self._observations and self._may_be_restored(record) and place_of(record) in places
        ]

    def _may_be_restored(self, record: StepRecord) -> bool:
        action = self._actions.get(record.step.action)
        open_again = record.disposition is Disposition.REVIEW and record.task_id in self._resolved.retried
        return (
            action is not None
            and record.ref not in self._misfits
            and action.effect_class is EffectClass.REVERSIBLE is record.step.effect_class
            and record.step.before is not None
            and not isinstance(record.outcome, Failed)
            and (record.disposition in (None, Disposition.SUPERSEDED) or open_again)
        )

    # --- whom to ask ---

    def _in_doubt(self, items: Iterable[PlanItem]) -> dict[StepRef, Asks]:
        """What is to be asked about which steps."""
        records: dict[StepRef, StepRecord] = {}
        found: dict[StepRef, Asks] = {}
        for item in items:
            action = self._actions.get(item.action)
            if action is None or not action.probed or not isinstance(item.decision, Review):
                continue
            records = records or {record.ref: record for record in self._records}
            asks = whom_to_ask(records[item.step], action, item.decision)
            fits = item.step not in self._misfits and action.effect_class is records[item.step].step.effect_class
            if fits and asks is not Asks.NOTHING:
                found[item.step] = asks
        return found


def _is_forced(item: PlanItem) -> bool:
    return isinstance(item.decision, Restore) and item.decision.policy is OnConflict.FORCE


def _is_conflict(item: PlanItem) -> bool:
    """Whether somebody else's later change is in the way, whatever is to be done about it."""
    match item.decision:
        case Restore(policy=policy):
            return policy is not OnConflict.REVIEW
        case Settle(disposition):
            return disposition is Disposition.SUPERSEDED
        case _:
            return _is_review(item, (ReviewReason.CONFLICT,))


def _is_uncertain(item: PlanItem) -> bool:
    return _is_conflict(item) or _is_review(item, _UNCERTAIN)


def _is_review(item: PlanItem, reasons: tuple[ReviewReason, ...]) -> bool:
    return isinstance(item.decision, Review) and item.decision.reason in reasons
