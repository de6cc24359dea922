"""The guard: what an agent's program holds. It declares tools, opens runs, and follows the switch."""

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from rescind.clock import Clock, IdSource, SystemClock, SystemIds
from rescind.config import load_settings
from rescind.errors import DeclarationError, OrdersUnavailable, UsageError
from rescind.guard.declare import GuardedWrite, guarded_read, guarded_write, place_of
from rescind.guard.effect import Effect
from rescind.guard.gate import NEVER_SETTLED, UNSEEN, Limits, View
from rescind.guard.run import Run, current_run, new_info
from rescind.guard.stores import EmbeddedStores, GivenStores, Stores, Watch
from rescind.guard.tool import ReadTool, WriteTool
from rescind.journal.port import Journal
from rescind.switch.port import LiveRun, Orders

if TYPE_CHECKING:
    from rescind.model.entry import StepRef
    from rescind.model.order import Order

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

FALLBACK = "The assistant was stopped by an operator. Nothing more will be changed. Please try again later."
"""What users are shown for a halted run, unless the configuration or the run has a text of its own."""

RUNS_MAX = 100_000
"""Runs one guard holds open. Beyond it a leak is likelier than an intention, and a stop would slow down."""


class Guard:
    """Stands between an agent and the effects of its tools.

    Declares tools (`read`, `write`), opens runs (`run`), obeys the standing orders and writes the journal. Files,
    threads and the registration with the switch begin with the first run, not with the import of a module.
    """

    def __init__(
        self,
        stores: Stores,
        *,
        fallback: str = FALLBACK,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        """A guard over stores; most programs use `from_config` or `at`, tests use `over`.

        Args:
            stores: Where intents go, which orders stand, and who follows them.
            fallback: What users are shown for a halted run.
            clock: The time; the machine's by default.
            ids: New identifiers; random ones by default.
        """
        self.stores, self.fallback = stores, fallback
        self.clock: Clock = clock or SystemClock()
        self.ids: IdSource = ids or SystemIds()
        self.in_flight_steps: dict[StepRef, None] = {}
        self.guard_id = self.ids.new_id("guard")
        self._tools: dict[str, WriteTool | ReadTool] = {}
        self._checked = False
        self._runs: dict[int, Run] = {}
        self._refresh_lock = threading.RLock()  # a signal's handler may come by here in the middle of it
        self._view_args: tuple[int, tuple[Order, ...], str] = (NEVER_SETTLED, (), "")
        self.page: Sequence[int] = (0,)
        self._watch: Watch | None = None
        self._watching = False
        self._watch_lock = threading.RLock()
        _guards.add(self)

    @classmethod
    def over(
        cls,
        journal: Journal,
        orders: Orders,
        *,
        fallback: str = FALLBACK,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> Self:
        """A guard over a journal and orders that are open already."""
        return cls(GivenStores(journal, orders), fallback=fallback, clock=clock, ids=ids)

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> "Guard":
        """A guard as `rescind.yaml` says: the given file, else the nearest one from here upwards, else the defaults.

        Raises: ConfigError, which names the file, the place in it and the remedy.
        """
        settings = load_settings(path)
        return cls.at(settings.store, fallback=settings.config.fallback or FALLBACK)

    @classmethod
    def at(cls, store: str | Path, *, fallback: str = FALLBACK) -> "Guard":
        """A guard with its stores in this folder of the machine; they are opened, or made, at the first run."""
        return cls(EmbeddedStores(Path(store)), fallback=fallback)

    @property
    def journal(self) -> Journal:
        """Where intents and outcomes go."""
        return self.stores.journal

    @property
    def orders(self) -> Orders:
        """Which orders stand."""
        return self.stores.orders

    # --- declarations ---

    def read(self, name: str) -> Callable[[F], F]:
        """Declare a tool that changes nothing. It goes on under `read_only`, and is not journaled.

        Raises: DeclarationError, if the name is taken.
        """

        def declare(function: F) -> F:
            self._add(name, ReadTool(name, place_of(function)))
            return cast("F", guarded_read(self, name, function))

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
            )
            self._add(name, tool)
            return cast("GuardedWrite[P, R]", guarded_write(self, tool))

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
            parent: The run that spawned it, or that one's id if it lives in another process.
            fallback: What to show to users if it is halted.
            allow: The only actions it may call.
            calls_max: How many guarded calls it may make.
            timeout_s: For how long it may make them.

        Raises: UsageError, if something of this cannot be read.
        """
        if parent is None:
            parent = current_run.get()
            if parent is not None and parent.is_over:
                parent = None  # left behind in this context by somebody else; it has nothing to do with this one
        ancestors: tuple[str, ...] = ()
        if isinstance(parent, Run):
            ancestors = (parent.run_id, *parent.info.ancestors)
            trace_id = trace_id or parent.trace_id
            tenant = tenant or parent.info.tenant
        elif parent is not None:
            ancestors = (parent,)
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
            deadline_s=float("inf") if timeout_s is None else self.clock.monotonic_s() + timeout_s,
        )
        above = parent if isinstance(parent, Run) else None
        return Run(
            self,
            info,
            limits=limits if above is None else limits.within(above.limits),
            fallback=fallback or self.fallback,
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
        self._runs[id(run)] = run

    def end(self, run: Run) -> None:
        """A run is left."""
        self._runs.pop(id(run), None)

    def close(self) -> None:
        """Stop following the switch, and make durable what is still on its way. A second close does nothing."""
        with self._watch_lock:
            watch, self._watch, self._watching = self._watch, None, False
        for run in list(self._runs.values()):
            run.view = UNSEEN  # whoever goes on all the same is registered again before the next call
        if watch is not None:
            watch.close()
        self.stores.close()

    def _known(self, allow: Iterable[str]) -> frozenset[str]:
        names = frozenset(allow)
        for name in sorted(names - set(self._tools)):
            raise UsageError(f"allow= names {name!r}, which is no action of this guard")
        return names

    # --- the switch ---

    def refresh(self) -> int:
        """Read the standing orders, and let every open run follow them. Returns the stamp now bound, or -1."""
        self._start_watching()
        with self._refresh_lock:
            try:
                standing = self.orders.standing()
                self.page = self.orders.page
            except OrdersUnavailable as error:
                # What stood goes on standing; what may have been added since is unknown, so writes are refused (G2).
                view_args = (NEVER_SETTLED, self._view_args[1], str(error))
            else:
                stamp = standing.stamp if standing.settled else NEVER_SETTLED
                view_args = (stamp, standing.orders, "")
                if NEVER_SETTLED < stamp < self._view_args[0]:
                    view_args = self._view_args  # a signal's handler has read newer ones meanwhile
            self._view_args = view_args
            for run in list(self._runs.values()):
                run.follow(View(*view_args))
            return view_args[0]

    def bind(self) -> tuple[int, frozenset[str]]:
        """See `Subscriber`."""
        stamp = self.refresh()
        return stamp, self.in_flight()

    def in_flight(self) -> frozenset[str]:
        """See `Subscriber`."""
        return frozenset(str(ref) for ref in list(self.in_flight_steps))

    def live_runs(self) -> tuple[LiveRun, ...]:
        """See `Subscriber`."""
        return tuple(run.report() for run in list(self._runs.values()))

    def fault(self) -> str:
        """See `Subscriber`."""
        return self._view_args[2]

    def _start_watching(self) -> None:
        if self._watching:
            return
        with self._watch_lock:
            if not self._watching:
                self._watching = True  # first: the watch binds the orders, and so comes by here again
                try:
                    self._watch = self.stores.watch(self)
                except BaseException:
                    self._watching = False
                    raise

    def after_fork(self) -> None:
        """Begin anew in a forked child.

        The child is another process: it has its own id, its own acknowledgements, and none of the parent's calls. It is
        registered at its first call, when every part has got over the fork.
        """
        self.guard_id = self.ids.new_id("guard")
        self.in_flight_steps = {}
        self._refresh_lock, self._watch_lock = threading.RLock(), threading.RLock()
        self.stores.after_fork()
        for run in self._runs.values():
            run.after_fork()
        watch, self._watch, self._watching = self._watch, None, False
        if watch is not None:
            watch.abandon()


_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for guard in list(_guards):
        guard.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
