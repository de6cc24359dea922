"""The rows of orders and lifts, the same in SQLite and in PostgreSQL. The stores decide when, this module knows how."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from rescind.clock import from_us, to_us
from rescind.errors import OrdersUnavailable, UsageError
from rescind.model.level import Level
from rescind.model.order import Lift, Measure, Order, OrderSet
from rescind.model.scope import Scope


class Found(Protocol):
    """What a query has found."""

    def fetchone(self) -> Any:
        """The next row; None after the last."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Rows(Protocol):
    """A connection that takes statements with a `?` for each value."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Found:
        """Run one statement."""
        ...

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Run it once for each row."""
        ...


Row = tuple[str, str, str, str, str, int, str, str, str]

_ORDERS = "SELECT order_id, scope, level, reason, actor, placed_at_us, measure, cause, trigger FROM orders"
_STANDING = f"{_ORDERS} WHERE order_id NOT IN (SELECT order_id FROM lifted)"  # noqa: S608  # constants only
_KNOWN_ORDER = f"{_ORDERS} WHERE order_id = ?"
_PLACE = """
INSERT INTO orders (order_id, scope, level, reason, actor, placed_at_us, measure, cause, trigger, stamp)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_LIFTS = "SELECT lift_id, reason, actor, lifted_at_us FROM lifts"
_KNOWN_LIFT = f"{_LIFTS} WHERE lift_id = ?"
_LIFT = "INSERT INTO lifts (lift_id, reason, actor, lifted_at_us, stamp) VALUES (?, ?, ?, ?, ?)"
_EXTENT = "SELECT (SELECT coalesce(max(sequence), 0) FROM orders), (SELECT coalesce(max(sequence), 0) FROM lifts)"
_STAMP = "SELECT max((SELECT coalesce(max(stamp), 0) FROM orders), (SELECT coalesce(max(stamp), 0) FROM lifts))"


def standing(connection: Rows) -> tuple[Order, ...]:
    """The orders that no lift names, in the order of `OrderSet.standing`.

    Raises: OrdersUnavailable, if one cannot be understood: it might be the one that matters.
    """
    return OrderSet.of(_order(row) for row in connection.execute(_STANDING)).standing


def history(connection: Rows) -> OrderSet:
    """Everything. Call it in a transaction.

    Raises: OrdersUnavailable, if something cannot be understood.
    """
    lifted: dict[str, set[str]] = {}
    for lift_id, order_id in connection.execute("SELECT lift_id, order_id FROM lifted"):
        lifted.setdefault(lift_id, set()).add(order_id)
    lifts = [
        Lift(
            lift_id=lift_id,
            order_ids=frozenset(lifted.get(lift_id, ())),
            reason=reason,
            actor=actor,
            lifted_at=from_us(lifted_at_us),
        )
        for lift_id, reason, actor, lifted_at_us in connection.execute(_LIFTS)
    ]
    return OrderSet.of((_order(row) for row in connection.execute(_ORDERS)), lifts)


def extent(connection: Rows) -> tuple[int, int]:
    """The last sequence of orders and of lifts; neither ever goes back."""
    orders, lifts = connection.execute(_EXTENT).fetchone()
    return orders, lifts


def stamp_remembered(connection: Rows) -> int:
    """The highest stamp in any row; 0 if there is none."""
    return int(connection.execute(_STAMP).fetchone()[0])


def add_order(connection: Rows, order: Order, *, stamp: int) -> None:
    """Add an order, unless it is there.

    Raises: UsageError, if another one has its id.
    """
    placed_at_us = to_us(order.placed_at)
    what = (order.order_id, str(order.scope), order.level.label, order.reason, order.actor)
    row: Row = (*what, placed_at_us, order.measure.value, order.cause, order.trigger)
    known = connection.execute(_KNOWN_ORDER, row[:1]).fetchone()
    if known is None:
        connection.execute(_PLACE, (*row, stamp))
    elif known != row:
        raise UsageError(f"order id {order.order_id!r} was used for another order; choose a new id")


def add_lift(connection: Rows, lift: Lift, *, stamp: int) -> None:
    """Add a lift, unless it is there.

    Raises: UsageError, if another one has its id.
    """
    row = (lift.lift_id, lift.reason, lift.actor, to_us(lift.lifted_at))
    known = connection.execute(_KNOWN_LIFT, row[:1]).fetchone()
    if known is None:
        connection.execute(_LIFT, (*row, stamp))
        pairs = [(order_id, lift.lift_id) for order_id in sorted(lift.order_ids)]
        connection.executemany("INSERT INTO lifted (order_id, lift_id) VALUES (?, ?)", pairs)
        return
    named = {order_id for (order_id,) in connection.execute("SELECT order_id FROM lifted WHERE lift_id = ?", row[:1])}
    if known != row or frozenset(named) != lift.order_ids:
        raise UsageError(f"lift id {lift.lift_id!r} was used for another lift; choose a new id")


def _order(row: Row) -> Order:
    order_id, scope, level, reason, actor, placed_at_us, measure, cause, trigger = row
    try:
        return Order(
            order_id=order_id,
            scope=Scope.parse(scope),
            level=Level.parse(level),
            reason=reason,
            actor=actor,
            placed_at=from_us(placed_at_us),
            measure=Measure(measure),
            cause=cause,
            trigger=trigger,
        )
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise OrdersUnavailable(f"order {order_id!r} cannot be understood ({error}); upgrade rescind") from error
