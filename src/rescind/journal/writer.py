"""The writer: one thread per process that commits many appends at a time.

A commit costs a sync of the disk, whether it carries one entry or a thousand. So callers hand their drafts to a queue
and wait; the writer takes all that is there, commits it as one batch, and wakes them. While it waits for the disk the
next batch gathers by itself. A thread that finds nobody at work and nobody waiting commits its append itself.

States: no thread, until the first append; running; closed. Before a fork the writer comes to rest between two batches
and closes its connection, because a SQLite connection must not exist on both sides of a fork; the parent's thread then
opens a new one, and the child begins again without a thread.
"""

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from rescind.clock import Clock
from rescind.errors import JournalUnavailable, RescindError
from rescind.journal.admission import Refusal
from rescind.journal.batch import Recorder
from rescind.journal.codec import Prepared
from rescind.journal.connection import retry_while_busy, translate
from rescind.journal.port import Appended, SlotTaken

_LOG = logging.getLogger(__name__)

# More entries in one commit no longer raise the rate (142,000/s at 100, 188,000/s at 1,000), they only let the first
# in the batch wait longer.
_BATCH_ENTRIES_MAX = 1_000

# Blocked threads bound themselves; tasks and `submit` do not. At 2 KB each this is 130 MB, and a writer that is so far
# behind does not catch up: then it is better to refuse writes than to run out of memory.
_QUEUE_MAX = 65_536

_Answer = Appended | Refusal | RescindError


class Connect(Protocol):
    """Opens the connection that appends."""

    def __call__(self, path: Path) -> sqlite3.Connection:
        """May raise sqlite3.Error."""
        ...


class AfterCommit(Protocol):
    """Called on the writer's thread, between batches, when the waiters of a batch have been woken."""

    def __call__(self, connection: sqlite3.Connection, entries: int, *, last: bool) -> None:
        """`entries` is how many the batch had; `last`, that the writer is closing."""
        ...


class _Ticket:
    """One append on its way. A thread waits on `lock`, a task on `future`, and nobody on a submitted one."""

    __slots__ = ("answer", "drafts", "future", "lock", "loop")

    def __init__(self, drafts: Sequence[Prepared]) -> None:
        self.drafts = drafts
        self.answer: _Answer | None = None
        self.lock: threading.Lock | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[_Answer] | None = None


