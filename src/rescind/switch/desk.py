"""The operator's verbs: stop, resume, and what stands. The command line parses for it and renders what it returns.

Placing is one step and asks for nothing but a scope and a level. Lifting gives power back: it takes a reason, and names
the orders that were seen standing, so that an order placed at the same moment survives it (law O2).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from rescind.clock import Clock, IdSource, from_us
from rescind.errors import UsageError
from rescind.model.level import Level
from rescind.model.order import Lift, Measure, Order
from rescind.model.scope import Scope
from rescind.switch.port import Orders
from rescind.switch.receipt import Placed

if TYPE_CHECKING:
    from rescind.database.address import Address, StoreAt
    from rescind.switch.postgres.store import PostgresOrders
    from rescind.switch.store import SqliteOrders


class Lifted(msgspec.Struct, frozen=True, kw_only=True):
    """What a lift did.

    Attributes:
        lift: The lift; None if every order that was named had been lifted before.
        orders: The orders it lifted, most severe first.
        lifted_before: Ids that were named and had been lifted before.
        remaining: The orders that stand now, most severe first.
    """

    lift: Lift | None
    orders: tuple[Order, ...]
    lifted_before: tuple[str, ...]
    remaining: tuple[Order, ...]


StoreOrders: TypeAlias = "SqliteOrders | PostgresOrders"
"""The orders of a store that commands open: in a folder, or in a database."""


def open_store(store: "StoreAt", *, create: bool, clock: Clock | None = None) -> "StoreOrders":
    """The orders of a store.

    Args:
        store: The folder or the database.
        create: Whether to make a store where there is none. Guards do; an operator's command does not: a stop that
            nobody hears must not look like success.
        clock: The time.

    Raises:
        UsageError: There is no store here, or none of ours.
        OrdersUnavailable: It cannot be opened.
    """
    if not isinstance(store, Path):
        return _open_database(store, create=create)
    directory = store
    from rescind.switch.store import ORDERS_NAME, STAMP_NAME, SqliteOrders  # a stop at switches needs no SQLite

    holds_something = (directory / ORDERS_NAME).exists() or (directory / STAMP_NAME).exists()
    if not create and not holds_something:
        raise UsageError(
            f"there is no store of rescind in {directory.absolute()}, so no agent would hear of this. Go to the folder "
            "of the agent's rescind.yaml, or name its store with --store or RESCIND_STORE"
        )
    return SqliteOrders(directory, clock=clock)


def _open_database(address: "Address", *, create: bool) -> "PostgresOrders":
    from rescind.switch.postgres.store import PostgresOrders

    orders = PostgresOrders(address, create=create)
    try:
        orders.open()
    except BaseException:
        orders.close()
        raise
    return orders


def place(
    orders: Orders, scope: Scope, level: Level, *, reason: str, actor: str, clock: Clock, ids: IdSource
) -> Placed:
    """Stop what the scope covers at this level. Durable on return.

    Raises:
        UsageError: The level is `normal`, which holds nobody back.
        OrdersUnavailable: The order is not known to stand.
    """
    return place_order(orders, new_order(scope, level, reason=reason, actor=actor, clock=clock, ids=ids), clock=clock)


def new_order(
    scope: Scope,
    level: Level,
    *,
    reason: str,
    actor: str,
    clock: Clock,
    ids: IdSource,
    measure: Measure = Measure.LEVEL,
    cause: str = "",
    trigger: str = "",
) -> Order:
    """An order that is nowhere yet, so that the same one may be placed in several places.

    A measure that asks for more than `level` gets what it asks for.

    Raises: UsageError, as `place`.
    """
    try:
        return Order(
            order_id=ids.new_id("ord"),
            scope=scope,
            level=max(level, measure.level) if measure is not Measure.LEVEL else level,
            reason=_text(reason),
            actor=_text(actor),
            placed_at=from_us(clock.now_us()),
            measure=measure,
            cause=_text(cause),
            trigger=_text(trigger),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def place_order(orders: Orders, order: Order, *, clock: Clock) -> Placed:
    """Place an order that was made already. Durable on return.

    Raises: OrdersUnavailable: The order is not known to stand.
    """
    orders.place(order)
    placed_at_s = clock.monotonic_s()
    # Perhaps another writer has moved the stamp on since; who has bound that one has bound this order too.
    return Placed(order=order, stamp=orders.page[0], placed_at_s=placed_at_s)


def lift_orders(
    orders: Orders, order_ids: Iterable[str], *, reason: str, actor: str, clock: Clock, ids: IdSource
) -> Lifted:
    """Lift the orders with these ids. Durable on return.

    Raises:
        UsageError: No reason, no id, or an id that was never placed here; the nearest known one is named.
        OrdersUnavailable: The orders are not known to be lifted.
    """
    named = tuple(dict.fromkeys(order_ids))
    if not named:
        raise UsageError("name the orders to lift by id or by scope; `rescind status` lists them")
    standing = {order.order_id: order for order in orders.standing().orders}
    lifted_before = tuple(order_id for order_id in named if order_id not in standing)
    if lifted_before:
        _refuse_unknown(orders, lifted_before, standing)
    chosen = tuple(order for order_id, order in standing.items() if order_id in named)
    return _lift(orders, chosen, lifted_before, reason=reason, actor=actor, clock=clock, ids=ids)


def lift_scope(orders: Orders, scope: Scope, *, reason: str, actor: str, clock: Clock, ids: IdSource) -> Lifted:
    """Lift the orders that are seen standing with exactly this scope. Durable on return.

    Raises:
        UsageError: No reason, or nothing stands with this scope; the scopes that do are named.
        OrdersUnavailable: The orders are not known to be lifted.
    """
    standing = orders.standing().orders
    chosen = tuple(order for order in standing if order.scope == scope)
    if not chosen:
        scopes = ", ".join(sorted({str(order.scope) for order in standing}))
        held = f"orders stand for: {scopes}" if scopes else "no order stands at all"
        raise UsageError(f"no order stands for {scope}; {held}")
    return _lift(orders, chosen, (), reason=reason, actor=actor, clock=clock, ids=ids)


def _lift(
    orders: Orders,
    chosen: tuple[Order, ...],
    lifted_before: tuple[str, ...],
    *,
    reason: str,
    actor: str,
    clock: Clock,
    ids: IdSource,
) -> Lifted:
    if not reason.strip():
        raise UsageError("giving power back takes a reason; add --reason")
    lift = None
    if chosen:
        lift = Lift(
            lift_id=ids.new_id("lift"),
            order_ids=frozenset(order.order_id for order in chosen),
            reason=_text(reason),
            actor=_text(actor),
            lifted_at=from_us(clock.now_us()),
        )
        orders.lift(lift)
    return Lifted(lift=lift, orders=chosen, lifted_before=lifted_before, remaining=orders.standing().orders)


def _refuse_unknown(orders: Orders, candidates: Sequence[str], standing: Iterable[str]) -> None:
    placed = {order.order_id for order in orders.history().orders}
    for order_id in candidates:
        if order_id not in placed:
            import difflib  # only where somebody mistyped

            nearest = difflib.get_close_matches(order_id, sorted(standing) or sorted(placed), n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else "`rescind status` lists what stands"
            raise UsageError(f"no order {order_id!r} was ever placed here; {hint}")


def _text(given: str) -> str:
    # An argument of the command line may hold bytes that are no text. A stop must not fail for that.
    return given.encode("utf-8", "replace").decode("utf-8")
