"""Receipts: what became of an order, guard by guard, and what nobody knows.

    unknown ──▶ bound ──▶ drained          and from anywhere: gone
       no call is admitted ─┘     └─ the calls that were admitted
       under older orders            before have ended too

A receipt says only what a guard has said of itself or the kernel says of its process. A guard that is suspended, hangs,
or wrote something unreadable stays unknown, and a receipt with unknowns is never complete.
"""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from rescind.clock import Clock, to_us
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.switch.port import GuardReport
from rescind.switch.presence import Sighting, sight_guards

POLL_S = 0.01
"""How often somebody who waits looks at the reports."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """An order that stands.

    Attributes:
        order: The order.
        stamp: Who has bound this stamp or a later one has bound the order.
        placed_at_s: Machine-wide monotonic clock, when it was known to be durable.
    """

    order: Order
    stamp: int
    placed_at_s: float


class GuardState(enum.StrEnum):
    """How far an order has come with one guard."""

    UNKNOWN = "unknown"  # it lives, and has not said that it follows
    BOUND = "bound"  # it admits nothing under older orders; calls from before are running
    DRAINED = "drained"  # and these have ended
    SILENCED = "silenced"  # it did not answer, and its lease has run out: it holds itself at its `on_silence`
    KILLED = "killed"  # its supervisor saw its process end
    GONE = "gone"  # its process has ended, or it has closed


SETTLED = frozenset({GuardState.DRAINED, GuardState.SILENCED, GuardState.KILLED, GuardState.GONE})
"""The states in which nothing more is awaited of a guard."""


class GuardReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """One guard's part of a receipt.

    Attributes:
        guard_id: Its id.
        state: How far the order has come.
        pid: Its process; None if it never said.
        program: What runs there.
        bound_ms: From durable order to binding, at the latest; None if it is not known to be bound.
        drained_ms: From durable order to the end of all calls from before; None if that moment is not known.
        in_flight: `RUN/STEP` that the order covers and that still run; for a guard that is gone, those it last named.
        runs_covered: How many of its open runs the order covers, for an action or as a whole; None if unknown.
        runs_open: How many runs it holds open; None if unknown.
        detail: What else is to be said: why it is unknown, what is wrong with it.
        host: On which machine it runs; empty for this one.
        until: When its lease will have run out, if it stays silent, or did; None where nobody can say.
    """

    guard_id: str
    state: GuardState
    pid: int | None = None
    program: str = ""
    bound_ms: float | None = None
    drained_ms: float | None = None
    in_flight: tuple[str, ...] = ()
    runs_covered: int | None = None
    runs_open: int | None = None
    detail: str = ""
    host: str = ""
    until: datetime | None = None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order. Encodes to JSON as it is.

    Attributes:
        order_id: The order.
        stamp: See `Placed`.
        waited_ms: From durable order to this receipt.
        all_bound: Whether no guard is unknown.
        all_drained: Whether, besides, no call from before the order runs any more.
        guards: By id; empty if no guard lives here, and then the order binds whoever starts later.
        unheard: Switches that did not answer and whose guards are not known, so that this receipt may lack some.
        heard: Switches whose guards it includes: those that answered, and those whose guards are known all the same. By
            id, and by URL too where one is known, since whoever joins receipts may know a switch by either.
    """

    order_id: str
    stamp: int
    waited_ms: float
    all_bound: bool
    all_drained: bool
    guards: tuple[GuardReceipt, ...]
    unheard: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()


def make_receipt(placed: Placed, sightings: Iterable[Sighting], *, now_s: float) -> Receipt:
    """The receipt for an order from what is seen of the guards. Pure.

    Args:
        placed: The order.
        sightings: Each guard once. A guard that is not among them did not exist.
        now_s: Monotonic clock, when they were seen.
    """
    guards = tuple(sorted((_guard_receipt(placed, sighting) for sighting in sightings), key=lambda one: one.guard_id))
    states = {guard.state for guard in guards}
    return Receipt(
        order_id=placed.order.order_id,
        stamp=placed.stamp,
        waited_ms=_milliseconds(placed, now_s),
        all_bound=GuardState.UNKNOWN not in states,
        all_drained=states <= SETTLED,
        guards=guards,
    )


