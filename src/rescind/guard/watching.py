"""What a guard does with its detectors: tells them of each call, and has what they find answered as the policy says.

    asked ─▶ findings ─▶ policy ─▶ contain, refuse this call        before anything has happened
    ended ─▶ findings ─▶ policy ─▶ contain                          whatever the run does next is refused

V1. What is found before a call is acted upon before the call: with a limit of 25 records the 26th is not touched.
V2. What could not be placed as an order is held in this process instead: a full disk lets no run go on.
V3. In shadow nothing is refused and nothing placed; what would have been is in the journal.
V4. What stands by the same rule, with the same measure and scope, is not placed again.
V5. A run is not contained for errors that everybody has: while a tool is down, its breaker answers for it.
V6. Once a trip is lifted, by a person or by its own probes, what was before that trips nothing again.
"""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from rescind.guard.arguments import scrub
from rescind.guard.gate import Deny
from rescind.guard.probing import trips_among
from rescind.guard.responding import Responder
from rescind.model.order import Measure
from rescind.model.signal import Finding
from rescind.model.step import Target, canonical_json
from rescind.triggers.allowed import revoked_lease
from rescind.triggers.engine import Engine, RunWatch
from rescind.triggers.facts import Call, End
from rescind.triggers.learned import LearnedShapes
from rescind.triggers.outage import Outages
from rescind.triggers.patterns import first_match
from rescind.triggers.policy_file import LOOK_EVERY_S, PolicyFile
from rescind.triggers.rates import RatesDetector

if TYPE_CHECKING:
    from rescind.guard.governed import Governed
    from rescind.guard.guard import Guard
    from rescind.model.order import Order

DIGEST_EVERY_S = 60.0
"""How often it is looked whether people are owed a word about an incident that goes on."""

_NO_ARGUMENTS: Mapping[str, Any] = {}

_REVOKED = "revoked by"

Asked = Call
"""The `call` of the `End` that `ended` is told of."""


class Watching:
    """The detectors of one guard, and what is done about what they find. Thread-safe, as its parts are."""

    def __init__(self, guard: "Guard", policy: PolicyFile) -> None:
        """Watch under this policy, whose file may change while the guard runs."""
        self._guard, self.file = guard, policy
        self.policy = policy.current()
        self._engine = Engine(self.policy)
        self._boot_s = guard.clock.boot_s
        self._responder = Responder(guard)
        self._look_again_s = self._digest_at_s = -math.inf
        self._trips: tuple[Order, ...] = ()
        self._orders: tuple[Order, ...] = ()  # among which those are
        self.outages = Outages(self.policy.outage)
        self.learned = LearnedShapes()

    @property
    def fault(self) -> str:
        """Why a change of the policy's file is not in force; empty if it is."""
        return self.file.fault

    def watch(self, run: "Governed") -> RunWatch:
        """Begin to watch a run."""
        return self._engine.watch(run.info)

    def asked(
        self,
        run: "Governed",
        action: str,
        *,
        writes: bool,
        arguments: Mapping[str, Any] | None,
        target: Target | None,
        repeats: str,
        spawns: bool,
    ) -> Call:
        """See `Run.asked`."""
        now_s = self._boot_s()
        if now_s >= self._look_again_s:
            self._look_around(now_s)
        orders = self._guard.standing()
        if orders is not self._orders:
            self._take_note_of(orders)
        call = Call(
            run=run.info,
            action=action,
            writes=writes,
            at_s=now_s,
            arguments=arguments or _NO_ARGUMENTS,
            target=target,
            tenant="" if target is None else target.tenant,
            # Only compared within this run, and so cheap: the process's own hash will do.
            repeats=str(hash((action, canonical_json(arguments)))) if arguments else repeats,
            spawns=spawns,
        )
        assert run.watch is not None
        found = run.watch.asked(call)
        if found:
            deny = self._responder.answer(found, self, run, call, prevents=True)
            run.check_orders(action, writes=writes)
            if deny is not None:
                run.refuse(deny, action)
        return call

    def _take_note_of(self, orders: "tuple[Order, ...]") -> None:
        before, self._orders, self._trips = self._trips, orders, trips_among(orders)
        stand = {trip.order_id for trip in self._trips}
        lifted = [trip.scope for trip in before if trip.order_id not in stand]
        for detector in self._engine.detectors if lifted else ():
            if isinstance(detector, RatesDetector):
                for scope in lifted:
                    detector.reset(scope)  # V6

    def _look_around(self, now_s: float) -> None:
        self._look_again_s = now_s + LOOK_EVERY_S
        policy = self.file.current(now_s)
        if policy is not self.policy:
            self.policy = policy
            self._engine.adopt(policy)
            if policy.outage != self.outages.config:
                self.outages = Outages(policy.outage)
        if now_s >= self._digest_at_s:
            self._digest_at_s = now_s + DIGEST_EVERY_S
            self._responder.say_digests()

    def finish(self, timeout_s: float) -> None:
        """Wait until what was to be written down is, for so long at most."""
        self._responder.finish(timeout_s)

    def after_fork(self) -> None:
        """In a forked child."""
        self._responder.after_fork()
        self.file.after_fork()
        for invariant in self._guard.invariants:
            invariant.after_fork()

    def ended(self, run: "Governed", end: End, *, secrets: Collection[str]) -> None:
        """See `Run.ended`."""
        asked = end.call
        assert run.watch is not None
        self.outages.ended(end)
        found = run.watch.ended(end)
        if asked.writes and self._guard.invariants:
            broken = (each.look(run, asked.action, end.at_s) for each in self._guard.invariants)
            found = (*found, *(finding for finding in broken if finding is not None))
        if found:
            if secrets:  # a tool, its result or an invariant may have said one of them
                found = tuple(_without(secrets, finding) for finding in found)
            self._responder.answer(found, self, run, asked, prevents=False)
            self._take_note_of(self._guard.standing())  # what has tripped may be lifted before the next call

    def refused(self, run: "Governed", deny: Deny, action: str) -> None:
        """The gate has refused a call. Who goes on asking under a revoked lease is told of, once for each order."""
        revoking = tuple(order.order_id for order in deny.orders if order.measure is Measure.REVOKE)
        if not revoking or run.watch is None or run.watch.told.get(_REVOKED) == revoking[0]:
            return
        run.watch.told[_REVOKED] = revoking[0]
        call = Call(run=run.info, action=action, writes=True, at_s=self._boot_s())
        found = revoked_lease(run.info, action, order_ids=revoking)
        self._responder.answer((found,), self, run, call, prevents=False)

    def approval_reason(self, action: str) -> str:
        """Why a call of this action needs a person's approval; empty if the policy asks for none."""
        if not self.policy.require_approval:
            return ""
        pattern = first_match(self.policy.require_approval, action)
        return f"the policy requires it (require_approval: {pattern})" if pattern else ""


def _without(secrets: Collection[str], finding: Finding) -> Finding:
    detail, facts = scrub(finding.detail, secrets), scrub(finding.facts, secrets)
    return msgspec.structs.replace(finding, detail=detail, facts=facts)
