"""Standing orders in a PostgreSQL, for the guards of many machines.

The laws of `Orders` hold with one difference, which is the price of not sharing a memory: the page of a process moves
when that process changes the orders or reads them, and not at the moment when another one changes them.

PO1. Changes are ordered by their stamp, which is given under a lock that is held to the commit: whoever sees a stamp
    sees every change up to it.
PO2. A stamp and the orders that are read with it are of one moment.
PO3. A store that has lost changes that this process has seen (a backup that was put back, a replica that was behind) is
    not believed again (S4): an order that stood may be gone. A stamp that comes twice is told by the change's name.
PO4. Placing and lifting are repeatable: what was lost on the way may be sent again and counts once.

What happens when a part dies: the writer before its commit, and nothing has changed; after it, and everybody hears of
it all the same, since the database itself tells them. The server: whoever asks is told that the orders cannot be used.
"""

import os
import threading
import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rescind.clock import Clock, SystemClock
from rescind.database.address import Address
from rescind.errors import OrdersUnavailable
from rescind.model.order import Lift, Order, OrderSet
from rescind.switch import order_rows
from rescind.switch.order_rows import Rows
from rescind.switch.port import Standing
from rescind.switch.postgres.link import Link, Wired

if TYPE_CHECKING:
    import psycopg

    from rescind.switch.postgres.hearing import Hearing
    from rescind.switch.probes import Claim
    from rescind.triggers.probing import ProbeRule, Round, Wait

T = TypeVar("T")

CHANNEL = "rescind_orders"

WRITE_TIMEOUT_S = 5.0
"""How long a place or lift waits for another one. Each takes milliseconds, so this one is stuck."""

STATE = "SELECT store_id, stamp, change FROM orders_state"
_LOCKED = f"{STATE} FOR UPDATE"
_MOVE = "UPDATE orders_state SET stamp = ?, change = gen_random_uuid()::text"
_TELL = f"SELECT pg_notify('{CHANNEL}', ?)"  # a constant

_RESTART = "orders may be missing there. Find out who did it, then restart this program"


class State(NamedTuple):
    """Which store, and where it stands: its newest change by number and by name."""

    store_id: str
    stamp: int
    change: str


class Read(NamedTuple):
    """What stood at one moment (law PO2)."""

    state: State
    orders: tuple[Order, ...]


