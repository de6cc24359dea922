"""A connection that does not wait for ever for a server which says nothing.

A server that is stopped with all its processes, or a machine that swaps, still answers the network: its kernel says
that what was sent has come. So no time-out of the line notices, and those of the server are stopped with it.
"""

from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from rescind.clock import SystemClock

T = TypeVar("T")


class ServerSilent(psycopg.OperationalError):
    """A request was sent and not a word has come since. What became of it is not known."""


class HearingConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server has said nothing for so long.

    Attributes:
        silent_after_s: How long, in seconds. More than any statement may take, by a time-out that the server knows.
    """

    silent_after_s: float = float("inf")

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        """As psycopg's own. Raises: ServerSilent; the connection is closed then."""
        try:
            return super().wait(_bounded(gen, self.silent_after_s), *args, **options)
        except ServerSilent:
            self.close()
            raise


def _bounded(gen: PQGen[T], silent_after_s: float) -> Generator[Any, Any, T]:
    """The same conversation, which ends when nothing has been ready for so long. The driver looks every 0.1 s."""
    clock = SystemClock()
    heard_s = clock.monotonic_s()
    try:
        wanted: Any = next(gen)
        while True:
            ready = yield wanted
            if ready:
                heard_s = clock.monotonic_s()
            elif clock.monotonic_s() >= heard_s + silent_after_s:
                raise ServerSilent(f"the server has not said a word for {silent_after_s:.0f} s")
            wanted = gen.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result
