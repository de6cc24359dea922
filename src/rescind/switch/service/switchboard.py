"""What a switch does: takes orders and lifts, tells guards, knows what they acknowledged, merges with other switches.

The order of things, which is the stop contract:

    request ─▶ checked ─▶ on disk, with its line of the audit log ─▶ in the book ─▶ on every stream ─▶ answered

If the process dies between disk and answer, the order stands: it is in the book after the restart. If it dies before,
nobody was told anything. A request that is given up does not stop what it began: from disk to stream is one task.

B1. What was answered as placed stands, here, after any crash.
B2. What is in the book is on the streams, in the order of its sequence.
B3. Leases are renewed only while an order could be taken (`renews`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec

from rescind.clock import Clock, IdSource, from_us
from rescind.errors import OrdersUnavailable, UsageError
from rescind.model.level import Level
from rescind.model.order import Consent, Lift, LiftRule, Order
from rescind.model.scope import Scope
from rescind.switch.alerts import Alert, alert_of_cannot_store, alert_of_lift, alert_of_order, alert_of_stores_again
from rescind.switch.service.book import Book, Change
from rescind.switch.service.hub import Hub
from rescind.switch.service.ledger import Appended, AuditLine, Ledger, Note
from rescind.switch.service.problems import Refused
from rescind.switch.service.records import Record, canonical, record_of
from rescind.switch.service.registry import Guard, Placement, Registry
from rescind.switch.service.tokens import Caller, Power, Role, TokenBook
from rescind.switch.service.writer import Writer
from rescind.switch.wire import (
    IDS_MAX,
    TEXT_LENGTH_MAX,
    BeatEvent,
    Heard,
    LiftDoc,
    Lifted,
    LiftEvent,
    OrderDoc,
    OrderEvent,
    Placed,
    Report,
    SetEvent,
    Standing,
    lift_doc,
    order_doc,
    sse,
)

T = TypeVar("T")

ANSWER_WITHIN_S = 5.0
"""How long a request waits for the disk. After that nobody knows whether the order stands, and the answer says so."""

PAGE_MAX = 1_000

AGENT_ORDERS_MAX = 100
"""Orders by agents' tokens that may stand at once: an agent may stop itself, and not drown everybody's set."""

_ID_LENGTH_MAX = 100


class Switchboard:
    """One switch. Everything happens in its event loop, apart from the disk (`Writer`)."""

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
        self.switch_id = ledger.switch_id
        self.registry = Registry(self.switch_id, clock)
        self.book = Book(rule)
        self.hub = Hub(self._whole)
        self.sequence = 0
        self._ledger, self._writer = ledger, writer
        self._beat_s, self._clock, self._ids, self._alert = beat_s, clock, ids, alert
        self._set: tuple[int, msgspec.Raw, msgspec.Raw] = (-1, msgspec.Raw(), msgspec.Raw())
        self._applied_at_s: dict[str, tuple[int, float]] = {}
        self._started_at_s = clock.boot_s()
        self._tokens = TokenBook(())
        self._told_trouble = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self.elsewhere: Callable[[int], dict[str, float]] = lambda _: {}
        self.on_records: Callable[[], None] = lambda: None

    async def load(self) -> None:
        """Read the ledger: what stands, who has tokens, who is out there.

        Raises: OrdersUnavailable, StoreFormatError.
        """
        while page := await self._writer.run(lambda: self._ledger.records(self.sequence, PAGE_MAX)):
            for sequence, record in page:
                self.book.take_up(_understood(record))
                self._applied_at_s[record.digest] = (sequence, self._started_at_s)
                self.sequence = sequence
        self._tokens = TokenBook(await self._writer.run(self._ledger.tokens))
        self.registry.remember(await self._writer.run(self._ledger.guards))

    # --- who is it? ---

    def caller(self, authorization: str, origin: str) -> Caller:
        """Who sends a request with this header.

        Raises: Refused (401).
        """
        scheme, _, secret = authorization.partition(" ")
        if not authorization:
            if self._tokens.is_empty:
                return Caller(name="anyone", role=None, origin=origin)
            raise Refused(401, "this switch asks for a token: send `Authorization: Bearer TOKEN`; see `rescind token`")
        token = self._tokens.find(secret.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise Refused(401, "this token is not known here, or was revoked; `rescind token create` makes another")
        identity = Scope.parse(token.identity) if token.identity else Scope()
        return Caller(name=token.name, role=token.role, identity=identity, origin=origin)

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
        raise Refused(403, f"a token of role {caller.role} may not do this; it takes {_roles_with(power)}")

    # --- orders ---

    async def place(self, doc: OrderDoc, caller: Caller) -> Placed:
        """Place an order. It is on disk and on the streams when this returns.

        Raises: Refused; OrdersUnavailable, and then it is not known to stand.
        """
        self.require(caller, Power.STOP)
        order = self._order(doc, caller)
        known = self.book.orders(order.order_id)
        if known and order not in known:
            raise Refused(409, f"order id {order.order_id!r} was used for another order; choose a new id")
        note = Note(
            what="order.placed",
            subject=order.order_id,
            actor=order.actor,
            person=caller.name,
            origin=caller.origin,
            detail=f"{order.level.label} {order.scope}: {order.reason}",
        )
        (appended,) = await self._in_time(self._append([order], [note]))
        if appended.is_new:
            self._alert(alert_of_order(order, self.switch_id))
        return Placed(
            switch_id=self.switch_id,
            order=order_doc(order),
            sequence=appended.sequence,
            known_before=not appended.is_new,
        )

    def _order(self, doc: OrderDoc, caller: Caller) -> Order:
        _refuse_long(doc.scope, doc.reason, doc.actor)
        try:
            scope, level = Scope.parse(doc.scope), Level.parse(doc.level)
        except ValueError as error:
            raise Refused(400, str(error)) from error
        if level is Level.NORMAL:
            raise Refused(400, "an order at level normal holds nothing; to give power back, lift an order")
        if caller.role is Role.AGENT:
            self._refuse_foreign(scope, caller)
        order_id = doc.order_id or self._ids.new_id("ord")
        same = next((order for order in self.book.orders(order_id) if _is_same(order, doc, scope, level)), None)
        if same is not None:  # sent again by somebody who left the rest to us
            return same
        return Order(
            order_id=_checked_id("order_id", order_id),
            scope=scope,
            level=level,
            reason=_text(doc.reason),
            actor=_text(doc.actor) or caller.name,
            placed_at=self._moment("placed_at", doc.placed_at),
        )

    def _refuse_foreign(self, scope: Scope, caller: Caller) -> None:
        if not set(caller.identity.terms) <= set(scope.terms):
            raise Refused(403, f"an agent may stop itself only: the scope must hold {caller.identity}")
        theirs = sum(set(caller.identity.terms) <= set(order.scope.terms) for order in self.book.standing)
        if theirs >= AGENT_ORDERS_MAX:
            raise Refused(429, f"{theirs} orders stand for {caller.identity} already; it is stopped", retry_after_s=60)

    # --- lifts ---

    async def lift(self, doc: LiftDoc, caller: Caller) -> Lifted:
        """Lift orders, or begin to: it is in force once enough switches and persons have consented.

        Raises: Refused; OrdersUnavailable, and then the orders are not known to be lifted.
        """
        self.require(caller, Power.LIFT)
        lift = self._lift(doc, caller)
        lifted_before = tuple(order_id for order_id in sorted(lift.order_ids) if self.book.is_lifted(order_id))
        known = self.book.lift(lift.lift_id)
        if known is not None and known != lift:
            raise Refused(409, f"lift id {lift.lift_id!r} was used for another lift; choose a new id")
        note = Note(
            what="lift.placed",
            subject=lift.lift_id,
            actor=lift.actor,
            person=caller.name,
            origin=caller.origin,
            detail=f"lifts {', '.join(sorted(lift.order_ids))}: {lift.reason}",
        )
        await self._consent(lift, caller, note)
        return self.lifted(lift, lifted_before)

    async def consent(self, lift_id: str, caller: Caller) -> Lifted:
        """A further person's consent to a lift.

        Raises: Refused; OrdersUnavailable.
        """
        self.require(caller, Power.LIFT)
        lift = self.book.lift(lift_id)
        if lift is None:
            raise Refused(404, f"no lift {lift_id!r} is known here; `rescind status` lists those that wait")
        note = Note(what="consent.given", subject=lift_id, actor=caller.name, person=caller.name, origin=caller.origin)
        await self._consent(lift, caller, note)
        return self.lifted(lift, ())

    def lifted(self, lift: Lift, lifted_before: tuple[str, ...]) -> Lifted:
        """What became of a lift."""
        switches, persons = self.book.missing(lift.lift_id)
        missing = [_count(persons, "person", "persons"), _count(switches, "switch", "switches")]
        return Lifted(
            switch_id=self.switch_id,
            lift=lift_doc(lift),
            in_force=not switches and not persons,
            waits_for=" and ".join(filter(None, missing)),
            lifted_before=lifted_before,
        )

    async def _consent(self, lift: Lift, caller: Caller, note: Note) -> None:
        given = self.book.consents(lift.lift_id)
        mine = [each for each in given if each.switch_id == self.switch_id and each.person == caller.name]
        consent = Consent(
            lift_id=lift.lift_id,
            switch_id=self.switch_id,
            person=caller.name,
            consented_at=from_us(self._clock.now_us()),
        )
        was_in_force = self.lifted(lift, ()).in_force
        await self._in_time(self._append([lift, *([] if mine else [consent])], [note]))
        now = self.lifted(lift, ())
        if not mine and not was_in_force:
            self._alert(alert_of_lift(lift, in_force=now.in_force, waits_for=now.waits_for, switch_id=self.switch_id))

    def _lift(self, doc: LiftDoc, caller: Caller) -> Lift:
        _refuse_long(doc.reason, doc.actor)
        if not doc.reason.strip():
            raise Refused(400, "giving power back takes a reason")
        if not 0 < len(doc.order_ids) <= IDS_MAX:
            raise Refused(400, f"a lift names the orders it lifts, from 1 to {IDS_MAX:,} of them")
        unknown = [order_id for order_id in doc.order_ids if not self.book.orders(order_id)]
        if unknown:
            raise Refused(
                404, f"no order {unknown[0][:_ID_LENGTH_MAX]!r} is known here; only what was seen can be lifted"
            )
        lift_id = doc.lift_id or self._ids.new_id("lift")
        same = self.book.lift(lift_id)
        if same is not None and same.order_ids == frozenset(doc.order_ids) and same.reason == _text(doc.reason):
            return same
        return Lift(
            lift_id=_checked_id("lift_id", lift_id),
            order_ids=frozenset(doc.order_ids),
            reason=_text(doc.reason),
            actor=_text(doc.actor) or caller.name,
            lifted_at=self._moment("lifted_at", doc.lifted_at),
        )

    # --- what others ask ---

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
            raise Refused(404, f"no order {order_id[:_ID_LENGTH_MAX]!r} is known here")
        sequence, at_s = self._applied_at_s[record_of(orders[0]).digest]
        return Placement(order=orders[0], sequence=sequence, at_s=at_s, elsewhere=self.elsewhere(sequence))

    async def audit(self, after: int, limit: int) -> tuple[AuditLine, ...]:
        """Lines of the audit log. Raises: OrdersUnavailable."""
        return await self._in_time(self._run(lambda: self._ledger.audit(after, min(limit, PAGE_MAX))))

    @property
    def trouble(self) -> str:
        """Why a stop could not be taken now; empty if it could."""
        return self._writer.trouble

    @property
    def renews(self) -> bool:
        """Whether leases are renewed (B3)."""
        return not self.trouble

    # --- guards ---

    def heard(self, guard_id: str, caller: Caller, report: Report) -> tuple[Guard, Heard]:
        """Take up a guard's report. Raises: Refused."""
        self.require(caller, Power.SUBSCRIBE)
        _checked_id("guard id", guard_id)
        try:
            guard = self.registry.report(guard_id, caller.name, report)
        except UsageError as error:
            raise Refused(403, str(error)) from error
        return guard, Heard(at_s=self._clock.boot_s(), sequence=self.sequence, renews=self.renews)

    # --- what other switches say ---

    async def records(self, after: int, limit: int) -> tuple[tuple[int, Record], ...]:
        """Records after a place. Raises: OrdersUnavailable."""
        return await self._in_time(self._run(lambda: self._ledger.records(after, limit)))

    async def merge(self, records: Iterable[Record], origin: str) -> int:
        """Unite with what another switch has; how many records were new. All is on disk and on the streams on return.

        Raises: Refused, if one of them cannot be understood: nothing of it was stored; OrdersUnavailable.
        """
        contents: list[Order | Lift | Consent] = []
        for record in records:
            content = self._foreign(record)
            if content is not None:
                contents.append(content)
        new = [content for content in contents if record_of(content).digest not in self._applied_at_s]
        if not new:
            return 0
        notes = [
            Note(what="record.merged", subject=_subject(content), origin=origin, detail=type(content).__name__.lower())
            for content in new
        ]
        appended = await self._in_time(self._append(new, notes))
        return sum(each.is_new for each in appended)

    def _foreign(self, record: Record) -> Order | Lift | Consent | None:
        try:
            content = canonical(record).content
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"record {record.subject[:_ID_LENGTH_MAX]!r} cannot be understood: {error}") from error
        if isinstance(content, Consent) and content.switch_id == self.switch_id:
            return None  # nobody consents on our behalf; what we were given, we have
        return content

    # --- from disk to streams ---

    async def _append(self, contents: Sequence[Order | Lift | Consent], notes: Sequence[Note]) -> tuple[Appended, ...]:
        records = [record_of(content) for content in contents]
        appended = await self._writer.run(lambda: self._ledger.append(records, notes))
        for each in appended:
            if each.is_new:
                self._take_up(each)
        if any(each.is_new for each in appended):
            self.on_records()
        return appended

    def _take_up(self, appended: Appended) -> None:
        self.sequence = appended.sequence
        self._applied_at_s[appended.record.digest] = (appended.sequence, self._clock.boot_s())
        change = self.book.take_up(appended.record.content)
        if change:
            self.hub.publish(_event(appended.sequence, change))

    async def _run(self, function: Callable[[], T]) -> T:
        return await self._writer.run(function)

    async def _in_time(self, work: Awaitable[T]) -> T:
        # Shielded: who gives up waiting must not keep what is on disk by then from the book and the streams.
        task = asyncio.ensure_future(work)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await asyncio.shield(task)
        except TimeoutError:
            task.add_done_callback(_ignore)
            raise OrdersUnavailable(
                f"the disk of this switch has not answered for {ANSWER_WITHIN_S:g} s, so it is not known whether this "
                "will stand; place it at another switch"
            ) from None

    # --- what happens by itself ---

    async def live(self) -> None:
        """Beat, look after the disk, the tokens and the register, until cancelled."""
        self._background(self._look_after_disk())
        try:
            while True:
                self.hub.beat(sse("beat", self._beat()))
                await asyncio.sleep(self._beat_s)
        finally:
            for task in self._tasks:
                task.cancel()

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_after_disk(self) -> None:
        version = -1
        while True:
            await asyncio.sleep(min(1.0, self._beat_s))
            self._tell_trouble()
            try:
                await self._writer.run(self._ledger.beat_disk)
                self.registry.tidy()
                seen, left = self.registry.unsaved()
                if seen or left:
                    await self._writer.run(partial(self._ledger.save_guards, seen, left))
                found = await self._writer.run(self._ledger.tokens_changed)
                if found != version:
                    version = found
                    self._tokens = TokenBook(await self._writer.run(self._ledger.tokens))
            except OrdersUnavailable:
                continue  # `trouble` says so, and the next turn tries again

    def _tell_trouble(self) -> None:
        trouble = self.trouble
        if bool(trouble) != bool(self._told_trouble):
            at = from_us(self._clock.now_us())
            self._alert(
                alert_of_cannot_store(trouble, switch_id=self.switch_id, at=at)
                if trouble
                else alert_of_stores_again(switch_id=self.switch_id, at=at)
            )
        self._told_trouble = trouble

    def _beat(self) -> BeatEvent:
        return BeatEvent(sequence=self.sequence, at_s=self._clock.boot_s(), renews=self.renews)

    def _whole(self) -> bytes:
        if self._set[0] != self.sequence:
            orders = msgspec.Raw(msgspec.json.encode([order_doc(order) for order in self.book.standing]))
            self._set = (self.sequence, orders, msgspec.Raw(msgspec.json.encode(self.book.lifted_lately)))
        event = SetEvent(
            switch_id=self.switch_id,
            sequence=self.sequence,
            at_s=self._clock.boot_s(),
            renews=self.renews,
            beat_s=self._beat_s,
            orders=self._set[1],  # type: ignore[arg-type]  # encoded already
            lifted=self._set[2],  # type: ignore[arg-type]
        )
        return sse("set", event, sequence=self.sequence)

    def _moment(self, what: str, given: datetime | None) -> datetime:
        if given is None:
            return from_us(self._clock.now_us())
        if given.tzinfo is None:
            raise Refused(400, f"{what} has no time zone; write it in UTC, with a Z at its end")
        return given.astimezone(UTC)


