"""Which guards there are, what each has acknowledged, and what follows for an order's receipt.

What is known of a guard that does not answer, by the protocol's argument about leases (docs/switch.md):

- From this switch it has no lease that ignores the order beyond *e* + ttl, where *e* is when the order was put on the
  streams, or when the guard's last stream ended, if that was before.
- The same holds of every other switch it follows, from when that one is known to have the order.
- So it is `silenced` once the last of these moments has passed, and `unknown` until then; and `unknown` without an end,
  while any switch it may follow is not known to have the order. That includes a switch that it has not yet said the
  name of: it may hear one that nobody here knows.
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import msgspec

from rescind.clock import Clock, from_us
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.switch.receipt import GuardReceipt, GuardState, Receipt
from rescind.switch.service.ledger import Seen
from rescind.switch.wire import Report, subject_of
from rescind.web.problems import Refused

GUARDS_MAX = 50_000
"""Guards that one switch remembers. A program that makes up new names for itself must not fill our memory."""

GUARDS_PER_TOKEN_MAX = 20_000

FORGOTTEN_AFTER_S = 3_600.0
"""How long a guard is remembered that left, or fell silent. No lease is longer."""

WAITING_MAX = 2_000
"""Requests that wait for receipts. Each acknowledgement is held against all of them."""

MARGIN_S = 0.25
"""Added to a lease before a silent guard is called silenced: two clocks do not run exactly alike."""

_BINDINGS_MAX = 32
"""Acknowledgements remembered per guard. A receipt that is asked for later says bound, without a time."""


class Binding(msgspec.Struct):
    """When a guard said that it had bound everything up to `sequence`, and when that it had drained."""

    sequence: int
    bound_at_s: float
    drained_at_s: float | None = None


class Guard:
    """A guard as a switch knows it."""

    __slots__ = ("bindings", "guard_id", "heard_at_s", "is_kept", "left", "owner", "report", "streams", "told_until_s")

    def __init__(self, guard_id: str, owner: str, now_s: float) -> None:
        self.guard_id, self.owner = guard_id, owner
        self.report = Report()
        self.streams = 0
        self.told_until_s = now_s  # the last moment at which a stream of ours could have renewed its lease
        self.heard_at_s = now_s
        self.bindings: deque[Binding] = deque(maxlen=_BINDINGS_MAX)
        self.left = False
        self.is_kept = False  # on disk, as far as it lasts


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """An order at this switch.

    Attributes:
        order: The order.
        sequence: Its place in the ledger.
        at_s: Boot clock, when it was put on the streams.
        elsewhere: Switch id to the moment at which that one was known to have it.
    """

    order: Order
    sequence: int
    at_s: float
    elsewhere: dict[str, float]


class Waiting:
    """Somebody who waits until no guard is outstanding for a sequence."""

    def __init__(self, sequence: int, outstanding: set[str], wake: Callable[[], None]) -> None:
        self.sequence, self.outstanding, self.wake = sequence, outstanding, wake

    def settle(self, guard_id: str) -> None:
        """One of them need not be waited for any more."""
        self.outstanding.discard(guard_id)
        if not self.outstanding:
            self.wake()


class Registry:
    """All guards that this switch has heard of and may still have to do with."""

    def __init__(self, switch_id: str, clock: Clock) -> None:
        self._switch_id, self._clock = switch_id, clock
        self.guards: dict[str, Guard] = {}
        self._owned: dict[str, int] = {}
        self._waiting: dict[Waiting, None] = {}
        self._dirty: dict[str, None] = {}
        self.on_unsaved: Callable[[], None] = lambda: None

    def remember(self, guards: Iterable[Seen]) -> None:
        """After a restart: who was out there. Their leases may have been renewed until just now."""
        for seen in guards:
            guard = Guard(seen.guard_id, seen.owner, self._clock.boot_s())
            guard.report, guard.is_kept = seen.report, True
            self.guards[seen.guard_id] = guard
            self._count(seen.owner, 1)

    # --- what guards say ---

    def report(self, guard_id: str, owner: str, report: Report) -> Guard:
        """Take up what a guard says of itself. The first token to use an id owns it.

        Args:
            guard_id: Its id.
            owner: The name of its token; empty where none was shown.
            report: What it says.

        Raises: Refused, if the id is another's, or there are too many.
        """
        guard = self.guards.get(guard_id)
        if guard is None:
            guard = self._new(guard_id, owner)
        elif guard.owner != owner:
            if guard.owner:
                raise Refused(403, f"guard {guard_id} belongs to another token")
            self._count("", -1)
            self._count(owner, 1)
            guard.owner = owner
            self._remark(guard)
        guard.heard_at_s = self._clock.boot_s()
        if report.bound >= 0:
            self._bind(guard, report)
        if report.leaving and not guard.left:
            self._settle(guard_id)
        is_news = guard.left != report.leaving or not guard.is_kept or _lasts(guard.report) != _lasts(report)
        guard.left, guard.report = report.leaving, report
        if is_news:
            self._remark(guard)
        return guard

    def stream_began(self, guard: Guard) -> None:
        """The guard listens."""
        guard.streams += 1

    def stream_ended(self, guard: Guard) -> None:
        """The guard does not listen any more; its lease was renewed just now at the latest."""
        guard.streams -= 1
        guard.told_until_s = self._clock.boot_s()

    def _new(self, guard_id: str, owner: str) -> Guard:
        if self._is_full(owner):
            self._forget_left()
        if self._is_full(owner):
            raise Refused(503, "this switch knows as many guards as it can remember; use another one", retry_after_s=60)
        guard = self.guards[guard_id] = Guard(guard_id, owner, self._clock.boot_s())
        self._count(owner, 1)
        return guard

    def _is_full(self, owner: str) -> bool:
        return len(self.guards) >= GUARDS_MAX or self._owned.get(owner, 0) >= GUARDS_PER_TOKEN_MAX

    def _forget_left(self) -> None:
        # A fleet that is started anew every few minutes leaves many names behind, and must not lock itself out.
        for guard in [guard for guard in self.guards.values() if guard.left and not guard.streams]:
            self._forget_guard(guard)

    def _forget_guard(self, guard: Guard) -> None:
        del self.guards[guard.guard_id]
        self._count(guard.owner, -1)
        self._remark(guard)

    def _remark(self, guard: Guard) -> None:
        guard.is_kept = False
        self._dirty[guard.guard_id] = None
        self.on_unsaved()

    def _count(self, owner: str, by: int) -> None:
        self._owned[owner] = self._owned.get(owner, 0) + by

    def _bind(self, guard: Guard, report: Report) -> None:
        now_s = self._clock.boot_s()
        last = guard.bindings[-1] if guard.bindings else None
        if last is None or report.bound > last.sequence:
            last = Binding(report.bound, now_s)
            guard.bindings.append(last)
        elif report.bound < last.sequence:
            return  # said earlier, arrived later
        if report.drained and last.drained_at_s is None:
            for binding in guard.bindings:  # a later binding includes the earlier ones' steps
                binding.drained_at_s = now_s if binding.drained_at_s is None else binding.drained_at_s
        if report.drained:
            for waiting in tuple(self._waiting):
                if report.bound >= waiting.sequence:
                    waiting.settle(guard.guard_id)

    def _settle(self, guard_id: str) -> None:
        for waiting in tuple(self._waiting):
            waiting.settle(guard_id)

    # --- receipts ---

    def receipt(self, placement: Placement) -> Receipt:
        """What is known now, guard by guard."""
        now_s = self._clock.boot_s()
        ended = self._ended_processes()
        guards = tuple(
            self._guard_receipt(guard, placement, now_s, ended)
            for guard in sorted(self.guards.values(), key=lambda one: one.guard_id)
            if not _is_history(guard, placement)
        )
        states = {guard.state for guard in guards}
        return Receipt(
            order_id=placement.order.order_id,
            stamp=placement.sequence,
            waited_ms=round(max(0.0, now_s - placement.at_s) * 1000, 3),
            all_bound=GuardState.UNKNOWN not in states,
            all_drained=not states & {GuardState.UNKNOWN, GuardState.BOUND},
            guards=guards,
            heard=(self._switch_id,),
        )

    def await_drained(self, placement: Placement, wake: Callable[[], None]) -> Waiting:
        """Be woken when nobody is outstanding. Hand it to `forget` in the end.

        Raises: Refused (503), if more wait than could be served.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Refused(
                503, f"{WAITING_MAX:,} requests wait for receipts already; ask without wait_s", retry_after_s=5
            )
        outstanding = {
            guard.guard_id
            for guard in self.guards.values()
            if not _is_history(guard, placement) and not guard.left and not _has_drained(guard, placement.sequence)
        }
        waiting = Waiting(placement.sequence, outstanding, wake)
        self._waiting[waiting] = None
        return waiting

    def forget(self, waiting: Waiting) -> None:
        """Nobody waits any more."""
        self._waiting.pop(waiting, None)

    def silent_until_s(self, guard: Guard, placement: Placement) -> float | None:
        """When it will be certain that a silent guard has no lease that ignores the order; None if nobody can say."""
        report = guard.report
        if report.on_silence == Level.NORMAL.label:
            return None  # it has said that silence does not hold it
        hears = {self._switch_id, *report.hears}
        if len(hears) < report.switches or not hears <= {self._switch_id, *placement.elsewhere}:
            return None
        here_s = placement.at_s if guard.streams else min(placement.at_s, guard.told_until_s)
        moments_s = [here_s, *(placement.elsewhere[each] for each in report.hears if each != self._switch_id)]
        return max(moments_s) + report.lease_ttl_s + MARGIN_S

    def _guard_receipt(
        self, guard: Guard, placement: Placement, now_s: float, ended: frozenset[tuple[str, str, int]]
    ) -> GuardReceipt:
        report = guard.report
        binding = next((each for each in guard.bindings if each.sequence >= placement.sequence), None)
        until_s = self.silent_until_s(guard, placement)
        state = _state(guard, binding, until_s, now_s, ended)
        covered = _covered(placement.order.scope, report)
        moment_s = None if state not in (GuardState.UNKNOWN, GuardState.SILENCED) else until_s
        drained_at_s = binding.drained_at_s if binding is not None else None
        return GuardReceipt(
            guard_id=guard.guard_id,
            state=state,
            pid=report.pid or None,
            program=report.program,
            bound_ms=None if binding is None else _ms(placement, binding.bound_at_s),
            drained_ms=None if drained_at_s is None else _ms(placement, drained_at_s),
            in_flight=() if state is not GuardState.BOUND else report.in_flight,
            runs_covered=covered,
            runs_open=report.runs_open,
            detail=_detail(guard, state, until_s),
            host=report.host,
            until=None if moment_s is None else self._wall(moment_s, now_s),
        )

    def _ended_processes(self) -> frozenset[tuple[str, str, int]]:
        return frozenset(
            (guard.guard_id, guard.report.host, end.pid)
            for guard in self.guards.values()
            if guard.report.kind == "supervisor" and guard.report.drained
            for end in guard.report.ended
        )

    def _wall(self, moment_s: float, now_s: float) -> datetime:
        moment = from_us(self._clock.now_us()) + timedelta(seconds=moment_s - now_s)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    # --- housekeeping ---

    def heard(self) -> list[tuple[Guard, float]]:
        """Every guard by id, with how many seconds ago it said something."""
        now_s = self._clock.boot_s()
        return [(guard, round(now_s - guard.heard_at_s, 3)) for _, guard in sorted(self.guards.items())]

    def names(self) -> tuple[tuple[str, str], ...]:
        """Id and place (`host pid program`) of the guards that may act, for other switches."""
        return tuple(
            (guard.guard_id, f"{guard.report.host} {guard.report.pid} {guard.report.program}")
            for guard in self.guards.values()
            if not guard.left
        )

    def unsaved(self) -> tuple[list[Seen], list[str]]:
        """What the ledger has not been told: who is out there, and who has left. Followed by `saved` or `not_saved`."""
        dirty, self._dirty = self._dirty, {}
        known = [guard for guard_id in dirty if (guard := self.guards.get(guard_id)) is not None]
        seen = [Seen(guard.guard_id, guard.owner, _lasting(guard.report)) for guard in known if not guard.left]
        return seen, [guard_id for guard_id in dirty if guard_id not in self.guards or self.guards[guard_id].left]

    def saved(self, seen: Iterable[Seen]) -> None:
        """These are on disk."""
        for each in seen:
            guard = self.guards.get(each.guard_id)
            if guard is not None and each.guard_id not in self._dirty:
                guard.is_kept = True

    def not_saved(self, seen: Iterable[Seen], left: Iterable[str]) -> None:
        """The ledger could not be told; to be tried again."""
        self._dirty |= dict.fromkeys((*(each.guard_id for each in seen), *left))
        self.on_unsaved()

    def tidy(self) -> None:
        """Forget who has been away for long."""
        before_s = self._clock.boot_s() - FORGOTTEN_AFTER_S
        for guard in list(self.guards.values()):
            if not guard.streams and max(guard.heard_at_s, guard.told_until_s) < before_s:
                self._forget_guard(guard)


