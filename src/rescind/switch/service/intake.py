"""From a request to a value: what it takes for an order or a lift to be taken. Nothing is stored here.

What is wrong with a request is `Refused`, with a status and a remedy.
"""

from datetime import datetime

from rescind.clock import Clock, IdSource, from_us
from rescind.model.level import Level
from rescind.model.order import Consent, Lift, Order
from rescind.model.scope import Scope
from rescind.switch.approval_wire import Asked, Ruled
from rescind.switch.service.book import Book
from rescind.switch.service.records import Content, Record, canonical
from rescind.switch.wire import ID_LENGTH_MAX, IDS_MAX, TEXT_LENGTH_MAX, LiftDoc, OrderDoc, is_id, measure_of, utc
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Role

AGENT_ORDERS_MAX = 100
"""Orders that may stand for an agent's identity before it may add no more: it may stop itself, and not drown
everybody's set."""


class Intake:
    """Makes orders and lifts of what callers send, by what the book knows."""

    def __init__(self, book: Book, clock: Clock, ids: IdSource) -> None:
        """For requests at the switch of this book."""
        self._book, self._clock, self._ids = book, clock, ids

    def order_id(self, doc: OrderDoc) -> str:
        """The id that the order has or gets. Raises: Refused."""
        return checked_id("order_id", doc.order_id) if doc.order_id else self._ids.new_id("ord")

    def lift_id(self, doc: LiftDoc) -> str:
        """The id that the lift has or gets. Raises: Refused."""
        return checked_id("lift_id", doc.lift_id) if doc.lift_id else self._ids.new_id("lift")

    def order(self, doc: OrderDoc, order_id: str, caller: Caller) -> Order:
        """The order that is asked for: the very one that was placed before, if it is sent again.

        Raises: Refused.
        """
        _refuse_long(doc.scope, doc.reason, doc.actor, doc.cause or "", doc.trigger or "")
        try:
            scope, level = Scope.parse(doc.scope), Level.parse(doc.level)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if caller.role is Role.AGENT and not set(caller.identity.terms) <= set(scope.terms):
            raise Refused(403, f"an agent may stop itself only: the scope must hold {caller.identity}")
        try:
            order = Order(
                order_id=order_id,
                scope=scope,
                level=level,
                reason=doc.reason,
                actor=doc.actor or caller.name,
                placed_at=self._moment("placed_at", doc.placed_at),
                measure=measure_of(doc),
                cause=doc.cause or "",
                trigger=doc.trigger or "",
            )
        except ValueError as error:
            raise Refused(400, str(error)) from error
        known = self._book.orders(order_id)
        same = next((each for each in known if _is_same(each, order, doc)), None)
        if same is not None:
            return same
        if known or self._book.is_lifted(order_id):
            raise Refused(409, f"order id {order_id!r} was used for another order; choose a new id")
        if caller.role is Role.AGENT:
            self._refuse_many(caller)
        return order

    def _refuse_many(self, caller: Caller) -> None:
        terms = set(caller.identity.terms)
        theirs = sum(terms <= set(order.scope.terms) for order in self._book.standing)
        if theirs >= AGENT_ORDERS_MAX:
            raise Refused(429, f"{theirs} orders stand for {caller.identity} already; it is stopped", retry_after_s=60)

    def lift(self, doc: LiftDoc, lift_id: str, caller: Caller) -> Lift:
        """The lift that is asked for: the very one that is known, if it is sent again, or to another switch too.

        Raises: Refused.
        """
        _refuse_long(doc.reason, doc.actor)
        if not doc.reason.strip():
            raise Refused(400, "giving power back takes a reason")
        if not 0 < len(doc.order_ids) <= IDS_MAX:
            raise Refused(400, f"a lift names the orders it lifts, from 1 to {IDS_MAX:,} of them")
        unknown = [order_id for order_id in doc.order_ids if not self._book.orders(order_id)]
        if unknown:
            raise Refused(
                404, f"no order {unknown[0][:ID_LENGTH_MAX]!r} is known here; only what was seen can be lifted"
            )
        lift = Lift(
            lift_id=lift_id,
            order_ids=frozenset(doc.order_ids),
            reason=doc.reason,
            actor=doc.actor or caller.name,
            lifted_at=self._moment("lifted_at", doc.lifted_at),
        )
        known = self._book.lifts(lift_id)
        same = next((each for each in known if (each.order_ids, each.reason) == (lift.order_ids, lift.reason)), None)
        if same is not None:
            return same
        if known:
            raise Refused(409, f"lift id {lift_id!r} was used for another lift; choose a new id")
        return lift

    def the_lift(self, lift_id: str) -> Lift:
        """The lift with this id. Raises: Refused (404, 409), if there is none, or more than one."""
        known = self._book.lifts(lift_id)
        if not known:
            raise Refused(
                404, f"no lift {lift_id[:ID_LENGTH_MAX]!r} is known here; `rescind status` lists those that wait"
            )
        if len({lift.order_ids for lift in known}) > 1:
            raise Refused(
                409, f"two switches were given different lifts as {lift_id!r}; lift the orders anew, with a new id"
            )
        return known[0]

    def _moment(self, what: str, given: datetime | None) -> datetime:
        try:
            return from_us(self._clock.now_us()) if given is None else utc(what, given)
        except ValueError as error:
            raise Refused(400, str(error)) from error


def understood(record: Record) -> Content:
    """What a record of another switch says, by the same rules as for requests.

    Raises: ValueError, if it cannot be understood, or nobody could have asked for it.
    """
    content = canonical(record).content
    try:
        match content:
            case Order():
                checked_id("order_id", content.order_id)
                _refuse_long(str(content.scope), content.reason, content.actor)
            case Lift():
                checked_id("lift_id", content.lift_id)
                _refuse_long(content.reason, content.actor)
                _check_ids(content.order_ids)
            case Consent():
                for what, given in (("lift_id", content.lift_id), ("switch_id", content.switch_id)):
                    checked_id(what, given)
                _refuse_long(content.person)
                _check_ids(content.order_ids)
            case Asked(asked=asked):
                checked_id("approval_id", asked.approval_id)
                _refuse_long(asked.action, asked.because, str(asked.target), asked.run.agent)
            case Ruled(decided=decided):
                checked_id("approval_id", decided.approval_id)
                _refuse_long(content.person, decided.actor, decided.note)
    except Refused as error:
        raise ValueError(str(error)) from error
    return content


def checked_id(what: str, given: str) -> str:
    """The id, if it is one. Raises: Refused."""
    if not is_id(given):
        raise Refused(400, f"{what} is of letters, digits, `_`, `-` and `.`, at most {ID_LENGTH_MAX} of them")
    return given


def _check_ids(order_ids: frozenset[str]) -> None:
    if not 0 < len(order_ids) <= IDS_MAX:
        raise Refused(400, f"a lift names from 1 to {IDS_MAX:,} orders")
    for order_id in order_ids:
        checked_id("order_id", order_id)


def _refuse_long(*texts: str) -> None:
    if any(len(text) > TEXT_LENGTH_MAX for text in texts):
        raise Refused(400, f"scope, reason and actor take at most {TEXT_LENGTH_MAX:,} characters each")


def _is_same(known: Order, asked: Order, doc: OrderDoc) -> bool:
    # What the sender left to us counts as said again.
    return (
        _says(known) == _says(asked)
        and (not doc.actor or known.actor == asked.actor)
        and (doc.placed_at is None or known.placed_at == asked.placed_at)
    )


def _says(order: Order) -> tuple[object, ...]:
    return order.scope, order.level, order.reason, order.measure, order.cause, order.trigger
