"""Looking before planning: the steps from the journal, the targets through their effects, and the plan made of both.

As few looks as will do: first one for each action at each target, since a target's older versions follow from the
journal. Only where that ends in a conflict or a doubt are the target's other steps looked at one by one, because they
may look at other parts of it.
"""

import contextvars
import gc
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec

from rescind.clock import Clock, from_us
from rescind.compensation.awaiting import Waiter
from rescind.compensation.decision import Plan, PlanItem, Review
from rescind.compensation.nesting import containers_of, end_of
from rescind.compensation.order import Place, place_of
from rescind.compensation.plan import ForeignStep, Known, Observation, plan_undo
from rescind.compensation.port import Compensator, ReviewReason
from rescind.compensation.scope import scope_of
from rescind.compensation.selection import Selection, read_steps
from rescind.journal.port import PAGE_LIMIT, Journal, Query
from rescind.model.action import Action, EffectClass
from rescind.model.entry import Disposition, Intended, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed
from rescind.model.step import Target
from rescind.recovery.review import resolved_tasks

_UNCERTAIN = (ReviewReason.CONFLICT, ReviewReason.IN_DOUBT, ReviewReason.CANNOT_LOOK)


def make_plan(
    journal: Journal,
    selection: Selection,
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    parallel: int = 8,
) -> Plan:
    """Look, and plan. Nothing is changed.

    Args:
        journal: Where the steps are.
        selection: Which steps.
        compensators: The declared actions by name, able to look at their targets.
        clock: The time that deadlines are held against.
        parallel: How many targets to look at at once; those of handlers not declared parallel one by one.

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
) -> Plan:
    """Look at the targets of these steps, and plan. What is not needed any more is dropped from the records.

    Args: as for `make_plan`; `outside` and `given` as in `Known`; `explains`: whether to say of conflicts who else
        wrote to their targets.
    """
    survey = _Survey(journal, records, outside, compensators, clock, parallel, given or {})
    with Waiter() as waiter:
        return survey.plan(selection, waiter, explains=explains)


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
) -> Plan:
    """As `make_plan`, for exactly these steps: what else their runs hold is outside, and what it depends on stays."""
    records = read_steps(journal, (step.run_id for step in steps))
    wanted = frozenset(steps)
    chosen = [record for record in records if record.ref in wanted]
    outside = [record for record in records if record.ref not in wanted]
    return plan_of(journal, chosen, outside, compensators, clock, parallel=parallel, selection={}, explains=True)


class _Survey:
    def __init__(
        self,
        journal: Journal,
        records: list[StepRecord],
        outside: list[StepRecord],
        compensators: Mapping[str, Compensator],
        clock: Clock,
        parallel: int,
        given: Mapping[StepRef, Review],
    ) -> None:
        self._given = given
        self._journal, self._records, self._compensators = journal, records, compensators
        self._outside = outside
        self._misfits = {
            record.ref: problem
            for record in records
            if record.step.action in compensators
            and (problem := compensators[record.step.action].accepts(record.step.arguments))
        }
        self._actions: dict[str, Action] = {name: each.action for name, each in compensators.items()}
        self._now = from_us(clock.now_us())
        self._parallel = parallel
        self._resolved = resolved_tasks(journal)
        self._observations: dict[StepRef, Observation] = {}

    def plan(self, selection: dict[str, Any], waiter: Waiter, *, explains: bool) -> Plan:
        self._look(self._first_looks(), waiter)
        plan = self._planned(selection)
        uncertain = self._uncertain(plan.items)
        if uncertain:
            self._look(self._steps_at(uncertain), waiter)
            plan = self._planned(selection)
        conflicts = [item for item in plan.items if _is_review(item, (ReviewReason.CONFLICT,))]
        return self._planned(selection, self._foreign_steps(conflicts)) if conflicts and explains else plan

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
        )
        return plan_undo(self._records, known, selection=selection)

    # --- whom to look at ---

    def _first_looks(self) -> list[StepRecord]:
        """The newest step of each action at each target, and every step without a target of its own, or nested."""
        inside = containers_of(self._records)
        nested = {*inside, *inside.values()}
        newest: dict[object, StepRecord] = {}
        for record in sorted(self._records, key=end_of):  # so the newest is kept
            if self._may_be_restored(record):
                target = record.step.target
                alone = target is None or record.ref in nested
                newest[record.ref if alone else (target, record.step.action)] = record
        return list(newest.values())

    def _uncertain(self, items: Iterable[PlanItem]) -> set[StepRef]:
        return {item.step for item in items if _is_review(item, _UNCERTAIN) and item.step not in self._observations}

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
            and (record.disposition is None or open_again)
        )

    # --- looking ---

    def _look(self, records: list[StepRecord], waiter: Waiter) -> None:
        if not records:
            return
        # Handlers not declared parallel are called one after the other (C4), while the others look beside them.
        alone = [each for each in records if not self._compensators[each.step.action].parallel]
        apart = [each for each in records if self._compensators[each.step.action].parallel]
        turns: list[Iterable[StepRecord]] = [alone] if alone else []
        if apart:
            # The others share one line: a look that takes long holds nobody up, and no look needs a ticket of its own.
            turns += [_Line(apart)] * max(1, min(self._parallel, len(apart)) - len(turns))
        with ThreadPoolExecutor(max(1, min(self._parallel, len(turns))), "rescind-look") as pool:
            looks = [pool.submit(contextvars.copy_context().run, self._observe_each, turn, waiter) for turn in turns]
            for look in looks:
                self._observations |= look.result()

    def _observe_each(self, records: Iterable[StepRecord], waiter: Waiter) -> dict[StepRef, Observation]:
        return {each.ref: contextvars.copy_context().run(self._observe, each, waiter) for each in records}

    def _observe(self, record: StepRecord, waiter: Waiter) -> Observation:
        try:
            answer = self._compensators[record.step.action].observe(record)
            return Observation.of(waiter.result_of(answer))
        except Exception as error:  # noqa: BLE001  # whatever a target raises, the plan says so
            return Observation(problem=f"looking at the target failed: {type(error).__name__}: {error}")
        finally:
            _slim(record)

    def _foreign_steps(self, conflicts: list[PlanItem]) -> dict[Target, list[ForeignStep]]:
        """Who else wrote to the targets in conflict; of each target at most one page, after its oldest conflict."""
        ours = {record.ref for record in self._records}
        oldest: dict[Target, int] = {}
        for item in conflicts:
            if item.target is not None:
                oldest[item.target] = min(oldest.get(item.target, item.intended_sequence), item.intended_sequence)
        found: dict[Target, list[ForeignStep]] = {}
        for target, sequence in oldest.items():
            page = self._journal.entries(Query(target=target), after=sequence, limit=PAGE_LIMIT)
            found[target] = [
                ForeignStep(ref, entry.run.agent, entry.sequence)
                for entry in page
                if isinstance(entry.event, Intended)
                and (ref := StepRef(entry.run.run_id, entry.event.step.step_id)) not in ours
            ]
        return found


def _slim(record: StepRecord) -> None:
    """Let go of images and arguments. The step was looked at and will not be again, and planning goes by versions."""
    step = record.step
    before = step.before and msgspec.structs.replace(step.before, image=None)
    record.step = msgspec.structs.replace(step, before=before, requested={}, approved=None)
    record.after = record.after and msgspec.structs.replace(record.after, image=None)
    if isinstance(record.outcome, Completed):
        record.outcome = Completed()


class _Line:
    """Records that several threads take one after the other, each once."""

    def __init__(self, records: Iterable[StepRecord]) -> None:
        self._records, self._lock = iter(records), threading.Lock()

    def __iter__(self) -> Iterator[StepRecord]:
        return self

    def __next__(self) -> StepRecord:
        with self._lock:
            return next(self._records)


def _is_review(item: PlanItem, reasons: tuple[ReviewReason, ...]) -> bool:
    return isinstance(item.decision, Review) and item.decision.reason in reasons
