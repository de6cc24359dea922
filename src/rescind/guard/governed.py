"""What of a run stands under orders, limits and a policy: whether it may make a call, and whether it is over.

The other half of a run, its life and its place in the journal, is in `run`.
"""

import itertools
import logging
from typing import TYPE_CHECKING, Any, NoReturn

from rescind.errors import UsageError
from rescind.guard.contained import covered_by_measures, fan_out_blocked, snapshot_of
from rescind.guard.fallback import Fallback
from rescind.guard.gate import UNSEEN, Allow, AwaitApproval, Deny, Halt, Limits, Verdict, View, judge, spent
from rescind.guard.holding import Hold, unending_hold, verdict_of
from rescind.guard.probing import claim, refused_for_now, trips_among, without_trips
from rescind.guard.refusing import fan_out_refusal, refusal_of
from rescind.journal.port import Draft
from rescind.model.entry import Event, Refused, RunOpened
from rescind.model.level import Level
from rescind.model.order import covering, effective_level
from rescind.model.step import RunInfo
from rescind.switch.port import LiveRun

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rescind.guard.cancelling import Cancelling
    from rescind.guard.guard import Guard
    from rescind.guard.obeyed import Obeyed
    from rescind.guard.watching import Asked
    from rescind.model.order import Order
    from rescind.model.step import Target
    from rescind.switch.probes import Claim
    from rescind.triggers.engine import RunWatch
    from rescind.triggers.facts import End

logger = logging.getLogger("rescind")

SPAWN = "run.spawn"
"""What detectors see as the action when a run opens another one."""

REFUSALS_RECORDED_MAX = 64
"""Refusals recorded per run. A model that hammers at a closed gate must not fill the journal."""


