"""A run as its own process sees it: what it may do, what it has begun, whether it is over."""

import contextlib
import itertools
import logging
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from rescind.errors import CallDenied, RescindError, UsageError
from rescind.guard.contained import covered_by_measures, fan_out_blocked, snapshot_of
from rescind.guard.fallback import Fallback
from rescind.guard.gate import UNSEEN, Allow, AwaitApproval, Deny, Halt, Limits, Verdict, View, judge, spent
from rescind.guard.holding import Hold, remaining, verdict_of
from rescind.guard.lineage import PARENT_VARIABLE, said_to_children
from rescind.guard.probing import claim, refused_for_now, trips_among, without_trips
from rescind.guard.refusing import fan_out_refusal, refusal_of
from rescind.guard.strand import Strand, current_strand, strand_of
from rescind.journal.port import Draft
from rescind.model.entry import Refused, RunClosed, RunOpened
from rescind.model.level import Level
from rescind.model.order import covering, effective_level
from rescind.model.scope import unnameable
from rescind.model.step import RunInfo, parse_agent
from rescind.switch.port import LiveRun

if TYPE_CHECKING:
    from rescind.guard.cancelling import Cancelling
    from rescind.guard.guard import Guard
    from rescind.guard.obeyed import Obeyed
    from rescind.guard.watching import Asked
    from rescind.model.order import Order
    from rescind.model.outcome import Outcome
    from rescind.model.step import Target
    from rescind.switch.probes import Claim
    from rescind.triggers.engine import RunWatch
    from rescind.triggers.facts import ToolReport

logger = logging.getLogger("rescind")

SPAWN = "run.spawn"
"""What detectors see as the action when a run opens another one."""

REFUSALS_RECORDED_MAX = 64
"""Refusals recorded per run. A model that hammers at a closed gate must not fill the journal."""


