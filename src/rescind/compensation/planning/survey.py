"""Looking before planning: the steps from the journal, the targets through their effects, and the plan made of both.

As few looks as will do: first one for each action at each target, since a target's older versions follow from the
journal. Only where that ends in a conflict or a doubt are the target's other steps looked at one by one, because they
may look at other parts of it. What is in doubt after that is asked of its target system, where that can be asked.
"""

import contextvars
import gc
import threading
from collections.abc import Callable, Collection, Container, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import Any, TypeVar, cast

import msgspec

from rescind.clock import Clock, from_us
from rescind.compensation.awaiting import Waiter
from rescind.compensation.decision import Asks, Plan, PlanItem, Restore, Review, Settle
from rescind.compensation.doubt import is_in_doubt, whom_to_ask
from rescind.compensation.planning.nesting import containers_of, end_of
from rescind.compensation.planning.order import Place, place_of
from rescind.compensation.planning.plan import ForeignStep, Known, Observation, plan_undo
from rescind.compensation.planning.scope import scope_of
from rescind.compensation.planning.selection import Selection, read_steps
from rescind.compensation.port import Compensator, Prober, ReviewReason, idempotency_key_of
from rescind.journal.port import PAGE_LIMIT, Journal, Query
from rescind.model.action import Action, EffectClass, OnConflict
from rescind.model.entry import CompensationEnded, Disposition, Entry, Intended, StepRef
from rescind.model.history import StepRecord, fold_steps
from rescind.model.outcome import Completed, Failed
from rescind.model.probe import Probe, ProbeResult
from rescind.model.step import Target
from rescind.recovery.reading import readable_entries
from rescind.recovery.review import resolved_tasks

V = TypeVar("V")

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
    survey = _Survey(
        journal, records, outside, compensators, clock, parallel, given or {}, live_runs, may_force=may_force
    )
    with Waiter() as waiter:
        return survey.plan(selection, waiter, explains=explains)