class Register(Protocol):
    """The guards of a store, as one observer sees them."""

    def sight(self) -> Iterable[Sighting]:
        """All that are registered now.

        Raises: OrdersUnavailable, if nobody can look.
        """
        ...


def await_receipt(
    guards: Path | Register,
    placed: Placed,
    *,
    timeout_s: float,
    clock: Clock,
    progress: Callable[[Receipt], None] | None = None,
) -> Receipt:
    """Wait until the order has drained at every guard, or time is up.

    Args:
        guards: The folder of the store whose guards are asked, or their register.
        placed: The order.
        timeout_s: How long to wait at most; 0 looks once.
        clock: The time.
        progress: Called with the first receipt, and whenever a guard has come further.

    Raises: OrdersUnavailable, if the register of guards cannot be read.
    """
    deadline_s = clock.monotonic_s() + timeout_s
    seen: dict[str, Sighting] = {}
    shown: tuple[GuardReceipt, ...] | None = None
    while True:
        found = sight_guards(guards) if isinstance(guards, Path) else guards.sight()
        seen = _remember(seen, found, placed)
        receipt = make_receipt(placed, seen.values(), now_s=clock.monotonic_s())
        if progress is not None and receipt.guards != shown:
            progress(receipt)
        shown = receipt.guards
        remaining_s = deadline_s - clock.monotonic_s()
        if receipt.all_drained or remaining_s <= 0:
            return receipt
        clock.sleep(min(POLL_S, remaining_s))


_CERTAINTY = {
    state: rank
    for rank, state in enumerate(
        (
            GuardState.UNKNOWN,
            GuardState.SILENCED,  # concluded from silence; what it was doing may run on
            GuardState.BOUND,  # it has said so itself, and calls from before run
            GuardState.GONE,  # an end is newer than whatever was in flight
            GuardState.KILLED,  # and this one was seen
            GuardState.DRAINED,  # its calls have ended and are accounted for, whatever became of it afterwards
        )
    )
}
"""Of two answers about one guard the more certain one counts: they are of different moments, and no guard goes back."""


def join_receipts(receipts: Iterable[Receipt]) -> Receipt:
    """The one receipt that several switches and stores give together: for each guard the most that is known. Pure.

    Commutative, associative and idempotent; what is unknown to all stays unknown. A switch is unheard, if some receipt
    lacks it and none includes it.

    Args:
        receipts: At least one; all of one order.

    Raises: ValueError, if there is none, or if they are of several orders.
    """
    every = tuple(receipts)
    if len({receipt.order_id for receipt in every}) != 1:
        raise ValueError("receipts are joined of one order, and of at least one receipt")
    told: dict[str, list[GuardReceipt]] = {}
    for guard in (guard for receipt in every for guard in receipt.guards):
        told.setdefault(guard.guard_id, []).append(guard)
    guards = tuple(_most_known(told[guard_id]) for guard_id in sorted(told))
    states = {guard.state for guard in guards}
    heard = {name for receipt in every for name in receipt.heard}
    return Receipt(
        order_id=every[0].order_id,
        stamp=max(receipt.stamp for receipt in every),
        waited_ms=max(receipt.waited_ms for receipt in every),
        all_bound=GuardState.UNKNOWN not in states,
        all_drained=states <= SETTLED,
        guards=guards,
        unheard=tuple(sorted({name for receipt in every for name in receipt.unheard} - heard)),
        heard=tuple(sorted(heard)),
    )


def _most_known(told: Sequence[GuardReceipt]) -> GuardReceipt:
    # What a guard is and when it did something may come from any answer; how it stands, from the most certain ones.
    rank = max(_CERTAINTY[guard.state] for guard in told)
    best = [guard for guard in told if _CERTAINTY[guard.state] == rank]
    untils = [guard.until for guard in best]
    return GuardReceipt(
        guard_id=best[0].guard_id,
        state=best[0].state,
        pid=max((guard.pid for guard in told if guard.pid is not None), default=None),
        program=max(guard.program for guard in told),
        bound_ms=min((guard.bound_ms for guard in told if guard.bound_ms is not None), default=None),
        drained_ms=min((guard.drained_ms for guard in told if guard.drained_ms is not None), default=None),
        # Steps from before an order only ever end: the shortest list is the newest.
        in_flight=min((guard.in_flight for guard in best), key=lambda steps: (len(steps), steps)),
        runs_covered=max((guard.runs_covered for guard in told if guard.runs_covered is not None), default=None),
        runs_open=max((guard.runs_open for guard in told if guard.runs_open is not None), default=None),
        detail=max(guard.detail for guard in best),
        host=max(guard.host for guard in told),
        until=None if None in untils else max(until for until in untils if until is not None),
    )


