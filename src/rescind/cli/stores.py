"""Which store a command works on, and its journal, opened only where there is one."""

import os
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rescind.cli.safe import safe
from rescind.clock import SystemClock
from rescind.config import JOURNAL_NAME, STORE_VARIABLE, load_settings, store_of_environment
from rescind.errors import JournalUnavailable, RescindError, UsageError
from rescind.model.order import OrderSet
from rescind.switch.desk import open_store

if TYPE_CHECKING:
    from rescind.database.address import Address, StoreAt
    from rescind.journal.port import Journal
    from rescind.switch.desk import StoreOrders
    from rescind.switch.postgres.register import DatabaseRegister
    from rescind.switch.presence import Sighting


def find_store(given: "StoreAt | None") -> "StoreAt":
    """The store: the given one, else RESCIND_STORE, else what `rescind.yaml` says, else `./.rescind`.

    Raises: ConfigError for an unreadable `rescind.yaml`; UsageError, if there is no store in that folder. A stop that
        nobody hears must not look like a success, so nothing is made here. Whether there is one in a database is found
        out by whoever opens it.
    """
    store, named_by = _named_store(given)
    if isinstance(store, Path) and not has_store(store):
        what = "has no store in it" if store.is_dir() else "does not exist"
        raise UsageError(
            f"{store} {what} ({named_by}). Run this in the folder of your program, or name its store with "
            f"--store DIR or {STORE_VARIABLE}. A guard makes its store with its first run"
        )
    return store


def has_store(store: "StoreAt") -> bool:
    """Whether the folder holds a store of ours, or the beginning of one. A database was named by somebody: it does."""
    if not isinstance(store, Path):
        return True
    folder = store
    if (folder / JOURNAL_NAME).exists():
        return True
    if not folder.is_dir():
        return False
    from rescind.switch.store import ORDERS_NAME  # and with it SQLite, which a stop at switches does not need

    return (folder / ORDERS_NAME).exists()


@contextmanager
def orders_of(store: "StoreAt") -> Generator["StoreOrders"]:
    """The standing orders of a store, for the length of a block.

    Raises: UsageError, if there are none, or none of ours; OrdersUnavailable.
    """
    orders = open_store(store, create=False)
    try:
        yield orders
    finally:
        orders.close()


def living_guards(store: "StoreAt") -> "list[Sighting]":
    """The guards that live, as far as one look tells: see `Guards` for who looks again and again.

    Raises: OrdersUnavailable, if nobody can look.
    """
    with guards_of(store) as guards:
        return guards.living()


class Guards:
    """The guards of a store, as one observer sees them. In a database only time tells who is silent."""

    def __init__(self, store: "StoreAt") -> None:
        self._store = store
        self._register: DatabaseRegister | None = None

    @property
    def register(self) -> "Path | DatabaseRegister":
        """What `await_receipt` asks."""
        if isinstance(self._store, Path):
            return self._store
        if self._register is None:
            from rescind.switch.postgres.register import DatabaseRegister

            self._register = DatabaseRegister(self._store, SystemClock())
        return self._register

    def living(self) -> "list[Sighting]":
        """Those that may act. Raises: OrdersUnavailable, if nobody can look."""
        register = self.register
        if not isinstance(register, Path):
            return [sighting for sighting in register.sight() if sighting.living]
        from rescind.switch.presence import living_guards as living_in

        return living_in(register)

    def close(self) -> None:
        """Let go of the database, if there is one."""
        if self._register is not None:
            self._register.close()


@contextmanager
def guards_of(store: "StoreAt") -> "Generator[Guards]":
    """The guards of a store, for the length of a block."""
    guards = Guards(store)
    try:
        yield guards
    finally:
        guards.close()


def name_of(store: "StoreAt") -> str:
    """What people call the store as a place of orders."""
    return "this machine" if isinstance(store, Path) else str(store)


def local_folder(store: "StoreAt") -> Path:
    """Where on this machine a command keeps what concerns one person and one store, such as which plan was shown."""
    if isinstance(store, Path):
        return store
    import hashlib

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "rescind" / hashlib.sha256(store.shown.encode()).hexdigest()[:16]


def same_store(one: "StoreAt", other: "StoreAt") -> bool:
    """Whether both names lead to one store, as far as their words tell."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return str(one) == str(other)


def history_of(store: "StoreAt") -> OrderSet:
    """All orders and lifts of a store; none, if it is a journal without a store of orders.

    Raises: UsageError, if the orders are none of ours, or a newer rescind's; OrdersUnavailable, if they are gone: what
        nobody can read is not nothing.
    """
    from rescind.switch.store import ORDERS_NAME, STAMP_NAME  # see `has_store`

    if isinstance(store, Path) and not (store / ORDERS_NAME).exists() and not (store / STAMP_NAME).exists():
        return OrderSet()
    with orders_of(store) as orders:
        return orders.history()


def store_words(store: "StoreAt") -> list[str]:
    """`--store STORE`, if a command that is given none would look elsewhere from here; else nothing. No password."""
    try:
        default, _ = _named_store(None)
        if same_store(default, store):
            return []
    except (RescindError, OSError):  # it finds nothing at all
        pass
    return ["--store", str(store.absolute() if isinstance(store, Path) else store)]


def quoted_store(store: "StoreAt") -> str:
    """The same within a command line: a blank first, or nothing at all."""
    return "".join(f" {shlex.quote(safe(word))}" for word in store_words(store))


def command_line(*words: str, store: "StoreAt") -> str:
    """A command of ours that works on this store. It can be pasted, from the folder where it was said."""
    return shell_line(*words, *store_words(store))


def shell_line(*words: str) -> str:
    """A command of ours that can be pasted into a shell."""
    return " ".join(shlex.quote(safe(word)) for word in ("rescind", *words))


def journal_path(store: "StoreAt") -> Path:
    """The journal's file. Raises: UsageError, if the store has none yet, or is a database."""
    if not isinstance(store, Path):
        raise UsageError(
            f"the journal in {store} is no file, and only files are read here; `rescind audit export` reads it too"
        )
    path = store / JOURNAL_NAME
    if not path.exists():
        raise UsageError(f"{store} has no journal yet: no guard has recorded anything in it")
    return path


@contextmanager
def journal_of(store: "StoreAt") -> Generator["Journal"]:
    """The journal of a store, for the length of a block.

    Raises: UsageError, if the store has none yet; JournalUnavailable.
    """
    journal = _journal_in_database(store) if not isinstance(store, Path) else _journal_in_file(store)
    try:
        yield journal
    finally:
        journal.close()


def _journal_in_file(store: Path) -> "Journal":
    from rescind.journal.sqlite import SqliteJournal

    return SqliteJournal(journal_path(store))


def _journal_in_database(address: "Address") -> "Journal":
    from rescind.database.connecting import connect, translating
    from rescind.database.migrating import exists
    from rescind.journal.postgres.journal import JOURNAL, PostgresJournal

    with (
        translating(address, JournalUnavailable, what="the journal"),
        connect(address, name="command") as connection,
    ):
        if not exists(connection, JOURNAL):  # a command makes none
            raise UsageError(f"{address} has no journal yet: no guard has recorded anything in it")
    return PostgresJournal(address.url)


def _named_store(given: "StoreAt | None") -> tuple["StoreAt", str]:
    if given is not None:
        return given, "named by --store"
    # Before `rescind.yaml` is read: a typing error in that must not stand between an operator and a stop.
    named = store_of_environment()
    if named is not None:
        return named, f"named by {STORE_VARIABLE}"
    settings = load_settings()
    return settings.store, f"named by {settings.source}" if settings.source else "the default"
