"""The probes of breakers that have tripped, kept beside the orders, so that all processes of a machine share them.

An open breaker is a standing order of measure `trip`. It is half-open once its cooldown is over, and there is nothing
that has to happen for that: whoever wants to write next asks for a probe. The rounds and their laws are in
`triggers.probing`; here they are durable, and exactly so many probes are admitted as the rule says, over any number of
threads and processes.

Laws, cited by the tests:

P1. In one round at most `rule.probes` claims are given whose calls are made; a claim is durable before it is returned.
P2. A claim for several trips is given for all of them, or for none.
P3. The success that completes a round lifts the trip in the same transaction: nobody ever sees one without the other.
P4. A claim of which nobody hears within the rule's time has failed, whatever its claimer says later.
P5. What is not known here, or cannot be read, is never taken for closed.

Only trips of this machine's own store are probed and lifted. One that came from a switch is lifted by a person.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from rescind.clock import from_us
from rescind.model.order import Lift, Order
from rescind.triggers.probing import ProbeRule, Ready, Recovered, Round, Wait, look

ACTOR = "breaker"
"""Who lifts a trip whose probes have succeeded."""


class Part(NamedTuple):
    """One probe of one trip."""

    order_id: str
    round: int
    number: int


class Claim(NamedTuple):
    """The right to make one call, as a probe of every trip that covers it. Hand it back with `end_probe`.

    Attributes:
        parts: At least one.
        rule: By which it was given.
    """

    parts: tuple[Part, ...]
    rule: ProbeRule


@runtime_checkable
class Probes(Protocol):
    """The probes of one machine. Both stores of orders are one of these too."""

    def claim_probe(self, trips: Sequence[Order], *, by: str, now_us: int, rule: ProbeRule) -> Claim | Wait:
        """Ask for one call through open breakers. Laws P1 and P2.

        Args:
            trips: All standing orders of measure `trip` that cover the call, at least one.
            by: Who asks: a guard's id.
            now_us: Wall clock.
            rule: How these breakers come back.

        Returns: The claim; or that there is none, with the time after which asking again may help: 0 if an order was
            lifted meanwhile and the caller should look at the orders again, None if nothing here will ever help.
        Raises: OrdersUnavailable, and then the call must not be made.
        """
        ...

    def end_probe(self, claim: Claim, *, succeeded: bool | None, now_us: int) -> tuple[Lift, ...]:
        """Say how the call of a claim went; None: it was not made after all. Saying it again changes nothing.

        Returns: The lifts of the breakers that this has closed (law P3), and which are durable now.
        Raises: OrdersUnavailable, and then it is not known to be recorded; the claim fails by itself in time.
        """
        ...

    def probing(self, order_id: str) -> Round | None:
        """The latest round of a trip that stands here, for people; None if nothing of that id does.

        Raises: OrdersUnavailable.
        """
        ...


class Seen(NamedTuple):
    """A trip, as the store has it now. `latest` is None if it was never placed here."""

    order_id: str
    latest: Round | None
    is_lifted: bool = False


class Claimable(NamedTuple):
    """One probe for each of the trips may be claimed."""

    ready: tuple[tuple[str, Ready], ...]


class Closable(NamedTuple):
    """These trips have recovered, and are to be lifted first."""

    order_ids: tuple[str, ...]


Decision = Wait | Claimable | Closable


def decide(trips: Iterable[Seen], now_us: int, rule: ProbeRule) -> Decision:
    """Whether a call may go through all of these trips as a probe; if not, how long to wait for the slowest."""
    ready: list[tuple[str, Ready]] = []
    recovered: list[str] = []
    waits: list[float] = []
    for trip in trips:
        if trip.latest is None:
            return Wait(None)  # P5
        if trip.is_lifted:
            return Wait(0.0)
        match look(trip.latest, now_us, rule):
            case Ready() as may:
                ready.append((trip.order_id, may))
            case Recovered():  # by a rule of more probes than this one
                recovered.append(trip.order_id)
            case Wait(retry_after_s):
                assert retry_after_s is not None
                waits.append(retry_after_s)
    if recovered:
        return Closable(tuple(recovered))
    return Wait(max(waits)) if waits else Claimable(tuple(ready))


def lift_if_recovered(trip: Seen, now_us: int, rule: ProbeRule) -> Lift | None:
    """The lift by which a breaker closes itself; None if it does not.

    Its id is made of the trip's: no trip is closed twice.
    """
    if trip.latest is None or trip.is_lifted:
        return None
    has = look(trip.latest, now_us, rule)
    if not isinstance(has, Recovered):
        return None
    return Lift(
        lift_id=f"lift_of_{trip.order_id}",
        order_ids=frozenset({trip.order_id}),
        reason=f"{rule.probes} of {rule.probes} probes succeeded, in round {has.round.number}",
        actor=ACTOR,
        lifted_at=from_us(now_us),
    )
