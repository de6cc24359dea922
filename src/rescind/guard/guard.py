"""The guard: what an agent's program holds. It declares tools, opens runs, and follows the switch."""

import inspect
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from rescind.clock import Clock, IdSource, SystemClock, SystemIds
from rescind.config import NO_WAITING, STORE_VARIABLE, URL_VARIABLE, ApprovalConfig, SwitchConfig, load_settings
from rescind.errors import DeclarationError, RescindError, UsageError
from rescind.guard.attributes import new_info
from rescind.guard.declare import GuardedWrite, guarded_read, guarded_write, place_of
from rescind.guard.effect import Effect
from rescind.guard.fallback import OUR_WORDS, Fallbacks
from rescind.guard.gate import UNSEEN, Limits
from rescind.guard.lineage import ancestors_of_environment
from rescind.guard.obeyed import Obeyed
from rescind.guard.run import Run, current_run
from rescind.guard.stores import EmbeddedStores, GivenStores, Stores, Watch
from rescind.guard.tool import ReadTool, WriteTool
from rescind.journal.port import Journal
from rescind.model.level import Level
from rescind.switch.client.lease import Lease
from rescind.switch.port import LiveRun, Orders

if TYPE_CHECKING:
    from rescind.guard.asking import Decider
    from rescind.guard.governed import Governed
    from rescind.guard.holding import Hold
    from rescind.guard.invariants import Invariant
    from rescind.guard.watching import Watching
    from rescind.model.entry import StepRef
    from rescind.model.order import Order
    from rescind.model.scope import Scope, Subject
    from rescind.switch.client.signals import SignalPoster
    from rescind.switch.client.subscription import Subscription
    from rescind.switch.wire import Report
    from rescind.triggers.policy_file import PolicyFile

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

TELL_ON_CLOSE_S = 2.0
"""How long a guard that is closed waits for switches to take its last signals."""

RUNS_MAX = 100_000
"""Runs one guard holds open. Beyond it a leak is likelier than an intention, and a stop would slow down."""


