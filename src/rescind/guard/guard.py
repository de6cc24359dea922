"""The guard: what an agent's program holds. It declares tools, opens runs, and follows the switch."""

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rescind.clock import Clock, IdSource, SystemClock, SystemIds
from rescind.config import NO_WAITING, ApprovalConfig, SwitchConfig, load_settings
from rescind.errors import UsageError
from rescind.guard.attributes import new_info
from rescind.guard.declarations import Declarations
from rescind.guard.fallback import OUR_WORDS, Fallbacks
from rescind.guard.following import Following
from rescind.guard.gate import Limits
from rescind.guard.lineage import ancestors_of_environment
from rescind.guard.run import Run, current_run
from rescind.guard.stores import GivenStores, Stores, stores_at
from rescind.journal.port import Journal
from rescind.model.step import parse_agent
from rescind.switch.port import Orders

if TYPE_CHECKING:
    from rescind.guard.asking import Decider
    from rescind.guard.earlier import Resumption
    from rescind.model.step import EngineCheckpoint
    from rescind.triggers.policy_file import PolicyFile

RUNS_MAX = 100_000
"""Runs one guard holds open. Beyond it a leak is likelier than an intention, and a stop would slow down."""


class Guard(Declarations, Following):
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
        switch = switch or SwitchConfig()
        Declarations.__init__(self)
        Following.__init__(
            self, stores, clock=clock or SystemClock(), ids=ids or SystemIds(), switch=switch, token=token
        )
        self.fallbacks = fallback if isinstance(fallback, Fallbacks) else Fallbacks.saying(fallback)
        self.approval = approval or ApprovalConfig()
        self.decider: Decider | None = None  # the journal of this machine tells, if there are no switches
        if switch.urls:
            from rescind.switch.client.approvals import SwitchDecider  # with HTTP, for those who follow any

            self.decider = SwitchDecider(switch, token, self.clock)
        self.approval_reason: Callable[[str], str] = _no_reason
        """Why a call of this action needs a person's approval, whatever is ordered; empty if it needs none."""
        self._resumption: Resumption | None = None
        self.engine_checkpoint: Callable[[], EngineCheckpoint | None] = _no_engine
        """Where a workflow engine stands now; integrations set it."""
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

        store = settings.store
        return cls.at(
            store if isinstance(store, Path) else store.url,
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
        """A guard with its stores in this folder of the machine, or in the database at `postgresql://…`.

        They are opened, or made, at the first run.

        Args: as for `Guard`. Of `switch`, `lease_ttl_s` and `on_silence` count for a database too.

        Raises: UsageError, if the address of a database cannot be read.
        """
        return cls(stores_at(store), fallback=fallback, switch=switch, token=token, approval=approval, policy=policy)

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
        resumption = self._taken_up(agent, tenant, run_id) if parent is None else None
        if resumption is not None:
            run_id, trace_id = resumption.run.run_id, resumption.run.trace_id
            workflow, session = workflow or resumption.run.workflow, session or resumption.run.session
            ancestors = resumption.run.ancestors
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
            allow=self._allowed(allow, resumption),
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
            resumption=resumption,
        )

    def resume(self, resumption: "Resumption | None") -> None:
        """The next run without a parent that is opened carries this one on; None: none does any more.

        Raises: UsageError, if it allows what is no action of this guard.
        """
        if resumption is not None and resumption.allow is not None:
            self._known(resumption.allow)
        self._resumption = resumption

    @property
    def was_resumed(self) -> bool:
        """Whether no resumption waits to be taken up."""
        return self._resumption is None

    def _taken_up(self, agent: str, tenant: str, run_id: str | None) -> "Resumption | None":
        resumption = self._resumption
        if resumption is None:
            return None
        run, (name, _) = resumption.run, parse_agent(agent)
        if (name, tenant) != (run.agent_name, run.tenant) or run_id not in (None, run.run_id):
            raise UsageError(
                f"run {run.run_id} of {run.agent} (tenant {run.tenant or 'none'}) is to be carried on, and the program "
                f"opened a run of {agent} (tenant {tenant or 'none'}){f' with the id {run_id}' if run_id else ''}"
            )
        self._resumption = None
        return resumption

    def _allowed(self, allow: Iterable[str] | None, resumption: "Resumption | None") -> frozenset[str] | None:
        named = None if allow is None else self._known(allow)
        tighter = None if resumption is None else resumption.allow
        return named if tighter is None else tighter if named is None else tighter & named

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
        for (scope, _), hold in self._scope_holds.copy().items():
            if scope.may_cover(run.info.subject):
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


def _no_reason(_action: str) -> str:
    return ""


def _no_engine() -> None:
    return None


_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for guard in list(_guards):
        guard.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
