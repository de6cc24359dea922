"""`rescind resume`: give power back. It takes a reason, and lifts exactly the orders that were seen."""

from collections.abc import Sequence

import click

from rescind.cli.identity import whoami
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.overlap import still_covering
from rescind.cli.safe import safe
from rescind.cli.stopping import order_as_json
from rescind.cli.stores import find_store, orders_of
from rescind.cli.words import list_of
from rescind.clock import SystemClock, SystemIds
from rescind.errors import UsageError
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.recovery.reading import PREFIX_MIN
from rescind.switch.desk import lift_orders

_ID_PREFIX = "ord_"


@click.command(
    epilog="""\b
Examples:
  rescind resume agent:billing-agent --reason "fixed in 2.4.1"
  rescind resume ord_1m7yne1b1mja55hy35j --reason "wrong agent"
"""
)
@click.argument("names", metavar="SCOPE|ORDER…", nargs=-1, required=True)
@click.option("--reason", required=True, metavar="TEXT", help="Why it is safe to go on. Kept with the lift.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def resume(*, names: tuple[str, ...], reason: str, actor: str | None, out: Out) -> int:
    """Lift standing orders: by id, or all that have exactly this SCOPE.

    Wider, narrower and newer orders go on to stand, and are named. The beginning of an id will do.
    """
    with orders_of(find_store(given_store())) as orders:
        seen = orders.standing().orders
        ids = [order_id for name in names for order_id in _ids_meant(name.strip(), seen)]
        lifted = lift_orders(orders, ids, reason=reason, actor=actor or whoami(), clock=SystemClock(), ids=SystemIds())
    left = still_covering(lifted.remaining, [order.scope for order in lifted.orders])
    for order_id in lifted.lifted_before:
        out.say(f"{safe(order_id)} was lifted before")
    _say(lifted.orders, left, out)
    out.emit(
        {
            "lift_id": lifted.lift.lift_id if lifted.lift else None,
            "lifted": [order_as_json(order) for order in lifted.orders],
            "lifted_before": lifted.lifted_before,
            "still_covering": [order_as_json(order) for order in left],
        }
    )
    return 0


def _ids_meant(name: str, standing: Sequence[Order]) -> list[str]:
    """The ids that a scope, an id or the beginning of one means; at least one.

    Raises: UsageError, which names what stands.
    """
    if name.startswith(_ID_PREFIX):
        begin = [order.order_id for order in standing if order.order_id.startswith(name)]
        if len(name) < len(_ID_PREFIX) + PREFIX_MIN or not begin:
            return [name]  # an id that does not stand; who lifts says why
        if len(begin) > 1:
            raise UsageError(f"{name!r} could be any of {list_of(begin)}; write more of it")
        return begin
    try:
        scope = Scope.parse(name)
    except ValueError as error:
        raise UsageError(f"{error}; or give the id of an order") from error
    found = [order.order_id for order in standing if order.scope == scope]
    if not found:
        raise UsageError(f"no order stands with exactly the scope {str(scope)!r}. {_what_stands(standing)}")
    return found


def _what_stands(standing: Sequence[Order]) -> str:
    if not standing:
        return "No order stands at all"
    return f"Standing: {list_of(f'{order.order_id} ({order.scope})' for order in standing)}"


def _say(lifted: Sequence[Order], left: Sequence[Order], out: Out) -> None:
    for order in lifted:
        out.say(f"lifted  {order.order_id}  {order.level.label} {safe(order.scope)}", style="bold")
    if left:
        out.say("still covering some or all of it:")
        for order in left:
            out.say(f"  {order.order_id}  {order.level.label} {safe(order.scope)}", style="yellow")
    elif lifted:
        out.say("no other order covers any of it")
