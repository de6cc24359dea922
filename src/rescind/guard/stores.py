"""Where a guard's journal and orders come from: opened when they are first needed, not when a module is imported."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rescind.clock import SystemClock
from rescind.config import JOURNAL_NAME
from rescind.errors import UsageError
from rescind.guard.late import LateJournal
from rescind.journal.port import Journal
from rescind.switch.port import Orders

if TYPE_CHECKING:
    from rescind.database.address import Address, StoreAt
    from rescind.guard.following import Following
    from rescind.journal.sqlite import SqliteJournal
    from rescind.switch.postgres.store import PostgresOrders
    from rescind.switch.store import SqliteOrders

START_WITHIN_S = 10.0
"""How long a first run waits until the database has been heard, tables made and all; not if it cannot be reached."""


class Watch(Protocol):
    """What follows the switch for a guard in the background, and acknowledges its orders."""

    def close(self) -> None:
        """Stop, and unregister."""
        ...

    def abandon(self) -> None:
        """Forget everything without touching it: it belongs to the parent process."""
        ...


class Stores(Protocol):
    """The stores of one guard."""

    @property
    def place(self) -> "StoreAt | None":
        """Where other programs find them; None if nowhere."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether orders have to be heard of over a network, so that a silence means something."""
        ...

    @property
    def journal(self) -> Journal:
        """The journal; opened at the first look."""
        ...

    @property
    def orders(self) -> Orders:
        """The standing orders; opened at the first look."""
        ...

    def watch(self, guard: "Following") -> Watch | None:
        """Begin to follow the orders for this guard; None if nobody needs to."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...

    def after_fork(self) -> None:
        """In a forked child: make new locks; whoever held one may not be here."""
        ...


class GivenStores:
    """Stores that are open already, and that nobody follows in the background: for tests and for embedding."""

    place: "StoreAt | None" = None
    is_remote = False

    def __init__(self, journal: Journal, orders: Orders) -> None:
        if hasattr(orders, "follow"):
            raise UsageError(
                "nobody would hear of orders in a database that are handed to a guard like this; give it the address: "
                'Guard.at("postgresql://…")'
            )
        self.journal, self.orders = journal, orders

    def watch(self, guard: "Following") -> Watch | None:
        """See `Stores`: every call reads the stamp, and that is enough here."""
        return None

    def close(self) -> None:
        """See `Stores`."""
        self.journal.close()

    def after_fork(self) -> None:
        """See `Stores`: there are none."""


class EmbeddedStores:
    """Journal and standing orders in one folder of this machine."""

    is_remote = False

    def __init__(self, folder: Path) -> None:
        self.place = folder.absolute()
        self._lock = threading.Lock()
        self._journal: SqliteJournal | None = None
        self._orders: SqliteOrders | None = None

    @property
    def journal(self) -> Journal:
        """See `Stores`."""
        journal = self._journal
        if journal is None:
            with self._lock:
                journal = self._journal = self._journal or _open_journal(self.place)
        return journal

    @property
    def orders(self) -> Orders:
        """See `Stores`."""
        return self._opened_orders()

    def _opened_orders(self) -> "SqliteOrders":
        orders = self._orders
        if orders is None:
            with self._lock:
                orders = self._orders = self._orders or _open_orders(self.place)
        return orders

    def watch(self, guard: "Following") -> Watch:
        """See `Stores`. When this returns, the guard is registered and has bound the standing orders.

        Raises: OrdersUnavailable. The guard must then not act, since no stop would know of it.
        """
        from rescind.switch.presence import Presence
        from rescind.switch.watcher import Watcher

        watcher = Watcher(self._opened_orders(), guard, Presence(self.place, guard.guard_id), guard.clock)
        watcher.start()
        return watcher

    def close(self) -> None:
        """See `Stores`."""
        with self._lock:
            journal, self._journal = self._journal, None
            orders, self._orders = self._orders, None
        if journal is not None:
            journal.close()
        if orders is not None:
            orders.close()

    def after_fork(self) -> None:
        """See `Stores`."""
        self._lock = threading.Lock()


class DatabaseStores:
    """Journal and standing orders in a database that several machines share.

    What stays on the machine: copies that an effect keeps of files, and what a person was shown by a command.
    """

    is_remote = True

    def __init__(self, address: "Address") -> None:
        """Nothing is connected yet."""
        self.place = address
        self._lock = threading.Lock()
        self._journal = LateJournal(self._open_journal, SystemClock())
        self._orders: PostgresOrders | None = None

    @property
    def journal(self) -> Journal:
        """See `Stores`. It is opened when something is asked of it."""
        return self._journal

    def _open_journal(self) -> Journal:
        from rescind.journal.postgres import PostgresJournal

        return PostgresJournal(self.place.url)

    @property
    def orders(self) -> Orders:
        """See `Stores`."""
        return self._opened_orders()

    def _opened_orders(self) -> "PostgresOrders":
        with self._lock:
            if self._orders is None:
                from rescind.switch.postgres.store import PostgresOrders

                self._orders = PostgresOrders(self.place)
            return self._orders

    def watch(self, guard: "Following") -> Watch:
        """See `Stores`.

        When this returns, the guard is registered and has bound the standing orders; or its lease has not begun, and it
        refuses writes until the database is heard.

        Raises: UsageError, if waiting will not help, such as for a store of a newer rescind.
        """
        from rescind.switch.postgres.hearing import HeardPresence, Hearing, Listening
        from rescind.switch.watcher import Watcher

        orders = self._opened_orders()
        listening = Listening(
            guard_id=guard.guard_id,
            lease=guard.lease,
            ttl_s=guard.lease_ttl_s,
            on_silence=guard.lease.on_silence.label,
        )
        hearing = Hearing(orders, listening, guard.clock)
        presence = HeardPresence(hearing, guard.guard_id, within_s=START_WITHIN_S)
        watcher = Watcher(orders, guard, presence, guard.clock)
        watcher.start()
        return watcher

    def close(self) -> None:
        """See `Stores`."""
        self._journal.close()
        with self._lock:
            orders, self._orders = self._orders, None
        if orders is not None:
            orders.close()

    def after_fork(self) -> None:
        """See `Stores`."""
        self._lock = threading.Lock()
        self._journal.after_fork()


def stores_at(store: str | Path) -> "EmbeddedStores | DatabaseStores":
    """The stores in a folder, or in the database of an address. Raises: UsageError, if the address cannot be read."""
    if isinstance(store, str) and "://" in store:  # so that a folder, which is what most have, costs no import
        from rescind.database.address import Address, is_database

        if is_database(store):
            return DatabaseStores(Address.parse(store))
    return EmbeddedStores(Path(store))


def _open_journal(folder: Path) -> "SqliteJournal":
    from rescind.journal.sqlite import SqliteJournal  # with its writer, 20 ms that a declaration alone need not pay

    return SqliteJournal(folder / JOURNAL_NAME)


def _open_orders(folder: Path) -> "SqliteOrders":
    from rescind.switch.store import SqliteOrders

    return SqliteOrders(folder)
