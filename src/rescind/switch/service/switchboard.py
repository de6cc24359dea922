"""What a switch does: takes orders and lifts, tells guards, knows what they acknowledged, merges with other switches.

The order of things, which is the stop contract:

    request ─▶ checked (`intake`) ─▶ on disk, in the book, on every stream (`publisher`) ─▶ answered

If the process dies between disk and answer, the order stands: it is in the book after the restart. If it dies before,
nobody was told anything. A request that is given up does not stop what it began: from check to stream is one task, and
two requests about one id take turns.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from rescind.clock import Clock, IdSource, from_us
from rescind.errors import OrdersUnavailable
from rescind.model.order import Consent, Lift, LiftRule, Order
from rescind.switch.alerts import Alert, alert_of_lift, alert_of_order
from rescind.switch.approval_wire import Asked, Ruled
from rescind.switch.service.documents import Merged
from rescind.switch.service.intake import Intake, checked_id, understood
from rescind.switch.service.ledger import AuditLine, Entry, Ledger, Note
from rescind.switch.service.publisher import PAGE_MAX, Publisher
from rescind.switch.service.records import Content, Record, record_of
from rescind.switch.service.registry import Guard, Placement, Registry
from rescind.switch.service.writer import Writer
from rescind.switch.wire import (
    ID_LENGTH_MAX,
    Heard,
    LiftDoc,
    Lifted,
    OrderDoc,
    Placed,
    Report,
    Standing,
    lift_doc,
    order_doc,
)
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power, TokenBook, caller_with, refusal_of_power

T = TypeVar("T")

ANSWER_WITHIN_S = 5.0
"""How long a request waits for the disk. After that nobody knows whether the order stands, and the answer says so."""


class Switchboard:
    """One switch. Everything happens in its event loop, apart from the disk (`Writer`).

    Attributes:
        switch_id: Its name.
        book: What stands.
        hub: The streams.
        registry: The guards.
        tokens: Who may do what.
        elsewhere: Which other switches are known to have a place of our ledger, and since when; set by the federation.
        on_records: Called when there are new ones; set by the federation.
    """

    def __init__(
        self,
        ledger: Ledger,
        writer: Writer,
        *,
        rule: LiftRule,
        beat_s: float,
        clock: Clock,
        ids: IdSource,
        alert: Callable[[Alert], None],
    ) -> None:
        """A switch over a ledger that nobody else writes records to.

        Args:
            ledger: The file.
            writer: The thread that alone may use it from here on.
            rule: How many consents a lift needs.
            beat_s: How often guards are told that we live.
            clock: The time.
            ids: Identifiers, for what comes without one.
            alert: Called with what people should hear of; returns at once.
        """
        self._publisher = Publisher(ledger, writer, rule=rule, beat_s=beat_s, clock=clock)
        self.switch_id = ledger.switch_id
        self.book, self.hub = self._publisher.book, self._publisher.hub
        self.registry = Registry(self.switch_id, clock)
        self.tokens = TokenBook(())
        self._ledger, self._writer, self._clock, self._alert = ledger, writer, clock, alert
        self._intake = Intake(self.book, clock, ids)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.elsewhere: Callable[[int], dict[str, float]] = lambda _: {}
        self.on_records: Callable[[], None] = lambda: None

    async def load(self) -> None:
        """Read the ledger: what stands, who has tokens, who is out there.

        Raises: OrdersUnavailable, StoreFormatError.
        """
        await self._publisher.load()
        self.tokens = TokenBook(await self._writer.read(self._ledger.tokens))
        self.registry.remember(await self._writer.read(self._ledger.guards))

    # --- who is it? ---

    def caller(self, authorization: str, origin: str) -> Caller:
        """Who sends a request with this header.

        Raises: Refused (401).
        """
        if not authorization and self.tokens.is_empty:
            return Caller(name="anyone", role=None, origin=origin)
        return caller_with(authorization, origin, self.tokens)

    def require(self, caller: Caller, power: Power) -> None:
        """Raises: Refused (401 or 403), if the caller may not do this."""
        if caller.may(power):
            return
        if caller.role is None:
            raise Refused(
                401,
                "nobody has a token here yet, and giving power back is done by somebody with a name: "
                "make one with `rescind token create --role approver --name YOU` on the switch's machine",
            )
        raise refusal_of_power(caller, power)

    # --- orders ---

    async def place(self, doc: OrderDoc, caller: Caller) -> Placed:
        """Place an order. It is on disk and on the streams when this returns.

        Raises: Refused; OrdersUnavailable, and then it is not known to stand.
        """
        self.require(caller, Power.STOP)
        return await self._in_time(self._place(doc, self._intake.order_id(doc), caller))

    async def _place(self, doc: OrderDoc, order_id: str, caller: Caller) -> Placed:
        async with self._turn(order_id):
            order = self._intake.order(doc, order_id, caller)
            return await self._stand(order, caller, _says(order))

    async def place_by_itself(self, order: Order, caller: Caller, detail: str) -> Placed:
        """Place an order that no person asked for, on what a caller has told. As `place`, with the audit line's detail.

        Raises: OrdersUnavailable, and then it is not known to stand.
        """

        async def stand() -> Placed:
            async with self._turn(order.order_id):
                return await self._stand(order, caller, detail)

        return await self._in_time(stand())

    async def _stand(self, order: Order, caller: Caller, detail: str) -> Placed:
        note = Note(
            what="order.placed",
            subject=order.order_id,
            actor=order.actor,
            person=_person(caller),
            origin=caller.origin,
            detail=detail,
        )
        (appended,) = await self._publisher.append([Entry(record_of(order), note)])
        if appended.is_new:
            self.on_records()
            self._alert(alert_of_order(order, self.switch_id))
        return Placed(
            switch_id=self.switch_id,
            order=order_doc(order),
            sequence=appended.sequence,
            known_before=not appended.is_new,
        )

    # --- lifts ---

    async def lift(self, doc: LiftDoc, caller: Caller) -> Lifted:
        """Lift orders, or begin to: it is in force once enough switches and persons have consented.

        Raises: Refused; OrdersUnavailable, and then the orders are not known to be lifted.
        """
        self.require(caller, Power.LIFT)
        return await self._in_time(self._place_lift(doc, self._intake.lift_id(doc), caller))

    async def _place_lift(self, doc: LiftDoc, lift_id: str, caller: Caller) -> Lifted:
        async with self._turn(lift_id):
            lift = self._intake.lift(doc, lift_id, caller)
            lifted_before = tuple(order_id for order_id in sorted(lift.order_ids) if self.book.is_lifted(order_id))
            note = Note(
                what="lift.placed",
                subject=lift.lift_id,
                actor=lift.actor,
                person=_person(caller),
                origin=caller.origin,
                detail=_says(lift),
            )
            await self._consent(lift, caller, note)
        return self.lifted(lift, lifted_before)

    async def consent(self, lift_id: str, caller: Caller) -> Lifted:
        """A further person's consent to a lift.

        Raises: Refused; OrdersUnavailable.
        """
        self.require(caller, Power.LIFT)
        return await self._in_time(self._place_consent(lift_id, caller))

    async def _place_consent(self, lift_id: str, caller: Caller) -> Lifted:
        async with self._turn(lift_id):
            lift = self._intake.the_lift(lift_id)
            note = Note(
                what="consent.given",
                subject=lift_id,
                actor=caller.name,
                person=_person(caller),
                origin=caller.origin,
                detail=_says(lift),
            )
            await self._consent(lift, caller, note)
        return self.lifted(lift, ())

    async def _consent(self, lift: Lift, caller: Caller, note: Note) -> None:
        was = self.lifted(lift, ())
        consent = Consent(
            lift_id=lift.lift_id,
            order_ids=lift.order_ids,
            switch_id=self.switch_id,
            person=caller.name,
            consented_at=from_us(self._clock.now_us()),
        )
        if any(_is_same_consent(each, consent) for each in self.book.consents(lift.lift_id)):
            entries = [Entry(record_of(lift), note)]
        else:
            entries = [Entry(record_of(lift)), Entry(record_of(consent), note)]
        appended = await self._publisher.append(entries)
        if not any(each.is_new for each in appended):
            return
        self.on_records()
        now = self.lifted(lift, ())
        if not was.in_force:
            self._alert(alert_of_lift(lift, in_force=now.in_force, waits_for=now.waits_for, switch_id=self.switch_id))

    def lifted(self, lift: Lift, lifted_before: tuple[str, ...]) -> Lifted:
        """What became of a lift."""
        switches, persons = self.book.missing(lift)
        missing = [_count(persons, "person", "persons"), _count(switches, "switch", "switches")]
        return Lifted(
            switch_id=self.switch_id,
            lift=lift_doc(lift),
            in_force=not switches and not persons,
            waits_for=" and ".join(filter(None, missing)),
            lifted_before=lifted_before,
        )

    # --- what others ask ---

    @property
    def sequence(self) -> int:
        """The last record that is in the book."""
        return self._publisher.sequence

    def standing(self) -> Standing:
        """What stands, and which lifts wait."""
        return Standing(
            switch_id=self.switch_id,
            sequence=self.sequence,
            orders=tuple(order_doc(order) for order in self.book.standing),
            waiting=tuple(self.lifted(lift, ()) for lift in self.book.waiting),
        )

    def placement(self, order_id: str) -> Placement:
        """An order at this switch, for its receipt. Raises: Refused (404)."""
        orders = self.book.orders(order_id)
        if not orders:
            raise Refused(404, f"no order {order_id[:ID_LENGTH_MAX]!r} is known here")
        sequence, at_s = self._publisher.applied(order_id)
        return Placement(order=orders[0], sequence=sequence, at_s=at_s, elsewhere=self.elsewhere(sequence))

    async def audit(self, after: int, limit: int) -> tuple[AuditLine, ...]:
        """Lines of the audit log. Raises: OrdersUnavailable."""
        return await self._in_time(self._read(lambda: self._ledger.audit(after, min(limit, PAGE_MAX))))

    @property
    def trouble(self) -> str:
        """Why a stop could not be taken now; empty if it could."""
        return self._publisher.trouble

    @property
    def renews(self) -> bool:
        """Whether leases are renewed."""
        return self._publisher.renews

    def beat(self) -> None:
        """Tell everybody that we live."""
        self._publisher.beat()

    # --- guards ---

    def heard(self, guard_id: str, caller: Caller, report: Report) -> tuple[Guard, Heard]:
        """Take up a guard's report. Raises: Refused."""
        self.require(caller, Power.SUBSCRIBE)
        checked_id("guard id", guard_id)
        if report.bound > self.sequence:
            # Taken at its word, it would have bound every order until then.
            raise Refused(400, f"it says that it has bound {report.bound}, and this ledger ends at {self.sequence}")
        guard = self.registry.report(guard_id, _person(caller), report)
        return guard, Heard(at_s=self._clock.boot_s(), sequence=self.sequence, renews=self.renews)

    # --- what other switches say ---

    async def records(self, after: int, limit: int) -> tuple[tuple[int, Record], ...]:
        """Records after a place. Raises: OrdersUnavailable."""
        return await self._in_time(self._read(lambda: self._ledger.records(after, limit)))

    async def merge(self, records: Iterable[Record], origin: str, person: str = "") -> Merged:
        """Unite with what another switch has. All that can be understood is on disk and on the streams on return.

        What cannot be is named and left out: it must not keep the stops behind it from arriving.

        Args:
            records: Its records.
            origin: Its id.
            person: Whose token it showed; empty if we asked for them.

        Raises: OrdersUnavailable.
        """
        new: dict[str, Entry] = {}
        not_understood: list[str] = []
        for record in records:
            try:
                content = understood(record)
            except (ValueError, RecursionError) as error:
                not_understood.append(f"{record.subject[:ID_LENGTH_MAX]}: {error}"[:500])
                continue
            # Nobody consents on our behalf: what we were given, we have.
            if not isinstance(content, Consent) or content.switch_id != self.switch_id:
                entry = _merged(content, origin, person)
                if not self._publisher.knows(entry.record):
                    new[entry.record.digest] = entry
        added = 0
        if new:
            appended = await self._in_time(self._publisher.append(tuple(new.values())))
            added = sum(each.is_new for each in appended)
        if added:
            self.on_records()
        return Merged(switch_id=self.switch_id, new=added, not_understood=tuple(not_understood))

    # --- what is no order ---

    async def keep(self, entry: Entry) -> None:
        """Keep a record of another kind; on disk and in the book on return, and on its way to other switches.

        To be called within `in_time`: what is on disk must get into the book. Raises: OrdersUnavailable.
        """
        appended = await self._publisher.append([entry])
        if any(each.is_new for each in appended):
            self.on_records()

    async def in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this to its end, even if who asked for it does not wait. Raises: OrdersUnavailable, if it takes long."""
        return await self._in_time(work)

    # --- the disk ---

    def _turn(self, name: str) -> asyncio.Lock:
        # Held by those who use it, and gone with the last of them.
        return self._turns.setdefault(name, asyncio.Lock())

    async def _read(self, function: Callable[[], T]) -> T:
        return await self._writer.read(function)

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        # Shielded: who gives up waiting must not keep what is on disk by then from the book and the streams.
        task = asyncio.get_running_loop().create_task(work)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await asyncio.shield(task)
        except TimeoutError:
            task.add_done_callback(_ignore)
            raise OrdersUnavailable(
                f"the disk of this switch has not answered for {ANSWER_WITHIN_S:g} s, so it is not known whether this "
                "will stand; place it at another switch"
            ) from None


def _merged(content: Content, origin: str, person: str) -> Entry:
    record = record_of(content)
    note = Note(
        what="record.merged",
        subject=record.subject,
        actor=_actor(content),
        person=person,
        origin=origin,
        detail=_says(content),
    )
    return Entry(record, note)


def _actor(content: Content) -> str:
    match content:
        case Order() | Lift():
            return content.actor
        case Asked():
            return content.asked.run.run_id
        case Consent() | Ruled():
            return content.person


def _says(content: Content) -> str:
    match content:
        case Order():
            origin = f" ({content.origin})" if content.origin else ""
            return f"{content.what}: {content.reason}{origin}"
        case Lift():
            return f"lifts {', '.join(sorted(content.order_ids))}: {content.reason}"
        case Consent():
            return f"consents at {content.switch_id} to lifting {', '.join(sorted(content.order_ids))}"
        case Asked(asked=asked):
            return f"asks for {asked.action}: {asked.because}"
        case Ruled(decided=decided):
            return f"{decided.decision}: {decided.note}" if decided.note else decided.decision


def _is_same_consent(given: Consent, other: Consent) -> bool:
    return (given.switch_id, given.person, given.order_ids) == (other.switch_id, other.person, other.order_ids)


def _person(caller: Caller) -> str:
    return caller.name if caller.role is not None else ""


def _count(number: int, noun: str, plural: str) -> str:
    return "" if not number else f"one more {noun}" if number == 1 else f"{number} more {plural}"


def _ignore(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        _ = task.exception()
