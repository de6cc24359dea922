"""`rescind resume`: give power back. It takes a reason, and lifts exactly the orders that were seen."""

from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from rescind.cli.identity import whoami
from rescind.cli.lifting import (
    LiftResult,
    Seen,
    consent_at,
    lift_at,
    replies_as_json,
    say_replies,
    say_waiting,
    see_standing,
)
from rescind.cli.options import ACTOR_HELP, common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.overlap import still_covering
from rescind.cli.places import Places, find_places
from rescind.cli.safe import safe
from rescind.cli.stopping import order_as_json
from rescind.cli.stores import orders_of, shell_line
from rescind.cli.trouble import failed
from rescind.cli.words import list_of
from rescind.clock import SystemClock, SystemIds, from_us
from rescind.errors import UsageError
from rescind.model.order import Lift, Measure, Order
from rescind.model.scope import Scope
from rescind.recovery.reading import PREFIX_MIN
from rescind.switch.client.asking import Switches
from rescind.switch.desk import Lifted, lift_orders

_ID_PREFIX = "ord_"


@click.command(
    epilog="""\b
Examples:
  rescind resume agent:billing-agent --reason "fixed in 2.4.1"
  rescind resume ord_1m7yne1b1mja55hy35j --reason "wrong agent"
  rescind resume --consent lift_1m7yne1b1mja55hy35j
  rescind resume run_5f0c --entry shop.agent:main --reason "fixed in 2.4.1"
"""
)
@click.argument("names", metavar="[SCOPE|ORDER…]", nargs=-1)
@click.option("--reason", metavar="TEXT", help="Why it is safe to go on. Kept with the lift.")
@click.option("--consent", metavar="LIFT", help="Consent to a lift of somebody else's that waits.")
@click.option("--entry", metavar="MODULE:FUNCTION", help="Carry the one run that is named on, by this function.")
@click.option("--app", metavar="MODULE[:GUARD]", help="With --entry: where the tools are declared, if elsewhere.")
@click.option("--checkpoint", metavar="ID", help="With --entry: from here, in place of the earliest that is safe.")
@click.option("--level", metavar="LEVEL", help="With --entry: hold the run at this level: supervised, read-only.")
@click.option("--allow", metavar="ACTION", multiple=True, help="With --entry: it may call this; may be repeated.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@switches
@common
def resume(
    *,
    names: tuple[str, ...],
    reason: str | None,
    consent: str | None,
    entry: str | None,
    app: str | None,
    checkpoint: str | None,
    level: str | None,
    allow: tuple[str, ...],
    actor: str | None,
    out: Out,
) -> int:
    """Lift standing orders: by id, or all that have exactly this SCOPE. Or, with --entry, carry a run on.

    Wider, narrower and newer orders go on to stand, and are named. The beginning of an id will do. Switches want the
    token of an approver, and may want a second person or another switch: the lift waits then, and the exit status is 1.
    With --store, only the orders of that store are lifted.

    With --entry, the run goes on from the earliest checkpoint that is safe: what it did since and stands is answered
    from the journal, what was undone is done anew. `rescind checkpoints RUN` shows which that is. Nothing is lifted.
    """
    if entry is not None:
        from rescind.cli.resume_run import RunRequest, resume_run

        if len(names) != 1 or consent is not None:
            raise UsageError("--entry carries one run on; name the run, and nothing else")
        request = RunRequest(
            run_id=names[0],
            entry=entry,
            app=app,
            checkpoint=checkpoint,
            level=level,
            allow=allow or None,
            actor=actor or whoami(),
            reason=_words_of(reason),
        )
        return resume_run(request, out)
    if app or checkpoint or level or allow:
        raise UsageError("--app, --checkpoint, --level and --allow go with --entry, which carries a run on")
    places = places_to_lift_at()
    if consent is not None:
        if names or reason is not None:
            raise UsageError("--consent takes no scope, no order and no reason: they are those of the lift")
        return _consent(places, consent.strip(), out)
    if not names:
        raise UsageError("Missing argument 'SCOPE|ORDER': `rescind status` lists what stands")
    return Resumption(places, actor or whoami(), _words_of(reason), out).run(names)


def _words_of(reason: str | None) -> str:
    if reason is None:
        raise UsageError("Missing option '--reason': giving power back takes one")
    if not reason.strip():
        raise UsageError("giving power back takes a reason; add words to --reason")
    return reason.strip()


class Resumption:
    """One `rescind resume`: what is seen where, what is lifted where, and what is said of it.

    `measures` limits it to orders of these; None for all.
    """

    def __init__(
        self, places: Places, actor: str, reason: str, out: Out, *, measures: frozenset[Measure] | None = None
    ) -> None:
        self._places, self._actor, self._reason, self._out = places, actor, reason, out
        self._measures = measures
        self._clock, self._ids = SystemClock(), SystemIds()

    def run(self, names: Sequence[str]) -> int:
        """Do it. Returns the exit status."""
        seen, here = self._see_switches(names), self._see_here()
        there = {order.order_id for order in seen.orders}
        everything = [*seen.orders, *(order for order in here if order.order_id not in there)]
        meant = [order for order in everything if self._measures is None or order.measure in self._measures]
        ids = [order_id for name in names for order_id in _ids_meant(name.strip(), meant, self._measures)]
        standing_here = {order.order_id for order in here}
        at_switches = self._for_switches(ids, seen, standing_here)
        # At the switches first: they may want a second person, and what stands in both places must not be given back
        # here before that.
        result = self._lift_at_switches(at_switches) if at_switches else None
        held_back = set(at_switches) & standing_here if result is not None and not result.in_force else set[str]()
        lifted = self._lift_here([each for each in ids if each not in at_switches or each in standing_here], held_back)
        return self._tell(everything, result, lifted, held_back)

    def _see_switches(self, names: Sequence[str]) -> Seen:
        seen = see_standing(self._places.switches, clock=self._clock)
        if self._places.switches.urls and not seen.switches_answer:
            store = self._places.store
            command = "" if store is None else shell_line("resume", *names, "--store", str(store))
            raise failed(
                "no switch says what stands, so nothing was lifted",
                seen.replies,
                then=f"To lift only what stands on this machine: {command}" if command else "",
            )
        return seen

    def _see_here(self) -> tuple[Order, ...]:
        if self._places.store is None:
            return ()
        with orders_of(self._places.store) as orders:
            return orders.standing().orders

    def _for_switches(self, ids: Sequence[str], seen: Seen, standing_here: set[str]) -> list[str]:
        if not self._places.switches.urls:
            return []
        there = {order.order_id for order in seen.orders}
        return [order_id for order_id in ids if order_id in there or order_id not in standing_here]

    def _lift_at_switches(self, order_ids: Sequence[str]) -> LiftResult:
        lift = Lift(
            lift_id=self._ids.new_id("lift"),
            order_ids=frozenset(order_ids),
            reason=self._reason,
            actor=self._actor,
            lifted_at=from_us(self._clock.now_us()),
        )
        return lift_at(self._places.switches, lift, clock=self._clock)

    def _lift_here(self, ids: Sequence[str], held_back: set[str]) -> Lifted | None:
        wanted = [order_id for order_id in ids if order_id not in held_back]
        if not wanted or self._places.store is None:
            return None
        with orders_of(self._places.store) as orders:
            return lift_orders(orders, wanted, reason=self._reason, actor=self._actor, clock=self._clock, ids=self._ids)

    def _tell(
        self, everything: Sequence[Order], result: LiftResult | None, here: Lifted | None, held_back: set[str]
    ) -> int:
        out = self._out
        lifted_ids = {order.order_id for order in here.orders} if here is not None else set[str]()
        before = list(here.lifted_before) if here is not None else []
        if result is not None:
            before += result.lifted_before
            lifted_ids |= result.order_ids if result.in_force else set()
        lifted = [order for order in everything if order.order_id in lifted_ids]
        remaining = [order for order in everything if order.order_id not in lifted_ids]
        left = still_covering(remaining, [order.scope for order in lifted])
        for order_id in before:
            out.say(f"{safe(order_id)} was lifted before")
        if result is not None and not result.in_force:
            say_waiting(result.answer, self._places.given.urls, out)
            for order_id in sorted(held_back):
                out.say(
                    f"  {safe(order_id)} stands on this machine too, until the lift is in force",
                    style="yellow",
                )
        _say(lifted, left, out)
        if result is not None:
            say_replies(result.replies, out)
        lift = here.lift if here is not None else None
        out.emit(
            {
                "lift_id": result.lift_id if result is not None else lift.lift_id if lift is not None else None,
                "lifted": [order_as_json(order) for order in lifted],
                "lifted_before": before,
                "still_covering": [order_as_json(order) for order in left],
                **_result_as_json(result),
            }
        )
        return 0 if result is None or result.in_force else 1


def places_to_lift_at() -> Places:
    """The places of a command that gives power back."""
    given = given_places()
    places = find_places(given)
    # Who names a store means the orders of that store, and who names switches those of these: both give power back.
    return places if given.store is None else msgspec.structs.replace(places, switches=Switches())


def _consent(places: Places, lift_id: str, out: Out) -> int:
    if not places.switches.urls:
        raise UsageError("--consent is for lifts at switches, and none is named; see --switch and RESCIND_URL")
    if not lift_id or not lift_id.isprintable():
        raise UsageError(f"--consent {lift_id!r} is no lift; `rescind status` lists those that wait")
    result = consent_at(places.switches, lift_id, clock=SystemClock())
    if result.in_force:
        out.say(f"{safe(lift_id)} is in force; lifted {list_of(sorted(result.order_ids))}", style="bold")
    else:
        say_waiting(result.answer, places.given.urls, out)
    say_replies(result.replies, out)
    out.emit({"lift_id": lift_id, "order_ids": sorted(result.order_ids), **_result_as_json(result)})
    return 0 if result.in_force else 1


def _result_as_json(result: LiftResult | None) -> dict[str, Any]:
    if result is None:
        return {"in_force": True, "waits_for": "", "switches": []}
    return {
        "in_force": result.in_force,
        "waits_for": result.waits_for,
        "switches": replies_as_json(result.replies),
    }


def _ids_meant(name: str, standing: Iterable[Order], measures: frozenset[Measure] | None) -> list[str]:
    """The ids that a scope, an id or the beginning of one means; at least one.

    Raises: UsageError, which names what stands.
    """
    standing = list(standing)
    if name.startswith(_ID_PREFIX):
        begin = [order.order_id for order in standing if order.order_id.startswith(name)]
        if len(name) < len(_ID_PREFIX) + PREFIX_MIN or not begin:
            return [name]  # an id that does not stand; who lifts says why
        if len(begin) > 1:
            raise UsageError(f"{name!r} could be any of {list_of(begin)}; write more of it")
        return begin
    try:
        scope = Scope.parse(name)
    except ValueError as error:
        raise UsageError(f"{error}; or give the id of an order") from error
    found = [order.order_id for order in standing if order.scope == scope]
    if not found:
        kind = "order" if measures is None else f"order of {' or '.join(sorted(measures))}"
        raise UsageError(f"no {kind} stands with exactly the scope {str(scope)!r}. {_what_stands(standing, kind)}")
    return found


def _what_stands(standing: Sequence[Order], kind: str) -> str:
    if not standing:
        return f"No {kind} stands at all"
    return f"Standing: {list_of(f'{order.order_id} ({order.scope})' for order in standing)}"


def _say(lifted: Sequence[Order], left: Sequence[Order], out: Out) -> None:
    for order in lifted:
        out.say(f"lifted  {safe(order.order_id)}  {safe(order.what)}", style="bold")
    if left:
        out.say("still covering some or all of it:")
        for order in left:
            out.say(f"  {safe(order.order_id)}  {safe(order.what)}", style="yellow")
    elif lifted:
        out.say("no other order covers any of it")