class Writer:
    """Commits appends to one journal. Thread-safe."""

    def __init__(
        self, path: Path, *, connect: Connect, after_commit: AfterCommit, clock: Clock, busy_timeout_s: float
    ) -> None:
        self._path, self._connect, self._after_commit = path, connect, after_commit
        self._clock, self._busy_timeout_s = clock, busy_timeout_s
        self._closed = False
        self._begin_anew()

    def append(self, drafts: Sequence[Prepared]) -> Appended | SlotTaken:
        """See `Journal.append`."""
        ticket = _Ticket(drafts)
        last = self._last_put
        # The thread may have taken the last one from the queue and not begun it; nobody overtakes that.
        if self._at_work.locked() or (last is not None and last.answer is None):
            self._wait(ticket)
        else:
            self._append_here(ticket)
        return _open_answer(ticket.answer)

    async def append_async(self, drafts: Sequence[Prepared]) -> Appended | SlotTaken:
        """See `Journal.append_async`."""
        ticket = _Ticket(drafts)
        ticket.loop = asyncio.get_running_loop()
        ticket.future = ticket.loop.create_future()
        self._put(ticket)
        return _open_answer(await ticket.future)

    def submit(self, drafts: Sequence[Prepared]) -> None:
        """See `Journal.submit`. What cannot be recorded is logged."""
        try:
            self._put(_Ticket(drafts))
        except JournalUnavailable as error:
            _LOG.warning("a record was dropped: %s", error)

    def close(self) -> None:
        """Commit what is queued, then end the thread. Further appends raise `JournalUnavailable`."""
        with self._lifecycle:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
        if thread is None:
            self._finish()
        else:
            self._queue.put(None)
            thread.join()
        self._ended = True
        self._answer_stragglers()

    def before_fork(self) -> None:
        """Come to rest: no batch is under way and no connection is open, until one of the two methods below."""
        self._at_work.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._at_work.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the thread, and what waits in the queue, are the parent's."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._lifecycle = threading.Lock()
        self._at_work = threading.Lock()  # Held while the connection is in use.
        self._here = 0  # The thread that appends by itself just now.
        self._queue: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._last_put: _Ticket | None = None
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._recorder: Recorder | None = None
        self._identity: tuple[int, int] | None = None  # Of the file that the connection has open.
        self._ended = self._closed  # Nobody will take from the queue any more.

    def _append_here(self, ticket: _Ticket) -> None:
        """Commit one append on the caller's thread. Nobody else is there, and handing it over would cost 60 µs."""
        # `with` and not `acquire`: a Ctrl-C that came between that and the next line would leave it locked for ever.
        with self._at_work:
            self._here = threading.get_ident()
            try:
                if self._closed:
                    ticket.answer = self._closed_error()
                else:
                    # Only this one: should a Ctrl-C come now, no other caller waits for what we had in hand.
                    self._tidy(self._write([ticket], ()), last=False)
            finally:
                self._here = 0

    def _wait(self, ticket: _Ticket) -> None:
        """Let the writer's thread commit it."""
        if self._here == threading.get_ident():
            # Waiting for ourselves would last for ever: this is a signal handler, above an append of the same thread.
            raise JournalUnavailable(f"the journal {self._path} is in the middle of an append of this very thread")
        # A bare lock, acquired twice, is the cheapest thing a thread can wait on.
        ticket.lock = lock = threading.Lock()
        lock.acquire()
        self._put(ticket)
        lock.acquire()

    def _put(self, ticket: _Ticket) -> None:
        if self._thread is None:
            self._start()
        if self._queue.qsize() >= _QUEUE_MAX:
            raise JournalUnavailable(f"the journal {self._path} is {_QUEUE_MAX} appends behind; slow down")
        self._last_put = ticket  # The queue is in order: once this one is answered, all before it are.
        self._queue.put(ticket)
        if self._ended:
            # The last look into the queue may have been before this ticket was in it.
            self._answer_stragglers()

    def _start(self) -> None:
        with self._lifecycle:
            if self._thread is None and not self._closed:
                # A daemon: a process that ends without `close` must not hang on an idle writer.
                self._thread = threading.Thread(target=self._work, name=f"rescind-journal-{os.getpid()}", daemon=True)
                self._thread.start()

    # --- on the writer's thread ---

    def _work(self) -> None:
        while (ticket := self._queue.get()) is not None:
            with self._at_work:
                batch = [ticket]
                entries = self._write(batch, self._waiting(len(ticket.drafts)))
                _wake(batch)
                self._tidy(entries, last=False)
        self._finish()

    def _finish(self) -> None:
        with self._at_work:
            self._tidy(0, last=True)
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._recorder = None

    def _write(self, batch: list[_Ticket], more: Iterable[_Ticket]) -> int:
        """Commit the batch and what joins it; put its answer on each ticket. How many entries there were."""
        try:
            recorder = retry_while_busy(self._begin, clock=self._clock, timeout_s=self._busy_timeout_s)
            for ticket in batch:
                ticket.answer = recorder.append(ticket.drafts)
            # Only now, since more has come while we waited for the lock.
            for ticket in more:
                batch.append(ticket)
                ticket.answer = recorder.append(ticket.drafts)
            return recorder.commit()
        except BaseException as error:
            # Even a refusal is withdrawn: it may have been decided on what now never was.
            for ticket in batch:
                ticket.answer = self._unavailable(error)
            self._roll_back()
            if not isinstance(error, Exception):
                raise
            return 0

    def _waiting(self, entries: int) -> Iterator[_Ticket]:
        """What is in the queue, until a batch that has `entries` already is full."""
        while entries < _BATCH_ENTRIES_MAX and self._queue.qsize():
            ticket = self._queue.get_nowait()  # Nobody but this thread takes from the queue while it runs.
            if ticket is None:
                self._queue.put(None)  # The end: for `_work` to see.
                return
            entries += len(ticket.drafts)
            yield ticket

    def _begin(self) -> Recorder:
        if self._recorder is None:
            self._connection = self._connect(self._path)
            self._recorder = Recorder(self._connection)
            self._identity = _identity(self._path)
        elif _identity(self._path) != self._identity:
            # SQLite would go on writing to a file that has no name any more, and no undo would ever find it.
            raise JournalUnavailable(
                f"the journal {self._path} was deleted or replaced while it was in use, and nothing was recorded; "
                "put it back, or restart this program to begin a new one"
            )
        self._recorder.begin()
        return self._recorder

    def _roll_back(self) -> None:
        if self._recorder is None:
            return
        try:
            self._recorder.rollback()
        except sqlite3.Error:
            # A connection that cannot even roll back is of no use; a new one starts from what is on disk.
            self._disconnect()

    def _unavailable(self, error: BaseException) -> RescindError:
        if isinstance(error, JournalUnavailable):
            return error
        if isinstance(error, sqlite3.Error):
            translated = translate(error, self._path)
        else:
            translated = JournalUnavailable(f"the journal {self._path} failed, nothing was recorded: {error!r}")
        translated.__cause__ = error
        return translated

    def _tidy(self, entries: int, *, last: bool) -> None:
        if self._connection is None:
            return
        try:
            self._after_commit(self._connection, entries, last=last)
        except (sqlite3.Error, OSError, RescindError) as error:
            # Seals come again; what they cover is durable already, so nobody's append depends on them.
            _LOG.warning("the journal %s could not be sealed: %s", self._path, error)

    def _closed_error(self) -> JournalUnavailable:
        return JournalUnavailable(f"the journal {self._path} is closed; open it again to append")

    def _answer_stragglers(self) -> None:
        stragglers: list[_Ticket] = []
        while True:
            try:
                ticket = self._queue.get_nowait()
            except Empty:
                break
            if ticket is not None:
                ticket.answer = self._closed_error()
                stragglers.append(ticket)
        _wake(stragglers)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_answer(answer: _Answer | None) -> Appended | SlotTaken:
    assert answer is not None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _wake(batch: Sequence[_Ticket]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Ticket]] = {}
    for ticket in batch:
        if ticket.lock is not None:
            ticket.lock.release()
        elif ticket.loop is not None:
            by_loop.setdefault(ticket.loop, []).append(ticket)
        elif isinstance(ticket.answer, Exception):
            _LOG.warning("a record was dropped: %s", ticket.answer)
    # Waking a loop writes to a pipe; once per batch is enough.
    for loop, tickets in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, tickets)
        except RuntimeError:  # The loop was closed: nobody waits any more.
            continue


def _settle(tickets: Sequence[_Ticket]) -> None:
    for ticket in tickets:
        assert ticket.future is not None
        assert ticket.answer is not None
        if not ticket.future.done():
            ticket.future.set_result(ticket.answer)
