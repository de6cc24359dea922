"""What an operator asks of switches: to place an order, to lift, to consent, and to say what they know.

Everything that changes something carries an id that this side chose, so that it may be sent again and to every switch,
and counts once. Answers come from whatever listens at a URL: they are read strictly where they promise something (an
order is only durable if the answer names that very order) and leniently where a newer switch may say more.
"""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

import msgspec

from rescind.clock import Clock
from rescind.model.order import Lift, Order
from rescind.switch.client.asking import WITHIN_S, Asking, Request, Switches
from rescind.switch.client.http import Response
from rescind.switch.wire import Asker, LiftDoc, Lifted, OrderDoc, Placed, Standing, lift_doc, measure_of, order_doc

T = TypeVar("T")

MANY_BYTES_MAX = 32 * 1024 * 1024
"""A receipt or a list of guards: ten thousand of them take about 4 MiB."""


class OrderAnswer(OrderDoc, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """An order in an answer, which may come from a newer switch that says more."""


class _LiftDoc(LiftDoc, frozen=True, kw_only=True, forbid_unknown_fields=False):
    pass


class _Placed(Placed, frozen=True, kw_only=True):
    order: OrderAnswer


class _Lifted(Lifted, frozen=True, kw_only=True):
    lift: _LiftDoc


class _Standing(Standing, frozen=True, kw_only=True):
    orders: tuple[OrderAnswer, ...]
    waiting: tuple[_Lifted, ...] = ()


def post_order(switches: Switches, order: Order, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[Placed]:
    """Place the order at all switches. A reply with an answer means: it is on that switch's disk."""

    def read(response: Response) -> Placed:
        placed = msgspec.json.decode(response.body, type=_Placed)
        doc = placed.order
        same = doc.order_id, doc.scope, doc.level, measure_of(doc)
        if same != (order.order_id, str(order.scope), order.level.label, order.measure):
            raise ValueError("it names another order")
        return placed

    body = msgspec.json.encode(order_doc(order))
    request = Request(method="POST", path="/v1/orders", body=body, statuses=(200, 201), read=read)
    return Asking(switches, request, within_s=within_s, clock=clock)


def post_lift(switches: Switches, lift: Lift, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[Lifted]:
    """Ask all switches to lift. An answer that is not in force says what it waits for."""
    body = msgspec.json.encode(lift_doc(lift))
    request = Request(
        method="POST", path="/v1/lifts", body=body, statuses=(200, 201, 202), read=_lift_reader(lift.lift_id)
    )
    return Asking(switches, request, within_s=within_s, clock=clock)


def post_consent(switches: Switches, lift_id: str, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[Lifted]:
    """Consent to a lift that waits, at all switches."""
    path = f"/v1/lifts/{quote(lift_id, safe='')}/consents"
    request = Request(method="POST", path=path, body=b"{}", statuses=(200, 201, 202), read=_lift_reader(lift_id))
    return Asking(switches, request, within_s=within_s, clock=clock)


def get_standing(switches: Switches, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[Standing]:
    """What stands at each switch."""
    return get(switches, "/v1/orders", _Standing, within_s=within_s, clock=clock)


def get_asker(switches: Switches, *, within_s: float = WITHIN_S, clock: Clock) -> Asking[Asker]:
    """Whom each switch takes this side for, by its token."""
    return get(switches, "/v1/caller", Asker, within_s=within_s, clock=clock)


def get(
    switches: Switches,
    path: str,
    kind: type[T],
    *,
    statuses: tuple[int, ...] = (200,),
    within_s: float = WITHIN_S,
    clock: Clock,
) -> Asking[T]:
    """Ask all switches once for something of this kind."""
    request = Request(
        method="GET", path=path, read=_reader(kind), statuses=statuses, bytes_max=MANY_BYTES_MAX, repeats=False
    )
    return Asking(switches, request, within_s=within_s, clock=clock)


def _reader(kind: type[T]) -> Callable[[Response], T]:
    return lambda response: msgspec.json.decode(response.body, type=kind)


def _lift_reader(lift_id: str) -> Callable[[Response], Lifted]:
    def read(response: Response) -> Lifted:
        lifted = msgspec.json.decode(response.body, type=_Lifted)
        if lifted.lift.lift_id != lift_id:
            raise ValueError("it names another lift")
        return lifted

    return read
