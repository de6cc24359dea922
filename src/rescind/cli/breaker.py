"""`rescind breaker`: circuit breakers, which are orders: those that tripped, and those that a person holds open."""

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from rescind.cli.identity import whoami
from rescind.cli.lifting import Seen, see_standing
from rescind.cli.moments import ago
from rescind.cli.options import ACTOR_HELP, common, given_places, placing, switches
from rescind.cli.out import Out
from rescind.cli.places import Places, find_places
from rescind.cli.resume import Resumption, places_to_lift_at
from rescind.cli.safe import safe
from rescind.cli.stopping import checked_cause, deliver, order_as_json, read_words
from rescind.cli.stores import orders_of, shell_line, store_words
from rescind.cli.trouble import reply_as_json, trouble_line
from rescind.cli.words import count_of
from rescind.clock import SystemClock, SystemIds
from rescind.errors import ConfigError, UsageError
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.switch.desk import new_order
from rescind.triggers.probing import US, ProbeRule, Round, following

BREAKERS = frozenset({Measure.TRIP, Measure.FORCED_OPEN})
"""The measures of orders that are breakers."""


class OpenBreaker(msgspec.Struct, frozen=True, kw_only=True):
    """A breaker that refuses writes.

    Attributes:
        order: The order that it is.
        here: Whether it stands in this machine's store; only there is it probed.
        round: Its latest round of probes, of one that tripped and stands here.
    """

    order: Order
    here: bool
    round: Round | None = None

    @property
    def state(self) -> str:
        """`forced_open`, `half_open` while probes are under way or have succeeded, `open`."""
        if self.order.measure is Measure.FORCED_OPEN:
            return "forced_open"
        is_probing = self.round is not None and self.round.probes and not self.failed
        return "half_open" if is_probing else "open"

    @property
    def failed(self) -> int:
        """How many probes of the latest round have failed, as far as their probers have said."""
        return 0 if self.round is None else sum(probe.succeeded is False for probe in self.round.probes)

    @property
    def succeeded(self) -> int:
        """How many probes of the latest round have succeeded."""
        return 0 if self.round is None else sum(probe.succeeded is True for probe in self.round.probes)

    @property
    def under_way(self) -> int:
        """How many probes of the latest round nobody has heard of yet."""
        return 0 if self.round is None else sum(probe.ended_at_us is None for probe in self.round.probes)


@click.group(
    epilog="""\b
Examples:
  rescind breaker list
  rescind breaker force-open action:invoice.void --reason "wrong totals"
  rescind breaker reset action:invoice.void --reason "fixed in 2.4.1"
"""
)
def breaker() -> None:
    """Circuit breakers: which are open, open one by hand, reset one.

    A breaker trips by itself when too much goes wrong within its scope: reads go on, writes are refused. After its
    cooldown it admits some probes, and closes when all of them succeed. One that a person has opened stays open until a
    person resets it.
    """


@breaker.command(name="list", short_help="Show the breakers that are open.")
@switches
@common
def list_breakers(*, out: Out) -> int:
    """Show the breakers that are open, on this machine and at its switches.

    Exit status 1 if a switch did not answer: its breakers are not in the list.
    """
    places = find_places(given_places())
    seen = see_standing(places.switches, clock=SystemClock())
    found = _found(places, seen)
    probe_rule = _probe_rule() if found else None
    for each in found:
        _say(each, probe_rule, places, out)
    if not found:
        out.say("no breaker is open")
    lacking = [reply for reply in seen.replies if reply.answer is None]
    for reply in lacking:
        out.note(f"not in this list: {trouble_line(reply)}", style="yellow")
    out.emit(
        {
            "breakers": [_as_json(each) for each in found],
            "unanswered": [reply_as_json(reply) for reply in lacking],
        }
    )
    return 1 if lacking else 0


@breaker.command(name="force-open", short_help="Refuse the writes of a scope until it is reset.")
@click.argument("scope")
@click.option("--reason", default="", metavar="TEXT", help="Why. Who is refused is told.")
@click.option("--cause", default="", metavar="ID", help="The signal or the incident that this answers.")
@placing
@common
def force_open(*, scope: str, reason: str, cause: str, wait_s: float | None, actor: str | None, out: Out) -> int:
    """Refuse the writes of SCOPE until `rescind breaker reset`. It waits for no call.

    SCOPE is as for `rescind stop`: action:NAME, agent:NAME[@VERSION], tenant:NAME, workflow:NAME, joined by `+`.
    No cooldown ends it and no probe is admitted.
    """
    wanted, _ = read_words(scope, Level.READ_ONLY.label)
    cause = checked_cause(cause)
    clock = SystemClock()
    order = new_order(
        wanted,
        Level.READ_ONLY,
        reason=reason,
        actor=actor or whoami(),
        clock=clock,
        ids=SystemIds(),
        measure=Measure.FORCED_OPEN,
        cause=cause,
    )
    return deliver((order,), given_places(), wait_s=wait_s, out=out, clock=clock, show=lambda answers: answers[0])


