"""Connections that only read, lent out one by one."""

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """A connection of any driver."""

    def close(self) -> object:
        """Let go of it."""
        ...


C = TypeVar("C", bound=Closable)


class Readers(Generic[C]):
    """Connections that only read: one to a caller at a time, a few kept for the next. Thread-safe."""

    _IDLE_MAX = 8  # More readers than this at once are rare, and opening one costs 0.2 ms and more.

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._closed = False
        self._begin_anew()

    @contextlib.contextmanager
    def lent(self) -> Generator[C]:
        """A connection for the length of the block. One on which the block fails is not lent again."""
        connection = self._take()
        try:
            yield connection
        except BaseException:
            self._give_back(connection, keep=False)
            raise
        self._give_back(connection, keep=True)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._changed:
            self._closed = True
            self._close_idle()

    def close_idle(self) -> None:
        """Close what nobody uses just now: its server has gone away."""
        with self._changed:
            self._close_idle()

    def before_fork(self) -> None:
        """Wait until nobody reads, let nobody begin, and close all."""
        self._changed.acquire()
        self._changed.wait_for(lambda: self._in_use == 0)
        self._close_idle()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the lock may be known to threads that are not here."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._idle: list[C] = []
        self._in_use = 0

    def _take(self) -> C:
        with self._changed:
            self._in_use += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._connect()
        except BaseException:
            with self._changed:
                self._in_use -= 1
                self._changed.notify_all()
            raise

    def _give_back(self, connection: C, *, keep: bool) -> None:
        with self._changed:
            self._in_use -= 1
            if self._closed or not keep or len(self._idle) >= self._IDLE_MAX:
                connection.close()
            else:
                self._idle.append(connection)
            self._changed.notify_all()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