class PostgresOrders:
    """See `Orders`. One object serves all threads of a process, and goes on to work in a forked child."""

    def __init__(
        self,
        address: Address | str,
        *,
        create: bool = True,
        clock: Clock | None = None,
        timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        """The orders of this database. Nothing is connected yet.

        Args:
            address: Where; as text, `postgresql://…`.
            create: Whether to make the tables where there are none. Guards do; an operator's command does not.
            clock: The time.
            timeout_s: How long to wait for another writer.

        Raises: UsageError, if the address cannot be read.
        """
        self.address = Address.parse(address) if isinstance(address, str) else address
        self._clock = clock or SystemClock()
        self._link = Link(self.address, name="orders", create=create, lock_timeout_s=timeout_s)
        self._numbers = array("q", [0])
        self.page: Sequence[int] = memoryview(self._numbers).toreadonly()
        self._taking = threading.RLock()
        self._last: Read | None = None
        self._changed = 0  # the newest stamp that this process has given
        self._hearing: Hearing | None = None
        _stores.add(self)

    def open(self) -> None:
        """Make sure that the store is there, and can be read.

        Raises: UsageError, if there is none; StoreFormatError, if it is a newer rescind's; OrdersUnavailable.
        """
        self.standing()

    def is_current(self) -> bool:
        """See `WatchedOrders`: a database is not replaced under a path; what it has lost is told by law PO3."""
        return True

    def standing(self) -> Standing:
        """See `Orders`. Of a guard that listens: from memory, as of the last hearing.

        What this very process has changed since then is in it: the database is asked for that.
        """
        hearing, last = self._hearing, self._last
        if hearing is not None:
            hearing.refuse_if_silent()
            if last is not None and last.state.stamp >= self._changed:
                return Standing(last.state.stamp, last.orders)
        read = self._link.do(self._read)
        return Standing(read.state.stamp, read.orders)

    def history(self) -> OrderSet:
        """See `Orders`."""

        def work(connection: "psycopg.Connection[Any]") -> OrderSet:
            with connection.transaction():
                begin_reading(connection)
                return order_rows.history(Wired(connection))

        return self._link.do(work)

    def place(self, order: Order) -> None:
        """See `Orders`. Placing an order again changes nothing.

        Raises: UsageError, if another order has this id.
        """
        self._change(lambda rows, stamp: order_rows.add_order(rows, order, stamp=stamp))

    def lift(self, lift: Lift) -> None:
        """See `Orders`. Adding a lift again changes nothing.

        Raises: UsageError, if another lift has this id.
        """
        self._change(lambda rows, stamp: order_rows.add_lift(rows, lift, stamp=stamp))

    def after_fork(self) -> None:
        """In a forked child: nobody listens here yet."""
        self._taking = threading.RLock()
        self._hearing = None

    def close(self) -> None:
        """Let go of the database. Every later look raises `OrdersUnavailable`; the page stays as it is."""
        self._link.close()

    # --- probes; imported when there are some, for `rescind stop` opens a store too, and is in a hurry ---

    def claim_probe(self, trips: Sequence[Order], *, by: str, now_us: int, rule: "ProbeRule") -> "Claim | Wait":
        """See `Probes`. Looked at without a lock first, so that who has to wait keeps nobody else waiting."""
        from rescind.switch import probe_rows
        from rescind.switch.probes import Claimable, Closable

        order_ids = [trip.order_id for trip in trips]
        decision = self._link.do(lambda connection: probe_rows.ask(Wired(connection), order_ids, now_us, rule))

        def claim(connection: "psycopg.Connection[Any]") -> "Claim | Wait":
            rows = Wired(connection)
            with connection.transaction():
                rows.execute(_LOCKED)
                return probe_rows.claim(rows, order_ids, by=by, now_us=now_us, rule=rule)

        if isinstance(decision, Claimable):
            return self._link.do(claim, again=False)  # a claim whose answer was lost is one that was given
        if isinstance(decision, Closable):
            return self._close_recovered(decision.order_ids, now_us, rule)
        return decision

    def end_probe(self, claim: "Claim", *, succeeded: bool | None, now_us: int) -> tuple[Lift, ...]:
        """See `Probes`."""
        from rescind.switch import probe_rows

        order_ids = [part.order_id for part in claim.parts]

        def write(rows: Rows, stamp: int) -> tuple[Lift, ...]:
            probe_rows.end(rows, claim.parts, succeeded=succeeded, now_us=now_us)
            return probe_rows.close_recovered(rows, order_ids, now_us=now_us, rule=claim.rule, stamp=stamp)

        return self._change(write)

    def probing(self, order_id: str) -> "Round | None":
        """See `Probes`."""
        from rescind.switch import probe_rows

        seen = self._link.do(lambda connection: probe_rows.see(Wired(connection), order_id))
        return None if seen.is_lifted else seen.latest

    def _close_recovered(self, order_ids: Sequence[str], now_us: int, rule: "ProbeRule") -> "Wait":
        from rescind.switch import probe_rows
        from rescind.triggers.probing import Wait

        self._change(
            lambda rows, stamp: probe_rows.close_recovered(rows, order_ids, now_us=now_us, rule=rule, stamp=stamp)
        )
        return Wait(0.0)

    # --- reading and writing ---

    def _read(self, connection: "psycopg.Connection[Any]") -> Read:
        known = self._last  # first: what is read from here on is of a later moment
        state = state_in(connection)
        self._refuse_lost(known, state)
        if known is not None and state == known.state:
            return known
        with connection.transaction():
            begin_reading(connection)
            read = Read(state_in(connection), order_rows.standing(Wired(connection)))
        self._refuse_lost(known, read.state)
        self._take(read)
        return read

    def _change(self, write: Callable[[Rows, int], T]) -> T:
        known = self._last

        def work(connection: "psycopg.Connection[Any]") -> tuple[T, int]:
            rows = Wired(connection)
            with connection.transaction():
                before = state_in(connection, _LOCKED)
                self._refuse_lost(known, before)
                stamp = before.stamp + 2
                done = write(rows, stamp)
                rows.execute(_MOVE, (stamp,))
                rows.execute(_TELL, (str(stamp),))  # heard once this is committed, and never if it is not
            return done, stamp

        done, stamp = self._link.do(work)
        self._changed = max(self._changed, stamp)
        self._show(stamp)
        return done

    def _take(self, read: Read) -> None:
        with self._taking:  # of two threads the one with older news may come last
            if self._last is None or read.state.stamp > self._last.state.stamp:
                self._last = read
        self._show(read.state.stamp)  # after it: who sees the number finds what it stands for

    def _show(self, stamp: int) -> None:
        with self._taking:
            self._numbers[0] = max(self._numbers[0], stamp)

    # --- for whoever listens; see `hearing` ---

    def follow(self, hearing: "Hearing | None") -> None:
        """From now on this ear says what stands; None: nobody listens, and the database is asked each time."""
        self._hearing = hearing

    def take_up(self, connection: "psycopg.Connection[Any]") -> None:
        """Read what stands, if it has moved, on the ear's own connection. Raises: OrdersUnavailable; psycopg.Error."""
        self._read(connection)

    def show_unsettled(self) -> None:
        """The stamp is odd from now on: the database is silent, and every check asks why (S2)."""
        with self._taking:
            self._numbers[0] |= 1

    def show_settled(self) -> None:
        """The database is heard again: the stamp says what is known to stand."""
        with self._taking:
            if self._numbers[0] % 2 and self._last is not None:
                self._numbers[0] = max(self._last.state.stamp, self._changed)

    def _refuse_lost(self, known: Read | None, state: State) -> None:
        """Law PO3, for what was read after `known` was. Raises: OrdersUnavailable."""
        if known is None:
            return
        before = known.state
        if (state.store_id, state.stamp) == (before.store_id, before.stamp):
            lost = state.change != before.change
        else:
            lost = state.store_id != before.store_id or state.stamp < before.stamp
        if lost:
            raise OrdersUnavailable(
                f"the database {self.address} has lost orders or lifts since this process read it; {_RESTART}"
            )


_stores: "weakref.WeakSet[PostgresOrders]" = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def begin_reading(connection: "psycopg.Connection[Any]") -> None:
    """At the begin of a transaction: everything in it is of one moment."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def state_in(connection: "psycopg.Connection[Any]", query: str = STATE) -> State:
    """Where the store stands. Raises: OrdersUnavailable, if it does not say."""
    row = Wired(connection).execute(query).fetchone()
    if row is None:
        raise OrdersUnavailable(f"the orders have lost the row that says where they stand; {_RESTART}")
    return State(*row)
