"""Happens-before within and across runs, learned from where calls are made.

A strand is one sequential flow of control: the body of a run, a thread, a task, or a declared branch. Steps of one
strand are ordered. A new task or thread is a new strand that begins after what its maker had done so far; when the
maker goes on, it goes on after whatever its tasks have finished by then. So `asyncio.gather` over forty customers
leaves forty independent branches, and a loop over them leaves one chain, unless each turn is a `run.branch()`.

Undo reads this as: a later step of a strand is undone before an earlier one, and independent strands in parallel.
"""

import sys
import threading
from contextvars import ContextVar

from rescind.model.entry import StepRef

FINISHED_MAX = 10_000
"""Strands a strand remembers to come after. A server whose main task makes no step of its own would otherwise
remember every request. What is forgotten is no longer ordered before what follows; newest first holds all the same."""


class Strand:
    """One sequential flow of control in a run."""

    __slots__ = ("_finished_elsewhere", "_frontier", "_owner", "_parent", "run_id")

    def __init__(self, run_id: str, *, parent: "Strand | None" = None, apart: bool = False) -> None:
        self.run_id = run_id
        self._owner = flow_of_control()
        self._parent = parent
        self._frontier: tuple[StepRef, ...] = ()
        self._finished_elsewhere: dict[Strand, StepRef] = {}
        if parent is not None:
            # A branch is declared to be apart from its siblings, a task is only known to have begun by now.
            self._frontier = parent._frontier if apart else parent._known()

    @property
    def is_ours(self) -> bool:
        """Whether the caller is the thread or task that began this strand."""
        return self._owner == flow_of_control()

    def begin(self, step: StepRef) -> tuple[StepRef, ...]:
        """A step begins: what happened before it. A step made while it runs, such as by its tool, comes after it."""
        before = self._known()
        self._finished_elsewhere = {}
        self._frontier = (step,)
        return before

    def end(self, step: StepRef, parents: tuple[StepRef, ...]) -> None:
        """The step had, or may have had, an effect: whoever waits for this strand comes after it.

        To come after it is to come after its parents, so those need not be remembered any longer. Otherwise a loop that
        makes each call in a task or thread of its own would give its steps more and more parents.
        """
        implied = set(parents)
        above = self._parent
        while above is not None:
            for strand, last in above._finished_elsewhere.copy().items():
                if last in implied:
                    above._finished_elsewhere.pop(strand, None)
            above._finished_elsewhere[self] = step
            if len(above._finished_elsewhere) > FINISHED_MAX:
                above._finished_elsewhere.pop(next(iter(above._finished_elsewhere)), None)
            above = above._parent

    def forget(self, step: StepRef, parents: tuple[StepRef, ...]) -> None:
        """The step had no effect: what comes next is ordered after what came before it."""
        if self._frontier == (step,):
            self._frontier = parents

    def _known(self) -> tuple[StepRef, ...]:
        return tuple(dict.fromkeys((*self._frontier, *self._finished_elsewhere.values())))


current_strand: ContextVar[Strand | None] = ContextVar("rescind_strand", default=None)


def strand_of(run_id: str) -> Strand:
    """The caller's strand in this run; a new one, if the caller is a task or thread that has none yet."""
    strand = current_strand.get()
    if strand is None or strand.run_id != run_id or not strand.is_ours:
        strand = Strand(run_id, parent=strand)
        current_strand.set(strand)
    return strand


def flow_of_control() -> int:
    """A number for the running task, or for the thread where there is no task."""
    asyncio = sys.modules.get("asyncio")  # whoever has not imported it has no tasks, and should not pay for it
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if task is not None:
            return id(task)
    return threading.get_ident()
