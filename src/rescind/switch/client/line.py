"""What one switch has said so far: bytes of its stream in, standing orders and a lease out. No I/O.

    bytes ─▶ event ─▶ taken up here ─▶ handed to the caller, who takes it up too ─▶ the next event

Events are handed over one by one, so that nobody renews a lease by a beat before the order ahead of it is bound. What
cannot be understood ends the connection (`Malformed`): what stood goes on standing, and a lease that nobody renews runs
out. Events with an unknown name come from a newer switch and are skipped.
"""

from collections.abc import Generator, Iterable, Mapping
from typing import Any

import msgspec

from rescind.errors import RescindError
from rescind.model.order import Order
from rescind.switch.client.lease import LineLease
from rescind.switch.wire import BeatEvent, Heard, LiftEvent, OrderDoc, OrderEvent, SetEvent, order_of

EVENT_BYTES_MAX = 8 * 1024 * 1024
"""One event. A set of 20,000 orders with long reasons takes about as much."""

ORDERS_MAX = 100_000
"""Orders that one switch may have standing. Nobody places as many by hand."""

SAME_ID_MAX = 100
"""Orders with one id: as many as switches that were given different ones, and nobody runs so many."""

BEAT_BOUNDS_S = (0.05, 60.0)
"""How often a switch may say that it sends a beat; a line that waits for ever is never taken up again."""

NOTHING_BOUND = -1
"""The sequence before the first set."""


class Malformed(RescindError):
    """A switch said something that cannot be understood. The connection is worth nothing any more."""


class _HeardOrder(OrderDoc, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """An order as it is heard: a newer switch may say more of it."""


class _HeardSet(SetEvent, frozen=True, kw_only=True):
    orders: tuple[_HeardOrder, ...]


class _HeardOrderEvent(OrderEvent, frozen=True, kw_only=True):
    order: _HeardOrder


Taken = SetEvent | OrderEvent | LiftEvent | BeatEvent
"""An event that the line has taken up."""

_decoders: dict[bytes, msgspec.json.Decoder[Any]] = {
    b"set": msgspec.json.Decoder(_HeardSet),
    b"order": msgspec.json.Decoder(_HeardOrderEvent),
    b"lift": msgspec.json.Decoder(LiftEvent),
    b"beat": msgspec.json.Decoder(BeatEvent),
}


class Line:
    """One switch as a guard hears it.

    Attributes:
        switch_id: Who it says it is; empty before the first set.
        orders: What it says stands, by id. One id may be that of several orders, and then they all stand.
        sequence: The end of its ledger as far as this line knows it; `NOTHING_BOUND` before the first set.
        beat_s: How often it says it sends a beat.
        lease: The lease that it renews.
    """

    __slots__ = ("_asked_s", "_has_set", "_rest", "_scanned", "beat_s", "lease", "orders", "sequence", "switch_id")

    def __init__(self, *, lease_ttl_s: float, orders: Mapping[str, frozenset[Order]] | None = None) -> None:
        """A line that has heard nothing; `orders` is what stands until the first set, such as in a forked child."""
        self.switch_id = ""
        self.orders = dict(orders or {})
        self.sequence = NOTHING_BOUND
        self.beat_s = 1.0
        self.lease = LineLease(lease_ttl_s)
        self.begin(asked_s=0.0)

    def begin(self, *, asked_s: float) -> None:
        """A new connection is asked for its stream, at this moment of our boot clock."""
        self._asked_s, self._has_set = asked_s, False
        self._rest, self._scanned = bytearray(), 0
        self.lease.forget_clock()

    def feed(self, data: bytes, *, received_s: float) -> Generator[Taken]:
        """Bytes of the stream, and when they were read. Yields each event once it is taken up here, before the next.

        Raises: Malformed. The events before it have been yielded.
        """
        rest = self._rest
        rest += data.replace(b"\r", b"") if b"\r" in data else data  # JSON has none, so it only ever ends a line
        begin = 0
        while (end := rest.find(b"\n\n", max(begin, self._scanned))) >= 0:
            block = bytes(rest[begin:end])
            begin = self._scanned = end + 2
            taken = self._take(block, received_s)
            if taken is not None:
                yield taken
        del rest[:begin]
        self._scanned = max(0, len(rest) - 1)
        if len(rest) > EVENT_BYTES_MAX:
            raise Malformed(f"an event is longer than {EVENT_BYTES_MAX:,} bytes")

    def heard(self, answer: Heard, *, asked_s: float, received_s: float) -> None:
        """The switch has answered a report. That sets its clock against ours, and renews nothing."""
        self.lease.answered(answer.at_s, asked_s=asked_s, received_s=received_s)

    def _take(self, block: bytes, received_s: float) -> Taken | None:
        name, data = _fields_of(block)
        decoder = _decoders.get(name)
        if decoder is None:
            return None
        try:
            event: Taken = decoder.decode(data)
            if isinstance(event, SetEvent):
                self._take_set(event, received_s)
                return event
            if not self._has_set:
                raise ValueError("it comes before the set")
            self._take_change(event, received_s)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            raise Malformed(f"a {name.decode()!r} cannot be understood: {str(error)[:200]}") from error
        return event

    def _take_set(self, event: SetEvent, received_s: float) -> None:
        # All of them first: a set of which one order cannot be read replaces nothing.
        orders = _by_id(order_of(doc) for doc in event.orders)
        self.orders, self.sequence, self._has_set = orders, event.sequence, True
        self.switch_id = event.switch_id
        self.beat_s = min(max(event.beat_s, BEAT_BOUNDS_S[0]), BEAT_BOUNDS_S[1])
        self.lease.answered(event.at_s, asked_s=self._asked_s, received_s=received_s)
        if event.renews:
            self.lease.stamped(event.at_s, received_s=received_s)

    def _take_change(self, event: OrderEvent | LiftEvent | BeatEvent, received_s: float) -> None:
        if isinstance(event, OrderEvent):
            order = order_of(event.order)
            self.orders[order.order_id] = same = self.orders.get(order.order_id, frozenset()) | {order}
            if len(same) > SAME_ID_MAX:
                raise ValueError(f"more than {SAME_ID_MAX} orders have one id")
            if len(self.orders) > ORDERS_MAX:
                raise ValueError(f"more than {ORDERS_MAX:,} orders stand")
        elif isinstance(event, LiftEvent):
            for order_id in event.order_ids:
                self.orders.pop(order_id, None)
        elif event.renews:
            self.lease.stamped(event.at_s, received_s=received_s)
        self.sequence = max(self.sequence, event.sequence)


def _by_id(orders: Iterable[Order]) -> dict[str, frozenset[Order]]:
    found: dict[str, set[Order]] = {}
    for order in orders:
        found.setdefault(order.order_id, set()).add(order)
    return {order_id: frozenset(same) for order_id, same in found.items()}


def _fields_of(block: bytes) -> tuple[bytes, bytes]:
    name, data = b"", b""
    for field in block.split(b"\n"):
        if field.startswith(b"data:"):
            data += field[5:]  # JSON lets blanks stand, and a break in it is one
        elif field.startswith(b"event:"):
            name = field[6:].strip()
    return name, data