@breaker.command(short_help="Close the breakers of a scope.")
@click.argument("names", metavar="SCOPE|ORDER…", nargs=-1)
@click.option("--reason", metavar="TEXT", help="Why it is safe to go on. Kept with the lift.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@switches
@common
def reset(*, names: tuple[str, ...], reason: str | None, actor: str | None, out: Out) -> int:
    """Close the breakers of exactly this SCOPE, tripped or forced open: as `rescind resume`, for breakers only.

    A tripped one need not be reset: it closes by itself when its probes succeed.
    """
    if not names:
        raise UsageError("Missing argument 'SCOPE|ORDER': `rescind breaker list` shows what is open")
    if reason is None or not reason.strip():
        raise UsageError("Missing option '--reason': giving power back takes one")
    places = places_to_lift_at()
    return Resumption(places, actor or whoami(), reason.strip(), out, measures=BREAKERS).run(names)


def _found(places: Places, seen: Seen) -> list[OpenBreaker]:
    here = _found_here(places)
    known = {each.order.order_id for each in here}
    there = [OpenBreaker(order=order, here=False) for order in seen.orders if order.measure in BREAKERS]
    found = [*here, *(each for each in there if each.order.order_id not in known)]
    return sorted(found, key=lambda each: (each.order.placed_at, each.order.order_id))


def _found_here(places: Places) -> Sequence[OpenBreaker]:
    if places.store is None:
        return ()
    with orders_of(places.store) as orders:
        return [
            OpenBreaker(order=order, here=True, round=orders.probing(order.order_id))
            for order in orders.standing().orders
            if order.measure in BREAKERS
        ]


def _probe_rule() -> ProbeRule | None:
    """How breakers come back here; None if nobody can tell, or they are switched off."""
    from rescind.triggers.policy_file import policy_in_force
    from rescind.triggers.rates import RatesConfig

    try:
        limits = policy_in_force().limits.get("rates")
    except ConfigError:  # `rescind policy check` says what is wrong with it
        return None
    config = None if limits is None else limits.config
    return config.probe_rule if isinstance(config, RatesConfig) else None


def _say(each: OpenBreaker, probe_rule: ProbeRule | None, places: Places, out: Out) -> None:
    order = each.order
    state = each.state.replace("_", "-" if each.state == "half_open" else " ")
    out.say(f"{state}  {safe(order.scope)}", style="red" if each.state == "forced_open" else "yellow")
    out.say(f"  order   {safe(order.order_id)}, {ago(order.placed_at)} ago by {safe(order.actor)}")
    if order.origin:
        out.say(f"  origin  {safe(order.origin)}")
    out.tell(f"  reason  {safe(order.reason) or 'none given'}", behind=10)
    if each.round is not None and each.round.probes:
        out.say(
            f"  probes  round {each.round.number}: {each.succeeded} succeeded, {each.failed} failed, "
            f"{count_of(each.under_way, 'call')} under way"
        )
    if order.measure is Measure.TRIP and not each.here:
        out.say("  probes  none: it stands at a switch only, so a person lifts it")
    if each.round is not None and probe_rule is not None:
        out.say(f"  closes  {_how_it_closes(each.round, probe_rule)}")
    words = store_words(places.store) if places.store is not None else ()
    out.say(f'  reset   {shell_line("breaker", "reset", order.order_id, *words)} --reason "…"')


def _how_it_closes(last: Round, probe_rule: ProbeRule) -> str:
    now_us = SystemClock().now_us()
    current = following(last, now_us, probe_rule)
    probes = count_of(probe_rule.probes, "write")
    left_us = current.opened_at_us + probe_rule.cooldown_us - now_us
    if not current.probes and left_us > 0:
        return f"by itself: in {_in_words(min(left_us, probe_rule.cooldown_us))} it admits {probes}; all must succeed"
    return f"by itself, once {probes} that it admits now have succeeded"


def _in_words(left_us: int) -> str:
    seconds = -(-left_us // US)
    return f"{seconds} s" if seconds < 120 else f"{-(-seconds // 60)} min"


def _as_json(each: OpenBreaker) -> dict[str, Any]:
    probes = each.round.probes if each.round is not None else ()
    return {
        "state": each.state,
        "here": each.here,
        "order": order_as_json(each.order),
        "round": each.round.number if each.round is not None else None,
        "probes": [probe._asdict() for probe in probes],
    }
