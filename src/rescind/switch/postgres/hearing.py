"""How a guard hears of orders that stand in a database: one thread, one connection, and a lease.

    another machine places an order ──commit──▶ NOTIFY ──▶ the state is read ──▶ the set is read ──▶ the page moves
                                                  hint        what counts

The page is in the memory of this process, so a look at it costs what it costs with a file (S1). What a file gives for
nothing, a network does not: to know that *nothing* has happened. Therefore a lease, as with switches:

HG1. A notification is a hint and never the truth: whatever comes, the rows are read. Without any, they are read every
    `POLL_S`.
HG2. The lease is extended by a beat alone, and by it to no later than (the moment before the beat was sent) + ttl; only
    after what was read behind the beat has been taken up. So whoever has written `ttl` after the last beat of a guard
    knows that this guard has either beaten again or lowered itself.
HG3. While the lease has run out the stamp is odd (S2) and the set cannot be read (S4), at once and without waiting for
    a network: writes are refused. The gate reads the lease itself, so that this holds although this thread may hang
    with the server, or the whole process was suspended.
HG4. No beat without the guard's row: whoever places an order finds every guard that may act under older ones.

How long a stop takes to take hold: a notification (milliseconds); `POLL_S`, if that was lost; the lease, if the
database cannot be heard at all.
"""

import atexit
import contextlib
import math
import os
import select
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from rescind.clock import Clock
from rescind.database.connecting import translating
from rescind.errors import OrdersUnavailable, RescindError, UsageError
from rescind.switch.port import GuardReport
from rescind.switch.postgres.link import WHAT, leave_to_parent, opened
from rescind.switch.postgres.register import beat, leave
from rescind.switch.postgres.store import CHANNEL, PostgresOrders

if TYPE_CHECKING:
    import psycopg

POLL_S = 1.0
"""How often the state is read when nobody has told that it moved. One row by its key: 0.1 ms of the server."""

BEATS_PER_LEASE = 4
"""How many beats a lease is long: three of them may be lost on the way."""

REPORT_S = 1.0
"""The least time between two reports that only say which runs are open, or which calls have ended."""

_REPORT_SHARE = 50
"""A report may take one part in so many of the thread's time."""

_AGAIN_S = (0.1, 0.2, 0.5, 1.0)
"""How long to wait before the next connection is tried, after so many that failed."""

_CONNECT_TIMEOUT_S = 2
_LOCK_TIMEOUT_S = 2.0
_CLOSE_S = 3.0


class StoreLease(Protocol):
    """What the gate reads: until when the database lets the guard go on."""

    def extend_store(self, until_s: float) -> None:
        """It may go on until then, by the boot clock."""
        ...

    def end_store(self) -> None:
        """It may not go on."""
        ...


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """Who listens, and how long a silence it bears.

    Attributes:
        guard_id: As its row is called.
        lease: What the gate reads.
        ttl_s: How long a beat counts.
        harmless_after_s: How long after its last beat others have to take it for able to act, if that is longer.
        on_silence: The level that the guard lowers itself to, by its label.
    """

    guard_id: str
    lease: StoreLease
    ttl_s: float
    on_silence: str
    harmless_after_s: float = 0.0


