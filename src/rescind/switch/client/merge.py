"""What stands, after what several switches have said. Each says what it knows; none is asked for its vote.

Laws:

M1. What stands is the union of what all lines say stands, without the ids that any line has said are lifted. Two orders
    with one id both stand: who may order little could otherwise take away what others have ordered, by their id.
M2. So it does not matter in which order, how often and by which line something is heard.
M3. A lift takes away what it names, and nothing that it does not.
M4. Forgetting a lift is safe: its order may stand again, which holds more and never less.
M5. A further line, which the guard's own surroundings have named, only ever adds: what it lifts is what it alone said.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rescind.model.order import Order
from rescind.switch.wire import BeatEvent, LiftEvent, OrderEvent, SetEvent

if TYPE_CHECKING:
    from rescind.model.level import Level
    from rescind.model.scope import Scope

LIFTED_MAX = 10_000
"""Lifted ids that are remembered, the latest; a switch that was away may still say that they stand (law M4)."""


class Said(Protocol):
    """What one switch says stands, by id."""

    @property
    def orders(self) -> Mapping[str, frozenset[Order]]:
        """All of it."""
        ...


class Merged:
    """The orders of several lines, as one set. `standing` has them by id."""

    def __init__(self, lines: Sequence[Said], further: Sequence[Said] = ()) -> None:
        """The set of these lines, and of what they say from here on: see `take`. `further` are those of law M5."""
        self._lines, self._further = (*lines, *further), further
        self._lifted: dict[str, None] = {}
        self.standing: dict[str, frozenset[Order]] = {}
        self._rebuild()

    @property
    def orders(self) -> tuple[Order, ...]:
        """Everything that stands, in no order. Of orders that differ for people only, one."""
        known: dict[tuple[str, Scope, Level], Order] = {}
        for same in self.standing.values():
            for order in sorted(same, key=lambda order: (order.placed_at, order.reason, order.actor)):
                known[order.order_id, order.scope, order.level] = order
        return tuple(known.values())

    def take(self, line: Said, event: SetEvent | OrderEvent | LiftEvent | BeatEvent) -> bool:
        """Take up an event that the line has taken up already; whether anything may have changed."""
        if isinstance(event, BeatEvent):
            return False
        if isinstance(event, OrderEvent):
            self._add(event.order.order_id, line.orders[event.order.order_id])
            return True
        is_further = any(line is each for each in self._further)
        if not is_further:
            self._forget(event.lifted if isinstance(event, SetEvent) else event.order_ids)
        if is_further or isinstance(event, SetEvent):
            self._rebuild()
        return True

    def _add(self, order_id: str, same: frozenset[Order]) -> None:
        if order_id not in self._lifted:
            self.standing[order_id] = self.standing.get(order_id, frozenset()) | same

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
            for order_id, same in line.orders.items():
                self._add(order_id, same)
