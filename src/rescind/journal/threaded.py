"""What a journal with one writer thread and connections that read does, whatever store is behind them."""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from rescind.journal.codec import Prepared, prepare
from rescind.journal.forking import survive_forks
from rescind.journal.port import Appended, Draft, SlotTaken
from rescind.journal.readers import Closable, Readers
from rescind.journal.writer import Writer

if TYPE_CHECKING:
    from rescind.model.step import RunInfo

RUNS_CACHED_MAX = 10_000
"""Runs that are remembered by their keys, some 5 MB. A page names few runs, and the next page mostly the same."""

C = TypeVar("C", bound=Closable)


class ThreadedJournal(Generic[C]):
    """The half of a `Journal` that appends, closes and survives forks; a store adds what is read, and how."""

    def __init__(self, writer: Writer, readers: Readers[C]) -> None:
        """The writer's thread begins with the first append, connections with the first look."""
        self._writer, self._readers = writer, readers
        self._runs: dict[int, RunInfo] = {}
        # Whoever forgets to close still gets his submitted entries recorded, when the journal or the process ends.
        self._finalizer = weakref.finalize(self, _close, writer, readers)
        survive_forks(self)

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        return self._writer.append(self._prepare(drafts)) if drafts else Appended((), ())

    async def append_async(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        """See `Journal`."""
        return await self._writer.append_async(self._prepare(drafts)) if drafts else Appended((), ())

    def submit(self, drafts: Sequence[Draft]) -> None:
        """See `Journal`. What cannot be recorded is logged and dropped."""
        self._writer.submit(self._prepare(drafts))

    def close(self) -> None:
        """See `Journal`. A store that seals has sealed what was written."""
        self._finalizer()

    def before_fork(self) -> None:
        """Come to rest without any connection. Called by the interpreter, as are the next two."""
        self._writer.before_fork()
        self._readers.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._readers.after_fork_in_parent()
        self._writer.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Begin anew, on connections of the child's own."""
        self._readers.after_fork_in_child()
        self._writer.after_fork_in_child()

    def _prepare(self, drafts: Sequence[Draft]) -> list[Prepared]:
        """The drafts, ready to be placed; a store refuses here what it could not hold. Raises: UsageError."""
        return prepare(drafts)


def _close(writer: Writer, readers: Readers[C]) -> None:
    writer.close()
    readers.close()
