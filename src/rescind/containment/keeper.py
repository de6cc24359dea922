"""The keeper of queues: what the orders say about jobs is what the queues do.

It holds what a standing order of `pause_queue` covers, and gives free what an order held that is *known to be lifted*.
An order that is merely not there may stand elsewhere, at a switch that does not answer or in another store; what it
holds stays held, and is named. So a keeper that knows too little never gives a job free.

Everything it does may be repeated and done by several at once (law QU5). It keeps nothing: after its death another one
goes on from what the queues say of themselves.
"""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from rescind.containment.queues.port import CannotHold, QueuePort, QueueUnavailable
from rescind.model.order import Measure, Order

NO_ORDER = ""
"""In `held()`: jobs that no order holds any more. Whoever released the last one died before it gave them free."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do at one queue.

    Attributes:
        hold: The orders whose jobs are to be held, also those that came in since.
        release: The ids whose jobs are to be given free.
        strange: Ids that hold jobs, and of which nobody here knows whether they stand.
    """

    hold: tuple[Order, ...]
    release: tuple[str, ...]
    strange: tuple[str, ...]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What was done at one queue.

    Attributes:
        queue: Its name.
        held: How many jobs were newly held.
        freed: How many may run now.
        holding: How many jobs each order holds, after that.
        strange: As in the plan.
        problems: What did not work, and why; then it is tried again the next time.
    """

    queue: str
    held: int = 0
    freed: int = 0
    holding: dict[str, int] = {}
    strange: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_news(self) -> bool:
        """Whether anything was moved."""
        return bool(self.held or self.freed)


def plan(standing: Iterable[Order], lifted: Collection[str], holding: Iterable[str]) -> Plan:
    """What to do at a queue. Pure.

    Args:
        standing: The orders that stand, as far as is known.
        lifted: Ids of orders that are known to be lifted.
        holding: Ids of the orders that hold something at the queue, by its `held`.
    """
    pausing = tuple(
        order for order in standing if order.measure is Measure.PAUSE_QUEUE and order.order_id not in lifted
    )
    known = {order.order_id for order in pausing}
    others = [order_id for order_id in holding if order_id not in known]
    free = tuple(order_id for order_id in others if order_id in lifted or order_id == NO_ORDER)
    return Plan(hold=pausing, release=free, strange=tuple(each for each in others if each not in free))


def reconcile(standing: Iterable[Order], lifted: Collection[str], ports: Sequence[QueuePort]) -> tuple[Kept, ...]:
    """Make every queue do what the orders say. A queue that fails keeps none of the others from it.

    Args:
        standing: As for `plan`.
        lifted: As for `plan`.
        ports: The queues.
    """
    standing = tuple(standing)
    return tuple(_kept(standing, lifted, port) for port in ports)


def _kept(standing: Sequence[Order], lifted: Collection[str], port: QueuePort) -> Kept:
    held = freed = 0
    problems: list[str] = []
    try:
        todo = plan(standing, lifted, port.held())
        # First hold, then release: a job that two orders cover is not free in between.
        for order in todo.hold:
            try:
                held += port.hold(order.scope, order.order_id)
            except CannotHold as error:
                problems.append(f"order {order.order_id}: {error}")
        freed = sum(port.release(order_id) for order_id in todo.release)
        return Kept(
            queue=port.name,
            held=held,
            freed=freed,
            holding=dict(port.held()),
            strange=todo.strange,
            problems=tuple(problems),
        )
    except QueueUnavailable as error:
        return Kept(queue=port.name, held=held, freed=freed, problems=(*problems, str(error)))