class Hearing:
    """The ear of one guard, in one process. A forked child makes its own (see `abandon`)."""

    def __init__(self, orders: PostgresOrders, listening: Listening, clock: Clock) -> None:
        """An ear that does not listen yet: see `start`."""
        self._orders, self._listening, self._clock = orders, listening, clock
        self._closing, self._first = threading.Event(), threading.Event()
        self._mistake: UsageError | None = None  # what no waiting mends
        self._trouble = "it was not heard yet"
        self._until_s = -math.inf
        self._connection: psycopg.Connection[Any] | None = None
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._told = False
        self._poll_at_s = self._beat_at_s = self._report_at_s = 0.0
        self._lock = threading.Lock()
        self._report: GuardReport | None = None  # the next one to be sent
        self._sent: GuardReport | None = None
        self._thread = threading.Thread(target=self._listen, name="rescind-hearing", daemon=True)

    def start(self, *, within_s: float) -> None:
        """Listen from now on. Waits until the database was heard, or for so long.

        When the database was heard, whoever places an order finds this guard. If not, writes are refused until it is.

        Raises: UsageError, if waiting will not help: no driver, a store of a newer rescind, an address that is none.
        """
        self._listening.lease.end_store()
        self._orders.follow(self)
        self._thread.start()
        _open.add(self)
        self._first.wait(within_s)
        if self._mistake is not None:
            self.close()
            raise self._mistake

    @property
    def is_heard(self) -> bool:
        """Whether the lease has not run out."""
        return self._clock.boot_s() < self._until_s

    def refuse_if_silent(self) -> None:
        """Raises: OrdersUnavailable, if the database was not heard for longer than the lease (law HG3)."""
        if not self.is_heard:
            raise OrdersUnavailable(
                f"the orders in {self._orders.address} were not heard for {self._listening.ttl_s:g} s: "
                f"{self._trouble}. Changes are refused until they are heard, and go on by themselves then"
            )

    def publish(self, report: GuardReport) -> None:
        """Send this soon: at once, if it says that orders were bound or drained."""
        with self._lock:
            self._report = report
        self.wake()

    def wake(self) -> None:
        """Let the thread look now."""
        with contextlib.suppress(OSError):  # full: it is awake; closed: nobody is there
            self._waker.send(b"!")

    def close(self) -> None:
        """Stop listening, and take the guard out of the register, if the database can be reached."""
        _open.discard(self)
        self._closing.set()
        self.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_S)
        self._end()
        if not self._thread.is_alive():
            self._wake.close()
            self._waker.close()

    def abandon(self) -> None:
        """In a forked child: forget the parent's thread, connection and lease, and touch none of them."""
        _open.discard(self)
        leave_to_parent(self._connection)
        self._connection = None
        self._wake.close()
        self._waker.close()
        self._end()

    def _end(self) -> None:
        self._until_s = -math.inf
        self._listening.lease.end_store()
        self._orders.follow(None)

    # --- the thread ---

    def _listen(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                with translating(self._orders.address, OrdersUnavailable, what=WHAT):
                    self._on_one_connection()
            except UsageError as error:
                self._mistake = error
                self._failed(error)
            except Exception as error:  # noqa: BLE001  # a thread that died in silence would never hear again
                self._failed(error)
            failures = 0 if self.is_heard else failures + 1
            self._closing.wait(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])

    def _failed(self, error: Exception) -> None:
        self._trouble = str(error) if isinstance(error, RescindError) else f"{type(error).__name__}: {error}"
        self._first.set()
        self._notice_silence()

    def _notice_silence(self) -> None:
        if not self.is_heard:
            self._orders.show_unsettled()

    def _on_one_connection(self) -> None:
        connection = opened(
            self._orders.address,
            name="guard",
            create=True,
            lock_timeout_s=_LOCK_TIMEOUT_S,
            connect_timeout_s=_CONNECT_TIMEOUT_S,
        )
        self._connection = connection
        try:
            connection.add_notify_handler(lambda _: self._hear_hint())
            connection.execute(f"LISTEN {CHANNEL}".encode())  # before the first look, or what comes between were lost
            self._beat_at_s = self._poll_at_s = 0.0
            self._sent = None  # what was sent before may be gone with the old server
            while not self._closing.is_set():
                self._look(connection)
                self._wait(connection)
            last = self._unsent()
            if last is not None:  # it may say what a receipt waits for
                self._beat(connection, last)
            leave(connection, self._listening.guard_id)
        finally:
            self._connection = None
            connection.close()

    def _hear_hint(self) -> None:
        self._told = True

    def _look(self, connection: "psycopg.Connection[Any]") -> None:
        now_s = self._clock.boot_s()
        report = self._due_report(now_s)
        beats = now_s >= self._beat_at_s
        if report is not None or beats:
            self._beat(connection, report)
        if self._told or beats or report is not None or now_s >= self._poll_at_s:
            self._told = False  # first: a hint that comes while we read is another one
            self._orders.take_up(connection)
            self._poll_at_s = now_s + POLL_S
            if report is not None or beats:
                self._renew(now_s + self._listening.ttl_s)

    def _beat(self, connection: "psycopg.Connection[Any]", report: GuardReport | None) -> None:
        started_s = self._clock.boot_s()
        said = self._listening
        beat(
            connection,
            guard_id=said.guard_id,
            ttl_s=max(said.ttl_s, said.harmless_after_s),
            on_silence=said.on_silence,
            report=report,
            now_s=self._clock.monotonic_s(),
        )
        self._beat_at_s = started_s + said.ttl_s / BEATS_PER_LEASE
        if report is not None:
            self._sent = report
            took_s = self._clock.boot_s() - started_s
            self._report_at_s = started_s + max(REPORT_S, took_s * _REPORT_SHARE)

    def _renew(self, until_s: float) -> None:
        self._until_s = until_s
        self._listening.lease.extend_store(until_s)
        self._trouble = "it does not answer"
        self._orders.show_settled()
        self._first.set()

    def _unsent(self) -> GuardReport | None:
        with self._lock:
            return None if self._report == self._sent else self._report

    def _due_report(self, now_s: float) -> GuardReport | None:
        report = self._unsent()
        if report is None:
            return None
        return report if now_s >= self._report_at_s or _is_urgent(report, self._sent) else None

    def _wait(self, connection: "psycopg.Connection[Any]") -> None:
        if self._told:
            return
        due_s = min(self._poll_at_s, self._beat_at_s)
        if self._report is not None and self._report != self._sent:
            due_s = min(due_s, self._report_at_s)
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        ready = dict(poll.poll(max(0.0, due_s - self._clock.boot_s()) * 1000))
        if self._wake.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake.recv(4096)
        if connection.fileno() in ready:
            connection.pgconn.consume_input()
            while connection.pgconn.notifies() is not None:
                self._told = True
            if not self._told:  # the end of the connection looks so too; the next statement tells
                self._poll_at_s = 0.0


