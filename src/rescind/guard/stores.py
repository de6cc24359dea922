"""Where a guard's journal and orders come from: opened when they are first needed, not when a module is imported."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rescind.journal.port import Journal
from rescind.switch.port import Orders

if TYPE_CHECKING:
    from rescind.guard.guard import Guard


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

    def watch(self, guard: "Guard") -> Watch | None:
        """Begin to follow the orders for this guard; None if nobody needs to."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class GivenStores:
    """Stores that are open already, and that nobody follows in the background: for tests and for embedding."""

    folder: Path | None = None

    def __init__(self, journal: Journal, orders: Orders) -> None:
        self.journal, self.orders = journal, orders

    def watch(self, guard: "Guard") -> Watch | None:
        """See `Stores`: every call reads the stamp, and that is enough here."""
        return None

    def close(self) -> None:
        """See `Stores`."""
        self.journal.close()


class EmbeddedStores:
    """Journal and standing orders in one folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._lock = threading.Lock()
        self._journal: "SqliteJournal | None" = None
        self._orders: "SqliteOrders | None" = None

    @property
    def journal(self) -> Journal:
        """See `Stores`."""
        if self._journal is None:
            with self._lock:
                self._journal = self._journal or _open_journal(self.folder)
        return self._journal

    @property
    def orders(self) -> Orders:
        """See `Stores`."""
        if self._orders is None:
            with self._lock:
                self._orders = self._orders or _open_orders(self.folder)
        return self._orders
