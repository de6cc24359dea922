"""Standing orders in one process's memory: for tests, simulations and programs that nobody stops from outside."""

import threading
from collections.abc import Sequence

from rescind.errors import UsageError
from rescind.model.order import Lift, Order, OrderSet
from rescind.switch.port import Standing


class MemoryOrders:
    """See `Orders`. Laws S1, S2 and S4 hold as for the file; S3 holds within the process and until it ends."""

    def __init__(self) -> None:
        self._stamp = [0]
        self._orders = OrderSet()
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

    def _change(self, orders: OrderSet) -> None:
        self._stamp[0] = (self._stamp[0] + 1) | 1  # odd, also after a writer that died half way
        self._orders = orders
        self._stamp[0] += 1