class Guard:
    """Stands between an agent and the effects of its tools.

    Declares tools (`read`, `write`), opens runs (`run`), obeys the standing orders and writes the journal. Files,
    threads and the registration with the switch begin with the first run, not with the import of a module.

    Orders come from two sides and count alike: those of this machine, which are read when their stamp has moved, and
    those of the switches that the guard is told to follow, which are pushed by a thread in the background.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        fallback: str | Fallbacks = OUR_WORDS,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        switch: SwitchConfig | None = None,
        token: str = "",
        approval: ApprovalConfig | None = None,
        policy: "PolicyFile | None" = None,
    ) -> None:
        """A guard over stores; most programs use `from_config` or `at`, tests use `over`.

        Args:
            stores: Where intents go, which orders stand, and who follows them.
            fallback: What users are shown for a halted run: one text, or all of a configuration's.
            clock: The time; the machine's by default.
            ids: New identifiers; random ones by default.
            switch: Which switches to follow besides, and what to do when none is heard; none by default.
            token: What to show them.
            approval: How long writes wait for a person's approval; as `ApprovalConfig` says by default.
            policy: What is looked for in its runs, and what is done about it; nothing by default.
        """
        self.stores = stores
        self.fallbacks = fallback if isinstance(fallback, Fallbacks) else Fallbacks.saying(fallback)
        self._switch, self._token = switch or SwitchConfig(), token
        # Closed until a switch is heard, if it is to follow any: the gate asks the lease before it asks who has begun.
        until_s = -math.inf if self._switch.urls else math.inf
        self.lease = Lease(until_s=until_s, on_silence=Level.parse(self._switch.on_silence))
        self.clock: Clock = clock or SystemClock()
        self.ids: IdSource = ids or SystemIds()
        self.in_flight_steps: dict[StepRef, None] = {}
        self.guard_id = self.ids.new_id("guard")
        self.watching: Watching | None = None
        self.teller: SignalPoster | None = None
        self.invariants: tuple[Invariant, ...] = ()
        self.spawning: set[str] = set()  # actions that start further runs
        self._scope_holds: tuple[tuple[Scope, Hold], ...] = ()
        self.approval = approval or ApprovalConfig()
        self.decider: Decider | None = None  # the journal of this machine tells, if there are no switches
        if self._switch.urls:
            from rescind.switch.client.approvals import SwitchDecider  # with HTTP, for those who follow any

            self.decider = SwitchDecider(self._switch, token, self.clock)
        self.approval_reason: Callable[[str], str] = _no_reason
        """Why a call of this action needs a person's approval, whatever is ordered; empty if it needs none."""
        self._tools: dict[str, WriteTool | ReadTool] = {}
        self._checked = False
        self._runs: dict[int, Run] = {}
        self._refresh_lock = threading.RLock()  # a signal's handler may come by here in the middle of it
        self._read_lock = threading.RLock()  # its own: a push must not wait for a disk
        self._obeyed = Obeyed(self.lease)
        self._watch: Watch | None = None
        self._subscription: Subscription | None = None
        self._watching = self._begins_to_watch = False
        self._watch_lock = threading.RLock()
        if policy is not None:
            self._watch_under(policy)
        _guards.add(self)

    @classmethod
    def over(
        cls,
        journal: Journal,
        orders: Orders,
        *,
        fallback: str | Fallbacks = OUR_WORDS,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        approval: ApprovalConfig = NO_WAITING,
        policy: "PolicyFile | None" = None,
    ) -> Self:
        """A guard over a journal and orders that are open already. It refuses what needs approval, and does not wait.

        What was refused is asked for all the same, and goes through when it is called again after its approval.
        """
        return cls(
            GivenStores(journal, orders), fallback=fallback, clock=clock, ids=ids, approval=approval, policy=policy
        )

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> "Guard":
        """A guard as `rescind.yaml` says: the given file, else the nearest one from here upwards, else the defaults.

        Raises: ConfigError, which names the file, the place in it and the remedy.
        """
        settings = load_settings(path)
        fallback = Fallbacks.of(settings.fallback)
        from rescind.triggers.policy_file import PolicyFile

        return cls.at(
            settings.store,
            fallback=fallback,
            switch=settings.switch,
            token=settings.token,
            approval=settings.config.approval,
            policy=PolicyFile(settings.source),
        )

    @classmethod
    def at(
        cls,
        store: str | Path,
        *,
        fallback: str | Fallbacks = OUR_WORDS,
        switch: SwitchConfig | None = None,
        token: str = "",
        approval: ApprovalConfig | None = None,
        policy: "PolicyFile | None" = None,
    ) -> "Guard":
        """A guard with its stores in this folder of the machine; they are opened, or made, at the first run.

        Args: as for `Guard`.
        """
        stores = EmbeddedStores(Path(store))
        return cls(stores, fallback=fallback, switch=switch, token=token, approval=approval, policy=policy)

    @property
    def journal(self) -> Journal:
        """Where intents and outcomes go."""
        return self.stores.journal

    @property
    def orders(self) -> Orders:
        """Which orders stand."""
        return self.stores.orders

    # --- declarations ---

    def read(self, name: str, *, returns: Any = None) -> Callable[[F], F]:
        """Declare a tool that changes nothing. It goes on under `read_only`, and is not journaled.

        Args:
            name: Unique in this guard.
            returns: The shape of its results, if its annotation does not say: a type, or a JSON Schema.

        Raises: DeclarationError, if the name is taken.
        """

        def declare(function: F) -> F:
            self._add(name, ReadTool(name, place_of(function)))
            return cast("F", guarded_read(self, name, function, returns))

        return declare

    def write(
        self,
        name: str,
        *,
        target: Callable[..., Any] | None = None,
        key: Callable[..., str] | None = None,
        redact: Iterable[str] = (),
        irreversible: str | None = None,
        effect: Effect | None = None,
        after: Iterable[str] = (),
        undo_within: timedelta | None = None,
        cancellable: bool = False,
        spawns: bool = False,
        returns: Any = None,
    ) -> Callable[[Callable[P, R]], GuardedWrite[P, R]]:
        """Declare a tool that changes something. Its effect class must be chosen before its first call.

        Args:
            name: Unique in this guard, such as `invoice.status.update`.
            target: Makes (system, kind, id) of those of the tool's arguments that it names.
            key: Makes the idempotency key of those arguments that it names; without it each call is its own.
            redact: Parameters whose values are kept out of the journal.
            irreversible: Why nobody can take it back. A person will decide.
            effect: A ready-made effect, such as `SqlRows`.
            after: Names of actions that this one's steps depend on, within a run: they are undone after it.
            undo_within: How long after a step its compensation is allowed.
            cancellable: Whether a halt of the run may cancel it while it runs; only for coroutines. Its outcome is then
                unknown, unless its effect vouches that nothing changed.
            spawns: Whether it starts further runs: a webhook that wakes a follow-up agent, a job that one picks up. It
                is refused where the fan-out of its run is blocked.
            returns: The shape of its results, if its annotation does not say: a type, or a JSON Schema. A result that
                differs is told to the policy.

        Raises: DeclarationError, if the name is taken or the declaration contradicts itself.
        """

        def declare(function: Callable[P, R]) -> GuardedWrite[P, R]:
            tool = WriteTool(
                function,
                name,
                target=target,
                key=key,
                redact=tuple(redact),
                irreversible=irreversible,
                effect=effect,
                after=tuple(after),
                undo_within=undo_within,
                cancellable=cancellable,
                spawns=spawns,
                returns=returns,
            )
            self._add(name, tool)
            if spawns:
                self.spawning.add(name)
            return cast("GuardedWrite[P, R]", guarded_write(self, tool))

        return declare

    def invariant(self, name: str, *, after: Iterable[str] = (), every_s: float = 0.0) -> Callable[[F], F]:
        """Declare something that must hold over several systems, by a function that takes nothing and checks it.

        It returns whether it holds, or a text that says what does not; raising says so too. It is called in the thread
        of a write that has ended, in runs under a policy: keep it quick, or rare.

        Args:
            name: Unique in this guard, for people: `books and invoices agree`.
            after: Patterns of the actions whose writes it depends on; all by default.
            every_s: It is called at most once in so many seconds.

        Raises: DeclarationError, if the name is taken or the function cannot be called like that.
        """
        from rescind.guard.invariants import Invariant

        def declare(function: F) -> F:
            if inspect.iscoroutinefunction(function):
                raise DeclarationError(f"invariant {name!r} ({place_of(function)}) is a coroutine; make it a function")
            if any(each.name == name for each in self.invariants):
                raise DeclarationError(f"invariant {name!r} ({place_of(function)}) is declared twice; rename one")
            added = Invariant(name, function, after=tuple(after), every_s=every_s)
            self.invariants = (*self.invariants, added)
            return function

        return declare

    @property
    def compensators(self) -> dict[str, WriteTool]:
        """The declared writes by action name, each able to look at and undo its steps.

        Raises: DeclarationError, if one of them is not complete.
        """
        self.check()
        return {name: tool for name, tool in self._tools.items() if isinstance(tool, WriteTool)}

    def check(self) -> None:
        """Check that every declaration is complete. Raises: DeclarationError, which names the first that is not."""
        for tool in self._tools.values():
            if isinstance(tool, WriteTool):
                _ = tool.action

    def _add(self, name: str, tool: WriteTool | ReadTool) -> None:
        if not name or name != name.strip() or not name.isprintable():
            raise DeclarationError(f"{tool.place}: an action needs a printable name without blanks around it: {name!r}")
        if name in self._tools:
            raise DeclarationError(
                f"action {name!r} is declared twice: at {self._tools[name].place} and at {tool.place}; rename one"
            )
        self._tools[name] = tool
        self._checked = False

    # --- runs ---

    def run(
        self,
        agent: str,
        *,
        tenant: str = "",
        workflow: str = "",
        session: str = "",
        trace_id: str | None = None,
        run_id: str | None = None,
        parent: Run | str | None = None,
        fallback: str | None = None,
        allow: Iterable[str] | None = None,
        calls_max: int | None = None,
        timeout_s: float | None = None,
    ) -> Run:
        """A run of an agent, to be entered with `with` or `async with`. Inside another run it is that one's child.

        Args:
            agent: `name@version`.
            tenant: On whose behalf it acts.
            workflow: The class of task.
            session: The conversation.
            trace_id: The trace it belongs to; its parent's or a new one by default.
            run_id: An id of the caller's choosing. A run with this id is continued; its steps are not repeated.
            parent: The run that spawned it, or that one's id if it lives in another process. Runs whose program was
                started by a run (`Run.environment`) have that one among their ancestors in any case.
            fallback: What to show to users if it is halted, in place of what the guard would.
            allow: The only actions it may call.
            calls_max: How many guarded calls it may make.
            timeout_s: For how long it may make them.

        Raises: UsageError, if something of this cannot be read.
        """
        if parent is None:
            parent = current_run.get()
            if parent is not None and parent.is_over:
                parent = None  # left behind in this context by somebody else; it has nothing to do with this one
        if isinstance(parent, Run):
            ancestors = (parent.run_id, *parent.info.ancestors)
            trace_id = trace_id or parent.trace_id
            tenant = tenant or parent.info.tenant
        else:
            ancestors = (*(() if parent is None else (parent,)), *ancestors_of_environment())
        info = new_info(
            run_id=run_id or self.ids.new_id("run"),
            agent=agent,
            tenant=tenant,
            workflow=workflow,
            session=session,
            trace_id=trace_id or self.ids.new_trace_id(),
            ancestors=ancestors,
        )
        limits = Limits(
            allow=None if allow is None else self._known(allow),
            calls_max=float("inf") if calls_max is None else calls_max,
            deadline_s=float("inf") if timeout_s is None else self.clock.boot_s() + timeout_s,
        )
        above = parent if isinstance(parent, Run) else None
        return Run(
            self,
            info,
            limits=limits if above is None else limits.within(above.limits),
            fallback=fallback or None,
            numbered_after_opening=run_id is not None,
            parent=above,
        )

    def begin(self, run: Run) -> None:
        """A run is entered: everything that begins lazily, begins."""
        if not self._checked:
            self.check()
            self._checked = True
        if len(self._runs) >= RUNS_MAX:
            raise UsageError(f"{RUNS_MAX:,} runs are open in this process; leave some before opening more")
        self._start_watching()
        if self.watching is not None:
            run.watch = self.watching.watch(run)
        self._runs[id(run)] = run
        for scope, hold in self._scope_holds:
            if _covers_some_call(scope, run):
                run.hold_at(hold)

    def end(self, run: Run) -> None:
        """A run is left."""
        self._runs.pop(id(run), None)

    def _watch_under(self, policy: "PolicyFile") -> None:
        from rescind.guard.watching import Watching  # nobody else needs detectors

        self.watching = Watching(self, policy)
        self.approval_reason = self.watching.approval_reason
        if self._switch.urls:
            from rescind.switch.client.asking import Switches
            from rescind.switch.client.signals import SignalPoster

            switches = Switches(urls=self._switch.urls, token=self._token, ca_file=self._switch.ca_file)
            self.teller = SignalPoster(switches, clock=self.clock)

    def hold_runs(self, scope: "Scope", hold: "Hold") -> None:
        """Hold the runs of this process that a scope covers, those to come too, for a time or in place of an order.

        A scope that is limited to an action holds more than it says here: what cannot be ordered is not fine-tuned.
        """
        now_s = self.clock.boot_s()
        self._scope_holds = (*(each for each in self._scope_holds if each[1].until_s > now_s), (scope, hold))
        for run in list(self._runs.values()):
            if _covers_some_call(scope, run):
                run.hold_at(hold)

    def fencing_number(self, subject: "Subject") -> int:
        """The fencing number that a run acts under, by the orders of this machine and those it hears of."""
        from rescind.model.lease import fencing_number
        from rescind.model.order import OrderSet

        try:
            known = self.orders.history()
        except RescindError:
            known = OrderSet()
        return fencing_number(known.merge(OrderSet.of(self.standing())), subject)

    def close(self) -> None:
        """Stop following the switch, and make durable what is still on its way. A second close does nothing."""
        with self._watch_lock:
            watch, self._watch, self._watching = self._watch, None, False
            subscription = self._subscription
        self._unsettle()
        if self.teller is not None:
            self.teller.flush(TELL_ON_CLOSE_S)
        if subscription is not None:
            subscription.close()
        if watch is not None:
            watch.close()
        self._unsettle()  # once more: until they were closed, both could still put new views into the runs
        self.stores.close()

    def _unsettle(self) -> None:
        for run in list(self._runs.values()):
            run.view = UNSEEN  # whoever goes on all the same is registered again before the next call

    def _known(self, allow: Iterable[str]) -> frozenset[str]:
        names = frozenset(allow)
        for name in sorted(names - set(self._tools)):
            raise UsageError(f"allow= names {name!r}, which is no action of this guard")
        return names

    # --- the switch ---

    def refresh(self, run: "Governed | None" = None) -> int:
        """Read the orders of this machine, and let every open run follow them. Returns the stamp now bound, or -1.

        Args:
            run: One that has to follow even if nothing has changed: it has just begun, or knows that it is behind.
        """
        self._start_watching()
        return self._read(run)

    def _read(self, run: "Governed | None" = None) -> int:
        with self._read_lock:
            standing = self._obeyed.look(self.orders)
            with self._refresh_lock:
                before = self._obeyed.version
                self._obeyed.read(standing)
                if self._obeyed.version != before:  # with ten thousand runs, leading all of them for each is too much
                    self._lead()
                elif run is not None:
                    run.follow(self._obeyed)
                return self._obeyed.stamp

    def take_up(self, orders: "tuple[Order, ...]") -> frozenset[str]:
        """See `Follower`: these stand at the switches now."""
        with self._refresh_lock:
            self._obeyed.hear(orders)
            self._lead()
        # Read last: a step that was admitted by an older view was in flight before it was in every run's view (W2).
        return self.in_flight()

    def standing(self) -> "tuple[Order, ...]":
        """What stands now, on this machine and at the switches, the most severe first. Follows them from here on."""
        self._start_watching()
        if self._obeyed.page[0] != self._obeyed.stamp:
            self._read()
        return self._obeyed.orders

    def bind(self) -> tuple[int, frozenset[str]]:
        """See `Subscriber`."""
        stamp = self._read()  # the watcher's way: it must not begin another watch while this one is being closed
        return stamp, self.in_flight()

    def in_flight(self) -> frozenset[str]:
        """See `Subscriber`."""
        return frozenset(str(ref) for ref in list(self.in_flight_steps))

    def live_runs(self) -> tuple[LiveRun, ...]:
        """See `Subscriber`."""
        return tuple(run.report() for run in list(self._runs.values()))

    def fault(self) -> str:
        """See `Subscriber`."""
        subscription = self._subscription
        return self._obeyed.fault or ("" if subscription is None else subscription.silence())

    def notice(self) -> str:
        """See `Subscriber`: why a change of the policy's file is not in force."""
        return "" if self.watching is None else self.watching.fault

    def describe(self) -> "Report":
        """See `Follower`."""
        from rescind.guard.report import described

        runs = list(self._runs.values())
        return described(runs, self._obeyed.fault)

    @property
    def page(self) -> Sequence[int]:
        """The shared page of this machine's orders."""
        return self._obeyed.page

    def wait_for_switch(self) -> None:
        """Wait until a switch has been heard, if any are followed, or `start_within_s` is over."""
        if self._subscription is not None:
            self._subscription.wait_for_first()

    async def wait_for_switch_async(self) -> None:
        """As `wait_for_switch`, for a task."""
        if self._subscription is not None:
            await self._subscription.wait_for_first_async()

    def environment(self) -> dict[str, str]:
        """The variables by which another program finds the same store and the same switches."""
        found = {} if self.stores.folder is None else {STORE_VARIABLE: str(self.stores.folder)}
        return found | ({URL_VARIABLE: " ".join(self._switch.urls)} if self._switch.urls else {})

    def _lead(self) -> None:
        for run in list(self._runs.values()):
            run.follow(self._obeyed)

    def _start_watching(self) -> None:
        if self._watching:
            return
        with self._watch_lock:
            if self._watching or self._begins_to_watch:  # the latter: a signal's handler in the middle of it
                return
            self._begins_to_watch = True
            try:
                self._subscribe()
                self._watch = self.stores.watch(self)
                self._watching = True  # last: another thread that sees it acts, and must find the guard registered
            except BaseException:
                if self._subscription is not None:
                    self._subscription.close()
                raise
            finally:
                self._begins_to_watch = False

    def _subscribe(self) -> None:
        if not self._switch.urls:
            return
        from rescind.switch.client.subscription import Subscription  # with asyncio and ssl, for those who follow any

        before = self._subscription
        if before is not None and before.guard_id == self.guard_id:
            # It has said goodbye under this name, by another connection; whoever hears that late must not believe it.
            self.guard_id = self.ids.new_id("guard")
        self._subscription = Subscription(
            self,
            guard_id=self.guard_id,
            switch=self._switch,
            token=self._token,
            clock=self.clock,
            lease=self.lease,
            before=before,
        )
        self._subscription.start()

    def after_fork(self) -> None:
        """Begin anew in a forked child.

        The child is another process: it has its own id, its own acknowledgements, and none of the parent's calls. It is
        registered at its first call, when every part has got over the fork.
        """
        self.guard_id = self.ids.new_id("guard")
        self.in_flight_steps = {}
        self._refresh_lock, self._read_lock = threading.RLock(), threading.RLock()
        self._watch_lock = threading.RLock()
        self.stores.after_fork()
        if self.teller is not None:
            self.teller.reset_after_fork()
        if self.watching is not None:
            self.watching.after_fork()
        if self._switch.urls:
            self.lease.end()  # the parent's; this process must hear a switch itself
        for run in self._runs.values():
            run.after_fork()
        watch, self._watch, self._watching, self._begins_to_watch = self._watch, None, False, False
        if self._subscription is not None:
            self._subscription.abandon()
        if watch is not None:
            watch.abandon()


def _no_reason(_action: str) -> str:
    return ""


def _covers_some_call(scope: "Scope", run: Run) -> bool:
    terms = [term for term in scope.terms if term.kind != "action"]
    return all(term.covers(run.info.subject, None) for term in terms)


_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for guard in list(_guards):
        guard.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
