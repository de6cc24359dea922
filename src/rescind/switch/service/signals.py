"""What a switch does with what it is told: it remembers it, tells people, and places the orders that it may.

    signal ─▶ checked (`noticing`) ─▶ decided (`evidence`) ─▶ order on disk and on the streams ─▶ alert ─▶ answered

What led to an order is in the audit log, with that order. Everything else is in memory: what was told lately, who has
which evidence, and how often people have heard of it. After a restart a signal that is sent again is a new one, and
finds that its order stands or was lifted.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

from rescind.clock import Clock, IdSource, from_us
from rescind.model.level import Level
from rescind.model.order import Order, private_reason
from rescind.model.scope import Scope, Term
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.model.step import canonical_json
from rescind.switch.alerts import Alert
from rescind.switch.alerts.signals import alert_of_digest, alert_of_signal, alert_of_withheld
from rescind.switch.service.evidence import Ask, Decision, Evidence, Member, Place, Withhold
from rescind.switch.service.noticing import Noticing
from rescind.switch.service.registry import Guard
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.signal_wire import Noticed, NoticedDoc, NoticedPage, SignalDoc, VerdictDoc, signal_doc
from rescind.switch.wire import TEXT_LENGTH_MAX
from rescind.triggers.digest import Tally, Word
from rescind.triggers.fleet import FleetConfig
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power

logger = logging.getLogger("rescind.switch")

REMEMBERED_MAX = 1_000
"""Signals that are remembered whole; they take some MiB."""

SEEN_MAX = 20_000
"""Ids that are known to have come, so that what comes twice is done once."""

DIGEST_EVERY_S = 5.0
"""How often is looked whether a digest is due."""

POLICY = "policy"
"""The actor of orders that no person placed."""


class Signals:
    """Takes signals and verdicts. Lives in the event loop of its switch."""

    def __init__(
        self,
        board: Switchboard,
        config: FleetConfig,
        *,
        clock: Clock,
        ids: IdSource,
        alert: Callable[[Alert], None],
    ) -> None:
        """Args: as for `Switchboard`; `config` says how far it may go by itself."""
        self._board, self._config, self._clock, self._alert = board, config, clock, alert
        self._noticing = Noticing(clock, ids)
        self._evidence, self._tally = Evidence(config), Tally()
        self._seen: OrderedDict[str, Noticed] = OrderedDict()
        self._lately: OrderedDict[str, NoticedDoc] = OrderedDict()
        self._turn = asyncio.Lock()  # of two decisions, the second one knows of the first one's order

    async def take_signal(self, doc: SignalDoc, caller: Caller) -> Noticed:
        """A guard has noticed something, and may ask for orders.

        Raises: Refused, and then nothing was kept; OrdersUnavailable, and then it is to be sent again.
        """
        self._board.require(caller, Power.NOTICE)
        signal, asks = self._noticing.signal(doc, caller), self._noticing.asks(doc.asks, caller)
        guard = self._board.registry.guards.get(signal.source)
        if guard is not None and caller.role is not None and guard.owner != caller.name:
            raise Refused(403, f"guard {signal.source} belongs to another token, and its evidence is not yours to give")
        return await self._take(signal, asks, caller, incident=doc.incident, guard=guard)

    async def take_verdict(self, doc: VerdictDoc, caller: Caller) -> Noticed:
        """A verifier has judged something. Raises: as `take_signal`."""
        self._board.require(caller, Power.JUDGE)
        signal = self._noticing.verdict(doc, caller)
        asks: dict[Ask, str] = {}
        if signal.severity is Severity.CRITICAL and self._config.verdict_level:
            level = Level.parse(self._config.verdict_level)
            asks = {Ask(scope=signal.scope, level=level, rule=f"verdict.{signal.rule}"): ""}
        return await self._take(signal, asks, caller)

    def lately(self, limit: int) -> NoticedPage:
        """What was told lately, newest first."""
        newest = tuple(reversed(self._lately.values()))[:limit]
        return NoticedPage(switch_id=self._board.switch_id, signals=newest)

    async def live(self) -> None:
        """Tell people what goes on, until cancelled."""
        while True:
            await asyncio.sleep(DIGEST_EVERY_S)
            for word in self._tally.due(self._clock.monotonic_s()):
                self._tell(word)

    async def _take(
        self,
        signal: Signal,
        asks: dict[Ask, str],
        caller: Caller,
        *,
        incident: str = "",
        guard: Guard | None = None,
    ) -> Noticed:
        key = f"{caller.name}\0{signal.signal_id}"  # nobody can make another's signal look like one that has come
        async with self._turn:
            known = self._seen.get(key)
            if known is not None:
                return _again(known)
            placed, outcomes = await self._answer(signal, asks, caller, guard)
            noticed = Noticed(
                switch_id=self._board.switch_id,
                signal_id=signal.signal_id,
                placed=tuple(placed),
                outcome="; ".join(outcomes) or "noted",
            )
            self._remember(key, signal, caller, incident, noticed)
        if incident or signal.severity >= Severity.HIGH:
            self._hear(
                _grouped(signal, guard, incident),
                lambda: alert_of_signal(
                    signal, switch_id=self._board.switch_id, incident=incident, outcome=noticed.outcome
                ),
            )
        return noticed

    async def _answer(
        self, signal: Signal, asks: dict[Ask, str], caller: Caller, guard: Guard | None
    ) -> tuple[list[str], list[str]]:
        placed: list[str] = []
        outcomes: list[str] = []
        for ask, order_id in asks.items():
            fleet = self._fleet()  # of each ask, for placing waits, and guards come and go meanwhile
            decision = self._decide(ask, signal, guard, fleet)
            if isinstance(decision, Place):
                order = self._order(ask, signal, decision.why, order_id if guard is not None else "", fleet)
                await self._board.place_by_itself(order, caller, _audit_line(order, signal))
                placed.append(order.order_id)
                outcomes.append(f"{ask.what}: order {order.order_id} placed {decision.why}")
                continue
            outcomes.append(f"{ask.what}: not placed, {decision.why}")
            if isinstance(decision, Withhold):
                self._leave_to_a_person(ask, signal, decision)
        return placed, outcomes

    def _decide(self, ask: Ask, signal: Signal, guard: Guard | None, fleet: Sequence[Member]) -> Decision:
        board = self._board
        lifted_at = board.book.lifted_at(ask.scope)
        if signal.kind is SignalKind.VERDICT:
            return self._evidence.judged(
                ask, signal.noticed_at, fleet=fleet, standing=board.book.standing, lifted_at=lifted_at
            )
        return self._evidence.asked(
            ask,
            guard.guard_id if guard is not None else "",
            signal.noticed_at,
            now=from_us(self._clock.now_us()),
            fleet=fleet,
            standing=board.book.standing,
            lifted_at=lifted_at,
        )

    def _fleet(self) -> list[Member]:
        """The guards that are connected; supervisors have no runs of their own."""
        return [
            Member(
                guard_id=guard.guard_id,
                host=guard.report.host,
                identity=self._board.tokens.identity_of(guard.owner),
                runs=guard.report.runs,
                runs_open=max(guard.report.runs_open, len(guard.report.runs)),
            )
            for guard in self._board.registry.guards.values()
            if guard.streams and not guard.left and guard.report.kind == "guard"
        ]

    def _order(self, ask: Ask, signal: Signal, why: str, order_id: str, fleet: Sequence[Member]) -> Order:
        book = self._board.book
        # The sender's id is good for what is its own. One that is taken may be of an order that was lifted.
        is_own = order_id and ask.is_own_of(signal.source, fleet) and not book.orders(order_id)
        return Order(
            order_id=order_id if is_own else _order_id(ask, book.lifted_at(ask.scope)),
            scope=ask.scope,
            level=ask.level,
            reason=private_reason(f"{signal.detail} ({why})")[:TEXT_LENGTH_MAX],
            actor=POLICY,
            placed_at=from_us(self._clock.now_us()),
            measure=ask.measure,
            cause=signal.signal_id,
            trigger=ask.rule,
        )

    def _leave_to_a_person(self, ask: Ask, signal: Signal, withheld: Withhold) -> None:
        wanted = ask.what
        logger.warning("%s was not placed: %s", wanted, withheld.why)
        self._hear(
            f"not placed: {wanted}",
            lambda: alert_of_withheld(signal, wanted, withheld.why, switch_id=self._board.switch_id),
        )

    def _hear(self, subject: str, first_word: Callable[[], Alert]) -> None:
        word = self._tally.heard(subject, self._clock.monotonic_s())
        if word is not None and word.is_first:
            self._alert(first_word())
        elif word is not None:
            self._tell(word)

    def _tell(self, word: Word) -> None:
        now = from_us(self._clock.now_us())
        self._alert(alert_of_digest(word, switch_id=self._board.switch_id, at=now))

    def _remember(self, key: str, signal: Signal, caller: Caller, incident: str, noticed: Noticed) -> None:
        self._seen[key] = noticed
        self._lately[key] = NoticedDoc(
            signal=signal_doc(signal, incident=incident),
            received_at=from_us(self._clock.now_us()),
            person=caller.name if caller.role is not None else "",
            placed=noticed.placed,
            outcome=noticed.outcome,
        )
        for held, most in ((self._seen, SEEN_MAX), (self._lately, REMEMBERED_MAX)):
            if len(held) > most:
                held.popitem(last=False)


def _grouped(signal: Signal, guard: Guard | None, incident: str) -> str:
    """What people hear of once: a hundred runs of one agent with the same trouble are one thing to hear of."""
    terms = {term for term in signal.scope.terms if term.kind not in ("run", "tree")}
    if len(terms) == len(signal.scope.terms):
        return signal.cause
    runs = () if guard is None else guard.report.runs
    agent = next((run.agent for run in runs if run.run_id == signal.run_id), "")
    if agent and not any(term.kind == "agent" for term in terms):
        terms.add(Term("agent", agent))
    if not terms:
        return incident or signal.cause
    return signal.cause_in(Scope(tuple(sorted(terms))))


def _again(known: Noticed) -> Noticed:
    return Noticed(
        switch_id=known.switch_id,
        signal_id=known.signal_id,
        known_before=True,
        placed=known.placed,
        outcome=known.outcome,
    )


def _order_id(ask: Ask, lifted_at: datetime | None) -> str:
    """The id of an order that is asked for: the same at every switch that decides so, and a new one after a lift."""
    since = "" if lifted_at is None else lifted_at.isoformat()
    named = canonical_json([str(ask.scope), ask.level.label, ask.measure.value, ask.rule, since])
    return f"ord_p{hashlib.sha256(named).hexdigest()[:18]}"


def _audit_line(order: Order, signal: Signal) -> str:
    return f"{order.what}: {order.reason} ({order.origin}, noticed by {signal.source})"
