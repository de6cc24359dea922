"""A write while a breaker is open: refused until the cooldown is over, and let through as one of so many probes then.

It is looked at twice. At the gate, where it costs nothing to say no: is there a probe to be had? And right before the
tool, where the probe is claimed, so that what waits for a person's approval meanwhile holds none. The outcome of the
tool decides about the breaker; a write that does not come to its tool gives its probe back.

This is where the parts of a breaker meet: `triggers.rates` notices, `guard.responding` places the trip, `switch.probes`
keeps its rounds.

                     tripped                cooled               a probe failed
          closed ──────────────▶ open ──────────────▶ half-open ──────────▶ open
             ▲                                            │
             └───────────── all probes succeeded ─────────┘

    forced open    a person's order: refuses until a person lifts it, whatever trips and recovers beside it
    off            the policy's: nothing counts and nothing trips; what has tripped comes back by the built-in rule
    shadow         the policy's: counts and reports, and places nothing: where a new rule starts

Laws of the whole, cited by the tests:

B1. Only what is enforced trips; in shadow a trip is reported, and nothing is refused for it.
B2. An open breaker admits nothing before its cooldown is over, and then at most `probes` calls in each round.
B3. All probes of a round have to succeed to close it; one that fails, or of which nobody hears in time, opens it anew.
B4. What a person has set (forced open, off, shadow) stays until a person changes it, whatever calls do meanwhile.
B5. Only probes decide about an open breaker, and only about the round that they were admitted in: a slow call from
    before the trip neither closes it nor opens it anew. It is evidence when it ends, as every call is.
B6. No lock is held during a call. Every verb of an operator returns at once.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rescind.errors import RescindError
from rescind.guard.gate import Deny
from rescind.model.order import Measure, Order
from rescind.switch.probes import Claim, Probes
from rescind.triggers.probing import ProbeRule, Wait, look
from rescind.triggers.rates import RatesConfig

if TYPE_CHECKING:
    from rescind.guard.guard import Guard

logger = logging.getLogger("rescind")


def rule_of(guard: "Guard") -> ProbeRule:
    """How breakers come back, by the policy of this guard; as the built-in one says, if it has none."""
    limits = None if guard.watching is None else guard.watching.policy.limits.get("rates")
    config = limits.config if limits is not None and isinstance(limits.config, RatesConfig) else RatesConfig()
    return config.probe_rule


def without_trips(orders: Sequence[Order]) -> tuple[Order, ...]:
    """What holds besides breakers that have tripped."""
    return tuple(order for order in orders if order.measure is not Measure.TRIP)


def trips_among(orders: Sequence[Order]) -> tuple[Order, ...]:
    """The breakers that have tripped."""
    return tuple(order for order in orders if order.measure is Measure.TRIP)


def refused_for_now(guard: "Guard", trips: tuple[Order, ...], deny: Deny) -> Deny | None:
    """The refusal of a write while there is no probe to be had; None if there may be one."""
    store = _store(guard)
    if store is None:
        return deny
    rule, now_us = rule_of(guard), guard.clock.now_us()
    wait_s = 0.0
    for trip in trips:
        latest = store.probing(trip.order_id)
        if latest is None:
            return deny  # of another machine, or lifted this moment; the next call knows
        has = look(latest, now_us, rule)
        if isinstance(has, Wait):
            if has.retry_after_s is None:
                return deny
            wait_s = max(wait_s, has.retry_after_s)
    return _for(deny, wait_s) if wait_s else None


def claim(guard: "Guard", trips: tuple[Order, ...], deny: Deny) -> Claim | Deny:
    """A probe of all of these breakers, or the refusal."""
    store = _store(guard)
    if store is None:
        return deny
    found = store.claim_probe(trips, by=guard.guard_id, now_us=guard.clock.now_us(), rule=rule_of(guard))
    if isinstance(found, Claim):
        return found
    return deny if found.retry_after_s is None else _for(deny, found.retry_after_s)


def hand_back(guard: "Guard", probe: Claim, *, succeeded: bool | None) -> None:
    """Say how the probe went; None: its tool did not run."""
    store = _store(guard)
    assert store is not None, "it was claimed there"
    try:
        lifts = store.end_probe(probe, succeeded=succeeded, now_us=guard.clock.now_us())
    except RescindError as problem:  # it then counts as failed after its time
        logger.warning("the outcome of a probe could not be recorded: %s", problem)
        return
    for lift in lifts:
        logger.warning("breaker closed: %s (%s)", ", ".join(sorted(lift.order_ids)), lift.reason)


def _store(guard: "Guard") -> Probes | None:
    orders = guard.orders
    return orders if isinstance(orders, Probes) else None


def _for(deny: Deny, wait_s: float) -> Deny:
    when = f"It may be tried again in {max(1, round(wait_s))} s"
    return Deny(f"{deny.message}. {when}", deny.reason, deny.level, deny.orders, retry_after_s=wait_s)
