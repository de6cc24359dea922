"""Which store a command works on, and its journal, opened only where there is one."""

import os
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rescind.cli.safe import safe
from rescind.config import JOURNAL_NAME, STORE_VARIABLE, load_settings
from rescind.errors import RescindError, UsageError
from rescind.model.order import OrderSet
from rescind.switch.desk import open_store

if TYPE_CHECKING:
    from rescind.journal.sqlite import SqliteJournal
    from rescind.switch.store import SqliteOrders


def find_store(given: Path | None) -> Path:
    """The folder of the store: the given one, else RESCIND_STORE, else what `rescind.yaml` says, else `./.rescind`.

    Raises: ConfigError for an unreadable `rescind.yaml`; UsageError, if there is no store in that folder. A stop that
        nobody hears must not look like a success, so nothing is made here.
    """
    store, named_by = _named_store(given)
    if not has_store(store):
        what = "has no store in it" if store.is_dir() else "does not exist"
        raise UsageError(
            f"{store} {what} ({named_by}). Run this in the folder of your program, or name its store with "
            f"--store DIR or {STORE_VARIABLE}. A guard makes its store with its first run"
        )
    return store


def has_store(folder: Path) -> bool:
    """Whether the folder holds a store of ours, or the beginning of one."""
    if (folder / JOURNAL_NAME).exists():
        return True
    if not folder.is_dir():
        return False
    from rescind.switch.store import ORDERS_NAME  # and with it SQLite, which a stop at switches does not need

    return (folder / ORDERS_NAME).exists()


@contextmanager
def orders_of(store: Path) -> Generator["SqliteOrders"]:
    """The standing orders of a store, for the length of a block.

    Raises: UsageError, if there are none, or none of ours; OrdersUnavailable.
    """
    orders = open_store(store, create=False)
    try:
        yield orders
    finally:
        orders.close()


def history_of(store: Path) -> OrderSet:
    """All orders and lifts of a store; none, if it is a journal without a store of orders.

    Raises: UsageError, if the orders are none of ours, or a newer rescind's; OrdersUnavailable, if they are gone: what
        nobody can read is not nothing.
    """
    from rescind.switch.store import ORDERS_NAME, STAMP_NAME  # see `has_store`

    if not (store / ORDERS_NAME).exists() and not (store / STAMP_NAME).exists():
        return OrderSet()
    with orders_of(store) as orders:
        return orders.history()


def store_words(store: Path) -> list[str]:
    """`--store DIR`, if a command that is given none would look elsewhere from here; else nothing."""
    try:
        default, _ = _named_store(None)
        if default.resolve() == store.resolve():
            return []
    except (RescindError, OSError):  # it finds nothing at all
        pass
    return ["--store", str(store.absolute())]


def quoted_store(store: Path) -> str:
    """The same within a command line: a blank first, or nothing at all."""
    return "".join(f" {shlex.quote(safe(word))}" for word in store_words(store))


def command_line(*words: str, store: Path) -> str:
    """A command of ours that works on this store. It can be pasted, from the folder where it was said."""
    return shell_line(*words, *store_words(store))


def shell_line(*words: str) -> str:
    """A command of ours that can be pasted into a shell."""
    return " ".join(shlex.quote(safe(word)) for word in ("rescind", *words))


def journal_path(store: Path) -> Path:
    """The journal's file. Raises: UsageError, if the store has none yet."""
    path = store / JOURNAL_NAME
    if not path.exists():
        raise UsageError(f"{store} has no journal yet: no guard has recorded anything in it")
    return path


@contextmanager
def journal_of(store: Path) -> Generator["SqliteJournal"]:
    """The journal of a store, for the length of a block.

    Raises: UsageError, if the store has none yet.
    """
    from rescind.journal.sqlite import SqliteJournal

    journal = SqliteJournal(journal_path(store))
    try:
        yield journal
    finally:
        journal.close()


def _named_store(given: Path | None) -> tuple[Path, str]:
    if given is not None:
        return given, "named by --store"
    named = os.environ.get(STORE_VARIABLE)
    if named:  # before `rescind.yaml` is read: a typing error in that must not stand between an operator and a stop
        return Path(named).absolute(), f"named by {STORE_VARIABLE}"
    settings = load_settings()
    return settings.store, f"named by {settings.source}" if settings.source else "the default"
