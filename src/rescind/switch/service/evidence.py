"""When a switch acts by itself: how much evidence that takes, and how far it goes. Pure: no disk, no network, no clock.

A guard sees its own runs, and a switch sees all guards. So what would hold the runs of several guards is asked for by
guards and decided here, by these laws:

EV1. One bad node never stops a fleet. What holds more than a guard's own runs and what they have started needs evidence
    from `evidence_guards` guards within the window, and from at least two, if more than one guard is connected that
    could be concerned. Guards of one machine are one node, unless all are on the same.
EV2. Automatic orders together hold at most `stop_share_pct` of the open runs of connected guards. What would go further
    is left to a person. One run may always be held.
EV3. It goes only towards safety: orders are placed, never lifted.
EV4. A person's lift counts: evidence that was noticed before a scope was lifted never holds that scope again.
EV5. The same evidence twice is one.

Counters are in memory only: after a restart the evidence of the last window is gathered anew.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope
from rescind.switch.wire import RunDoc, subject_of
from rescind.triggers.fleet import FleetConfig

ASKS_MAX = 1_000
"""Different things that guards may ask for within a window. The one that was asked for least lately is forgotten."""

GUARDS_MAX = 10_000
"""Guards whose evidence for one thing is remembered. Far fewer decide it."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """An order that somebody's policy wants, and by which of its rules."""

    scope: Scope
    level: Level
    measure: Measure = Measure.LEVEL
    rule: str

    @property
    def what(self) -> str:
        """For people: `halted agent:a`, `quarantine run:r`."""
        return f"{self.level.label if self.measure is Measure.LEVEL else self.measure.value} {self.scope}"

    def is_own_of(self, guard_id: str, fleet: Iterable["Member"]) -> bool:
        """Whether it is about a run of this guard, and what that has started; a run that nobody has named may be."""
        roots = {term.value for term in self.scope.terms if term.kind in ("run", "tree")}
        if not roots:
            return False
        owners = {member.guard_id for member in fleet if any(run.run_id in roots for run in member.runs)}
        return not owners or guard_id in owners

    def is_met_by(self, order: Order) -> bool:
        """Whether this order does already what is asked for."""
        return order.scope == self.scope and order.measure is self.measure and order.level >= self.level


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A guard that is connected.

    Attributes:
        guard_id, host: What it is.
        identity: What its token limits it to; everything, if nothing.
        runs: Its open runs, as far as it named them.
        runs_open: All of them.
    """

    guard_id: str
    host: str = ""
    identity: Scope = Scope()
    runs: tuple[RunDoc, ...] = ()
    runs_open: int = 0


class Place(msgspec.Struct, frozen=True):
    """The order is to be placed. `why` says on whose evidence."""

    why: str


class Withhold(msgspec.Struct, frozen=True):
    """It would go too far, and a person is to decide (EV2)."""

    why: str


class Wait(msgspec.Struct, frozen=True):
    """Nothing is to be done, or not yet."""

    why: str


Decision = Place | Withhold | Wait


class Evidence:
    """What guards have asked for lately."""

    def __init__(self, config: FleetConfig) -> None:
        self._config = config
        self._asked: OrderedDict[Ask, OrderedDict[str, datetime]] = OrderedDict()

    def asked(
        self,
        ask: Ask,
        guard_id: str,
        noticed_at: datetime,
        *,
        now: datetime,
        fleet: Sequence[Member],
        standing: Iterable[Order],
        lifted_at: datetime | None,
    ) -> Decision:
        """A guard asks for an order.

        Args:
            ask: The order.
            guard_id: Who asks; counts only while it is in the fleet.
            noticed_at: When it had its evidence.
            now: The time.
            fleet: The guards that are connected.
            standing: The orders that stand.
            lifted_at: When somebody lifted an order of exactly this scope for the last time; None if nobody has.
        """
        held = tuple(standing)
        moment = min(noticed_at, now)  # whose clock is ahead must not outlast a lift that is still to come
        if (settled := _settled(ask, moment, held, lifted_at)) is not None:
            return settled
        if moment <= now - timedelta(seconds=self._config.window_seconds):
            return Wait(f"the evidence is older than {self._config.window_seconds:g} s")
        given = self._remember(ask, guard_id, moment)
        oldest = max(filter(None, (lifted_at, now - timedelta(seconds=self._config.window_seconds))))
        concerned = [member for member in fleet if may_meet(ask.scope, member.identity)]
        have = nodes_of([member for member in concerned if given.get(member.guard_id, oldest) > oldest], concerned)
        need = 1 if ask.is_own_of(guard_id, fleet) else self._needed(len(nodes_of(concerned, concerned)))
        if len(have) < need:
            return Wait(f"{len(have)} of {need} guards have this evidence")
        return self._within_share(ask, fleet, held) or Place(f"on the evidence of {_guards(len(have))}")

    def judged(
        self,
        ask: Ask,
        noticed_at: datetime,
        *,
        fleet: Sequence[Member],
        standing: Iterable[Order],
        lifted_at: datetime | None,
    ) -> Decision:
        """A verifier asks for an order. Somebody gave it a token for that: no second one is needed; EV2-EV4 hold."""
        held = tuple(standing)
        settled = _settled(ask, noticed_at, held, lifted_at)
        return settled or self._within_share(ask, fleet, held) or Place("on a verifier's verdict")

    def _needed(self, nodes: int) -> int:
        """How many nodes must have the evidence, if so many could be concerned (EV1)."""
        return max(1, min(max(2, self._config.evidence_guards), nodes))

    def _remember(self, ask: Ask, guard_id: str, moment: datetime) -> OrderedDict[str, datetime]:
        given = self._asked.setdefault(ask, OrderedDict())
        self._asked.move_to_end(ask)
        if len(self._asked) > ASKS_MAX:
            self._asked.popitem(last=False)
        given[guard_id] = max(moment, given.get(guard_id, moment))
        given.move_to_end(guard_id)
        if len(given) > GUARDS_MAX:
            given.popitem(last=False)
        return given

    def _within_share(self, ask: Ask, fleet: Sequence[Member], standing: Sequence[Order]) -> Withhold | None:
        """None, if the share of runs that would be held is not too large (EV2)."""
        if not _stops_runs(ask.scope, ask.level):
            return None
        automatic = [order.scope for order in standing if order.trigger and _stops_runs(order.scope, order.level)]
        runs = sum(member.runs_open for member in fleet)
        after = runs_held(fleet, [*automatic, ask.scope])
        allowed = max(1.0, runs * self._config.stop_share_pct / 100)
        if after <= allowed or after <= runs_held(fleet, automatic):
            return None
        return Withhold(
            f"it would hold {after:.0f} of {runs} open runs automatically, and at most "
            f"{self._config.stop_share_pct:g} % may be: a person has to decide"
        )


def nodes_of(members: Iterable[Member], fleet: Iterable[Member]) -> frozenset[str]:
    """What fails together: the machines of these guards, or the guards, if the whole fleet is on one machine."""
    hosts = {member.host for member in fleet}
    by_host = len(hosts) > 1
    return frozenset((by_host and member.host) or member.guard_id for member in members)


def may_meet(scope: Scope, identity: Scope) -> bool:
    """Whether a scope may cover anything within an identity: it does not name another agent, tenant or workflow."""
    wanted = {term.kind: term.value for term in scope.terms}
    for term in identity.terms:
        value = wanted.get(term.kind, term.value)
        if term.kind == "agent":
            (name, _, version), (other, _, another) = term.value.partition("@"), value.partition("@")
            if name != other or (version and another and version != another):
                return False
        elif term.kind in ("tenant", "workflow") and value != term.value:
            return False
    return True


def runs_held(fleet: Iterable[Member], scopes: Sequence[Scope]) -> float:
    """How many open runs any of these scopes covers; of runs that were not named, as many as of those that were."""
    held = 0.0
    for member in fleet:
        covered = sum(any(scope.covers(subject) for scope in scopes) for subject in map(subject_of, member.runs))
        share = covered / len(member.runs) if member.runs else 0.0
        held += share * member.runs_open
    return held


def _settled(ask: Ask, noticed_at: datetime, standing: Sequence[Order], lifted_at: datetime | None) -> Wait | None:
    met = next((order for order in standing if ask.is_met_by(order)), None)
    if met is not None:
        return Wait(f"order {met.order_id} holds it already")
    if lifted_at is not None and noticed_at <= lifted_at:
        return Wait(f"it was noticed before {ask.scope} was lifted")
    return None


def _stops_runs(scope: Scope, level: Level) -> bool:
    # An order about actions leaves its runs everything else that they do.
    return level > Level.NORMAL and not scope.actions


def _guards(count: int) -> str:
    return "1 guard" if count == 1 else f"{count} guards"
