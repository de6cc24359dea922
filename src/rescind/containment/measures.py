"""What the orders that cover a run do to it besides its level: one pass over them, no I/O, asked by the gate."""

from collections.abc import Iterable

import msgspec

from rescind.model.order import Measure, Order


class Holds(msgspec.Struct, frozen=True, gc=False):
    """The measures that hold a run, or one call of it.

    Of orders with one measure the first that was given is shown: the most severe, then the oldest, if they come from
    `OrderSet.standing`. All of them must be lifted before the measure ends.

    Attributes:
        revoked: Its lease is void.
        quarantined: It is neither retried nor resumed.
        fan_out_blocked: It starts no further runs, and nothing that starts some.
        forced_open: A person opened a breaker; nothing but a lift closes it.
        queue_paused: Its jobs wait in their queue.
        trips: Every breaker that tripped, because each has its own cooldown and its own probes.
    """

    revoked: Order | None = None
    quarantined: Order | None = None
    fan_out_blocked: Order | None = None
    forced_open: Order | None = None
    queue_paused: Order | None = None
    trips: tuple[Order, ...] = ()

    def __bool__(self) -> bool:
        """Whether any measure holds."""
        return self != NOTHING


NOTHING = Holds()
"""No measure holds. Most runs have this one, so it is made once."""


def what_holds(orders: Iterable[Order]) -> Holds:
    """The measures among these orders.

    Args:
        orders: The standing orders that cover a run, or a call of it: what `model.order.covering` returned.
    """
    first: dict[Measure, Order] = {}
    trips: list[Order] = []
    for order in orders:
        if order.measure is Measure.TRIP:
            trips.append(order)
        elif order.measure is not Measure.LEVEL:
            first.setdefault(order.measure, order)
    if not first and not trips:
        return NOTHING
    return Holds(
        first.get(Measure.REVOKE),
        first.get(Measure.QUARANTINE),
        first.get(Measure.BLOCK_FAN_OUT),
        first.get(Measure.FORCED_OPEN),
        first.get(Measure.PAUSE_QUEUE),
        tuple(trips),
    )
