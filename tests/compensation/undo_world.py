"""A shop to undo things in: rows that can be restored, charges that can be offset, mails that cannot be unsent."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from builders import NOON_US, a_run
from rescind.clock import SystemIds
from rescind.compensation.decision import Plan
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.mirror import FORTH, mirrored
from rescind.compensation.planning.redo import find_applied, make_redo_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.port import Compensator
from rescind.compensation.result import UndoResult
from rescind.errors import Conflict
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft, Journal, Query
from rescind.model.action import Action, EffectClass
from rescind.model.entry import CompensationEnded, Disposition, Ended, Entry, Event, Intended, RunOpened, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Outcome
from rescind.model.probe import Probe, ProbeResult
from rescind.model.step import Arguments, Compensation, Snapshot, Step, Target
from rescind.testing import ManualClock

Rows = dict[str, Any]


def row_of(name: str) -> Target:
    return Target("shop", "row", name)


class RowSetting:
    """`row.set` puts a value into a row; undoing it puts back the one from before."""

    parallel = True

    def __init__(self, rows: Rows, action: Action | None = None) -> None:
        self.rows = rows
        self.action = action or Action(name="row.set", effect_class=EffectClass.REVERSIBLE)
        self.before_undo: Callable[[StepRecord], None] = lambda record: None
        self.before_merge: Callable[[StepRecord], None] = lambda record: None
        self.looks = 0
        self.writes: list[tuple[StepRef, Any, Any]] = []

    @property
    def restores(self) -> list[StepRef]:
        """The steps whose rows were put back."""
        return [ref for ref, _, _ in self.writes]

    def accepts(self, arguments: Arguments) -> str:
        return ""

    def observe(self, record: StepRecord) -> Any:
        self.looks += 1
        assert record.step.target is not None
        return Snapshot.of(self.rows.get(record.step.target.id))

    def undo(self, record: StepRecord, idempotency_key: str) -> Any:
        self.before_undo(record)
        assert record.step.before is not None
        assert record.step.target is not None
        name = record.step.target.id
        now = Snapshot.of(self.rows.get(name)).version
        if now == record.step.before.version:
            return
        if record.after is None or now != record.after.version:
            raise Conflict("the row is not as the step left it")
        self.writes.append((record.ref, self.rows.get(name), record.step.before.image))
        self.rows[name] = record.step.before.image

    def merge(self, record: StepRecord, idempotency_key: str, now: Snapshot) -> Any:
        """Numbers: what the step added is taken away."""
        self.before_merge(record)
        assert record.step.before is not None
        if record.after is None or not all(isinstance(each, int) for each in (now.image, record.after.image)):
            raise Conflict("these are no numbers")
        return Snapshot.of(now.image - (record.after.image - (record.step.before.image or 0)))


class Charging:
    """`card.charge` takes money; undoing it gives the money back, under a key."""

    parallel = True

    def __init__(
        self, *, idempotent: bool = False, after: tuple[str, ...] = (), name: str = "card.charge", **declared: Any
    ) -> None:
        self.action = Action(
            name=name,
            effect_class=EffectClass.COMPENSATABLE,
            compensation_idempotent=idempotent,
            after=after,
            **declared,
        )
        self.charged: dict[str, Any] = {}
        self.before_probe: Callable[[StepRecord], None] = lambda record: None
        self.asked: list[str] = []
        self.results: list[Any] = []
        self.refunds: Counter[str] = Counter()
        self.order: list[StepRef] = []
        self.before_undo: Callable[[StepRecord], None] = lambda record: None

    def accepts(self, arguments: Arguments) -> str:
        return ""

    def observe(self, record: StepRecord) -> Any:
        return None

    def undo(self, record: StepRecord, idempotency_key: str) -> Any:
        self.before_undo(record)
        self.refunds[idempotency_key] += 1
        self.order.append(record.ref)
        assert isinstance(record.outcome, Completed)
        self.results.append(record.outcome.result)

    def probe(self, record: StepRecord, idempotency_key: str) -> Any:
        self.before_probe(record)
        self.asked.append(idempotency_key)
        if idempotency_key.startswith("undo:"):
            return ProbeResult(answer=Probe.FOUND if self.refunds[idempotency_key] else Probe.NOT_FOUND)
        result = self.charged.get(idempotency_key)
        return ProbeResult(answer=Probe.FOUND if result else Probe.NOT_FOUND, result=result)


class Mailing:
    """`mail.send` cannot be unsent."""

    action = Action(
        name="mail.send", effect_class=EffectClass.IRREVERSIBLE, irreversible_because="a mail cannot be unsent"
    )
    parallel = True

    def accepts(self, arguments: Arguments) -> str:
        return ""

    def observe(self, record: StepRecord) -> Any:
        raise AssertionError("nobody looks at a mail")

    def undo(self, record: StepRecord, idempotency_key: str) -> Any:
        raise AssertionError("nobody unsends a mail")


class Shop:
    """A journal, what stands behind it, and the actions on it. Steps are numbered through all runs, from `1`."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal: Journal = journal or MemoryJournal()
        self.clock = ManualClock()
        self.rows: Rows = {}
        self.setting, self.charging, self.mailing = RowSetting(self.rows), Charging(), Mailing()
        self.steps = 0

    @property
    def compensators(self) -> dict[str, Compensator]:
        declared: list[Compensator] = [self.setting, self.charging, self.mailing]
        return {each.action.name: each for each in declared}

    # --- what an agent does ---

    def set(self, name: str, value: Any, run: str = "run-1", outcome: Outcome | None = None, **fields: Any) -> StepRef:
        """Set a row; a step with an outcome other than completed may or may not have done so: it has."""
        before = Snapshot.of(self.rows.get(name))
        ref = self.intend("row.set", EffectClass.REVERSIBLE, run, target=row_of(name), before=before, **fields)
        self.rows[name] = value
        self.end(ref, outcome or Completed(), Snapshot.of(value) if outcome is None else None)
        return ref

    def charge(self, run: str = "run-1", action: str = "card.charge", **fields: Any) -> StepRef:
        ref = self.intend(action, EffectClass.COMPENSATABLE, run, **fields)
        self.end(ref, Completed(12))
        return ref

    def lose_charge(
        self, run: str = "run-1", *, happened: bool, outcome: Outcome | None = None, **fields: Any
    ) -> StepRef:
        """A charge whose end nobody knows."""
        ref = self.intend("card.charge", EffectClass.COMPENSATABLE, run, **fields)
        if happened:
            self.charging.charged[str(ref)] = f"charge-{ref.step_id}"
        if outcome is not None:
            self.end(ref, outcome)
        return ref

    def mail(self, run: str = "run-1", **fields: Any) -> StepRef:
        ref = self.intend("mail.send", EffectClass.IRREVERSIBLE, run, **fields)
        self.end(ref, Completed())
        return ref

    def intend(self, action: str, effect_class: EffectClass | None, run: str = "run-1", **fields: Any) -> StepRef:
        """An intent without an end."""
        self.steps += 1
        step_id = fields.pop("step_id", str(self.steps))
        allowed_until = fields.pop("allowed_until", None)
        step = Step(
            step_id=step_id,
            action=action,
            effect_class=effect_class,
            idempotency_key=f"{run}/{step_id}",
            compensation=Compensation(kind="any", allowed_until=allowed_until),
            **fields,
        )
        self.put(run, Intended(step))
        return StepRef(run, step_id)

    def end(self, ref: StepRef, outcome: Outcome, after: Snapshot | None = None) -> None:
        self.put(ref.run_id, Ended(step_id=ref.step_id, outcome=outcome, after=after))

    def put(self, run: str, event: Event, **info: Any) -> None:
        drafts = [Draft(run_id=run, event=event, recorded_at_us=self.clock.now_us())]
        if self.journal.run(run) is None:
            opening = RunOpened(run=a_run(run, **info), guard_id="guard-1")
            drafts.insert(0, Draft(run_id=run, event=opening, recorded_at_us=NOON_US))
        self.journal.append(drafts)

    # --- what an operator does ---

    def plan(self, *runs: str, **selection: Any) -> Plan:
        how = {name: selection.pop(name) for name in ("live_runs", "may_force") if name in selection}
        chosen = Selection(run_ids=runs or (() if selection else ("run-1",)), **selection)
        return make_plan(self.journal, chosen, self.compensators, self.clock, parallel=1, **how)

    def apply(self, plan: Plan | None = None, *runs: str, **options: Any) -> UndoResult:
        return apply_plan(
            plan or self.plan(*runs),
            self.journal,
            self.compensators,
            self.clock,
            SystemIds(),
            actor="ops",
            **{"parallel": 1} | options,
        )

    def redo_plan(self, digest: str) -> Plan:
        applied = find_applied(self.journal, digest)
        return make_redo_plan(self.journal, applied, self.compensators, self.clock, parallel=1)

    def redo(self, digest: str, **options: Any) -> UndoResult:
        """Redo what the plan with this digest undid."""
        plan, tools = self.redo_plan(digest), mirrored(self.compensators)
        given = {"parallel": 1} | options
        return apply_plan(plan, self.journal, tools, self.clock, SystemIds(), actor="ops", way=FORTH, **given)

    # --- what one sees ---

    def entries(self) -> list[Entry]:
        return self.journal.entries(Query(), limit=100_000)

    def ends(self) -> dict[StepRef, list[Disposition]]:
        """All ends of compensations, by step."""
        found: dict[StepRef, list[Disposition]] = {}
        for entry in self.entries():
            if isinstance(entry.event, CompensationEnded):
                found.setdefault(StepRef(entry.run.run_id, entry.event.step_id), []).append(entry.event.disposition)
        return found


@contextlib.contextmanager
def nothing_appended(shop: Shop) -> Iterator[None]:
    before = len(shop.entries())
    yield
    assert len(shop.entries()) == before


def decisions(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Each step's id and what is to be done, such as `("3", "review: conflict")`, in the plan's order."""
    return tuple((item.step.step_id, in_short(item.decision)) for item in plan.items)


def in_short(decision: Any) -> str:
    kind = str(decision.__struct_config__.tag)
    fact = getattr(decision, "reason", None) or getattr(decision, "disposition", None)
    return f"{kind}: {fact}" if fact else kind


def raising(*errors: Exception) -> Callable[[StepRecord], None]:
    """For `before_undo`: raises one error at each call, and nothing once they are used up."""
    left = list(errors)

    def raise_next(record: StepRecord) -> None:
        if left:
            raise left.pop(0)

    return raise_next
