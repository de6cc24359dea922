"""What the standing orders mean to a program that can be ended and not held back. Pure."""

from collections.abc import Iterable

import msgspec

from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope, Subject


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """The orders that cover a program, most severe first.

    Attributes:
        ending: Those that end it, and keep it from being started.
        unheeded: Those that it cannot obey and that do not end it: it goes on, and that must be said.
    """

    ending: tuple[Order, ...] = ()
    unheeded: tuple[Order, ...] = ()

    @property
    def level(self) -> Level:
        """At which level the program is held. What is not heeded holds nobody."""
        return self.ending[0].level if self.ending else Level.NORMAL


def rule(orders: Iterable[Order], subject: Subject, *, act_at: Level) -> Ruling:
    """The ruling under these orders.

    An order for single actions never ends a program, since that would stop what the order lets go on; it is unheeded.

    Args:
        orders: What stands, in any order; an order may occur twice, since several switches have it, and two orders may
            have one id.
        subject: The program's run.
        act_at: The lowest level that ends it.
    """
    found = (order for order in orders if _without_actions(order.scope).covers(subject))
    distinct = {(order.order_id, order.scope, order.level): order for order in found}
    covering = sorted(distinct.values(), key=lambda order: (-order.level, order.placed_at, order.order_id))
    ending = tuple(order for order in covering if order.level >= act_at and not order.scope.actions)
    return Ruling(ending=ending, unheeded=tuple(order for order in covering if order not in ending))


def ends_on_silence(choice: str, *, on_silence: Level, act_at: Level) -> bool:
    """Whether a program is ended when nobody can be heard who could stop it.

    Args:
        choice: `kill`, `keep`, or `as-configured`: silence counts as an order at the level `on_silence`.
        on_silence: What the configuration says.
        act_at: The lowest level that ends it.
    """
    return choice == "kill" or (choice != "keep" and on_silence >= act_at)


def _without_actions(scope: Scope) -> Scope:
    return Scope(tuple(term for term in scope.terms if term.kind != "action"))
