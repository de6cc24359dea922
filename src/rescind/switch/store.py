"""Standing orders in a file of their own, for all guards of one machine.

Apart from the journal: the power to stop must survive whatever happens to the record, and a stop must not queue behind
a million entries. In write-ahead-log mode readers never wait for a writer.

What happens when a part dies:

- the writer, anywhere: the order is in the set or it is not; the stamp is odd or has moved. See `stamp`.
- the stamp file: it is made again, higher than it ever was, by the next process that looks.
- `orders.db` or its log, under a process that uses it: that process refuses to know anything (S4) until it is started
  anew. Orders that are placed at the path from now on would not be heard by it, and those that stood may be gone.
- `orders.db`, while nobody looks, with the stamp left behind: nobody makes a new one in silence, for the same reason.
"""

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rescind.clock import Clock, SystemClock
from rescind.errors import OrdersUnavailable, StoreFormatError, UsageError
from rescind.model.order import Lift, Order, OrderSet
from rescind.switch import database, order_rows
from rescind.switch.port import Standing
from rescind.switch.stamp import StampPage, create_if_missing, repair, writing

if TYPE_CHECKING:
    from rescind.switch.probes import Claim
    from rescind.triggers.probing import ProbeRule, Round, Wait

ORDERS_NAME = "orders.db"
STAMP_NAME = "orders.stamp"

WRITE_TIMEOUT_S = 5.0
"""How long a place or lift waits for another one. Each takes milliseconds, so this one is stuck."""

_REPLACED_MAX = 10
"""How often a writer follows a stamp file that is replaced under its hands."""

_RESTART = "orders may be missing there. Find out who did it, then restart this program"

Write = Callable[[sqlite3.Connection, int], object]
"""Adds rows that carry the given stamp, inside a transaction."""


