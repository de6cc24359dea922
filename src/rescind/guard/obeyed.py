"""What a guard obeys: the orders of its machine and those of the switches it follows, compiled; and until when.

The orders of the machine are read when their stamp has moved; those of the switches are pushed by the subscription.
Each is only ever replaced by newer ones of its own kind: a lift on this machine lifts no switch's order.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rescind.errors import OrdersUnavailable
from rescind.guard.compiled import Compiled
from rescind.guard.gate import NEVER_SETTLED, View
from rescind.switch.client.lease import Lease
from rescind.switch.port import Orders, Standing

if TYPE_CHECKING:
    from rescind.model.order import Order
    from rescind.model.scope import Subject

Look = tuple[Standing, Sequence[int]] | str
"""The orders of this machine with their page, or why they cannot be read."""


class Obeyed:
    """The orders that one guard obeys. Its owner lets one thread at a time change them.

    Attributes:
        page: The shared page of this machine's orders; `page[0]` is their stamp.
        stamp: The one under which they were read; `NEVER_SETTLED` if they must be read again on every call.
        fault: Why they cannot be read; empty if they can.
        version: Moves whenever what runs are to follow has changed.
        lease: Until when the switches let the guard go on; for ever, if it follows none.
    """

    def __init__(self, lease: Lease) -> None:
        """Nothing was read yet, so nothing is settled."""
        self.lease = lease
        self.page: Sequence[int] = (0,)
        self.stamp, self.fault = NEVER_SETTLED, ""
        self.version = 0
        self._here: tuple[Order, ...] = ()
        self._elsewhere: tuple[Order, ...] = ()
        self._compiled = Compiled(())

    @property
    def orders(self) -> "tuple[Order, ...]":
        """All of them, the most severe first. The same value, until they change."""
        return self._compiled.orders

    @staticmethod
    def look(orders: Orders) -> "Look":
        """What stands on this machine now. May wait for a disk."""
        try:
            return orders.standing(), orders.page
        except OrdersUnavailable as error:
            return str(error)

    def read(self, look: "Look") -> None:
        """Take up what was seen to stand on this machine."""
        if isinstance(look, str):
            # What stood goes on standing; what may have been added since is unknown, so writes are refused (G2).
            self._settle(NEVER_SETTLED, look)
            return
        standing, page = look
        if page is not self.page:
            self.page = page
            self.version += 1
        stamp = standing.stamp if standing.settled else NEVER_SETTLED
        if NEVER_SETTLED < stamp < self.stamp:
            return  # a signal's handler has read newer ones meanwhile
        self._settle(stamp, "")
        if standing.orders != self._here:
            self._here = standing.orders
            self._compile()

    def _settle(self, stamp: int, fault: str) -> None:
        if (stamp, fault) != (self.stamp, self.fault):
            self.stamp, self.fault = stamp, fault
            self.version += 1

    def hear(self, orders: Iterable["Order"]) -> None:
        """Take up what stands at the switches now."""
        self._elsewhere = tuple(orders)
        self._compile()

    def view_of(self, subject: "Subject") -> View:
        """What that means to one run."""
        return View(self.stamp, self._compiled.concerning(subject), self.fault)

    def _compile(self) -> None:
        self._compiled = Compiled((*self._here, *self._elsewhere))
        self.version += 1
