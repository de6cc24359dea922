"""From disk to streams: what was appended to the ledger goes into the book, and from there to everybody who listens.

    entries ─▶ on disk, with their lines of the audit log ─▶ in the book ─▶ on every stream

PB1. What `append` has returned stands, here, after any crash.
PB2. What is in the book is on the streams, in the order of its sequence.
PB3. Leases are renewed only while an order could be taken (`renews`).
"""

from collections.abc import Sequence

import msgspec

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable
from rescind.model.order import LiftRule
from rescind.switch.service.book import Book, Change
from rescind.switch.service.hub import Hub
from rescind.switch.service.ledger import Appended, Entry, Ledger
from rescind.switch.service.records import Content, Record, record_of
from rescind.switch.service.writer import Writer
from rescind.switch.wire import BeatEvent, LiftEvent, OrderEvent, SetEvent, order_doc, sse

PAGE_MAX = 1_000


class Publisher:
    """The book of a switch, its ledger below and its streams above. Lives in the event loop, apart from the disk.

    Attributes:
        book: What stands.
        hub: The streams.
        sequence: The ledger's last record that is in the book.
    """

    def __init__(self, ledger: Ledger, writer: Writer, *, rule: LiftRule, beat_s: float, clock: Clock) -> None:
        """A publisher that knows nothing yet: see `load`."""
        self.book = Book(rule)
        self.hub = Hub(self._whole)
        self.sequence = 0
        self._ledger, self._writer = ledger, writer
        self._beat_s, self._clock = beat_s, clock
        self._applied: dict[str, tuple[int, float]] = {}  # digest of a record to its place, and when it was told
        self._whole_at: tuple[int, msgspec.Raw, msgspec.Raw] = (-1, msgspec.Raw(), msgspec.Raw())

    async def load(self) -> None:
        """Read the ledger. Raises: OrdersUnavailable."""
        now_s = self._clock.boot_s()
        while page := await self._writer.read(lambda: self._ledger.records(self.sequence, PAGE_MAX)):
            for sequence, record in page:
                self.book.take_up(_understood(record))
                self._applied[record.digest] = (sequence, now_s)
                self.sequence = sequence

    async def append(self, entries: Sequence[Entry]) -> tuple[Appended, ...]:
        """Add what is not there yet. All of it is on disk and on the streams on return.

        Not to be cancelled between the two: what is on disk must get to the streams.

        Raises: OrdersUnavailable, and then nothing was added.
        """
        appended = await self._writer.write(lambda: self._ledger.append(entries))
        for each in appended:
            if each.is_new:
                self._take_up(each)
        return appended

    def knows(self, record: Record) -> bool:
        """Whether the record is in the book."""
        return record.digest in self._applied

    def applied(self, order_id: str) -> tuple[int, float]:
        """Up to which place one must have bound to have bound all orders with this id, and when that was told.

        The moment is of the boot clock. Raises: KeyError, if there is none.
        """
        return max(self._applied[record_of(order).digest] for order in self.book.orders(order_id))

    @property
    def trouble(self) -> str:
        """Why a stop could not be taken now; empty if it could."""
        return self._writer.trouble

    @property
    def renews(self) -> bool:
        """Whether leases are renewed (PB3)."""
        return not self.trouble

    def beat(self) -> None:
        """Tell everybody that we live."""
        self.hub.beat(sse("beat", BeatEvent(sequence=self.sequence, at_s=self._clock.boot_s(), renews=self.renews)))

    def _take_up(self, appended: Appended) -> None:
        self.sequence = appended.sequence
        self._applied[appended.record.digest] = (appended.sequence, self._clock.boot_s())
        change = self.book.take_up(appended.record.content)
        if change:
            self.hub.publish(_event(appended.sequence, change))

    def _whole(self) -> bytes:
        if self._whole_at[0] != self.sequence:
            orders = msgspec.Raw(msgspec.json.encode([order_doc(order) for order in self.book.standing]))
            self._whole_at = (self.sequence, orders, msgspec.Raw(msgspec.json.encode(self.book.lifted_lately)))
        event = SetEvent(
            switch_id=self._ledger.switch_id,
            sequence=self.sequence,
            at_s=self._clock.boot_s(),
            renews=self.renews,
            beat_s=self._beat_s,
            orders=self._whole_at[1],  # type: ignore[arg-type]  # encoded already
            lifted=self._whole_at[2],  # type: ignore[arg-type]
        )
        return sse("set", event, sequence=self.sequence)


def _event(sequence: int, change: Change) -> bytes:
    if change.placed is not None:
        return sse("order", OrderEvent(sequence=sequence, order=order_doc(change.placed)), sequence=sequence)
    return sse("lift", LiftEvent(sequence=sequence, order_ids=change.lifted), sequence=sequence)


def _understood(record: Record) -> Content:
    try:
        return record.content
    except ValueError as error:
        raise OrdersUnavailable(f"record {record.subject!r} cannot be understood ({error}); upgrade rescind") from error
