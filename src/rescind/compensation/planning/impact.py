"""Who acted on what is undone: the steps of the journal that read or overwrote what some steps wrote, and so on.

A step *wrote* its target some time between its intent and its end; where no end is known, at any time after its intent.
The laws, which the tests hold against a model that tries everything:

IM1. *Overwrote.* A step depends on one at the same target whose intent stands before its own end.
IM2. *Read.* A run that has read a target took in all that was intended there before. Each of its steps that had not
    ended by then depends on that: nobody can see in a program what it made of what it knew.
IM3. *Caused.* A step depends on those that it names as its causes: steps of other runs that it came of, and whatever it
    was declared to depend on. A run that came of a step of another one took it in with that step.
IM4. *And so on.* What depends on a step that depends on one of the chosen depends on that one. The chosen themselves
    are the roots, and depend on nothing.
IM5. *Nothing happened, nothing follows.* A failed step wrote nothing. One that was undone since wrote what others may
    have read before; it is followed, and marked.

Everything that may be so is taken for so. Time and memory are linear: each step and each read is come upon once, and
keeps the first reason that it was found for, so what is found forms a forest below the roots.
"""

import enum
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from rescind.model.entry import StepRef
from rescind.model.step import RunInfo, Target

NO_END = 2**62
"""The end of a step that has none in the journal: it may still be writing."""


class Why(enum.StrEnum):
    """Why a step depends on another one."""

    READ = "read"
    OVERWROTE = "overwrote"
    CAUSED = "caused"


class Write(msgspec.Struct, gc=False, kw_only=True):
    """What there is to know of a step here.

    Attributes:
        begun, ended: Sequences of its intent and its end; see `NO_END`.
        causes: Steps of other runs that it came of, and those that it was declared to depend on.
        undone: Whether an undo has dealt with it, so that its effect is gone.
    """

    ref: StepRef
    action: str
    target: Target | None
    begun: int
    ended: int = NO_END
    causes: tuple[StepRef, ...] = ()
    undone: bool = False


