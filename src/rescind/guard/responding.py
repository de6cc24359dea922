"""Answering what detectors found: the orders, the incident, the record and the refusal, as the policy says.

    order placed, or held here ─▶ signal in the journal ─▶ incident, switches told ─▶ this call refused

If we die after the first, the run is contained, and its order names rule and signal; what is missing is the paper.
Nothing is placed, opened or refused in shadow.
"""

import logging
import math
import threading
from functools import partial
from typing import TYPE_CHECKING

from rescind.clock import from_us
from rescind.containment.incident import Joined, note
from rescind.containment.incident_desk import IncidentDesk
from rescind.errors import RescindError
from rescind.guard.errands import Errands
from rescind.guard.gate import Deny
from rescind.guard.holding import Hold, in_words
from rescind.guard.probing import trips_among
from rescind.model.entry import Signalled
from rescind.model.level import Level
from rescind.model.order import Measure, Order, covering, private_reason
from rescind.model.scope import Scope, Term
from rescind.model.signal import Finding, Signal
from rescind.model.step import RunInfo
from rescind.switch.desk import new_order
from rescind.triggers.behaviour import RETRY_AFTER_S
from rescind.triggers.deciding import decide_at
from rescind.triggers.engine import RunWatch
from rescind.triggers.facts import Call
from rescind.triggers.policy import Decision
from rescind.triggers.response import Verb

if TYPE_CHECKING:
    from rescind.guard.governed import Governed
    from rescind.guard.guard import Guard
    from rescind.guard.watching import Watching

logger = logging.getLogger("rescind")

ACTOR = "policy"
"""Who has placed an order that no person placed; its `trigger` says which rule."""

_OWN_KINDS = frozenset({"run", "tree"})
"""Terms of scopes that concern one run and what it has started: those are told to every switch at once. What is wider
needs the evidence of several guards, and a switch decides."""

REASON_LENGTH_MAX = 500
"""Characters of a signal that an order repeats. The whole of it is in the journal."""


