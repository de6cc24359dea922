"""What the desk's guards do by themselves, seen from outside: in the standing orders, the receipts and the journal."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rescind.clock import SystemClock
from rescind.containment.incident import list_incidents
from rescind.containment.timeline import Incident
from rescind.demo.desk import STORE, Desk
from rescind.demo.oncall import RECEIPT_WITHIN_S, Stopped, all_drained_s
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import Signalled
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.model.signal import Signal, SignalKind
from rescind.model.step import parse_agent
from rescind.switch.receipt import GuardReceipt, Placed, Receipt, await_receipt


@dataclass(frozen=True)
class Fired:
    """A rule of the policy that has stopped an agent: its order, the signal that it answers, and the papers."""

    order: Order
    signal: Signal
    incident: Incident
    stopped: Stopped

    @property
    def where(self) -> GuardReceipt | None:
        """The guard that has noticed it; None if that has gone since."""
        return next((guard for guard in self.stopped.receipt.guards if guard.guard_id == self.signal.source), None)


class Lookout:
    """Watches one desk. Places nothing, and lifts nothing."""

    def __init__(self, folder: Path, desk: Desk) -> None:
        """For the desk in this folder."""
        self._store, self._desk, self._clock = folder / STORE, desk, SystemClock()

    def look(self, agent: str) -> Fired | None:
        """What has stopped the agent; None as long as nothing has, or the papers are not complete.

        Raises: NotStopped, if there is an order, and no receipt to be had.
        """
        standing = self._desk.guard.orders.standing()
        found = [order for order in standing.orders if order.trigger and order.scope == Scope.parse(f"agent:{agent}")]
        if not found or not standing.settled:
            return None
        order = found[0]
        signal = next((each.signal for each in self._signalled(agent) if each.signal.signal_id == order.cause), None)
        incident = next((each for each in self._incidents() if each.holds("order", order.order_id)), None)
        if signal is None or incident is None:  # they are written after the order, which is in a hurry
            return None
        return Fired(order, signal, incident, self._stopped(order, standing.stamp, signal, agent))

    def shadowed(self, agent: str, kind: SignalKind) -> Signal | None:
        """The first signal of this kind on which a policy in shadow would have acted; None if there was none."""
        return next((each.signal for each in self._signalled(agent) if each.shadow and each.signal.kind is kind), None)

    def monotonic_s(self, moment: datetime) -> float:
        """When that was on the machine-wide monotonic clock."""
        return self._clock.monotonic_s() - (self._clock.now_us() / 1e6 - moment.timestamp())

    def _stopped(self, order: Order, stamp: int, signal: Signal, agent: str) -> Stopped:
        durable_s = self.monotonic_s(
            order.placed_at
        )  # a little before that, so nobody is said to be quicker than they are
        placed = Placed(order=order, stamp=stamp, placed_at_s=durable_s)
        receipt = await_receipt(self._store, placed, timeout_s=RECEIPT_WITHIN_S, clock=self._clock)
        noticed_s = self.monotonic_s(signal.noticed_at)
        ms = (durable_s - noticed_s) * 1000 + _last_ms(receipt)
        return Stopped(order.order_id, receipt, round(ms, 1), all_drained_s(receipt, durable_s, agent=agent))

    def _signalled(self, agent: str) -> Iterator[Signalled]:
        name, version = parse_agent(agent)
        entries = every_entry(self._desk.guard.journal, Query(agent_name=name, agent_version=version))
        return (entry.event for entry in entries if isinstance(entry.event, Signalled))

    def _incidents(self) -> list[Incident]:
        return list_incidents(self._desk.guard.journal)


def _last_ms(receipt: Receipt) -> float:
    """From the order to the last acknowledgement. When we looked does not matter."""
    return max(
        (moment for guard in receipt.guards for moment in (guard.bound_ms, guard.drained_ms) if moment), default=0
    )
