"""What stands, after what several switches have said. Each says what it knows; none is asked for its vote.

Laws:

M1. What stands is the union of what all lines say stands, without the ids that any line has said are lifted.
M2. So it does not matter in which order, how often and by which line something is heard.
M3. A lift takes away what it names, and nothing that it does not.
M4. Forgetting a lift is safe: its order may stand again, which holds more and never less.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rescind.model.order import Order
from rescind.switch.wire import BeatEvent, LiftEvent, OrderEvent, SetEvent

LIFTED_MAX = 10_000
"""Lifted ids that are remembered, the latest; a switch that was away may still say that they stand (law M4)."""


class Said(Protocol):
    """What one switch says stands, by id."""

    @property
    def orders(self) -> Mapping[str, Order]:
        """All of it."""
        ...


class Merged:
    """The orders of several lines, as one set. `standing` has them by id."""

    def __init__(self, lines: Sequence[Said]) -> None:
        """The set of these lines, and of what they say from here on: see `take`."""
        self._lines = lines
        self._lifted: dict[str, None] = {}
        self.standing: dict[str, Order] = {}
        self._rebuild()

    def take(self, line: Said, event: SetEvent | OrderEvent | LiftEvent | BeatEvent) -> bool:
        """Take up an event that the line has taken up already; whether anything may have changed."""
        if isinstance(event, BeatEvent):
            return False
        if isinstance(event, OrderEvent):
            self._add(line.orders[event.order.order_id])
            return True
        self._forget(event.lifted if isinstance(event, SetEvent) else event.order_ids)
        if isinstance(event, SetEvent):
            self._rebuild()
        return True

    def _add(self, order: Order) -> None:
        known = self.standing.get(order.order_id)
        if order.order_id not in self._lifted:
            self.standing[order.order_id] = order if known is None else tighter(known, order)

    def _forget(self, order_ids: Iterable[str]) -> None:
        for order_id in order_ids:
            self.standing.pop(order_id, None)
            self._lifted.pop(order_id, None)
            self._lifted[order_id] = None
        while len(self._lifted) > LIFTED_MAX:
            del self._lifted[next(iter(self._lifted))]

    def _rebuild(self) -> None:
        self.standing = {}
        for line in self._lines:
            for order in line.orders.values():
                self._add(order)


def tighter(one: Order, other: Order) -> Order:
    """Of two orders with one id, which no honest switch sends, always the same one and never the milder."""
    return max(
        one, other, key=lambda order: (order.level, str(order.scope), order.placed_at, order.reason, order.actor)
    )
