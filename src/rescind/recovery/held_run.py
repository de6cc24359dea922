"""What one run holds, how it stands, and where its chain goes on: read once, and from there on only what is new.

A run may hold thousands of effects, and each release or drop of one moves its chain on.
"""

import enum
from collections.abc import Iterable
from datetime import datetime

import msgspec

from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.model.entry import Entry, Event, Intended, Resumed, RunClosed, RunOpened, StepRef
from rescind.model.history import StepEvent, StepRecord, fold_steps
from rescind.model.step import HeldUntil


class RunEnd(enum.StrEnum):
    """How a run stands, as far as its journal tells."""

    OPEN = "open"  # somebody acts for it, or died without saying so
    ENDED = "ended"
    FAILED = "failed"
    HALTED = "halted"


_WORSE = (RunEnd.OPEN, RunEnd.ENDED, RunEnd.FAILED, RunEnd.HALTED)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is held.

    Attributes:
        record: The step.
        run_end: How its run stands.
        position: Where its run's chain goes on, when this was read.
    """

    record: StepRecord
    run_end: RunEnd
    position: int

    @property
    def ref(self) -> StepRef:
        """The step's name."""
        return self.record.ref

    @property
    def until(self) -> datetime | None:
        """From when on it may go; None: once its run has ended."""
        held = self.record.step.held
        return held.at if isinstance(held, HeldUntil) else None


class HeldRun:
    """One run, for whoever looks at what it holds again and again. Not thread-safe."""

    def __init__(self, journal: Journal, run_id: str) -> None:
        self._journal, self.run_id = journal, run_id
        self._after = self._position = 0
        self._end = RunEnd.OPEN
        self._acting: set[str] = set()  # guards that have opened it and not said that they left it
        self._entries: dict[str, list[Entry]] = {}
        self._records: dict[str, StepRecord] = {}

    def held(self) -> list[Held]:
        """The steps that it holds now, in the order of their intents."""
        self.read_on()
        return self.held_so_far()

    def held_so_far(self) -> list[Held]:
        """The steps that it holds by what was read, or taken in, of it, in the order of their intents."""
        return [self._held(record) for record in self._records.values() if record.is_held]

    def held_now(self, step_id: str) -> Held | None:
        """This step, if it is held now."""
        record = self.record(step_id)
        return self._held(record) if record.is_held else None

    def record(self, step_id: str) -> StepRecord:
        """This step, which was held once, as it is now."""
        self.read_on()
        return self._records[step_id]

    def _held(self, record: StepRecord) -> Held:
        # Halted once is halted, whoever else acts for it.
        end = self._end if self._end is RunEnd.HALTED or not self._acting else RunEnd.OPEN
        return Held(record=record, run_end=end, position=self._position)

    def read_on(self) -> None:
        """Read what is new of it. Raises: EntryUnreadable."""
        self.take(every_entry(self._journal, Query(run_id=self.run_id), after=self._after))

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in entries of this run, in order, from whoever has read them; what is known already is passed over."""
        moved: dict[str, None] = {}
        for entry in entries:
            if entry.sequence <= self._after:
                continue
            self._after, self._position = entry.sequence, entry.position + 1
            self._note_end(entry.event)
            if isinstance(entry.event, Intended):
                step = entry.event.step
                if isinstance(step.held, HeldUntil):
                    self._entries[step.step_id] = [entry]
                    moved[step.step_id] = None
            elif isinstance(entry.event, StepEvent) and entry.event.step_id in self._entries:
                self._entries[entry.event.step_id].append(entry)
                moved[entry.event.step_id] = None
        # In the order of their intents, since a step is here from its intent on.
        self._records |= {
            step_id: fold_steps(self._entries[step_id])[0] for step_id in self._entries if step_id in moved
        }

    def _note_end(self, event: Event) -> None:
        if isinstance(event, RunOpened):
            if not self._acting and self._end is not RunEnd.HALTED:
                self._end = RunEnd.OPEN  # it is continued: how it ended before is settled by how it ends now
            self._acting.add(event.guard_id)
        elif isinstance(event, Resumed):
            # A person has looked at how it ended, or at the process that died without a word, and has it go on.
            self._acting.clear()
            self._end = RunEnd.OPEN
        elif isinstance(event, RunClosed):
            self._acting.discard(event.guard_id)
            # Halted once is halted; of several processes that acted for it, one that failed is a failure.
            said = RunEnd(event.how) if event.how in RunEnd._value2member_map_ else RunEnd.FAILED
            self._end = max(self._end, said, key=_WORSE.index)