def observe_all(
    journal: Journal,
    records: list[StepRecord],
    compensators: Mapping[str, Compensator],
    clock: Clock,
    *,
    parallel: int = 8,
) -> Mapping[StepRef, Observation]:
    """Look at the target of each of these steps; handlers not declared parallel one by one (C4)."""
    survey = _Survey(journal, records, [], compensators, clock, parallel, {}, (), may_force=False)
    with Waiter() as waiter:
        return survey.look_at_all(waiter)


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
    )


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
        self._now = from_us(clock.now_us())
        self._parallel = parallel
        self._resolved = resolved_tasks(journal)
        self._observations: dict[StepRef, Observation] = {}
        self._probes: dict[tuple[StepRef, Asks], ProbeResult] = {}

    def plan(self, selection: dict[str, Any], waiter: Waiter, *, explains: bool) -> Plan:
        self._look(self._first_looks(), waiter)
        plan = self._planned(selection)
        uncertain = self._uncertain(plan.items)
        if uncertain:
            self._look(self._steps_at(uncertain), waiter)
            plan = self._planned(selection)
        asked = self._in_doubt(plan.items)
        if asked:
            self._ask(asked, waiter)
            plan = self._planned(selection)
        taken_along = self._put_back_before(item for item in plan.items if _is_forced(item))
        if taken_along:
            self._given = {**self._given, **taken_along}
            plan = self._planned(selection)
        conflicts = [item for item in plan.items if _is_conflict(item)]
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
            probes=self._probes,
            live_runs=self._live_runs,
            may_force=self._may_force,
        )
        return plan_undo(self._records, known, selection=selection)

    def look_at_all(self, waiter: Waiter) -> Mapping[StepRef, Observation]:
        """What is seen at the target of each step."""
        self._look(self._records, waiter)
        return self._observations

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
            and (record.disposition is None or open_again)
        )

    # --- looking ---

    def _look(self, records: list[StepRecord], waiter: Waiter) -> None:
        if records:
            self._observations |= self._in_turns(records, lambda record: self._observe(record, waiter))

    def _in_turns(self, records: list[StepRecord], call: Callable[[StepRecord], V]) -> dict[StepRef, V]:
        """Call a handler of each of these records, as many at once as is allowed."""
        # Handlers not declared parallel are called one after the other (C4), while the others look beside them.
        alone = [each for each in records if not self._compensators[each.step.action].parallel]
        apart = [each for each in records if self._compensators[each.step.action].parallel]
        turns: list[Iterable[StepRecord]] = [alone] if alone else []
        if apart:
            # The others share one line: a look that takes long holds nobody up, and no look needs a ticket of its own.
            turns += [_Line(apart)] * max(1, min(self._parallel, len(apart)) - len(turns))

        def take(turn: Iterable[StepRecord]) -> dict[StepRef, V]:
            return {each.ref: contextvars.copy_context().run(call, each) for each in turn}

        found: dict[StepRef, V] = {}
        with ThreadPoolExecutor(max(1, min(self._parallel, len(turns))), "rescind-look") as pool:
            for answers in [pool.submit(contextvars.copy_context().run, take, turn) for turn in turns]:
                found |= answers.result()
        return found

    def _observe(self, record: StepRecord, waiter: Waiter) -> Observation:
        try:
            answer = self._compensators[record.step.action].observe(record)
            return Observation.of(waiter.result_of(answer))
        except Exception as error:  # noqa: BLE001  # whatever a target raises, the plan says so
            return Observation(problem=f"looking at the target failed: {type(error).__name__}: {error}")
        finally:
            if not (self._actions[record.step.action].probed and is_in_doubt(record)):
                _slim(record)

    # --- asking ---

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

    def _ask(self, asked: Mapping[StepRef, Asks], waiter: Waiter) -> None:
        records = [record for record in self._records if record.ref in asked]
        answers = self._in_turns(records, lambda record: self._probe(record, asked[record.ref], waiter))
        self._probes |= {(ref, asked[ref]): answer for ref, answer in answers.items()}

    def _probe(self, record: StepRecord, asks: Asks, waiter: Waiter) -> ProbeResult:
        key = record.step.idempotency_key if asks is Asks.STEP else idempotency_key_of(record)
        prober = cast("Prober", self._compensators[record.step.action])
        try:
            probe: ProbeResult = waiter.result_of(prober.probe(record, key))
        except Exception as error:  # noqa: BLE001  # whatever a target system raises, it has told nothing (DT3)
            return ProbeResult(answer=Probe.CANNOT_TELL, detail=f"{type(error).__name__}: {error}")
        return probe

    def _put_back_before(self, forced: Iterable[PlanItem]) -> dict[StepRef, Review]:
        """Steps to be forced whose targets an undo of an older step has put back since, and what that means (CF2)."""
        ends = {record.ref: end_of(record) for record in self._records}
        runs: dict[str, list[_PutBack]] = {}
        found: dict[StepRef, Review] = {}
        for item in forced:
            assert isinstance(item.decision, Restore)
            for run_id in self._runs_before(item):
                if run_id not in runs:
                    runs[run_id] = _put_back(readable_entries(self._journal, Query(run_id=run_id), []))
                for each in runs[run_id]:
                    if (
                        each.record.step.target == item.target
                        and each.record.intended_sequence < item.intended_sequence
                        and each.leaves == item.decision.expects
                        and each.sequence > ends[item.step]
                    ):
                        words = f"the undo of {each.record.ref}, which is older, has put its target back since"
                        found[item.step] = Review(
                            ReviewReason.CONFLICT, f"{words}; to force this one would bring back what that had left"
                        )
        return found

    def _runs_before(self, item: PlanItem) -> list[str]:
        """The runs that wrote to the item's target before it."""
        if item.target is None:
            return []
        entries = readable_entries(self._journal, Query(target=item.target), [])
        older = takewhile(lambda entry: entry.sequence < item.intended_sequence, entries)
        return list(dict.fromkeys(entry.run.run_id for entry in older))

    def _foreign_steps(self, conflicts: list[PlanItem]) -> dict[Target, list[ForeignStep]]:
        """Who else wrote to the targets in conflict; of each target at most one page, after its oldest conflict."""
        ours = {record.ref for record in self._records}
        oldest: dict[Target, int] = {}
        for item in conflicts:
            if item.target is not None:
                oldest[item.target] = min(oldest.get(item.target, item.intended_sequence), item.intended_sequence)
        found: dict[Target, list[ForeignStep]] = {}
        for target, sequence in oldest.items():
            # What cannot be read of others explains nothing, and is no reason to leave a target as it is.
            page = islice(readable_entries(self._journal, Query(target=target), [], after=sequence), PAGE_LIMIT)
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


class _PutBack(msgspec.Struct, frozen=True):
    """A step that was restored, the version that this left, and where that stands in the journal."""

    record: StepRecord
    leaves: str
    sequence: int


def _put_back(entries: Iterable[Entry]) -> list[_PutBack]:
    """The steps of a run that were restored, and not redone since."""
    story = list(entries)
    ended = {entry.event.step_id: entry.sequence for entry in story if isinstance(entry.event, CompensationEnded)}
    return [
        _PutBack(record, record.step.before.version, ended[record.step.step_id])
        for record in fold_steps(story)
        if record.disposition is Disposition.RESTORED and record.step.before is not None
    ]


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
