"""Standing orders as an observed-remove set.

Laws, cited by the tests:

O1. Merging is union: commutative, associative, idempotent. No order in which messages arrive changes the result.
O2. A lift names the ids it lifts. An order that the lifter had not seen survives it.
O3. A lifted id stays lifted, whichever of order and lift arrives first.
O4. The effective level is the highest level of all standing orders whose scope covers the call; scope never matters
    beyond covering.
O5. Where lifts need consent, a lift lifts nothing until enough switches and enough persons have consented to lifting
    these very orders. Consents are only ever added, so what is in force stays in force, whatever else arrives and in
    whatever order.
"""

import enum
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from rescind.model.level import Level
from rescind.model.scope import Scope, Subject

_BARS = re.compile(r"\|{2,}")


def private_reason(text: str) -> str:
    """A reason made of what agents and tools have said: none of it is for users.

    What is for users follows two bars (`|| users:`), and only a person may write those.
    """
    return _BARS.sub("|", text)


class Measure(enum.StrEnum):
    """What an order does besides holding its scope at its level. Each is reversible by a lift and by nothing else."""

    LEVEL = "level"  # nothing besides
    TRIP = "trip"  # a circuit breaker has opened; after its cooldown it admits some probes, and may close itself
    FORCED_OPEN = "forced_open"  # a person has opened a breaker; nothing but a lift closes it
    REVOKE = "revoke"  # leases of these runs are void; their fencing number has moved on
    BLOCK_FAN_OUT = "block_fan_out"  # these runs start no further runs, and nothing that starts some
    QUARANTINE = "quarantine"  # these runs are neither retried nor resumed until they are released
    PAUSE_QUEUE = "pause_queue"  # jobs of these runs, tenants or workflows wait in their queue

    @property
    def level(self) -> Level:
        """The level that such an order holds at the least, so that a guard which knows only levels is safe too."""
        return _LEAST_LEVEL[self]


_LEAST_LEVEL = {
    Measure.LEVEL: Level.SUPERVISED,
    Measure.TRIP: Level.READ_ONLY,
    Measure.FORCED_OPEN: Level.READ_ONLY,
    Measure.REVOKE: Level.PAUSED,
    Measure.BLOCK_FAN_OUT: Level.NORMAL,  # calls go on: what is blocked is not a call of an action
    Measure.QUARANTINE: Level.HALTED,
    Measure.PAUSE_QUEUE: Level.NORMAL,
}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A standing instruction to hold `scope` at `level` until a lift names `order_id`.

    Attributes:
        measure: What it does besides.
        cause: The signal or incident that it answers; empty if it answers none.
        trigger: The rule of the policy that placed it by itself; empty if a person did.
    """

    order_id: str
    scope: Scope
    level: Level
    reason: str
    actor: str
    placed_at: datetime
    measure: Measure = Measure.LEVEL
    cause: str = ""
    trigger: str = ""

    def __post_init__(self) -> None:
        if self.level < self.measure.level:
            least, what = self.measure.level.label, self.measure.value
            hint = "; to give power back, lift an order" if self.measure is Measure.LEVEL else ""
            raise ValueError(f"an order of {what} at level {self.level.label} holds nothing; use {least}{hint}")

    @property
    def what(self) -> str:
        """What it does to whom: `halted agent:a`, `quarantine run:r (halted)`, `pause_queue tenant:t`."""
        if self.measure is Measure.LEVEL:
            return f"{self.level.label} {self.scope}"
        level = "" if self.level is Level.NORMAL else f" ({self.level.label})"
        return f"{self.measure.value} {self.scope}{level}"

    @property
    def origin(self) -> str:
        """What it answers and which rule placed it; empty if a person placed it for no signal."""
        parts = [f"for {self.cause}"] if self.cause else []
        parts += [f"by the rule {self.trigger}"] if self.trigger else []
        return ", ".join(parts)


def why(orders: Sequence[Order]) -> str:
    """Why something is held, by the first of these orders, which are at least one, and how many more there are."""
    first = orders[0]
    more = f" and {len(orders) - 1} more order(s)" if len(orders) > 1 else ""
    return f"{first.reason or 'no reason given'} (order {first.order_id} by {first.actor}{more})"


class Lift(msgspec.Struct, frozen=True, kw_only=True):
    """The withdrawal of orders by id. It says who gave the power back, and why."""

    lift_id: str
    order_ids: frozenset[str]
    reason: str
    actor: str
    lifted_at: datetime


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """A person's yes to a lift, given to one switch.

    It names what it lifts, and not only by which id: of two lifts that were given one id, at two switches in the same
    moment, each needs its own consents.
    """

    lift_id: str
    order_ids: frozenset[str]
    switch_id: str
    person: str
    consented_at: datetime


class LiftRule(msgspec.Struct, frozen=True):
    """How many different switches and different persons must have consented before a lift is in force (law O5)."""

    switches: int = 1
    persons: int = 1

    def missing(self, lift: Lift, consents: Iterable[Consent]) -> tuple[int, int]:
        """How many switches and how many persons a lift still lacks; (0, 0) if it is in force.

        Args:
            lift: The lift.
            consents: Any; those to other lifts, or to lifting other orders, do not count.
        """
        given = [each for each in consents if (each.lift_id, each.order_ids) == (lift.lift_id, lift.order_ids)]
        switches = {consent.switch_id for consent in given}
        persons = {consent.person for consent in given}
        return max(0, self.switches - len(switches)), max(0, self.persons - len(persons))


class OrderSet(msgspec.Struct, frozen=True):
    """All orders and lifts ever seen, by id. What stands is what no lift names."""

    orders: frozenset[Order] = frozenset()
    lifts: frozenset[Lift] = frozenset()

    @classmethod
    def of(cls, orders: Iterable[Order] = (), lifts: Iterable[Lift] = ()) -> "OrderSet":
        """A set of the given orders and lifts."""
        return cls(frozenset(orders), frozenset(lifts))

    def merge(self, other: "OrderSet") -> "OrderSet":
        """The union of both (law O1)."""
        return OrderSet(self.orders | other.orders, self.lifts | other.lifts)

    def place(self, order: Order) -> "OrderSet":
        """This set and one more order."""
        return OrderSet(self.orders | {order}, self.lifts)

    def lift(self, lift: Lift) -> "OrderSet":
        """This set and one more lift."""
        return OrderSet(self.orders, self.lifts | {lift})

    @property
    def standing(self) -> tuple[Order, ...]:
        """The orders that hold now: most severe first, then oldest first, then by id."""
        lifted: set[str] = set()
        for lift in self.lifts:
            lifted |= lift.order_ids
        held = (order for order in self.orders if order.order_id not in lifted)
        return tuple(sorted(held, key=_rank))


def _rank(order: Order) -> tuple[object, ...]:
    # To the last field: of two orders with one id, the same comes first wherever they came from (law O1).
    last = order.measure, order.cause, order.trigger
    return -order.level, order.placed_at, order.order_id, order.scope.terms, order.reason, order.actor, *last


def covering(standing: Iterable[Order], subject: Subject, action: str | None = None) -> tuple[Order, ...]:
    """The orders that cover this call, in the given order."""
    return tuple(order for order in standing if order.scope.covers(subject, action))


def effective_level(standing: Iterable[Order], subject: Subject, action: str | None = None) -> Level:
    """The highest level of the orders that cover this call (law O4); normal if none does."""
    return max((order.level for order in covering(standing, subject, action)), default=Level.NORMAL)
