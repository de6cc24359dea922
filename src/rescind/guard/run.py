"""One execution of an agent: how it begins and ends, what it starts, and its place in the journal."""

import contextlib
import itertools
import logging
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from rescind.errors import RescindError, UsageError
from rescind.guard.gate import UNSEEN, Deny, Halt, Limits, judge
from rescind.guard.governed import Governed
from rescind.guard.lineage import PARENT_VARIABLE, said_to_children
from rescind.guard.reads import ReadLog
from rescind.guard.strand import Strand, current_strand, strand_of
from rescind.journal.port import Appended, Draft, SlotTaken
from rescind.model.entry import Checkpointed, Event, RunClosed, RunOpened
from rescind.model.step import RunInfo

if TYPE_CHECKING:
    from rescind.guard.checkpointing import Postcondition
    from rescind.guard.earlier import Resumption
    from rescind.guard.guard import Guard

logger = logging.getLogger("rescind")


class Run(Governed):
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
        resumption: "Resumption | None" = None,
    ) -> None:
        super().__init__(guard, info, limits=limits, fallback=fallback, parent=parent)
        self._numbered_after_opening = numbered_after_opening  # others may have begun, or go on with, its chain
        self._is_announced = False  # whether an opening was handed to the journal, which may not have taken it
        self.reads = ReadLog(self)
        self._is_forked = self._entered = False
        self.resumption = resumption
        self.doubts: set[str] = set()  # steps of this process whose outcome is unknown
        self._step_prefix = ""
        self._lock = threading.Lock()
        self._strand: Strand | None = None
        self._tokens: list[tuple[Token[Run | None], Token[Strand | None]]] = []

    @property
    def trace_id(self) -> str:
        """The trace that the run belongs to."""
        return self.info.trace_id

    @property
    def is_over(self) -> bool:
        """Whether the run was left."""
        return self._closed

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

    def checkpoint(self, state: Any = None, *, name: str = "", verify: "Postcondition | None" = None) -> Checkpointed:
        """Mark a boundary that this run may be carried on from. Durable on return.

        Args:
            state: What the program needs to go on from here: JSON values, up to a megabyte.
            name: What people call it.
            verify: A further postcondition: returns whether it holds, or a text that says what does not.

        Returns: The checkpoint, which is `verified` if its postconditions and the guard's invariants hold.
        Raises: JournalUnavailable, NotSerialisable, UsageError; nothing else has changed then.
        """
        from rescind.guard.checkpointing import drafts_of_checkpoint

        made, drafts = drafts_of_checkpoint(self, state, name=name, verify=verify)
        self._joined(drafts, self.guard.journal.append(drafts))
        return made

    async def checkpoint_async(
        self, state: Any = None, *, name: str = "", verify: "Postcondition | None" = None
    ) -> Checkpointed:
        """As `checkpoint`, and the event loop does not wait for the disk."""
        from rescind.guard.checkpointing import drafts_of_checkpoint

        made, drafts = drafts_of_checkpoint(self, state, name=name, verify=verify)
        self._joined(drafts, await self.guard.journal.append_async(drafts))
        return made

    @property
    def resumed_from(self) -> Any:
        """The state of the checkpoint that this run is carried on from; None if it begins at its beginning."""
        return None if self.resumption is None else self.resumption.state

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

    def _admit_run(self) -> None:
        # A run may begin wherever reads may; its allowlist is about calls and has no say here.
        try:
            self.guard.refresh(self)
            if self.info.ancestors:
                self._begin_below()
            silence = self._lease.level_at(self._boot_s())
            halt = self._halt or self._halt_above()
            verdict = halt or judge(
                self.view,
                self._subject,
                "",
                writes=False,
                limits=Limits(),
                silence=silence,
                silent=self._lease.why,
            )
            if isinstance(verdict, Deny | Halt):
                self.refuse(verdict, "a new run")
        except BaseException:
            self._leave()
            raise
        self._strand = Strand(self.run_id, parent=current_strand.get())
        self._tokens.append((current_run.set(self), current_strand.set(self._strand)))

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
        if self.reads.seen:
            self.reads.flush()
        is_resumed = self.resumption is not None
        if not self._is_open and self.watch is None and not self.reads.count and not is_resumed:
            return ()
        how = "halted" if self.halted else "ended" if error is None else "failed"
        # Only the kind of error: its text may hold what a tool's redact= keeps out of the journal.
        event = RunClosed(
            guard_id=self.guard.guard_id,
            how=how,
            detail=type(error).__name__ if error else "",
            reads=self.reads.count or msgspec.UNSET,
        )
        closing = self.draft(event)
        if self._is_open:
            return (closing,)
        if is_resumed:  # every call was answered; what the run still holds goes by how it ended now
            return (self._opening(), closing)
        # It wrote nothing. Where runs are compared with healthy ones, that it was there belongs to the record too;
        # nobody's safety depends on it, so nobody waits for the disk.
        self.guard.journal.submit((self._opening(), closing))
        return ()

    # --- the journal ---

    def submit(self, events: Sequence[Event]) -> None:
        """Hand events to the journal, without waiting. A run that it does not know is opened with them.

        What the journal was handed may have been lost, so the run's first step opens it once more.

        Raises: UsageError, if one of them cannot be written.
        """
        opening = () if self._is_open or self._is_announced else (self._opening(),)
        self._is_announced = True
        self.guard.journal.submit((*opening, *map(self.draft, events)))

    def opening_alone(self) -> Draft | None:
        """The draft that must open the run before its first step is numbered; None when that is not needed."""
        return None if self._is_open or not self._numbered_after_opening else self._opening()

    def _joined(self, drafts: Sequence[Draft], answer: Appended | SlotTaken) -> None:
        # A checkpoint claims no slot, so it is always appended. Where it opened the run, its steps are numbered from
        # there: in a chain that is continued, the numbers from 1 on are those of earlier steps.
        assert isinstance(answer, Appended), "a checkpoint claims no slot"
        self.mark_open(answer.positions[0] if isinstance(drafts[0].event, RunOpened) else None)

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
        self._is_announced = False
        self.reads = ReadLog(self)
        self.view = UNSEEN
        self._held = {}
        self._steps = itertools.count(1)

    def next_step_id(self) -> str:
        """A number that no other step of the run has, whichever process began it."""
        return f"{self._step_prefix}{next(self._steps)}"


current_run: ContextVar[Run | None] = ContextVar("rescind_run", default=None)


def _log_unclosed(run_id: str, problem: RescindError) -> None:
    # The run's own end must not fail for this: until this process ends, the run only counts as still open.
    logger.warning("the end of run %s could not be recorded: %s", run_id, problem)
