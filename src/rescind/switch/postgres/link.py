"""One connection to the orders, shared by the threads of a process, lost and found again, and never crossing a fork."""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rescind.database import SCHEMA
from rescind.database.address import Address
from rescind.database.connecting import CONNECT_TIMEOUT_S, connect, driver, translating
from rescind.database.migrating import Part, ensure, exists
from rescind.errors import OrdersUnavailable, UsageError
from rescind.switch.order_rows import Found

if TYPE_CHECKING:
    import psycopg

ORDERS = Part("orders", "0001", Path(__file__).parent / "versions")

WHAT = "the orders"

STATEMENT_TIMEOUT_S = 10.0
"""After how long the server gives up one of our statements. Each takes milliseconds."""

T = TypeVar("T")


class Wired:
    """A connection as the modules of rows want it (`Rows`): a `?` stands for a value."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self.connection = connection

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Found:
        """See `Rows`."""
        return self.connection.execute(_with_percents(statement), values or None)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> object:
        """See `Rows`."""
        with self.connection.cursor() as cursor:
            cursor.executemany(_with_percents(statement), rows)
        return None


def _with_percents(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()  # our statements hold neither `%` nor a `?` in a text


def opened(
    address: Address, *, name: str, create: bool, lock_timeout_s: float, connect_timeout_s: int = CONNECT_TIMEOUT_S
) -> "psycopg.Connection[Any]":
    """A connection to the orders, with their tables made or brought up to date.

    Raises: UsageError, if there are none and none are to be made; StoreFormatError; psycopg.Error.
    """
    connection = connect(
        address,
        name=name,
        statement_timeout_s=STATEMENT_TIMEOUT_S,
        lock_timeout_s=lock_timeout_s,
        connect_timeout_s=connect_timeout_s,
    )
    try:
        if not create and not exists(connection, ORDERS):
            raise UsageError(
                f"there is no store of rescind in {address}, so no agent would hear of this. A guard makes its store "
                "with its first run; name another one with --store or RESCIND_STORE"
            )
        ensure(connection, address, ORDERS)
        connection.execute("SELECT set_config('search_path', %s, false)", (SCHEMA,))
    except BaseException:
        connection.close()
        raise
    return connection


class Link:
    """One connection for all threads of a process; made when it is first needed, and anew after it was lost."""

    def __init__(self, address: Address, *, name: str, create: bool, lock_timeout_s: float) -> None:
        """No connection yet."""
        self.address = address
        self._name, self._create, self._lock_timeout_s = name, create, lock_timeout_s
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._closed = False
        _links.add(self)

    def do(self, work: Callable[["psycopg.Connection[Any]"], T], *, again: bool = True) -> T:
        """Do some work on the connection. No exception of the driver gets out.

        Args:
            work: What to do.
            again: Whether doing it twice is as good as once: then a connection that turns out to be lost, as after the
                server was started anew, is replaced, and the work is done on another one.

        Raises: OrdersUnavailable; UsageError for what no database can keep; and what the work itself raises.
        """
        with self._translating():
            was_there = self._connection is not None
            try:
                return work(self._connected())
            except driver().OperationalError:
                if not (again and was_there and self._is_lost()):
                    raise
                self._disconnect()
                return work(self._connected())

    @contextlib.contextmanager
    def _translating(self) -> Generator[None]:
        with self._lock, translating(self.address, OrdersUnavailable, what=WHAT):
            if self._closed:
                raise OrdersUnavailable(f"the orders in {self.address} were closed by this program")
            try:
                yield
            finally:
                if self._is_lost():
                    self._disconnect()

    def _connected(self) -> "psycopg.Connection[Any]":
        if self._connection is None:
            self._connection = opened(
                self.address, name=self._name, create=self._create, lock_timeout_s=self._lock_timeout_s
            )
        return self._connection

    def _is_lost(self) -> bool:
        connection = self._connection
        return connection is not None and (connection.closed or connection.broken)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Let go of the connection. All later work raises OrdersUnavailable."""
        _links.discard(self)
        with self._lock:
            self._closed = True
            self._disconnect()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connection alone, and make another one when there is work."""
        self._lock = threading.RLock()
        leave_to_parent(self._connection)
        self._connection = None


_links: "weakref.WeakSet[Link]" = weakref.WeakSet()
_of_parents: list[Any] = []


def leave_to_parent(connection: "psycopg.Connection[Any] | None") -> None:
    """In a forked child: keep a connection of the parent's from being closed here, for that would close it there."""
    if connection is not None:
        _of_parents.append(connection)


def _after_fork() -> None:
    for link in list(_links):
        link.after_fork()


os.register_at_fork(after_in_child=_after_fork)