class Responder:
    """Does what a policy says about findings. One serves all runs of a guard; thread-safe, as its parts are."""

    def __init__(self, guard: "Guard") -> None:
        """For the runs of this guard."""
        self._guard = guard
        # While a store is written to, and never while a tool runs. A signal's handler may come by in the middle of it.
        self._placing = threading.RLock()
        self._errands = Errands()
        self._desk: IncidentDesk | None = None
        self._desk_of = ""

    def answer(
        self, found: tuple[Finding, ...], watching: "Watching", run: "Governed", call: Call, *, prevents: bool
    ) -> Deny | None:
        """Answer what was found at one call.

        Args:
            found: What was found.
            watching: Under which policy, and what is known of the tools.
            run: Whose call it is.
            call: The call.
            prevents: Whether it can still be refused.

        Returns: The refusal of this very call; None if it may go on. An order that covers it is the gate's business.
        """
        refusal = None
        # Before anything is placed: what trips at this call was not open when it was made.
        tripped = bool(trips_among(covering(self._guard.standing(), run.info.subject, call.action)))
        for finding in found:
            assert run.watch is not None, "who has found something watches"
            times = run.watch.tally.count(finding)
            signal = self._signal(finding, call, run.watch)
            decision = decide_at(watching.policy, watching.outages, signal, call, times=times, tripped=tripped)
            if not finding.again:  # else it is no news, and a person may have lifted since what was ordered for it
                orders = () if decision.shadow else self._contain(decision, signal, run, call)
                self._record(signal, decision, run)
                self._errands.run(partial(self._write_down, signal, orders, decision, run.info))
            if prevents and decision.refuses_call and refusal is None:
                refusal = _refusal(signal, decision, call.action)
        return refusal

    def _signal(self, finding: Finding, call: Call, watch: RunWatch) -> Signal:
        name = finding.name
        if not finding.again or name not in watch.told:
            watch.told[name] = self._guard.ids.new_id("sig")
        return Signal.of(
            finding,
            signal_id=watch.told[name],
            noticed_at=from_us(self._guard.clock.now_us()),
            run_id=call.run.run_id,
            step_id=call.step_id,
            source=self._guard.guard_id,
        )

    # --- containment ---

    def _contain(self, decision: Decision, signal: Signal, run: "Governed", call: Call) -> tuple[Order, ...]:
        placed: list[Order] = []
        for response in decision.responses:
            scope = response.scope_for(signal, run.info, call.action)
            if response.for_s is not None:
                self._hold(run, scope, response.level or Level.READ_ONLY, response.for_s, signal)
            for measure, level in response.measures:
                order = self._place(measure, level, scope, decision, signal)
                if order is not None:
                    placed.append(order)
        if placed:
            self._guard.refresh()  # before the next call of any run here, and before this one goes on
        return tuple(placed)

    def _place(self, measure: Measure, level: Level, scope: Scope, decision: Decision, signal: Signal) -> Order | None:
        same = (decision.rule_name, measure, scope)
        with self._placing:  # of two threads that find the same at once, one places it (V4)
            if any((order.trigger, order.measure, order.scope) == same for order in self._guard.standing()):
                return None
            return self._order(measure, level, scope, decision, signal)

    def _order(self, measure: Measure, level: Level, scope: Scope, decision: Decision, signal: Signal) -> Order | None:
        order = new_order(
            scope,
            level,
            measure=measure,
            reason=_reason(signal),
            actor=ACTOR,
            cause=signal.signal_id,
            trigger=decision.rule_name,
            clock=self._guard.clock,
            ids=self._guard.ids,
        )
        try:
            self._guard.orders.place(order)
        except RescindError as problem:
            logger.error("%s on %s could not be ordered (%s); this process holds it instead", measure, scope, problem)
            held = max(level, Level.READ_ONLY)
            self._guard.hold_runs(scope, a_hold(held, math.inf, signal, 0.0))  # V2
            return None
        return order

    def _hold(self, run: "Governed", scope: Scope, level: Level, for_s: float, signal: Signal) -> None:
        now_s = self._guard.clock.boot_s()
        hold = a_hold(level, now_s + for_s, signal, now_s)
        if scope == Scope((Term("run", run.run_id),)):
            run.hold_at(hold)
        else:
            self._guard.hold_runs(scope, hold)

    # --- the paper ---

    def _write_down(self, signal: Signal, orders: tuple[Order, ...], decision: Decision, info: RunInfo) -> None:
        joined = self._incident(signal, orders, info) if decision.opens_incident else None
        self._tell(signal, orders, joined)

    def _incident(self, signal: Signal, orders: tuple[Order, ...], info: RunInfo) -> Joined | None:
        journal, clock = self._guard.journal, self._guard.clock
        try:
            joined = self._incidents.open_or_join(signal, tenant=info.tenant, agent=info.agent)
            for order in orders:
                what = f"{order.measure.value} at {order.level.label} on {order.scope} by rule {order.trigger}"
                note(journal, joined.incident_id, "order", order.order_id, what, clock=clock, actor=order.actor)
        except RescindError as problem:
            logger.error("the incident of signal %s could not be recorded: %s", signal.signal_id, problem)
            return None
        return joined

    @property
    def _incidents(self) -> IncidentDesk:
        guard = self._guard
        if self._desk is None or self._desk_of != guard.guard_id:  # a forked child has a name and a desk of its own
            self._desk = IncidentDesk(guard.journal, clock=guard.clock, guard_id=guard.guard_id)
            self._desk_of = guard.guard_id
        return self._desk

    def say_digests(self) -> None:
        """Say what is due of the incidents that this process has to do with. Asked for once a minute."""
        if self._desk is not None:
            self._errands.run(self._say_digests)

    def finish(self, timeout_s: float) -> None:
        """Wait until what was to be written down is, for so long at most."""
        self._errands.finish(timeout_s)

    def _say_digests(self) -> None:
        try:
            for joined in self._incidents.digests():
                logger.warning("incident %s: %s", joined.incident_id, joined.alert)
        except RescindError as problem:
            logger.error("the digests of incidents could not be recorded: %s", problem)

    def after_fork(self) -> None:
        """In a forked child: the thread that held a lock may not have come along."""
        self._placing, self._desk = threading.RLock(), None
        self._errands.after_fork()

    def _record(self, signal: Signal, decision: Decision, run: "Governed") -> None:
        draft = run.draft(Signalled(signal, responses=decision.words, shadow=decision.shadow))
        opening = run.opening_with_intent()
        try:
            self._guard.journal.submit((draft,) if opening is None else (opening, draft))
        except RescindError as problem:
            logger.error("signal %s could not be recorded: %s", signal.signal_id, problem)

    def _tell(self, signal: Signal, orders: tuple[Order, ...], joined: Joined | None) -> None:
        if self._guard.teller is not None:
            own = tuple(order for order in orders if {term.kind for term in order.scope.terms} & _OWN_KINDS)
            self._guard.teller.tell(signal, own, tuple(order for order in orders if order not in own), joined)
        if joined is not None and joined.alert:
            logger.warning("incident %s: %s", joined.incident_id, joined.alert)


def _reason(signal: Signal) -> str:
    return private_reason(f"{signal.kind.value}: {signal.detail[:REASON_LENGTH_MAX]}")


def a_hold(level: Level, until_s: float, signal: Signal, now_s: float) -> Hold:
    """The hold that answers a signal."""
    why = f"{signal.kind.value.replace('_', ' ')}: {signal.detail} (signal {signal.signal_id})"
    return Hold(level=min(level, Level.PAUSED), until_s=until_s, why=why, advice=in_words(until_s, now_s))


def _refusal(signal: Signal, decision: Decision, action: str) -> Deny:
    verbs = {response.verb for response in decision.responses}
    if Verb.RETRY in verbs:
        advice = f"Try it again in {RETRY_AFTER_S:g} s"
    elif Verb.FALLBACK in verbs:
        advice = "Take the fallback route; do not retry"
    else:
        advice = "Do not retry; say what you would have done and why it was refused"
    why = f"rule {decision.rule_name}, signal {signal.signal_id}: {signal.detail}"
    return Deny(f"{action} was not run: {signal.detail}. {advice}", why)
