"""From the journal to an `Impact`: one walk over all entries since the first of the chosen steps.

Of each step in between little is kept, some 300 bytes; what it changed, and its arguments, are not. A step that was
begun before that is found by its end; one without an end that was begun before is not, since to find it would be to
read the whole journal. If its process lives, it is found as soon as it has ended.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from rescind.compensation.planning.impact import NO_END, Impact, ReadAt, Write, trace_impact
from rescind.journal.pages import readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import (
    CompensationEnded,
    Disposition,
    Ended,
    Entry,
    Intended,
    Read,
    RedoEnded,
    RunClosed,
    RunOpened,
    StepRef,
)
from rescind.model.history import StepRecord, fold_steps
from rescind.model.outcome import Failed
from rescind.model.step import RunInfo, Step

if TYPE_CHECKING:
    from rescind.errors import EntryUnreadable

_GONE = (Disposition.RESTORED, Disposition.MERGED, Disposition.COMPENSATED, Disposition.NEVER_TOOK_EFFECT)


def read_impact(journal: Journal, roots: Iterable[StepRecord]) -> Impact:
    """What depends on these steps, up to now. Failed ones, and those that never took effect, are left out."""
    writes = [
        root_of(record)
        for record in roots
        if not isinstance(record.outcome, Failed) and record.disposition is not Disposition.NEVER_TOOK_EFFECT
    ]
    if not writes:
        return Impact(roots=(), affected=())
    walk = _Walk({write.ref for write in writes})
    first = min(write.begun for write in writes)
    gaps: list[EntryUnreadable] = []
    for entry in readable_entries(journal, Query(), gaps, after=first - 1):
        walk.take(entry)
    walk.find_begun_before(journal)
    impact = trace_impact(writes, walk.writes.values(), walk.reads, runs=walk.runs)
    read = {each.run_id for each in impact.readers}
    return msgspec.structs.replace(
        impact,
        reads_missing=tuple(sorted({*walk.missing(journal), *(gap.run_id for gap in gaps)})),
        unclosed=tuple(sorted(read & walk.open_readers)),
    )


def root_of(record: StepRecord) -> Write:
    """A chosen step as a root."""
    return Write(
        ref=record.ref,
        action=record.step.action,
        target=record.step.target,
        begun=record.intended_sequence,
        ended=NO_END if record.ended_sequence is None else record.ended_sequence,
    )


class _Walk:
    """What the entries tell."""

    def __init__(self, roots: set[StepRef]) -> None:
        self._roots = roots
        self.writes: dict[StepRef, Write] = {}
        self.reads: list[ReadAt] = []
        self.runs: dict[str, RunInfo] = {}
        self.open_readers: set[str] = set()
        self._begun_before: dict[StepRef, int] = {}
        self._opened: set[str] = set()
        self._given: Counter[str] = Counter()
        self._found: Counter[str] = Counter()

    def take(self, entry: Entry) -> None:
        event, run_id = entry.event, entry.run.run_id
        match event:
            case Intended(step):
                self.runs.setdefault(run_id, entry.run)
                ref = StepRef(run_id, step.step_id)
                if ref not in self._roots:
                    self.writes[ref] = _write(ref, step, entry.sequence)
            case Ended():
                self._end(StepRef(run_id, event.step_id), event, entry.sequence)
            case Read():
                self.runs.setdefault(run_id, entry.run)
                self.open_readers.add(run_id)
                self._found[run_id] += 1
                self.reads.append(
                    ReadAt(run_id=run_id, action=event.action, target=event.target, sequence=entry.sequence)
                )
            case RunOpened():
                if entry.position == 0:
                    self._opened.add(run_id)
            case RunClosed():
                self.open_readers.discard(run_id)
                self._given[run_id] += 0 if event.reads is msgspec.UNSET else event.reads
            case CompensationEnded() if event.disposition in _GONE:
                self._undo(StepRef(run_id, event.step_id), event.disposition)
            case RedoEnded(redone=True):
                ref = StepRef(run_id, event.step_id)
                if ref in self.writes:
                    self.writes[ref].undone = False
            case _:
                pass

    def _end(self, ref: StepRef, event: Ended, sequence: int) -> None:
        write = self.writes.get(ref)
        if isinstance(event.outcome, Failed):
            self.writes.pop(ref, None)
        elif write is not None:
            write.ended = sequence
        elif ref not in self._roots:
            self._begun_before[ref] = sequence

    def _undo(self, ref: StepRef, disposition: Disposition) -> None:
        if disposition is Disposition.NEVER_TOOK_EFFECT:
            self.writes.pop(ref, None)
            self._begun_before.pop(ref, None)
        elif ref in self.writes:
            self.writes[ref].undone = True

    def find_begun_before(self, journal: Journal) -> None:
        """Look up the steps that were under way when the first root began."""
        for run_id in {ref.run_id for ref in self._begun_before}:
            for record in fold_steps(readable_entries(journal, Query(run_id=run_id), [])):
                if record.ref in self._begun_before:
                    self.runs.setdefault(run_id, record.run)
                    write = _write(record.ref, record.step, record.intended_sequence)
                    write.ended = self._begun_before[record.ref]
                    write.undone = record.disposition in _GONE
                    self.writes[record.ref] = write

    def missing(self, journal: Journal) -> Sequence[str]:
        """Runs that gave the journal more reads than it has."""
        return [run_id for run_id, given in self._given.items() if given > self._reads_of(journal, run_id, given)]

    def _reads_of(self, journal: Journal, run_id: str, given: int) -> int:
        found = self._found[run_id]
        if found >= given or run_id in self._opened:
            return found
        # It began before the first root, and so may its reads have been.
        return sum(isinstance(entry.event, Read) for entry in readable_entries(journal, Query(run_id=run_id), []))


def _write(ref: StepRef, step: Step, sequence: int) -> Write:
    return Write(ref=ref, action=step.action, target=step.target, begun=sequence, causes=_causes(ref.run_id, step))


def _causes(run_id: str, step: Step) -> tuple[StepRef, ...]:
    """What it came of in other runs, and what it was declared to depend on. A step's name may be `RUN/STEP`."""
    found = [StepRef(run_id, name) for name in step.depends_on]
    for name in (*step.causal_parents, *step.depends_on):
        other, slash, step_id = name.rpartition("/")
        if slash and other != run_id:
            found.append(StepRef(other, step_id))
    return tuple(found)