def _state(
    guard: Guard,
    binding: Binding | None,
    until_s: float | None,
    now_s: float,
    ended: frozenset[tuple[str, str, int]],
) -> GuardState:
    report = guard.report
    if binding is not None and binding.drained_at_s is not None:
        return GuardState.KILLED if _has_ended_its_program(report) else GuardState.DRAINED
    if (report.supervisor, report.host, report.pid) in ended:
        return GuardState.KILLED
    if guard.left:
        return GuardState.GONE
    if binding is not None:
        return GuardState.BOUND
    return GuardState.SILENCED if until_s is not None and until_s <= now_s else GuardState.UNKNOWN


def _has_ended_its_program(report: Report) -> bool:
    # A run that is halted begins no other program; what ended before may have been a crash that was followed by one.
    return report.kind == "supervisor" and bool(report.ended) and all(run.halted for run in report.runs)


def _detail(guard: Guard, state: GuardState, until_s: float | None) -> str:
    if guard.report.fault:
        return guard.report.fault
    if state is not GuardState.UNKNOWN:
        return ""
    if until_s is not None:
        return "has not acknowledged" if guard.streams else "is not connected"
    return "may hear another switch that is not known to have this order"


def _is_history(guard: Guard, placement: Placement) -> bool:
    # It had left before anybody placed the order.
    return guard.left and guard.heard_at_s < placement.at_s and not _has_drained(guard, placement.sequence)


def _has_drained(guard: Guard, sequence: int) -> bool:
    return any(each.sequence >= sequence and each.drained_at_s is not None for each in guard.bindings)


def _covered(scope: Scope, report: Report) -> int | None:
    if report.runs_open > len(report.runs):
        return None
    runs = Scope(tuple(term for term in scope.terms if term.kind != "action"))
    return sum(runs.covers(subject_of(run)) for run in report.runs)


def _lasting(report: Report) -> Report:
    return msgspec.structs.replace(report, runs=(), runs_open=0, in_flight=(), in_flight_count=0, bound=-1, fault="")


def _lasts(report: Report) -> tuple[object, ...]:
    # What a receipt needs after a restart, and what people know it by.
    return report.lease_ttl_s, report.switches, report.hears, report.supervisor, report.host, report.pid, report.program


def _ms(placement: Placement, moment_s: float) -> float:
    return round(max(0.0, moment_s - placement.at_s) * 1000, 3)
