"""One order on its way to every place, and what is said of each as it becomes known.

The first place that has it on disk is news that nobody should wait for; the rest is told afterwards, within a bounded
time. A switch that has the order passes it on to its federation; the local store is a place of its own, that nothing
else stands in for.
"""

from typing import TYPE_CHECKING, Any

from rescind.cli.out import Out
from rescind.cli.places import Places
from rescind.cli.safe import safe
from rescind.cli.stores import name_of, orders_of, shell_line
from rescind.cli.trouble import SwitchesFailed, failed, reply_as_json, trouble_line
from rescind.clock import Clock
from rescind.errors import RescindError
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.switch.client.asking import WITHIN_S, Asking, Reply
from rescind.switch.client.operator import post_order
from rescind.switch.desk import place_order
from rescind.switch.wire import Placed as PlacedAtSwitch

if TYPE_CHECKING:
    from rescind.switch.receipt import Placed

KEEP_TRYING_S = WITHIN_S
"""How long switches that do not take the order are tried again, before the command ends."""

_SOON_S = 0.25
"""How long the other switches may take to be named before the receipt, and not after it."""

WHAT_LEVELS_DO = {
    Level.NORMAL: "calls go on",
    Level.SUPERVISED: "writes wait for approval",
    Level.READ_ONLY: "reads go on, writes are refused",
    Level.PAUSED: "nothing new begins, what runs may finish",
    Level.HALTED: "runs end, and every later call is refused",
}

WHAT_MEASURES_DO = {
    Measure.TRIP: "a breaker is open: reads go on, writes are refused until its probes succeed",
    Measure.FORCED_OPEN: "a breaker is held open: reads go on, writes are refused",
    Measure.REVOKE: "leases are void, and whoever checks them refuses",
    Measure.BLOCK_FAN_OUT: "no further runs, webhooks or follow-up agents are started",
    Measure.QUARANTINE: "runs end, and are neither retried nor resumed",
    Measure.PAUSE_QUEUE: "jobs that have not begun wait, as `rescind queues watch` sees to",
}


def effect_of(order: Order) -> str:
    """What an order does, in words."""
    return WHAT_MEASURES_DO.get(order.measure) or WHAT_LEVELS_DO[order.level]


class Delivery:
    """An order that is being placed. Switches are asked from the moment when this is made."""

    def __init__(self, order: Order, places: Places, out: Out, *, clock: Clock) -> None:
        self.order, self.places = order, places
        self.here: Placed | None = None
        self._out, self._clock = out, clock
        self._asking: Asking[PlacedAtSwitch] = post_order(places.switches, order, within_s=KEEP_TRYING_S, clock=clock)
        self._replies: dict[str, Reply[PlacedAtSwitch]] = {}
        self._fault_here = ""
        self._said = False

    def place_here(self) -> None:
        """Place it in the local store, if there is one.

        Raises: RescindError, if there is no other place that might take it.
        """
        if self.places.store is None:
            return
        try:
            with orders_of(self.places.store) as orders:
                self.here = place_order(orders, self.order, clock=self._clock)
        except RescindError as error:
            if not self.places.switches.urls:
                raise
            self._fault_here = str(error)
        else:
            self._say_durable(name_of(self.places.store))

    def await_switch(self) -> None:
        """Wait until one switch has it, or none of them will."""
        for reply in self._asking:
            self._take(reply)
            if reply.answer is not None:
                return

    def await_others_briefly(self) -> None:
        """Name the other switches that have it, if they say so at once."""
        for reply in self._asking.within(_SOON_S):
            self._take(reply)

    def finish(self) -> None:
        """Wait for the other switches, and say which of them lack it, and what then."""
        for reply in self._asking:
            self._take(reply)
        lacking = [reply for reply in self._in_order() if reply.answer is None]
        if not self.ids:
            return
        for reply in lacking:
            self._out.say(f"  lacks   {trouble_line(reply)}", style="yellow")
        if lacking:
            self._out.say("          the switches that have it pass it on to those of their federation")
        if self._fault_here and self.places.store is not None:
            where = safe(name_of(self.places.store))
            self._out.say(f"  lacks   {where}: {safe(self._fault_here)}", style="red")
            self._out.say(f"          agents that follow only the store of {where} are not stopped")

    @property
    def ids(self) -> dict[str, str]:
        """The ids of the switches that have it, by URL."""
        return {url: reply.answer.switch_id for url, reply in self._replies.items() if reply.answer is not None}

    @property
    def is_durable(self) -> bool:
        """Whether any place has it."""
        return self.here is not None or bool(self.ids)

    @property
    def failure(self) -> SwitchesFailed | None:
        """The error that no switch has it, if there are switches; None while one of them does."""
        if not self.places.switches.urls or self.ids:
            return None
        where = "; it stands on this machine alone" if self.here is not None else ", and it stands nowhere"
        return failed(
            f"NOT STOPPED: no switch has this order{where}",
            self._in_order(),
            then="Repeat the command; an order that is placed twice does no harm.",
        )

    @property
    def status(self) -> int:
        """The exit status: 1, unless a switch has it (if there are any), and the local store too (if there is one)."""
        return 0 if self.failure is None and not self._fault_here else 1

    def as_json(self) -> dict[str, Any]:
        """Which places have it."""
        store = self.places.store
        here = {"store": str(store), "durable": self.here is not None, "detail": self._fault_here}
        return {
            "durable": self.is_durable,
            "here": None if store is None else here,
            "switches": [_as_json(reply) for reply in self._in_order()],
        }

    def _take(self, reply: Reply[PlacedAtSwitch]) -> None:
        self._replies[reply.url] = reply
        if reply.answer is not None:
            self._say_durable(reply.url)

    def _in_order(self) -> list[Reply[PlacedAtSwitch]]:
        return [self._replies[url] for url in self.places.switches.urls if url in self._replies]

    def _say_durable(self, where: str) -> None:
        order, out = self.order, self._out
        if self._said:
            out.say(f"  also    durable on {safe(where)}")
            return
        self._said = True
        out.say(f"{safe(order.what)}: {effect_of(order)}", style="bold")
        out.say(f"  order   {order.order_id}, durable on {safe(where)}")
        if order.origin:
            out.say(f"  origin  {safe(order.origin)}")
        out.say(f"  reason  {safe(order.reason) or 'none given; --reason is shown to whoever is refused'}")
        out.say(f'  lift    {shell_line("resume", order.order_id, *self.places.words())} --reason "…"')


def _as_json(reply: Reply[PlacedAtSwitch]) -> dict[str, Any]:
    if reply.answer is None:
        return reply_as_json(reply)
    placed = reply.answer
    return {"url": reply.url, "state": "durable", "switch_id": placed.switch_id, "sequence": placed.sequence}
