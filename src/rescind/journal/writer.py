"""The writer: one thread per process that commits many appends at a time.

A commit costs a sync of the disk, whether it carries one entry or a thousand. So callers hand their drafts to a queue
and wait; the writer takes all that is there, commits it as one batch, and wakes them. While it waits for the disk the
next batch gathers by itself. A thread that finds nobody at work and nobody waiting commits its append itself.

States: no thread, until the first append; running; closed. Before a fork the writer comes to rest between two batches
and closes its connection, because no database's connection may exist on both sides of a fork; the parent's thread then
opens a new one, and the child begins again without a thread.

What a commit is, a recorder knows: there is one for each store on disk.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rescind.errors import JournalUnavailable, RescindError
from rescind.journal.admission import Refusal
from rescind.journal.codec import Prepared
from rescind.journal.port import Appended, SlotTaken

if TYPE_CHECKING:
    import asyncio

_LOG = logging.getLogger(__name__)

# More entries in one commit no longer raise the rate (142,000/s at 100, 188,000/s at 1,000), they only let the first
# in the batch wait longer.
_BATCH_ENTRIES_MAX = 1_000

# Blocked threads bound themselves; tasks and `submit` do not. At 2 KB each this is 130 MB, and a writer that is so far
# behind does not catch up: then it is better to refuse writes than to run out of memory.
_QUEUE_MAX = 65_536

_ATTEMPTS_MAX = (
    3  # A second one follows a connection that was lost, a third a writer that came between. More is trouble.
)

_Answer = Appended | Refusal | RescindError


class Overtaken(Exception):
    """Raised by a recorder: nothing of the batch was recorded, nor will be, and it is to be judged once more."""


class Committed(NamedTuple):
    """A durable batch: how many entries it had, and by how much their sequences are higher than `append` said."""

    entries: int
    moved_by: int = 0


class Recorder(Protocol):
    """Places appends in a store, one transaction at a time, on one connection of its own. Not thread-safe.

    Use: `begin`, `append` as often as wanted, then `commit`; after any exception of these, `rollback`.
    """

    name: str
    """What messages call the journal. Holds no secret."""

    def begin(self) -> None:
        """Connect if need be. What other writers have committed is known after this, or found out by `commit`."""
        ...

    def look_ahead(self, drafts: Sequence[Prepared]) -> None:
        """These are appended next: what they will ask for may be looked up at once."""
        ...

    def append(self, drafts: Sequence[Prepared]) -> Appended | Refusal:
        """Place all drafts, or say why not and place none. The sequences are good once `commit` has moved them."""
        ...

    def commit(self) -> Committed:
        """Make the batch durable.

        Raises: Overtaken; or whatever went wrong, and then nothing of the batch will appear (J7).
        """
        ...

    def rollback(self) -> None:
        """Forget the batch, and everything known from it. Never fails."""
        ...

    def disconnect(self) -> None:
        """Let go of the connection; the next `begin` makes a new one."""
        ...

    def abandon(self) -> None:
        """In a forked child: forget the connection without a word to the server, for it is the parent's."""
        ...

    def explain(self, error: BaseException) -> RescindError | None:
        """What an error of the driver means to our callers; None if it is not one."""
        ...

    def tidy(self, entries: int, *, last: bool) -> None:
        """Between batches, when the waiters are awake: `entries` were committed; `last`, that the writer is closing.

        Raises: OSError or RescindError; it is logged, and nobody's append fails.
        """
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

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
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
        from asyncio import get_running_loop  # here there is one, so it is imported already

        ticket = _Ticket(drafts)
        ticket.loop = get_running_loop()
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
        self._recorder.disconnect()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._at_work.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the thread, and what waits in the queue, are the parent's."""
        self._recorder.abandon()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._lifecycle = threading.Lock()
        self._at_work = threading.Lock()  # Held while the connection is in use.
        self._here = 0  # The thread that appends by itself just now.
        self._queue: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._last_put: _Ticket | None = None
        self._thread: threading.Thread | None = None
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
                    self._tidy(self._write([ticket], _nobody), last=False)
            finally:
                self._here = 0

    def _wait(self, ticket: _Ticket) -> None:
        """Let the writer's thread commit it."""
        if self._here == threading.get_ident():
            # Waiting for ourselves would last for ever: this is a signal handler, above an append of the same thread.
            raise JournalUnavailable(
                f"the journal {self._recorder.name} is in the middle of an append of this very thread"
            )
        # A bare lock, acquired twice, is the cheapest thing a thread can wait on.
        ticket.lock = lock = threading.Lock()
        lock.acquire()
        self._put(ticket)
        lock.acquire()

    def _put(self, ticket: _Ticket) -> None:
        if self._thread is None:
            self._start()
        if self._queue.qsize() >= _QUEUE_MAX:
            raise JournalUnavailable(f"the journal {self._recorder.name} is {_QUEUE_MAX} appends behind; slow down")
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
                entries = self._write(batch, self._waiting)
                _wake(batch)
                self._tidy(entries, last=False)
        self._finish()

    def _finish(self) -> None:
        with self._at_work:
            self._tidy(0, last=True)
            self._recorder.disconnect()

    def _write(self, batch: list[_Ticket], more: Callable[[int], list[_Ticket]]) -> int:
        """Commit the batch and what joins it; put its answer on each ticket. How many entries there were."""
        attempt = 1
        while True:
            try:
                self._recorder.begin()
                self._place(batch, more)
                committed = self._recorder.commit()
                _move(batch, committed.moved_by)
                return committed.entries
            except Overtaken as overtaken:
                self._recorder.rollback()
                attempt += 1
                if attempt > _ATTEMPTS_MAX:
                    self._refuse(batch, overtaken.__cause__ or overtaken)
                    return 0
            except BaseException as error:
                # Even a refusal is withdrawn: it may have been decided on what now never was.
                self._refuse(batch, error)
                self._recorder.rollback()
                if not isinstance(error, Exception):
                    raise
                return 0

    def _place(self, batch: list[_Ticket], more: Callable[[int], list[_Ticket]]) -> None:
        # What waits joins only now, since more has come while we waited for the lock; and more comes while we place it.
        entries = sum(len(ticket.drafts) for ticket in batch)
        joining = more(entries)
        batch += joining
        due: Sequence[_Ticket] = batch[:]
        while due:
            self._recorder.look_ahead([prepared for ticket in due for prepared in ticket.drafts])
            for ticket in due:
                ticket.answer = self._recorder.append(ticket.drafts)
            entries += sum(len(ticket.drafts) for ticket in joining)
            due = joining = more(entries)
            batch += joining

    def _refuse(self, batch: Sequence[_Ticket], error: BaseException) -> None:
        for ticket in batch:
            ticket.answer = self._unavailable(error)

    def _waiting(self, entries: int) -> list[_Ticket]:
        """What is in the queue, until a batch that has `entries` already is full."""
        found: list[_Ticket] = []
        while entries < _BATCH_ENTRIES_MAX and self._queue.qsize():
            ticket = self._queue.get_nowait()  # Nobody but this thread takes from the queue while it runs.
            if ticket is None:
                self._queue.put(None)  # The end: for `_work` to see.
                break
            entries += len(ticket.drafts)
            found.append(ticket)
        return found

    def _unavailable(self, error: BaseException) -> RescindError:
        if isinstance(error, JournalUnavailable):
            return error
        translated = self._recorder.explain(error) or JournalUnavailable(
            f"the journal {self._recorder.name} failed, nothing was recorded: {error!r}"
        )
        translated.__cause__ = error
        return translated

    def _tidy(self, entries: int, *, last: bool) -> None:
        try:
            self._recorder.tidy(entries, last=last)
        except (OSError, RescindError) as error:
            # Seals come again; what they cover is durable already, so nobody's append depends on them.
            _LOG.warning("the journal %s could not be tidied up: %s", self._recorder.name, error)

    def _closed_error(self) -> JournalUnavailable:
        return JournalUnavailable(f"the journal {self._recorder.name} is closed; open it again to append")

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


def _nobody(entries: int) -> list[_Ticket]:
    return []


def _move(batch: Sequence[_Ticket], moved_by: int) -> None:
    for ticket in batch:
        answer = ticket.answer
        if moved_by and isinstance(answer, Appended):
            ticket.answer = Appended(tuple([number + moved_by for number in answer.sequences]), answer.positions)


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
