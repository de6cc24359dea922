"""What a keeper of queues knows of orders: what stands, and what is known to be lifted, here and at switches."""

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from rescind.cli.lifting import see_standing
from rescind.cli.places import Places
from rescind.cli.stores import orders_of
from rescind.cli.trouble import trouble_line
from rescind.clock import Clock
from rescind.errors import OrdersUnavailable, RescindError
from rescind.model.order import Order
from rescind.switch.client.operator import get
from rescind.switch.desk import open_store

if TYPE_CHECKING:
    from rescind.switch.desk import StoreOrders

ASKED_MAX = 200
"""Orders that switches are asked about one by one: those that hold jobs and stand nowhere. There are few."""


class KnownOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What stands and what was lifted, as far as the places tell that answer.

    Attributes:
        standing: What stands at any place.
        lifted: Ids that were lifted somewhere and stand nowhere.
        problems: Places that do not tell, and why.
    """

    standing: tuple[Order, ...] = ()
    lifted: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


class _Known(msgspec.Struct, frozen=True):
    standing: bool


def look(places: Places, holding: Iterable[str], *, clock: Clock) -> KnownOrders:
    """Ask every place once.

    Args:
        places: Where.
        holding: Ids of orders that hold something; only of these it matters whether they were lifted.
        clock: The time.
    """
    here, lifted_here, problems = _look_here(places)
    standing = {order.order_id: order for order in here}
    lifted = set(lifted_here)
    if places.switches.urls:
        seen = see_standing(places.switches, clock=clock)
        standing |= {order.order_id: order for order in seen.orders}
        problems += [trouble_line(reply) for reply in seen.replies if reply.answer is None]
        if seen.switches_answer:
            asked = [each for each in dict.fromkeys(holding) if each and each not in standing and each not in lifted]
            lifted |= {order_id for order_id in asked[:ASKED_MAX] if _is_lifted(places, order_id, clock)}
    return KnownOrders(
        standing=tuple(standing.values()), lifted=frozenset(lifted - standing.keys()), problems=tuple(problems)
    )


def _look_here(places: Places) -> tuple[tuple[Order, ...], frozenset[str], list[str]]:
    if places.store is None:
        return (), frozenset(), []
    try:
        with orders_of(places.store) as orders:
            history = orders.history()
    except OrdersUnavailable as error:
        return (), frozenset(), [f"this machine's store: {error}"]
    lifted = frozenset(order_id for lift in history.lifts for order_id in lift.order_ids)
    return history.standing, lifted, []


def _is_lifted(places: Places, order_id: str, clock: Clock) -> bool:
    # A switch that has never heard of it says 404, which is no answer, and proves nothing.
    path = f"/v1/orders/{quote(order_id, safe='')}"
    answers = [reply.answer for reply in get(places.switches, path, _Known, clock=clock)]
    return any(answer is not None and not answer.standing for answer in answers)


class StampWatch:
    """The stamp of the local store, which moves with every order and lift there. Cheap to ask twenty times a second."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._orders: StoreOrders | None = None

    def stamp(self) -> int | None:
        """The stamp; None if there is no local store, or it cannot be read now."""
        store = self._places.store
        if store is None:
            return None
        try:
            if self._orders is not None and not self._orders.is_current():  # deleted, or put in place anew
                self.close()
            if self._orders is None:
                self._orders = open_store(store, create=False)
            return self._orders.standing().stamp
        except RescindError:
            return None

    def close(self) -> None:
        """Let go of the store."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