class Governed:
    """A run, as orders, limits and detectors concern it. Thread-safe; the gate of a call makes no I/O.

    Attributes:
        view: What the standing orders mean to it.
        watch: What its detectors know of it; None without a policy.
        parent: The run of this process that has spawned it, if one has.
    """

    def __init__(
        self, guard: "Guard", info: RunInfo, *, limits: Limits, fallback: str | None, parent: "Governed | None"
    ) -> None:
        self.guard, self.info, self.fallback, self.parent = guard, info, fallback, parent
        self.view = UNSEEN
        self.watch: RunWatch | None = None
        self._page: Sequence[int] = (0,)
        self._lease, self._boot_s = guard.lease, guard.clock.boot_s
        self._limits, self._deadline_s = limits, limits.deadline_s
        self._subject = info.subject
        self._calls = itertools.count(1)
        self._steps = itertools.count(1)
        self._is_open = False  # whether the journal knows of it
        self._closed = False
        self._halt: Halt | None = None
        self._refusals: set[tuple[str, str]] = set()
        self._children: dict[int, Governed] = {}  # open ones of this process
        self._held: dict[int, Cancelling] = {}  # running tools that a halt cancels
        self._holds: dict[int, Hold] = {}  # levels that this process holds it at, without an order
        self._contained_by: frozenset[str] = frozenset()  # orders of which the journal has its state

    @property
    def run_id(self) -> str:
        """The run's id, to stop it, look at it or undo it by."""
        return self.info.run_id

    @property
    def limits(self) -> Limits:
        """What it was given from the start."""
        return self._limits

    @property
    def halted(self) -> bool:
        """Whether a halt has ended this run. It never becomes false again."""
        return self._halt is not None

    @property
    def children(self) -> "tuple[Governed, ...]":
        """The runs that it has spawned in this process and that are open."""
        return tuple(self._children.values())

    def budget_left(self) -> dict[str, float]:
        """What is left of the budgets that the policy gives it: `steps`, `tool_calls`, `seconds`, `usd`.

        Only those that have a limit; with its descendants, which spend from the same.
        """
        from rescind.triggers.budgets import BudgetWatch

        watch = None if self.watch is None else self.watch.watch_of(BudgetWatch)
        return watch.left(self._boot_s()) if isinstance(watch, BudgetWatch) else {}

    # --- the gate ---

    def admit(self, action: str, *, writes: bool) -> AwaitApproval | None:
        """The gate of a call. No I/O, unless the stamp has moved.

        Returns: Why a person has to approve it first; None, if nobody has to.
        Raises: CallDenied, RunHalted.
        """
        view = self.view
        awaits = None
        if self._page[0] != view.stamp or action not in view.passed:
            awaits = self._judge(action, writes=writes)
        now_s = self._boot_s()
        if now_s >= self._lease.until_s:
            awaits = self._judge_in_silence(action, writes=writes) or awaits
        if now_s >= self._deadline_s:
            self.refuse(spent(action, "time"), action)
        if next(self._calls) > self._limits.calls_max or (self.parent is not None and self.parent.is_spent()):
            self.refuse(spent(action, "calls"), action)
        return awaits

    def check_orders(self, action: str, *, writes: bool) -> AwaitApproval | None:
        """Whether the orders and the lease, as they are by now, allow the call.

        Returns: Why a person has to approve it first; None, if nobody has to.
        Raises: CallDenied, RunHalted.
        """
        view = self.view
        awaits = None
        if self._page[0] != view.stamp or action not in view.passed:
            awaits = self._judge(action, writes=writes)
        if self._boot_s() >= self._lease.until_s:
            awaits = self._judge_in_silence(action, writes=writes) or awaits
        return awaits

    def check_waiting(self, action: str) -> AwaitApproval | None:
        """As `check_orders`, of a write that waits for a person: its run's time may be up meanwhile."""
        if self._boot_s() >= self._deadline_s:
            self.refuse(spent(action, "time"), action)
        return self.check_orders(action, writes=True)

    def is_spent(self) -> bool:
        """Count a call of a child, and say whether it is one too many: a run cannot spend more by spawning."""
        above_is_spent = self.parent is not None and self.parent.is_spent()
        return next(self._calls) > self._limits.calls_max or above_is_spent

    def foresee(self, action: str) -> Verdict:
        """What the gate would say to a write now. Nothing is recorded, latched or counted."""
        if self._page[0] != self.view.stamp:
            self.guard.refresh(self)
        silence = self._lease.level_at(self._boot_s())
        here = self._held_here(action, writes=True)
        verdict = self._halt or judge(
            self.view, self._subject, action, writes=True, limits=self._limits, silence=silence
        )
        return verdict if here is None or not isinstance(verdict, Allow) else here

    def claim_probe(self, action: str) -> "Claim | None":
        """Right before a write's tool runs: the probe that it is, if breakers are open; None if none is.

        Raises: CallDenied, if there is no probe to be had any more.
        """
        orders = self.view.orders
        trips = trips_among(covering(orders, self._subject, action)) if orders else ()
        if not trips:
            return None
        view = View(self.view.stamp, trips)
        deny = judge(view, self._subject, action, writes=True, limits=Limits())
        assert isinstance(deny, Deny), "a trip refuses writes"
        found = claim(self.guard, trips, deny)
        if isinstance(found, Deny):
            self.refuse(found, action)
        return found

    # --- detectors ---

    def asked(
        self,
        action: str,
        *,
        writes: bool,
        arguments: "Mapping[str, Any] | None" = None,
        target: "Target | None" = None,
        repeats: str = "",
        spawns: bool = False,
    ) -> "Asked | None":
        """Tell the detectors of a call that is about to be made. What is returned is the `call` of its `End`.

        Raises: CallDenied, RunHalted: what they found makes the policy refuse it.
        """
        watching = self.guard.watching
        if watching is None or self.watch is None:
            return None
        return watching.asked(
            self, action, writes=writes, arguments=arguments, target=target, repeats=repeats, spawns=spawns
        )

    def ended(self, end: "End", *, secrets: "Collection[str]" = ()) -> None:
        """Tell the detectors how a call ended that they were asked about. Takes nothing back, and never raises.

        None of `secrets`, which are redacted, is in what is found.
        """
        watching = self.guard.watching
        if watching is None or self.watch is None:
            return
        try:
            watching.ended(self, end, secrets=secrets)
        except Exception as error:  # noqa: BLE001  # what has happened must not be told as if it had not
            # The kind of error and no more: its text may hold what is to be kept out of the log.
            why = f"how {end.call.action} ended could not be judged ({type(error).__name__})"
            logger.error("run %s: %s; this process holds it at read_only", self.run_id, why)
            self.hold_at(unending_hold(Level.READ_ONLY, why))

    def hold_at(self, hold: Hold) -> None:
        """Hold this run at a level, in this process alone, until the hold is over."""
        self._holds[id(hold)] = hold  # threads may share the run: one operation, so that none is lost
        self.view = View(UNSEEN.stamp, self.view.orders, self.view.fault)  # every call looks at the holds now

    # --- orders ---

    def follow(self, obeyed: "Obeyed") -> None:
        """Take up new orders; a halt among them is latched even if no call meets it (G3)."""
        view, self._page = obeyed.view_of(self._subject), obeyed.page
        # What a tool is doing that could be cancelled counts like a call: an order may halt whoever does just that.
        for action in ("", *(each.action for each in list(self._held.values()))) if view.orders else ():
            verdict = self._halt or judge(view, self._subject, action, writes=False, limits=Limits())
            if isinstance(verdict, Halt):
                self.latch(verdict)
                break
        if view.orders:
            self._record_state(view.orders)
        # Runs that are halted, or held here, get a view that no page agrees with: every call takes the slow way.
        is_free = self._halt is None and not self._holds
        self.view = view if is_free else View(UNSEEN.stamp, view.orders, view.fault)

    def latch(self, halt: Halt) -> None:
        """End this run for good, with what it has spawned and what it is doing, as far as that can be cancelled."""
        if self._halt is None:
            self._halt = halt
            self.view = View(UNSEEN.stamp, self.view.orders, self.view.fault)
        for held in reversed(list(self._held.values())):  # of two that are one in another, the inner one first
            held.cut(halt)
        for child in list(self._children.values()):
            child.latch(halt)

    def hold(self, running: "Cancelling") -> None:
        """A tool begins that a halt may cancel."""
        self._held[id(running)] = running
        if self._halt is not None:  # looked at last: who halts the run from now on finds the tool
            running.cut(self._halt)

    def release(self, running: "Cancelling") -> None:
        """The tool has ended."""
        self._held.pop(id(running), None)

    def shown(self, halt: Halt) -> Fallback:
        """What to show to the user of this run, once it is halted."""
        return self.guard.fallbacks.choose_for(
            halt.orders,
            agent=self.info.agent,
            workflow=self.info.workflow,
            level=Level.HALTED,
            text=self.fallback,
        )

    def report(self) -> LiveRun:
        """This run, as the guard's report shows it."""
        level = Level.HALTED if self.halted else effective_level(self.view.orders, self._subject)
        level = max(level, self._lease.level_at(self._boot_s()))
        return LiveRun(run=self.info, level=level, latched=self.halted)

    # --- the journal ---

    def draft(self, event: Event) -> Draft:
        """An event of this run, now."""
        return Draft(run_id=self.run_id, event=event, recorded_at_us=self.guard.clock.now_us())

    def opening_with_intent(self) -> Draft | None:
        """The draft that opens the run together with its first intent; None when it is open."""
        # Two threads may both send it. A run may be opened twice; an intent must never come before an opening.
        return self._opening() if not self._is_open else None

    def _opening(self) -> Draft:
        return self.draft(RunOpened(run=self.info, guard_id=self.guard.guard_id))

    # --- judging and refusing ---

    def _judge(self, action: str, *, writes: bool) -> AwaitApproval | None:
        if self._closed:
            raise UsageError(f"{action} was called in run {self.run_id}, which is over; open a new run")
        if self._halt is None and self._page[0] != self.view.stamp:
            self.guard.refresh(self)
            self.guard.wait_for_switch()  # after a fork, or a guard that was closed and goes on all the same
        view = self.view
        here = self._held_here(action, writes=writes)
        verdict = (
            self._halt
            or (here if isinstance(here, Deny) else None)
            or judge(view, self._subject, action, writes=writes, limits=self._limits)
        )
        is_open = False
        if isinstance(verdict, Deny) and writes and trips_among(verdict.orders):
            is_open, verdict = True, self._through_breakers(verdict, action)
        if not isinstance(verdict, Allow | AwaitApproval):
            self.refuse(verdict, action)
        if view.orders and action in self.guard.spawning:
            self._refuse_fan_out(action, action)
        if isinstance(verdict, AwaitApproval):
            return verdict
        if isinstance(here, AwaitApproval):
            return here
        if not is_open:
            view.passed.add(action)
        return None

    def _judge_in_silence(self, action: str, *, writes: bool) -> AwaitApproval | None:
        # Never remembered in the view: the silence may end before the next call.
        silence = self._lease.on_silence
        verdict = self._halt or judge(
            self.view,
            self._subject,
            action,
            writes=writes,
            limits=self._limits,
            silence=silence,
            silent=self._lease.why,
        )
        if isinstance(verdict, AwaitApproval):
            return verdict
        if not isinstance(verdict, Allow):
            self.refuse(verdict, action)
        return None

    def _held_here(self, action: str, *, writes: bool) -> Deny | AwaitApproval | None:
        if not self._holds:
            return None
        now_s = self._boot_s()
        for key, hold in self._holds.copy().items():  # `list` of items may be interrupted by the collector
            if hold.until_s <= now_s:
                self._holds.pop(key, None)
        return verdict_of(tuple(self._holds.values()), action, writes=writes, now_s=now_s)

    def _through_breakers(self, deny: Deny, action: str) -> Verdict:
        # Refused by a breaker, whatever else; then by what else holds; and then for as long as there is no probe.
        view = View(self.view.stamp, without_trips(self.view.orders), self.view.fault)
        rest = judge(view, self._subject, action, writes=True, limits=self._limits)
        if not isinstance(rest, Allow | AwaitApproval):
            return rest
        return refused_for_now(self.guard, trips_among(deny.orders), deny) or rest

    def _refuse_fan_out(self, action: str, started: str) -> None:
        blocked = fan_out_blocked(self.guard.standing(), self.info, action)
        if blocked is not None:
            deny = Deny("", f"fan-out blocked by {blocked.order_id}: {started}", orders=(blocked,))
            self._record_refusal(deny, action)
            raise fan_out_refusal(blocked, action=action, run_id=self.run_id, started=started)

    def _begin_below(self) -> None:
        # Asked of the run that spawns, which is whom a blocked fan-out is about, and whose spread detectors watch.
        self._refuse_to_begin()
        if self.parent is not None and self.parent.watch is not None:
            self.parent.asked(SPAWN, writes=False, spawns=True)
            self._refuse_to_begin()  # what they found may have blocked it

    def _refuse_to_begin(self) -> None:
        standing = self.guard.standing()
        blocked = fan_out_blocked(standing, self.info, SPAWN, above=True)
        above = self.parent
        while blocked is None and above is not None:  # of those in this process all is known, their agents too
            blocked = fan_out_blocked(standing, above.info, SPAWN)
            above = above.parent
        if blocked is not None:
            raise fan_out_refusal(blocked, action=SPAWN, run_id=self.info.ancestors[0], started=f"run {self.run_id}")

    def _halt_above(self) -> Halt | None:
        # A halted run makes no more calls, and opening another run to make them from would be one.
        above = self.parent
        while above is not None:
            if above._halt is not None:  # a run like this one
                return above._halt
            above = above.parent
        return None

    def refuse(self, verdict: Deny | Halt, action: str) -> NoReturn:
        """Refuse one call; a halt is latched before. Raises: CallDenied, RunHalted."""
        if isinstance(verdict, Halt) and verdict.latches:
            self.latch(verdict)
        self._record_refusal(verdict, action)
        if self.watch is not None and self.guard.watching is not None and isinstance(verdict, Deny):
            self.guard.watching.refused(self, verdict, action)
        raise refusal_of(
            verdict,
            action=action,
            run_id=self.run_id,
            shown=self.shown,
            fencing=lambda: self.guard.fencing_number(self._subject),
        )

    def _record_refusal(self, verdict: Deny | Halt, action: str) -> None:
        once = (action, verdict.reason)
        if once in self._refusals or len(self._refusals) >= REFUSALS_RECORDED_MAX or not self._is_open:
            return
        self._refusals.add(once)
        level = Level.HALTED if isinstance(verdict, Halt) else verdict.level
        orders = tuple(order.order_id for order in verdict.orders)
        event = Refused(action=action, level=level.label, reason=verdict.reason, order_ids=orders)
        self.guard.journal.submit((self.draft(event),))

    def _record_state(self, orders: "tuple[Order, ...]") -> None:
        # A run that is contained leaves its state for the incident, once for each order.
        for order in covered_by_measures(orders, self._subject):
            if order.order_id not in self._contained_by and self._is_open:
                self._contained_by |= {order.order_id}
                event = snapshot_of(self, order, calls=_counted(self._calls), steps=_counted(self._steps))
                self.guard.journal.submit((self.draft(event),))


def _counted(counter: "itertools.count[int]") -> int:
    # It says what comes next, and taking that would count it.
    return int(repr(counter).removeprefix("count(").removesuffix(")")) - 1
