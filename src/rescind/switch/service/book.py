"""What stands, worked out from the records of a ledger as they come. Pure: no disk, no network, no clock.

The set is that of `model.order`: orders and lifts are united, and a lift counts once it has its consents (O5). The book
keeps the answer at hand and changes it record by record; a property test holds it against the definition.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

import msgspec

from rescind.model.order import Consent, Lift, LiftRule, Measure, Order, OrderSet
from rescind.model.scope import Scope
from rescind.switch.approval_wire import Asked, Ruled
from rescind.switch.service.approval_book import ApprovalBook
from rescind.switch.service.records import Content

V = TypeVar("V")

LIFTED_TOLD_MAX = 2_000
"""Lifted ids that a stream is told at its beginning, newest first. They only spare a guard another switch's copy of an
order until that switch has heard of the lift too; what is left out stands a little longer."""


class Change(msgspec.Struct, frozen=True):
    """What a record changed for guards: an order that stands now, or ids that do not any more; or neither."""

    placed: Order | None = None
    lifted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.placed is not None or bool(self.lifted)


class Book:
    """The standing orders of one switch."""

    def __init__(self, rule: LiftRule) -> None:
        """An empty book.

        Args:
            rule: How many consents a lift needs.
        """
        self.rule = rule
        self.approvals = ApprovalBook()
        self._orders: dict[str, list[Order]] = {}
        self._lifts: dict[str, list[Lift]] = {}
        self._consents: dict[str, list[Consent]] = {}
        self._lifted: dict[str, None] = {}  # in the order in which they were lifted
        self._lifted_at: dict[str, datetime] = {}
        self._of_scope: dict[Scope, dict[str, None]] = {}
        self._standing: tuple[Order, ...] | None = ()
        self._revoking: list[Order] = []

    def take_up(self, content: Content) -> Change:
        """Add what a record says; what that changes for guards. The same record again changes nothing."""
        match content:
            case Order():
                return self._place(content)
            case Lift():
                _add(self._lifts, content.lift_id, content)
                return self._lift(content.lift_id)
            case Consent():
                _add(self._consents, content.lift_id, content)
                return self._lift(content.lift_id)
            case Asked() | Ruled():
                self.approvals.take_up(content)
                return Change()

    @property
    def revoking(self) -> Iterator[Order]:
        """Every order that ever revoked a lease, standing or lifted. Gateways ask often, so they are at hand."""
        return iter(self._revoking)

    @property
    def standing(self) -> tuple[Order, ...]:
        """The orders that hold, most severe first."""
        if self._standing is None:
            held = (order for order_id, same in self._orders.items() if order_id not in self._lifted for order in same)
            self._standing = OrderSet.of(held).standing
        return self._standing

    @property
    def lifted_lately(self) -> tuple[str, ...]:
        """Ids that were lifted last, newest first."""
        return tuple(reversed(self._lifted))[:LIFTED_TOLD_MAX]

    @property
    def waiting(self) -> tuple[Lift, ...]:
        """Lifts that lack a consent and would lift something that stands, oldest first."""
        return tuple(
            lift
            for same in self._lifts.values()
            for lift in same
            if self.missing(lift) != (0, 0) and any(self.is_standing(each) for each in lift.order_ids)
        )

    def missing(self, lift: Lift) -> tuple[int, int]:
        """How many switches and how many persons a lift lacks."""
        return self.rule.missing(lift, self.consents(lift.lift_id))

    def consents(self, lift_id: str) -> tuple[Consent, ...]:
        """Who consented to lifts with this id."""
        return tuple(self._consents.get(lift_id, ()))

    def orders(self, order_id: str) -> tuple[Order, ...]:
        """The orders with this id: one, unless two switches were given different ones at the same time."""
        return tuple(self._orders.get(order_id, ()))

    def lifts(self, lift_id: str) -> tuple[Lift, ...]:
        """The lifts with this id: one, as for `orders`."""
        return tuple(self._lifts.get(lift_id, ()))

    def is_lifted(self, order_id: str) -> bool:
        """Whether a lift in force names it."""
        return order_id in self._lifted

    def is_standing(self, order_id: str) -> bool:
        """Whether an order with this id holds."""
        return order_id in self._orders and order_id not in self._lifted

    def lifted_at(self, scope: Scope) -> datetime | None:
        """When an order of exactly this scope was lifted for the last time; None if none was."""
        moments = (self._lifted_at.get(order_id) for order_id in self._of_scope.get(scope, ()))
        return max(filter(None, moments), default=None)

    def _place(self, order: Order) -> Change:
        self._of_scope.setdefault(order.scope, {})[order.order_id] = None
        is_new = _add(self._orders, order.order_id, order)
        if is_new and order.measure is Measure.REVOKE:
            self._revoking.append(order)
        if not is_new or order.order_id in self._lifted:
            return Change()
        self._standing = None
        return Change(placed=order)

    def _lift(self, lift_id: str) -> Change:
        in_force = [lift for lift in self.lifts(lift_id) if self.missing(lift) == (0, 0)]
        named = (order_id for lift in in_force for order_id in sorted(lift.order_ids))
        for lift in in_force:
            for order_id in lift.order_ids:
                self._lifted_at[order_id] = max(lift.lifted_at, self._lifted_at.get(order_id, lift.lifted_at))
        new = tuple(order_id for order_id in dict.fromkeys(named) if order_id not in self._lifted)
        if new:
            self._standing = None
            self._lifted.update(dict.fromkeys(new))
        return Change(lifted=new)


def _add(by_id: "dict[str, list[V]]", key: str, value: V) -> bool:
    same = by_id.setdefault(key, [])
    if value in same:
        return False
    same.append(value)
    return True