class Run:
    """One execution of an agent, as a context manager for `with` and `async with`.

    Made by `Guard.run` and `Run.spawn`. It may be entered once; another thread enters `run.activate()`.
    """

    def __init__(
        self,
        guard: "Guard",
        info: RunInfo,
        *,
        limits: Limits,
        fallback: str | None,
        numbered_after_opening: bool,
        parent: "Run | None" = None,
    ) -> None:
        self.guard, self.info, self.fallback, self.parent = guard, info, fallback, parent
        self.view = UNSEEN
        self.watch: RunWatch | None = None  # what its detectors know of it; None without a policy
        self._page: Sequence[int] = (0,)
        self._lease, self._boot_s = guard.lease, guard.clock.boot_s
        self._limits, self._deadline_s = limits, limits.deadline_s
        self._numbered_after_opening = numbered_after_opening  # others may have begun, or go on with, its chain
        self._is_forked = False
        self._subject = info.subject
        self._calls = itertools.count(1)
        self._steps = itertools.count(1)
        self._step_prefix = ""
        self._lock = threading.Lock()
        self._is_open = False  # whether the journal knows of it
        self._entered = self._closed = False
        self._halt: Halt | None = None
        self._strand: Strand | None = None
        self._refusals: set[tuple[str, str]] = set()
        self._children: dict[int, Run] = {}  # open ones of this process
        self._held: dict[int, Cancelling] = {}  # running tools that a halt cancels
        self._holds: tuple[Hold, ...] = ()  # levels that this process holds it at, without an order
        self._contained_by: frozenset[str] = frozenset()  # orders of which the journal has its state
        self._tokens: list[tuple[Token[Run | None], Token[Strand | None]]] = []

    @property
    def run_id(self) -> str:
        """The run's id, to stop it, look at it or undo it by."""
        return self.info.run_id

    @property
    def trace_id(self) -> str:
        """The trace that the run belongs to."""
        return self.info.trace_id

    @property
    def is_over(self) -> bool:
        """Whether the run was left."""
        return self._closed

    @property
    def limits(self) -> Limits:
        """What it was given from the start."""
        return self._limits

    @property
    def halted(self) -> bool:
        """Whether a halt has ended this run. It never becomes false again."""
        return self._halt is not None

    def budget_left(self) -> dict[str, float]:
        """What is left of the budgets that the policy gives it: `steps`, `tool_calls`, `seconds`, `usd`.

        Only those that have a limit; with its descendants, which spend from the same.
        """
        from rescind.triggers.budgets import BudgetWatch

        watch = None if self.watch is None else self.watch.watch_of(BudgetWatch)
        return watch.left(self._boot_s()) if isinstance(watch, BudgetWatch) else {}

    # --- life ---

    def __enter__(self) -> Self:
        self._begin()
        self.guard.wait_for_switch()
        self._admit_run()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        closing = self._end(error)
        if closing:
            try:
                self.guard.journal.append(closing)
            except RescindError as problem:
                _log_unclosed(self.run_id, problem)

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            await self.guard.wait_for_switch_async()
        except BaseException:
            self._leave()
            raise
        self._admit_run()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        closing = self._end(error)
        if closing:
            try:
                await self.guard.journal.append_async(closing)
            except RescindError as problem:
                _log_unclosed(self.run_id, problem)

    def spawn(
        self,
        *,
        agent: str | None = None,
        workflow: str | None = None,
        run_id: str | None = None,
        fallback: str | None = None,
        allow: frozenset[str] | set[str] | None = None,
        calls_max: int | None = None,
        timeout_s: float | None = None,
    ) -> "Run":
        """A run that this one spawns: same tenant, session and trace, stopped whenever this run's tree is.

        It follows this run: when this one is halted, by whatever order, so is the child.

        Args: as for `Guard.run`; what is left out is taken over from this run.
        """
        return self.guard.run(
            agent=self.info.agent if agent is None else agent,
            tenant=self.info.tenant,
            workflow=self.info.workflow if workflow is None else workflow,
            session=self.info.session,
            trace_id=self.info.trace_id,
            run_id=run_id,
            parent=self,
            fallback=self.fallback if fallback is None else fallback,
            allow=allow,
            calls_max=calls_max,
            timeout_s=timeout_s,
        )

    @contextmanager
    def activate(self) -> Generator[Self]:
        """Make this the current run in a thread of the caller's own, which does not inherit it by itself."""
        run_token = current_run.set(self)
        strand_token = current_strand.set(Strand(self.run_id, parent=self._strand))
        try:
            yield self
        finally:
            current_strand.reset(strand_token)
            current_run.reset(run_token)

    @contextmanager
    def branch(self) -> Generator[None]:
        """Declare what follows independent of its sibling branches, so that an undo may take them in parallel."""
        maker = strand_of(self.run_id)
        token = current_strand.set(Strand(self.run_id, parent=maker, apart=True))
        try:
            yield
        finally:
            current_strand.reset(token)

    def environment(self) -> dict[str, str]:
        """The variables for a program that this run starts, which puts it in its tree and under the same switches.

        To be merged into its environment. The switch's token is not among them; it is inherited, or the program's own.
        """
        return self.guard.environment() | {PARENT_VARIABLE: said_to_children(self.run_id, self.info.ancestors)}

    def _begin(self) -> None:
        if self._entered:
            raise UsageError(f"run {self.run_id} was entered already; a run is entered once")
        self._entered = True
        self.guard.begin(self)
        if self.parent is not None:
            # Before it is looked whether the parent is halted: whoever halts it from now on finds this child.
            self.parent._children[id(self)] = self  # a run like this one

    def _leave(self) -> None:
        self._closed = True
        self.guard.end(self)
        if self.parent is not None:
            self.parent._children.pop(id(self), None)

    def _end(self, error: BaseException | None) -> tuple[Draft, ...]:
        self._closed, self.view = True, UNSEEN
        run_token, strand_token = self._tokens.pop()
        # A run that is left in another context than it was entered in (a fixture, say) was never current there.
        with contextlib.suppress(ValueError):
            current_run.reset(run_token)
            current_strand.reset(strand_token)
        self._leave()
        if not self._is_open and self.watch is None:
            return ()
        how = "halted" if self.halted else "ended" if error is None else "failed"
        # Only the kind of error: its text may hold what a tool's redact= keeps out of the journal.
        event = RunClosed(guard_id=self.guard.guard_id, how=how, detail=type(error).__name__ if error else "")
        closing = Draft(run_id=self.run_id, event=event, recorded_at_us=self.guard.clock.now_us())
        if self._is_open:
            return (closing,)
        # It wrote nothing. Where runs are compared with healthy ones, that it was there belongs to the record too;
        # nobody's safety depends on it, so nobody waits for the disk.
        self.guard.journal.submit((self._opening(), closing))
        return ()

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
            self._refuse(spent(action, "time"), action)
        if next(self._calls) > self._limits.calls_max or (self.parent is not None and self.parent.is_spent()):
            self._refuse(spent(action, "calls"), action)
        return awaits

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
        """Tell the detectors of a call that is about to be made. What is returned goes to `ended`.

        Raises: CallDenied, RunHalted: what they found makes the policy refuse it.
        """
        watching = self.guard.watching
        if watching is None or self.watch is None:
            return None
        return watching.asked(
            self, action, writes=writes, arguments=arguments, target=target, repeats=repeats, spawns=spawns
        )

    def ended(
        self,
        asked: "Asked",
        outcome: "Outcome",
        *,
        verified: bool | None = None,
        step_id: str = "",
        report: "ToolReport | None" = None,
        problem: str = "",
        approved_differs: str = "",
    ) -> None:
        """Tell the detectors how it ended. Takes nothing back, and never raises."""
        watching = self.guard.watching
        if watching is not None and self.watch is not None:
            watching.ended(
                self,
                asked,
                outcome,
                verified=verified,
                step_id=step_id,
                report=report,
                problem=problem,
                approved_differs=approved_differs,
            )

    def is_spent(self) -> bool:
        """Count a call of a child, and say whether it is one too many: a run cannot spend more by spawning."""
        above_is_spent = self.parent is not None and self.parent.is_spent()
        return next(self._calls) > self._limits.calls_max or above_is_spent

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
            self._refuse(spent(action, "time"), action)
        return self.check_orders(action, writes=True)

    def _admit_run(self) -> None:
        # A run may begin wherever reads may; its allowlist is about calls and has no say here.
        try:
            self.guard.refresh(self)
            if self.info.ancestors:
                self._begin_below()
            silence = self._lease.level_at(self._boot_s())
            halt = self._halt or self._halt_above()
            verdict = halt or judge(self.view, self._subject, "", writes=False, limits=Limits(), silence=silence)
            if isinstance(verdict, Deny | Halt):
                self._refuse(verdict, "a new run")
        except BaseException:
            self._leave()
            raise
        self._strand = Strand(self.run_id, parent=current_strand.get())
        self._tokens.append((current_run.set(self), current_strand.set(self._strand)))

    def _begin_below(self) -> None:
        # Asked of the run that spawns, which is whom a blocked fan-out is about, and whose spread detectors watch.
        blocked = fan_out_blocked(self.guard.standing(), self.info, "", above=True)
        if blocked is not None:
            raise fan_out_refusal(blocked, action=SPAWN, run_id=self.info.ancestors[0], started=f"run {self.run_id}")
        if self.parent is not None and self.parent.watch is not None:
            self.parent.asked(SPAWN, writes=False, spawns=True)

    def _halt_above(self) -> Halt | None:
        # A halted run makes no more calls, and opening another run to make them from would be one.
        above = self.parent
        while above is not None:
            if above._halt is not None:  # a run like this one
                return above._halt
            above = above.parent
        return None

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
            self._refuse(verdict, action)
        if view.orders and action in self.guard.spawning:
            self._refuse_fan_out(action, action)
        if isinstance(verdict, AwaitApproval):
            return verdict
        if isinstance(here, AwaitApproval):
            return here
        if not is_open:
            view.passed.add(action)
        return None

    def _through_breakers(self, deny: Deny, action: str) -> Verdict:
        # Refused by a breaker, whatever else; then by what else holds; and then for as long as there is no probe.
        view = View(self.view.stamp, without_trips(self.view.orders), self.view.fault)
        rest = judge(view, self._subject, action, writes=True, limits=self._limits)
        if not isinstance(rest, Allow | AwaitApproval):
            return rest
        return refused_for_now(self.guard, trips_among(deny.orders), deny) or rest

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
            self._refuse(found, action)
        return found

    def _held_here(self, action: str, *, writes: bool) -> Deny | AwaitApproval | None:
        if not self._holds:
            return None
        now_s = self._boot_s()
        self._holds = remaining(self._holds, now_s)
        return verdict_of(self._holds, action, writes=writes, now_s=now_s)

    def _refuse_fan_out(self, action: str, started: str) -> None:
        blocked = fan_out_blocked(self.guard.standing(), self.info, action)
        if blocked is not None:
            deny = Deny("", f"fan-out blocked by {blocked.order_id}: {started}", orders=(blocked,))
            self._record_refusal(deny, action)
            raise fan_out_refusal(blocked, action=action, run_id=self.run_id, started=started)

    def _judge_in_silence(self, action: str, *, writes: bool) -> AwaitApproval | None:
        # Never remembered in the view: the silence may end before the next call.
        silence = self._lease.on_silence
        verdict = self._halt or judge(
            self.view, self._subject, action, writes=writes, limits=self._limits, silence=silence
        )
        if isinstance(verdict, AwaitApproval):
            return verdict
        if not isinstance(verdict, Allow):
            self._refuse(verdict, action)
        return None

    def _refuse(self, verdict: Deny | Halt, action: str) -> NoReturn:
        if isinstance(verdict, Halt) and verdict.latches:
            self.latch(verdict)
        self._record_refusal(verdict, action)
        raise refusal_of(
            verdict,
            action=action,
            run_id=self.run_id,
            shown=self.shown,
            fencing=lambda: self.guard.fencing_number(self._subject),
        )

    def refuse(self, deny: Deny, action: str) -> NoReturn:
        """Refuse one call, for what was found at it. Raises: CallDenied."""
        self._record_refusal(deny, action)
        raise CallDenied(deny.message, action=action, level=deny.level)

    def hold_at(self, hold: Hold) -> None:
        """Hold this run at a level, in this process alone, until the hold is over."""
        self._holds = (*self._holds, hold)
        self.view = View(UNSEEN.stamp, self.view.orders, self.view.fault)  # every call looks at the holds now

    def shown(self, halt: Halt) -> Fallback:
        """What to show to the user of this run, once it is halted."""
        return self.guard.fallbacks.choose_for(
            halt.orders,
            agent=self.info.agent,
            workflow=self.info.workflow,
            level=Level.HALTED,
            text=self.fallback,
        )

    def _record_refusal(self, verdict: Deny | Halt, action: str) -> None:
        once = (action, verdict.reason)
        if once in self._refusals or len(self._refusals) >= REFUSALS_RECORDED_MAX or not self._is_open:
            return
        self._refusals.add(once)
        level = Level.HALTED if isinstance(verdict, Halt) else verdict.level
        orders = tuple(order.order_id for order in verdict.orders)
        event = Refused(action=action, level=level.label, reason=verdict.reason, order_ids=orders)
        self.guard.journal.submit((Draft(run_id=self.run_id, event=event, recorded_at_us=self.guard.clock.now_us()),))

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

    def _record_state(self, orders: "tuple[Order, ...]") -> None:
        # A run that is contained leaves its state for the incident, once for each order.
        for order in covered_by_measures(orders, self._subject):
            if order.order_id not in self._contained_by and self._is_open:
                self._contained_by |= {order.order_id}
                event = snapshot_of(self, order, calls=_counted(self._calls), steps=_counted(self._steps))
                now_us = self.guard.clock.now_us()
                self.guard.journal.submit((Draft(run_id=self.run_id, event=event, recorded_at_us=now_us),))

    @property
    def children(self) -> "tuple[Run, ...]":
        """The runs that it has spawned in this process and that are open."""
        return tuple(self._children.values())

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

    def report(self) -> LiveRun:
        """This run, as the guard's report shows it."""
        level = Level.HALTED if self.halted else effective_level(self.view.orders, self._subject)
        level = max(level, self._lease.level_at(self._boot_s()))
        return LiveRun(run=self.info, level=level, latched=self.halted)

    # --- the journal ---

    def opening_alone(self) -> Draft | None:
        """The draft that must open the run before its first step is numbered; None when that is not needed."""
        return None if self._is_open or not self._numbered_after_opening else self._opening()

    def opening_with_intent(self) -> Draft | None:
        """The draft that opens the run together with its first intent; None when it is open."""
        # Two threads may both send it. A run may be opened twice; an intent must never come before an opening.
        return self._opening() if not self._is_open else None

    def mark_open(self, position: int | None) -> None:
        """The journal knows of the run. `position` is where this process joined a chain that others may have begun."""
        with self._lock:
            # The very first to open a run counts from 1; a forked child never does, for its parent may.
            if position is not None and (position > 0 or self._is_forked) and not self._is_open:
                self._step_prefix = f"{position}."
            self._is_open = True

    def after_fork(self) -> None:
        """In a forked child: the run goes on in two processes, and this one's steps are numbered apart."""
        self._lock = threading.Lock()
        self._is_open = False
        self._is_forked = self._numbered_after_opening = True
        self.view = UNSEEN
        self._held = {}
        self._steps = itertools.count(1)

    def next_step_id(self) -> str:
        """A number that no other step of the run has, whichever process began it."""
        return f"{self._step_prefix}{next(self._steps)}"

    def _opening(self) -> Draft:
        event = RunOpened(run=self.info, guard_id=self.guard.guard_id)
        return Draft(run_id=self.run_id, event=event, recorded_at_us=self.guard.clock.now_us())


