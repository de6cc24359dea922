"""Back to a checkpoint: which steps were made since, by the run that made it or the workflow that was there.

The checkpoint of an engine is one of a thread, which may be worked on by several runs. What it did since is every step
of that thread from the first one on that was made from this checkpoint, or from a later one: a thread that travelled
back in time afterwards did so after it, too.
"""

from collections.abc import Iterable

import msgspec

from rescind.errors import UsageError
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import Checkpointed, Intended
from rescind.model.history import StepRecord
from rescind.model.step import EngineCheckpoint, Step
from rescind.recovery.reading import the_one_meant


class BackTo(msgspec.Struct, frozen=True, kw_only=True):
    """What to go back behind.

    Attributes:
        checkpoint_id: The whole id.
        run_ids: The runs that may have done something since.
        thread: The engine and its thread; None for a checkpoint of a run's own.
        after: Where in the journal it begins: steps with a greater sequence are meant.
    """

    checkpoint_id: str
    run_ids: tuple[str, ...]
    thread: tuple[str, str] | None
    after: int

    def covers(self, record: StepRecord) -> bool:
        """Whether the step was made since."""
        if record.intended_sequence <= self.after or record.run.run_id not in self.run_ids:
            return False
        return self.thread is None or _thread_of(record.step) == self.thread


def find_checkpoint(journal: Journal, text: str, *, run_ids: Iterable[str] = ()) -> BackTo:
    """The checkpoint with this id, or the only one whose id begins so: of a run, or of a workflow engine.

    One that no step was made from has to be named with its thread: `THREAD/ID`. In `run_ids` a run's own is looked for
    by its whole id first, for no other run can have it; all other names take the whole journal.

    Raises: UsageError, with the nearest one, if there is none or more than one.
    """
    for run_id in run_ids:
        for entry in readable_entries(journal, Query(run_id=run_id), []):
            if isinstance(entry.event, Checkpointed) and entry.event.checkpoint_id == text:
                return BackTo(checkpoint_id=text, run_ids=(run_id,), thread=None, after=entry.sequence)
    own: dict[str, tuple[str, int]] = {}
    steps: list[tuple[int, str, EngineCheckpoint]] = []
    for entry in every_entry(journal, Query()):
        if isinstance(entry.event, Checkpointed):
            if entry.event.checkpoint_id == text:  # there is no other, so what comes after it need not be read
                return BackTo(checkpoint_id=text, run_ids=(entry.run.run_id,), thread=None, after=entry.sequence)
            own[entry.event.checkpoint_id] = entry.run.run_id, entry.sequence
        elif isinstance(entry.event, Intended):
            made_from = entry.event.step.engine_checkpoint
            if isinstance(made_from, EngineCheckpoint):
                steps.append((entry.sequence, entry.run.run_id, made_from))
    thread, slash, checkpoint_id = text.rpartition("/")
    if slash and any(each.thread == thread for _, _, each in steps):
        engine = next(each.engine for _, _, each in steps if each.thread == thread)
        return _since(checkpoint_id, (engine, thread), steps)
    engines = {each.checkpoint_id: (each.engine, each.thread) for _, _, each in steps}
    meant = the_one_meant(text, [*own, *engines], what="checkpoint")
    if meant in own:
        run_id, sequence = own[meant]
        return BackTo(checkpoint_id=meant, run_ids=(run_id,), thread=None, after=sequence)
    return _since(meant, engines[meant], steps)


def _since(checkpoint_id: str, thread: tuple[str, str], steps: Iterable[tuple[int, str, EngineCheckpoint]]) -> BackTo:
    ours = [(sequence, run_id, each) for sequence, run_id, each in steps if (each.engine, each.thread) == thread]
    begun = [sequence for sequence, _, each in ours if each.checkpoint_id >= checkpoint_id]
    if not begun:
        raise UsageError(f"thread {thread[1]} has done nothing since checkpoint {checkpoint_id}")
    run_ids = dict.fromkeys(run_id for sequence, run_id, _ in ours if sequence >= min(begun))
    return BackTo(checkpoint_id=checkpoint_id, run_ids=tuple(run_ids), thread=thread, after=min(begun) - 1)


def _thread_of(step: Step) -> tuple[str, str] | None:
    made_from = step.engine_checkpoint
    return (made_from.engine, made_from.thread) if isinstance(made_from, EngineCheckpoint) else None
