"""What the person on call does: stop, plan, apply, look again. By the very functions that are behind the commands."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rescind.clock import SystemClock, SystemIds
from rescind.compensation.decision import Plan
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.port import ReviewReason
from rescind.compensation.result import StepResult, UndoResult
from rescind.config import JOURNAL_NAME
from rescind.demo.desk import STORE, Desk
from rescind.demo.handover import HandedOver, Killed
from rescind.demo.verdict import HandoverResult
from rescind.demo.workers import Workers
from rescind.errors import RescindError
from rescind.journal.audit import AuditReport, verify
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import CompensationEnded, CompensationIntended, Disposition, StepRef
from rescind.model.history import ReviewTask
from rescind.model.level import Level
from rescind.model.scope import Scope
from rescind.model.step import Target
from rescind.recovery.review import list_tasks
from rescind.recovery.undos import list_undos
from rescind.switch.client.asking import Switches
from rescind.switch.client.operator import post_order
from rescind.switch.client.receipts import await_receipts
from rescind.switch.desk import new_order
from rescind.switch.receipt import GuardReceipt, GuardState, Receipt

ACTOR = "on-call"

RECEIPT_WITHIN_S = 10.0
"""As long as `rescind stop --wait` waits. Milliseconds are usual."""


class NotStopped(RescindError):
    """No process of the agent was seen to take up the order, so there is nothing to go on with."""


@dataclass(frozen=True)
class Stopped:
    """A stop and its receipt.

    Attributes:
        order_id: The order.
        receipt: As `rescind stop --wait` prints it.
        ms: As `StopResult.ms` says.
        acknowledged_s: Machine-wide monotonic clock, when the last process of the agent had acknowledged and drained.
    """

    order_id: str
    receipt: Receipt
    ms: float
    acknowledged_s: float

    @property
    def covered(self) -> list[GuardReceipt]:
        """The guards that hold runs of the agent."""
        return [guard for guard in self.receipt.guards if guard.runs_covered]

    @property
    def acknowledged(self) -> int:
        """Guards that took it up, whether or not it concerns them."""
        return sum(guard.state in (GuardState.BOUND, GuardState.DRAINED) for guard in self.receipt.guards)

    @property
    def unknown(self) -> int:
        """Guards of which it is not known."""
        return sum(guard.state is GuardState.UNKNOWN for guard in self.receipt.guards)


@dataclass(frozen=True)
class Undone:
    """An undo that was applied: the plan, what became of each step, and how long it took from plan to end."""

    plan: Plan
    result: UndoResult
    ms: float

    def count(self, disposition: Disposition) -> int:
        """Steps that ended so, conflicts not among those in review."""
        return sum(step.disposition is disposition and not _is_conflict(step) for step in self.result.steps)

    @property
    def conflict_targets(self) -> list[Target]:
        """What those steps had touched."""
        steps = {step.step for step in self.conflicts}
        return [item.target for item in self.plan.items if item.step in steps and item.target is not None]

    @property
    def conflicts(self) -> list[StepResult]:
        """Steps that were not touched, because somebody had changed their target since."""
        return [step for step in self.result.steps if _is_conflict(step)]


class OnCall:
    """The person on call, at one desk."""

    def __init__(self, folder: Path, desk: Desk, switch_url: str) -> None:
        self._folder, self._store, self._desk = folder, folder / STORE, desk
        self._switches = Switches(urls=(switch_url,))
        self._clock, self._ids = SystemClock(), SystemIds()

    def stop(self, agent: str, *, reason: str) -> Stopped:
        """Halt the agent through the switch, and wait for the receipt.

        Raises: NotStopped, which says what the switch said.
        """
        pressed_s = self._clock.monotonic_s()
        order = new_order(
            Scope.parse(f"agent:{agent}"), Level.HALTED, reason=reason, actor=ACTOR, clock=self._clock, ids=self._ids
        )
        (reply,) = post_order(self._switches, order, clock=self._clock).every()
        if reply.answer is None:
            raise NotStopped(f"the switch did not take the order: {reply.detail}")
        durable_s = self._clock.monotonic_s()
        receipt = await_receipts(self._switches, order.order_id, timeout_s=RECEIPT_WITHIN_S, clock=self._clock)
        ms = (self._clock.monotonic_s() - pressed_s) * 1000
        return Stopped(order.order_id, receipt, round(ms, 1), all_drained_s(receipt, durable_s, agent=agent))

    def plan(self, agent: str) -> Plan:
        """What an undo of everything that the agent did would do. Changes nothing."""
        guard = self._desk.guard
        return make_plan(guard.journal, Selection(agent=agent), guard.compensators, self._clock)

    def apply(self, plan: Plan, *, progress: Callable[[int], None]) -> Undone:
        """Do what the plan says. `progress` is told how many steps are accounted for."""
        guard, began_s, count = self._desk.guard, self._clock.monotonic_s(), 0

        def advance(_: StepResult) -> None:
            nonlocal count
            count += 1
            progress(count)

        result = apply_plan(
            plan, guard.journal, guard.compensators, self._clock, self._ids, actor=ACTOR, progress=advance
        )
        if result.interrupted:  # it came to a clean end first; now the one who pressed Ctrl-C gets it
            raise KeyboardInterrupt
        return Undone(plan, result, ms=round((self._clock.monotonic_s() - began_s) * 1000, 1))

    def leave_to(
        self,
        workers: Workers,
        plan: Plan,
        *,
        progress: Callable[[int], None],
        when_killed: Callable[[Killed], None],
        when_taken_over: Callable[[int, float], None],
    ) -> tuple[Undone, HandoverResult]:
        """Leave what the plan says to the workers, one of which is killed in the middle: see `handover`."""
        began_s = self._clock.monotonic_s()
        handed_over = HandedOver(self._folder, self._desk, workers, plan, actor=ACTOR)
        result = handed_over.apply(progress=progress, when_killed=when_killed, when_taken_over=when_taken_over)
        undone = Undone(plan, result, ms=round((self._clock.monotonic_s() - began_s) * 1000, 1))
        return undone, handed_over.result()

    def undos_under_way(self) -> int:
        """Undos that have begun and have not come to their end."""
        return sum(undo.state != "finished" for undo in list_undos(self._desk.guard.journal))

    def compensations_without_end(self) -> int:
        """Compensations that were begun, and of which nobody has recorded an end."""
        begun = set[StepRef]()
        for entry in every_entry(self._desk.guard.journal, Query()):
            if isinstance(entry.event, CompensationIntended):
                begun.add(StepRef(entry.run.run_id, entry.event.step_id))
            elif isinstance(entry.event, CompensationEnded):
                begun.discard(StepRef(entry.run.run_id, entry.event.step_id))
        return len(begun)

    def open_tasks(self) -> list[ReviewTask]:
        """What is left to a person, oldest first."""
        return list_tasks(self._desk.guard.journal)

    def audit(self) -> AuditReport:
        """Whether the journal is as it was written."""
        return verify(self._store / JOURNAL_NAME)


def all_drained_s(receipt: Receipt, durable_s: float, *, agent: str) -> float:
    """When the last process of the stopped agent had acknowledged and drained, on the clock of `durable_s`.

    Args:
        receipt: Of the order.
        durable_s: When the order was durable.
        agent: Whom it stops, for the message.

    Raises: NotStopped, if there is none, or one of which that is not known.
    """
    drained_ms = [guard.drained_ms for guard in receipt.guards if guard.runs_covered]
    known_ms = [each for each in drained_ms if each is not None]
    if not known_ms or len(known_ms) < len(drained_ms):
        which = "not every" if known_ms else "no"
        raise NotStopped(f"{which} process of {agent} acknowledged the order {receipt.order_id}")
    return durable_s + max(known_ms) / 1000


def _is_conflict(step: StepResult) -> bool:
    return step.disposition is Disposition.REVIEW and step.reason == ReviewReason.CONFLICT