current_run: ContextVar[Run | None] = ContextVar("rescind_run", default=None)


def new_info(
    *,
    run_id: str,
    agent: str,
    tenant: str,
    workflow: str,
    session: str,
    trace_id: str,
    ancestors: tuple[str, ...],
) -> RunInfo:
    """A run's attributes from what a caller wrote.

    Raises: UsageError, if the agent cannot be read, or an attribute could not be named in a scope.
    """
    try:
        name, version = parse_agent(agent)
    except ValueError as error:
        raise UsageError(str(error)) from error
    texts = {"run_id": run_id, "tenant": tenant, "workflow": workflow, "session": session, "trace_id": trace_id}
    for what, value in (*texts.items(), *(("parent", each) for each in ancestors)):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may err
            raise UsageError(f"{what} is a text, not {value!r}")
        problem = unnameable(value) if what in ("run_id", "tenant", "workflow") else ""
        if problem:
            raise UsageError(f"{what} {value!r} {problem}, so no order could name it; choose another")
    return RunInfo(
        run_id=run_id,
        agent_name=name,
        agent_version=version,
        tenant=tenant,
        workflow=workflow,
        session=session,
        trace_id=trace_id,
        ancestors=ancestors,
    )


def _counted(counter: "itertools.count[int]") -> int:
    # It says what comes next, and taking that would count it.
    return int(repr(counter).removeprefix("count(").removesuffix(")")) - 1


def _log_unclosed(run_id: str, problem: RescindError) -> None:
    # The run's own end must not fail for this: until this process ends, the run only counts as still open.
    logger.warning("the end of run %s could not be recorded: %s", run_id, problem)