def _remember(seen: Mapping[str, Sighting], found: Iterable[Sighting], placed: Placed) -> dict[str, Sighting]:
    # A guard that was there and is not any more has closed, or somebody removed what a dead one left.
    known = {guard_id: msgspec.structs.replace(sighting, living=False) for guard_id, sighting in seen.items()}
    for sighting in found:
        before = seen.get(sighting.guard_id)
        if sighting.living or before is not None or not _died_before(sighting, placed):
            known[sighting.guard_id] = sighting
    return known


def _died_before(sighting: Sighting, placed: Placed) -> bool:
    # Of a guard that was dead when we first looked nobody knows when it died. If it said nothing under this order, it
    # is most likely a corpse of last week, and no part of this receipt.
    return sighting.report is None or sighting.report.bound_stamp < placed.stamp


def _guard_receipt(placed: Placed, sighting: Sighting) -> GuardReceipt:
    report = sighting.report
    if report is None:
        state = _state(sighting, bound=False, drained=False)
        return GuardReceipt(
            guard_id=sighting.guard_id,
            state=state,
            detail=sighting.problem if sighting.living else "",
            host=sighting.host,
            until=_until(sighting, state),
        )
    covered = _covered_runs(placed.order.scope, report)
    in_flight = _covered_steps(report, covered)
    bound = report.bound_stamp >= placed.stamp
    drained = bound and (report.drained_at_s is not None or not in_flight)
    state = _state(sighting, bound=bound, drained=drained)
    return GuardReceipt(
        guard_id=sighting.guard_id,
        state=state,
        pid=report.pid,
        program=report.program,
        bound_ms=_milliseconds(placed, report.bound_at_s) if bound else None,
        drained_ms=_milliseconds(placed, report.drained_at_s) if drained and report.drained_at_s is not None else None,
        in_flight=() if drained else in_flight,
        runs_covered=len(covered),
        runs_open=len(report.runs),
        detail=_detail(placed, sighting, report, bound=bound),
        host=sighting.host,
        until=_until(sighting, state),
    )


def _state(sighting: Sighting, *, bound: bool, drained: bool) -> GuardState:
    if not sighting.living:
        return GuardState.GONE
    if not bound:
        return GuardState.SILENCED if sighting.silent else GuardState.UNKNOWN
    return GuardState.DRAINED if drained else GuardState.BOUND


def _until(sighting: Sighting, state: GuardState) -> datetime | None:
    return sighting.until if state in (GuardState.UNKNOWN, GuardState.SILENCED) else None


def _detail(placed: Placed, sighting: Sighting, report: GuardReport, *, bound: bool) -> str:
    if report.fault:
        return report.fault
    if bound and report.started_at_us >= to_us(placed.order.placed_at):
        return "began under this order"
    return (
        ""
        if bound or not sighting.living or sighting.silent
        else "has not acknowledged; its process may be suspended or overloaded"
    )


def _covered_runs(scope: Scope, report: GuardReport) -> frozenset[str]:
    runs = _without_actions(scope)
    return frozenset(live.run.run_id for live in report.runs if runs.covers(live.run.subject))


def _covered_steps(report: GuardReport, covered: frozenset[str]) -> tuple[str, ...]:
    # A step of a run that is not open any more may be covered; only what is known to be a neighbour's is left out.
    neighbours = {live.run.run_id for live in report.runs} - covered
    return tuple(step for step in report.in_flight if step.rpartition("/")[0] not in neighbours)


def _without_actions(scope: Scope) -> Scope:
    return Scope(tuple(term for term in scope.terms if term.kind != "action"))


def _milliseconds(placed: Placed, moment_s: float) -> float:
    # A guard may bind between the commit and the moment when the writer looks at its clock.
    return round(max(0.0, moment_s - placed.placed_at_s) * 1000, 3)