def _event(sequence: int, change: Change) -> bytes:
    if change.placed is not None:
        return sse("order", OrderEvent(sequence=sequence, order=order_doc(change.placed)), sequence=sequence)
    return sse("lift", LiftEvent(sequence=sequence, order_ids=change.lifted), sequence=sequence)


def _understood(record: Record) -> Order | Lift | Consent:
    try:
        return record.content
    except ValueError as error:
        raise OrdersUnavailable(f"record {record.subject!r} cannot be understood ({error}); upgrade rescind") from error


def _is_same(order: Order, doc: OrderDoc, scope: Scope, level: Level) -> bool:
    return (
        (order.scope, order.level, order.reason) == (scope, level, _text(doc.reason))
        and (not doc.actor or order.actor == _text(doc.actor))
        and (doc.placed_at is None or order.placed_at == doc.placed_at)
    )


def _subject(content: Order | Lift | Consent) -> str:
    return content.order_id if isinstance(content, Order) else content.lift_id


def _refuse_long(*texts: str) -> None:
    if any(len(text) > TEXT_LENGTH_MAX for text in texts):
        raise Refused(400, f"scope, reason and actor take at most {TEXT_LENGTH_MAX:,} characters each")


def _checked_id(what: str, given: str) -> str:
    letters = given.replace("_", "").replace("-", "").replace(".", "")
    if not letters.isascii() or not letters.isalnum() or len(given) > _ID_LENGTH_MAX:
        raise Refused(400, f"{what} is of letters, digits, `_`, `-` and `.`, at most {_ID_LENGTH_MAX} of them")
    return given


def _text(given: str) -> str:
    # JSON may carry half a surrogate pair, which is no text and could not be stored.
    return given.encode("utf-8", "replace").decode("utf-8")


def _count(number: int, noun: str, plural: str) -> str:
    return "" if not number else f"one more {noun}" if number == 1 else f"{number} more {plural}"


def _roles_with(power: Power) -> str:
    roles = [role.value for role in Role if Caller(name="", role=role).may(power) and role is not Role.AGENT]
    return " or ".join(roles) or "agent"


def _ignore(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        _ = task.exception()