class ReadAt(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A read in the journal."""

    run_id: str
    action: str
    target: Target
    sequence: int


class Affected(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A step that depends on the roots.

    Attributes:
        source: The root or affected step that it was found through.
        why: In which way it depends on that.
        by: The action of the read; empty, if it was none.
    """

    step: StepRef
    action: str
    target: Target | None
    source: StepRef
    why: Why
    by: str = ""
    undone: bool = False
    begun: int


class Reader(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A run that has read what a root or an affected step of another run wrote; it may have written nothing since."""

    run_id: str
    action: str
    target: Target
    source: StepRef
    sequence: int


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """What depends on some steps.

    Attributes:
        roots: The steps that were asked about, in order of intent.
        affected: What depends on them, in order of intent.
        readers: Who has read, in order of time: the first read of each run and target.
        runs: Every run that is named here.
        reads_missing: Runs of which some reads are known to be missing in the journal, or some entry cannot be read.
        unclosed: Runs that have read and that have no end: their last reads may be missing.
    """

    roots: tuple[Write, ...]
    affected: tuple[Affected, ...]
    readers: tuple[Reader, ...] = ()
    runs: Mapping[str, RunInfo] = {}
    reads_missing: tuple[str, ...] = ()
    unclosed: tuple[str, ...] = ()

    @property
    def standing(self) -> tuple[Affected, ...]:
        """Those whose effect stands."""
        return tuple(each for each in self.affected if not each.undone)


def trace_impact(
    roots: Iterable[Write],
    others: Iterable[Write],
    reads: Iterable[ReadAt],
    *,
    runs: Mapping[str, RunInfo] | None = None,
) -> Impact:
    """What depends on the roots.

    Args:
        roots: The steps in question, without those that wrote nothing.
        others: All other steps that wrote something, or may have; at least those that ended after the first root.
        reads: All reads that were recorded; at least those after the first root.
        runs: The runs of these by id; of them the result keeps those that it names.
    """
    trace = _Trace(roots, others, reads)
    trace.follow()
    affected = tuple(sorted(trace.affected.values(), key=lambda each: (each.begun, each.step)))
    readers = tuple(sorted(trace.readers.values(), key=lambda each: (each.sequence, each.run_id)))
    named = {each.ref.run_id for each in trace.roots} | {each.step.run_id for each in affected}
    named |= {each.run_id for each in readers}
    return Impact(
        roots=tuple(sorted(trace.roots, key=lambda each: (each.begun, each.ref))),
        affected=affected,
        readers=readers,
        runs={run_id: run for run_id, run in (runs or {}).items() if run_id in named},
    )


class _Trace:
    """A walk from the roots on. What is come upon is taken from the lists, so that nobody comes upon it again."""

    def __init__(self, roots: Iterable[Write], others: Iterable[Write], reads: Iterable[ReadAt]) -> None:
        self.roots = list(roots)
        self.affected: dict[StepRef, Affected] = {}
        self.readers: dict[tuple[str, Target], Reader] = {}
        self._others = sorted(others, key=lambda each: each.ended)
        self._at: defaultdict[Target, list[Write]] = defaultdict(list)
        self._of: defaultdict[str, list[Write]] = defaultdict(list)
        self._reads: defaultdict[Target, list[ReadAt]] = defaultdict(list)
        self._caused: defaultdict[StepRef, list[Write]] = defaultdict(list)
        for write in self._others:
            self._of[write.ref.run_id].append(write)
            if write.target is not None:
                self._at[write.target].append(write)
            for cause in write.causes:
                self._caused[cause].append(write)
        for read in sorted(reads, key=lambda each: each.sequence):
            self._reads[read.target].append(read)
        # The newest root first: what follows several of them at one target is then found through the last before it.
        self._left = deque(sorted(self.roots, key=lambda each: -each.begun))

    def follow(self) -> None:
        while self._left:
            write = self._left.popleft()
            if write.target is not None:
                self._follow_target(write, write.target)
            for caused in self._caused.pop(write.ref, ()):
                self._find(caused, write.ref, Why.CAUSED)
                if caused.ref.run_id != write.ref.run_id:
                    self._take_in(caused.ref.run_id, caused.begun, write.ref, Why.CAUSED)

    def _follow_target(self, write: Write, target: Target) -> None:
        reads, writes = self._reads[target], self._at[target]
        while reads and reads[-1].sequence > write.begun:
            read = reads.pop()
            if read.run_id != write.ref.run_id:
                self.readers[read.run_id, target] = Reader(
                    run_id=read.run_id, action=read.action, target=target, source=write.ref, sequence=read.sequence
                )
            self._take_in(read.run_id, read.sequence, write.ref, Why.READ, read.action)
        while writes and writes[-1].ended > write.begun:
            self._find(writes.pop(), write.ref, Why.OVERWROTE)

    def _take_in(self, run_id: str, sequence: int, source: StepRef, why: Why, by: str = "") -> None:
        """The run knew of the source from here on."""
        writes = self._of[run_id]
        while writes and writes[-1].ended > sequence:
            self._find(writes.pop(), source, why, by)

    def _find(self, write: Write, source: StepRef, why: Why, by: str = "") -> None:
        if write.ref in self.affected:
            return
        self.affected[write.ref] = Affected(
            step=write.ref,
            action=write.action,
            target=write.target,
            source=source,
            why=why,
            by=by,
            undone=write.undone,
            begun=write.begun,
        )
        self._left.append(write)


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How far it goes: distinct names, sorted. Of roots, affected steps that stand, and readers."""

    targets: tuple[str, ...]
    systems: tuple[str, ...]
    tenants: tuple[str, ...]
    runs: tuple[str, ...]
    agents: tuple[str, ...]


def reach_of(impact: Impact, *, beyond: Collection[str] = ()) -> Reach:
    """Whom and what it reaches besides the roots' own runs; `beyond` are further runs to leave out."""
    own = {write.ref.run_id for write in impact.roots} | set(beyond)
    targets = {each.target for each in impact.standing if each.target is not None}
    names = {each.step.run_id for each in impact.standing} | {each.run_id for each in impact.readers}
    runs = [impact.runs[name] for name in names - own if name in impact.runs]
    touched: Sequence[Target] = [*targets, *(each.target for each in impact.readers)]
    return Reach(
        targets=_sorted(map(str, targets)),
        systems=_sorted(each.system for each in touched),
        tenants=_sorted([*(run.tenant for run in runs), *(each.tenant for each in touched)]),
        runs=_sorted(names - own),
        agents=_sorted(run.agent for run in runs),
    )


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name}))
