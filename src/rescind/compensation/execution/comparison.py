"""After an undo, the world is compared with what it was to be: never worse than before, or somebody is told.

Each restore looks at its target in its turn (U11). But what is restored later may change what was restored before (a
trigger, a file that two targets share), and other people work on. So each target is looked at once more when all is
done. What others have moved on since, by a step or by an undo of their own that the journal knows, is no difference.
"""

from collections.abc import Iterator, Mapping

import msgspec

from rescind.compensation.decision import AlreadyUndone, Compensate, Plan, PlanItem, Restore, is_undo
from rescind.compensation.planning.order import Place
from rescind.compensation.planning.selection import read_run
from rescind.compensation.planning.survey import observe_all
from rescind.compensation.port import Compensator
from rescind.compensation.result import StepResult, UndoResult
from rescind.compensation.way import BACK, Way
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import CompensationEnded, Disposition, Intended, PlanStarted, RedoEnded, StepRef
from rescind.model.history import StepRecord
from rescind.model.step import Target


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A target that is not as the undo left it; `problem` says why nobody could look, and is else empty."""

    step: StepRef
    target: Target | None
    expected: str
    seen: str = ""
    problem: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What the targets of an undo are like after it.

    Attributes:
        compared: How many were looked at.
        differs: Those that are not as they were to be.
        moved_on: How many others have moved on since, as the journal knows.
    """

    compared: int = 0
    differs: tuple[Difference, ...] = ()
    moved_on: int = 0

    @property
    def as_before(self) -> int:
        """How many are as they were to be."""
        return self.compared - len(self.differs) - self.moved_on


def compare_after(
    plan: Plan,
    result: UndoResult,
    journal: Journal,
    compensators: Mapping[str, Compensator],
    *,
    parallel: int = 8,
    way: Way = BACK,
) -> Comparison:
    """Look at every target that this application of the plan restored. Nothing is changed.

    Args: as `apply_plan` was given them; `result` is what it returned.
    """
    last = _last_at_each(plan, result)
    records = _records_of(last, journal, way)
    seen = observe_all(list(records.values()), compensators, parallel=parallel)
    since = _begun_at(journal, result)
    differs: list[Difference] = []
    moved_on = 0
    for item in last.values():
        assert isinstance(item.decision, Restore)
        look = seen.get(item.step)
        if look is None or look.version == item.decision.leaves:
            continue
        if not look.problem and item.target is not None and _is_moved_on(journal, item.target, plan, since):
            moved_on += 1
            continue
        differs.append(
            Difference(
                step=item.step,
                target=item.target,
                expected=item.decision.leaves,
                seen=look.version,
                problem=look.problem,
            )
        )
    return Comparison(compared=len(seen), differs=tuple(differs), moved_on=moved_on)


def compare_settled(
    plan: Plan,
    plan_run: str,
    journal: Journal,
    compensators: Mapping[str, Compensator],
    *,
    parallel: int = 8,
) -> Comparison:
    """As `compare_after`, of an undo that is over, by whomever: what its steps were to leave is read off the journal.

    Args:
        plan: As of now: of all its steps something is to be said, and nothing to be done.
        plan_run: The run that holds the record of the undo; what was written after its beginning is somebody else's.
        journal: Where the steps are.
        compensators: The declared actions by name.
        parallel: How many targets to look at at once.
    """
    befores = {
        record.ref: record.step.before.version
        for run_id in plan.runs
        for record in read_run(journal, run_id)[0]
        if record.step.before is not None
    }
    items: list[PlanItem] = []
    steps: list[StepResult] = []
    for item in plan.items:
        done = item.decision
        if isinstance(done, AlreadyUndone) and done.disposition is Disposition.RESTORED:
            item = msgspec.structs.replace(item, decision=Restore(leaves=befores.get(item.step, ""), expects=""))
        elif isinstance(done, AlreadyUndone) and done.disposition is not Disposition.NEVER_TOOK_EFFECT:
            item = msgspec.structs.replace(item, decision=Compensate())
        else:
            continue
        items.append(item)
        disposition = done.disposition
        steps.append(StepResult(step=item.step, action=item.action, disposition=disposition))
    told = UndoResult(plan_digest=plan.digest, plan_run=plan_run, steps=tuple(steps))
    as_undone = msgspec.structs.replace(plan, items=tuple(items), gates=())
    return compare_after(as_undone, told, journal, compensators, parallel=parallel)


def _last_at_each(plan: Plan, result: UndoResult) -> dict[tuple[Place, str], PlanItem]:
    """For each target, by action: the last restore there, if nothing else was undone there after it."""
    found: dict[tuple[Place, str], PlanItem] = {}
    for item, step in zip(plan.items, result.steps, strict=True):
        if step.earlier or step.disposition is None or not is_undo(item.decision):
            continue
        place = item.target or str(item.step)
        if isinstance(item.decision, Restore) and item.decision.leaves and step.word == "restored":
            found[place, item.action] = item
        else:  # it was offset or merged there, or may have been: nobody knows what it is to be now
            for key in [key for key in found if key[0] == place]:
                del found[key]
    return found


def _records_of(last: Mapping[tuple[Place, str], PlanItem], journal: Journal, way: Way) -> dict[StepRef, StepRecord]:
    wanted = {item.step for item in last.values()}
    records: dict[StepRef, StepRecord] = {}
    for run_id in sorted({ref.run_id for ref in wanted}):
        records |= {record.ref: way.see(record) for record in read_run(journal, run_id)[0] if record.ref in wanted}
    return records


def _begun_at(journal: Journal, result: UndoResult) -> int:
    entries = every_entry(journal, Query(run_id=result.plan_run)) if result.plan_run else iter(())
    return max((entry.sequence for entry in entries if isinstance(entry.event, PlanStarted)), default=0)


def _is_moved_on(journal: Journal, target: Target, plan: Plan, since: int) -> bool:
    """Whether somebody else has written there since, or undone what is not in the plan."""
    ours = {item.step for item in plan.items}
    return any(
        sequence > since or _is_undone_after(journal, ref, since)
        for ref, sequence in _steps_at(journal, target)
        if ref not in ours
    )


def _steps_at(journal: Journal, target: Target) -> Iterator[tuple[StepRef, int]]:
    for entry in readable_entries(journal, Query(target=target), []):
        if isinstance(entry.event, Intended):
            yield StepRef(entry.run.run_id, entry.event.step.step_id), entry.sequence


def _is_undone_after(journal: Journal, ref: StepRef, since: int) -> bool:
    return any(
        isinstance(entry.event, CompensationEnded | RedoEnded) and entry.event.step_id == ref.step_id
        for entry in readable_entries(journal, Query(run_id=ref.run_id), [], after=since)
    )
