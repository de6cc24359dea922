"""Standing orders in one process's memory: for tests, simulations and programs that nobody stops from outside."""

import threading
from collections.abc import Sequence

from rescind.clock import to_us
from rescind.errors import UsageError
from rescind.model.order import Lift, Measure, Order, OrderSet
from rescind.switch.port import Standing
from rescind.switch.probes import Claim, Closable, Part, Seen, decide, lift_if_recovered
from rescind.triggers.probing import ProbeRule, Round, Wait, with_claim, with_end


class MemoryOrders:
    """See `Orders`. Laws S1, S2 and S4 hold as for the file; S3 holds within the process and until it ends."""

    def __init__(self) -> None:
        self._stamp = [0]
        self._orders = OrderSet()
        self._rounds: dict[str, Round] = {}  # the latest of each trip that was probed
        self._lock = threading.Lock()

    @property
    def page(self) -> Sequence[int]:
        """See `Orders`: a plain list here."""
        return self._stamp

    def is_current(self) -> bool:
        """See `WatchedOrders`: memory is never replaced."""
        return True

    def standing(self) -> Standing:
        """See `Orders`."""
        stamp = self._stamp[0]  # before the set: see `Standing`
        return Standing(stamp, self._orders.standing)

    def history(self) -> OrderSet:
        """See `Orders`."""
        return self._orders

    def place(self, order: Order) -> None:
        """See `Orders`.

        Raises: UsageError, if another order has this id.
        """
        with self._lock:
            for known in self._orders.orders:
                if known.order_id == order.order_id and known != order:
                    raise UsageError(f"order id {order.order_id!r} was used for another order; choose a new id")
            self._change(self._orders.place(order))

    def lift(self, lift: Lift) -> None:
        """See `Orders`.

        Raises: UsageError, if another lift has this id.
        """
        with self._lock:
            for known in self._orders.lifts:
                if known.lift_id == lift.lift_id and known != lift:
                    raise UsageError(f"lift id {lift.lift_id!r} was used for another lift; choose a new id")
            self._change(self._orders.lift(lift))

    def claim_probe(self, trips: Sequence[Order], *, by: str, now_us: int, rule: ProbeRule) -> Claim | Wait:
        """See `Probes`."""
        with self._lock:
            decision = decide([self._see(trip.order_id) for trip in trips], now_us, rule)
            if isinstance(decision, Wait):
                return decision
            if isinstance(decision, Closable):
                self._close_recovered(decision.order_ids, now_us, rule)
                return Wait(0.0)
            self._rounds |= {order_id: with_claim(may, by, now_us) for order_id, may in decision.ready}
            return Claim(tuple(Part(order_id, may.round.number, may.number) for order_id, may in decision.ready), rule)

    def end_probe(self, claim: Claim, *, succeeded: bool | None, now_us: int) -> tuple[Lift, ...]:
        """See `Probes`."""
        with self._lock:
            for part in claim.parts:
                latest = self._rounds[part.order_id]
                if latest.number == part.round:
                    self._rounds[part.order_id] = with_end(latest, part.number, succeeded=succeeded, now_us=now_us)
            return self._close_recovered([part.order_id for part in claim.parts], now_us, claim.rule)

    def _close_recovered(self, order_ids: Sequence[str], now_us: int, rule: ProbeRule) -> tuple[Lift, ...]:
        lifts = [lift_if_recovered(self._see(order_id), now_us, rule) for order_id in order_ids]
        for lift in filter(None, lifts):
            self._change(self._orders.lift(lift))
        return tuple(filter(None, lifts))

    def probing(self, order_id: str) -> Round | None:
        """See `Probes`."""
        with self._lock:
            seen = self._see(order_id)
        return None if seen.is_lifted else seen.latest

    def _see(self, order_id: str) -> Seen:
        placed = [
            order for order in self._orders.orders if order.order_id == order_id and order.measure is Measure.TRIP
        ]
        if not placed:
            return Seen(order_id, None)
        latest = self._rounds.get(order_id) or Round(1, to_us(placed[0].placed_at))
        return Seen(order_id, latest, any(order_id in lift.order_ids for lift in self._orders.lifts))

    def _change(self, orders: OrderSet) -> None:
        self._stamp[0] = (self._stamp[0] + 1) | 1  # odd, also after a writer that died half way
        self._orders = orders
        self._stamp[0] += 1