def _is_urgent(report: GuardReport, sent: GuardReport | None) -> bool:
    if sent is None:
        return True
    said, before = _acknowledged(report), _acknowledged(sent)
    return said != before


def _acknowledged(report: GuardReport) -> tuple[Any, ...]:
    return report.bound_stamp, report.drained_at_s is None, report.fault


_open: "weakref.WeakSet[Hearing]" = weakref.WeakSet()


def _leave_at_exit() -> None:
    # Without it every program that just ends would be unknown to receipts until its lease has run out.
    for hearing in list(_open):
        hearing.close()


atexit.register(_leave_at_exit)
os.register_at_fork(after_in_child=_open.clear)  # the parent's, which lives


class HeardPresence:
    """A guard's entry in the register of the database, as its watcher keeps it; see `Entry`."""

    def __init__(self, hearing: Hearing, guard_id: str, *, within_s: float) -> None:
        self.guard_id = guard_id
        self._hearing, self._within_s = hearing, within_s
        self._pid = 0

    def register(self) -> None:
        """Listen, if it does not yet. The entry comes with the first beat, and is repaired by every later one."""
        if not self.is_registered():
            self._pid = os.getpid()
            self._hearing.start(within_s=self._within_s)

    def is_registered(self) -> bool:
        """Whether this process listens."""
        return self._pid == os.getpid()

    def publish(self, report: GuardReport) -> None:
        """Replace the report."""
        self._hearing.publish(report)

    def close(self) -> None:
        """Disappear. In a forked child: only let go of what is the parent's."""
        if self.is_registered():
            self._hearing.close()
        self._pid = 0

    def reset_after_fork(self) -> None:
        """In a child: let go of what is the parent's."""
        if self._pid not in (0, os.getpid()):
            self._hearing.abandon()
        self._pid = 0
