"""Where a guard's journal and orders come from: opened when they are first needed, not when a module is imported."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rescind.config import JOURNAL_NAME
from rescind.journal.port import Journal
from rescind.switch.port import Orders

if TYPE_CHECKING:
    from rescind.guard.following import Following
    from rescind.journal.sqlite import SqliteJournal
    from rescind.switch.store import SqliteOrders


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
    def folder(self) -> Path | None:
        """Where they are on this machine; None if nowhere."""
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

    folder: Path | None = None

    def __init__(self, journal: Journal, orders: Orders) -> None:
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

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._lock = threading.Lock()
        self._journal: SqliteJournal | None = None
        self._orders: SqliteOrders | None = None

    @property
    def journal(self) -> Journal:
        """See `Stores`."""
        journal = self._journal
        if journal is None:
            with self._lock:
                journal = self._journal = self._journal or _open_journal(self.folder)
        return journal

    @property
    def orders(self) -> Orders:
        """See `Stores`."""
        return self._opened_orders()

    def _opened_orders(self) -> "SqliteOrders":
        orders = self._orders
        if orders is None:
            with self._lock:
                orders = self._orders = self._orders or _open_orders(self.folder)
        return orders

    def watch(self, guard: "Following") -> Watch:
        """See `Stores`. When this returns, the guard is registered and has bound the standing orders.

        Raises: OrdersUnavailable. The guard must then not act, since no stop would know of it.
        """
        from rescind.switch.presence import Presence
        from rescind.switch.watcher import Watcher

        watcher = Watcher(self._opened_orders(), guard, Presence(self.folder, guard.guard_id), guard.clock)
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


def _open_journal(folder: Path) -> "SqliteJournal":
    from rescind.journal.sqlite import SqliteJournal  # with its writer, 20 ms that a declaration alone need not pay

    return SqliteJournal(folder / JOURNAL_NAME)


def _open_orders(folder: Path) -> "SqliteOrders":
    from rescind.switch.store import SqliteOrders

    return SqliteOrders(folder)