class SqliteOrders:
    """See `Orders`. One object serves all threads of a process, and goes on to work in a forked child."""

    def __init__(self, directory: Path, *, clock: Clock | None = None, timeout_s: float = WRITE_TIMEOUT_S) -> None:
        """Open the orders of this folder; make folder and files where there are none.

        Args:
            directory: The folder of the store, on a local disk.
            clock: The time.
            timeout_s: How long to wait for another writer.

        Raises:
            StoreFormatError: What is there is not ours, or from a newer rescind. It was left alone.
            OrdersUnavailable: It cannot be opened or made.
        """
        self.directory = directory.absolute()
        self._path, self._stamp_path = self.directory / ORDERS_NAME, self.directory / STAMP_NAME
        self._clock, self._timeout_s = clock or SystemClock(), timeout_s
        # Reentrant, since a fork holds it in the thread that forks, whose other fork hooks may look at the orders.
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._files: tuple[database.Identity | None, ...] = ()
        self._store_id = ""
        self._extent: tuple[int, int] = (-1, -1)
        self._standing: tuple[Order, ...] = ()
        self._closed = False
        # The stamp is looked for before the database, since a new store gets its database first.
        if self._stamp_path.exists() and not self._path.exists():
            raise OrdersUnavailable(
                f"{self._path} is missing, and {STAMP_NAME} beside it says that there was one: orders may be lost. "
                f"Put {ORDERS_NAME} back; or, to begin with no orders at all, delete {STAMP_NAME} too"
            )
        database.create_if_missing(self._path)
        with database.translating(self._path):
            self._stamp = self._map_stamp(self._connect())
        repair(self._stamp_path)
        _stores.add(self)

    @property
    def page(self) -> Sequence[int]:
        """See `Orders`. After the stamp file was replaced, `standing` makes this another page."""
        return self._stamp.page

    def is_current(self) -> bool:
        """See `WatchedOrders`."""
        return self._stamp.is_current() and self._missing_file() is None

    def standing(self) -> Standing:
        """See `Orders`."""
        with self._reading() as connection:
            if not self._stamp.is_current():
                self._stamp = self._map_stamp(connection)
            stamp = self._stamp.page[0]  # before the set: see `Standing`
            extent = order_rows.extent(connection)
            if extent[0] < self._extent[0] or extent[1] < self._extent[1]:
                raise OrdersUnavailable(f"{self._path} has lost orders or lifts since this process read it; {_RESTART}")
            if extent != self._extent:
                self._standing = order_rows.standing(connection)
                self._extent = extent  # last: if a row cannot be understood, the next look fails on it too
            return Standing(stamp, self._standing)

    def history(self) -> OrderSet:
        """See `Orders`."""
        with self._reading() as connection, database.transaction(connection, "BEGIN"):
            return order_rows.history(connection)

    def place(self, order: Order) -> None:
        """See `Orders`. Placing an order again changes nothing.

        Raises: UsageError, if another order has this id.
        """
        self._change(lambda connection, stamp: order_rows.add_order(connection, order, stamp=stamp))

    def lift(self, lift: Lift) -> None:
        """See `Orders`. Adding a lift again changes nothing.

        Raises: UsageError, if another lift has this id.
        """
        self._change(lambda connection, stamp: order_rows.add_lift(connection, lift, stamp=stamp))

    # --- probes; imported when there are some, for `rescind stop` opens a store too, and is in a hurry ---

    def claim_probe(self, trips: Sequence[Order], *, by: str, now_us: int, rule: "ProbeRule") -> "Claim | Wait":
        """See `Probes`. Looked at without a lock first, so that who has to wait keeps nobody else waiting."""
        from rescind.switch import probe_rows
        from rescind.switch.probes import Claimable, Closable

        order_ids = [trip.order_id for trip in trips]
        with self._reading() as connection:
            decision = probe_rows.ask(connection, order_ids, now_us, rule)
            if isinstance(decision, Claimable):
                with database.transaction(connection, "BEGIN IMMEDIATE"):
                    return probe_rows.claim(connection, order_ids, by=by, now_us=now_us, rule=rule)
        if isinstance(decision, Closable):
            return self._close_recovered(decision.order_ids, now_us, rule)
        return decision

    def end_probe(self, claim: "Claim", *, succeeded: bool | None, now_us: int) -> tuple[Lift, ...]:
        """See `Probes`."""
        from rescind.switch import probe_rows

        order_ids = [part.order_id for part in claim.parts]
        lifts: list[Lift] = []

        def write(connection: sqlite3.Connection, stamp: int) -> None:
            probe_rows.end(connection, claim.parts, succeeded=succeeded, now_us=now_us)
            lifts.extend(probe_rows.close_recovered(connection, order_ids, now_us=now_us, rule=claim.rule, stamp=stamp))

        self._change(write)
        return tuple(lifts)

    def probing(self, order_id: str) -> "Round | None":
        """See `Probes`."""
        from rescind.switch import probe_rows

        with self._reading() as connection:
            seen = probe_rows.see(connection, order_id)
        return None if seen.is_lifted else seen.latest

    def _close_recovered(self, order_ids: Sequence[str], now_us: int, rule: "ProbeRule") -> "Wait":
        from rescind.switch import probe_rows
        from rescind.triggers.probing import Wait

        self._change(
            lambda connection, stamp: probe_rows.close_recovered(
                connection, order_ids, now_us=now_us, rule=rule, stamp=stamp
            )
        )
        return Wait(0.0)

    def close(self) -> None:
        """Let go of the file. Every later look raises `OrdersUnavailable`; the page stays where it is."""
        _stores.discard(self)
        with self._lock:
            self._closed = True
            self._disconnect()

    # --- writing ---

    def _change(self, write: Write) -> None:
        with self._reading() as connection:
            for attempt in range(_REPLACED_MAX):
                self._make_stamp(connection)
                with writing(self._stamp_path, clock=self._clock, timeout_s=self._timeout_s) as writer:
                    stamp = writer.begin()
                    try:
                        if attempt == 0:
                            self._commit(connection, write, stamp)
                    finally:
                        writer.finish()  # whatever happened: who rereads for nothing has lost a moment
                    # Asked after the commit: a file that came into being later is first mapped later too, and the
                    # set is read after that.
                    if writer.is_current():
                        break
            else:
                raise OrdersUnavailable(f"{self._stamp_path} is being replaced over and over; find out by whom")
            if not self._stamp.is_current():
                self._stamp = self._map_stamp(connection)

    def _commit(self, connection: sqlite3.Connection, write: Write, stamp: int) -> None:
        try:
            with database.transaction(connection, "BEGIN IMMEDIATE"):
                write(connection, stamp)
        except UnicodeEncodeError as error:
            raise UsageError(f"a reason or an actor holds something that is no text: {error}") from error

    # --- the files ---

    @contextlib.contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        with self._lock, database.translating(self._path):
            if self._closed:
                raise OrdersUnavailable(f"{self._path} was closed by this program")
            try:
                connection = self._connection or self._connect()
            except StoreFormatError as error:  # it was ours when we started, so this is no mistake of the caller's
                raise OrdersUnavailable(str(error)) from error
            missing = self._missing_file()
            if missing is not None:
                raise OrdersUnavailable(f"{missing} was deleted or replaced while this process used it; {_RESTART}")
            yield connection

    def _connect(self) -> sqlite3.Connection:
        connection, store_id = database.connect(self._path)
        if self._store_id and store_id != self._store_id:
            connection.close()
            raise OrdersUnavailable(f"{self._path} was replaced while this process used it; {_RESTART}")
        self._store_id, self._connection = store_id, connection
        # From here on the connection holds database and log open, so that no other file can get their inodes.
        self._files = tuple(database.identity_of(path) for path in database.files(self._path))
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _missing_file(self) -> Path | None:
        if self._connection is None:  # right after a fork; then `_connect` compares the store's id
            return None
        for path, identity in zip(database.files(self._path), self._files, strict=True):
            if identity is None or database.identity_of(path) != identity:
                return path
        return None

    def _make_stamp(self, connection: sqlite3.Connection) -> None:
        if not self._stamp_path.exists():
            create_if_missing(self._stamp_path, above=order_rows.stamp_remembered(connection), clock=self._clock)

    def _map_stamp(self, connection: sqlite3.Connection) -> StampPage:
        self._make_stamp(connection)
        return StampPage(self._stamp_path)

    # --- fork ---

    def before_fork(self) -> None:
        """Close the connection, which must not cross a fork, and keep other threads from opening another."""
        self._lock.acquire()
        self._disconnect()

    def after_fork(self) -> None:
        """Go on, in parent and child; both open anew when they next look."""
        self._lock.release()


_stores: "weakref.WeakSet[SqliteOrders]" = weakref.WeakSet()
_forking: dict[int, list[SqliteOrders]] = {}  # by thread, since two may fork at once


def _before_fork() -> None:
    held = _forking.setdefault(threading.get_ident(), [])
    for store in list(_stores):
        store.before_fork()
        held.append(store)


def _after_fork() -> None:
    for store in _forking.pop(threading.get_ident(), ()):
        store.after_fork()


# SQLite keeps its locks in a table of the process, which a child would inherit and believe in.
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
