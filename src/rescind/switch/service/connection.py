"""A connection of the switch's HTTP server, with bounds that keep hostile or dead peers from holding it.

- Who has sent no complete request within a few seconds is cut off: a slow one must not hold a place.
- If more such connections wait than we like, those that have dawdled for a second are cut off, the oldest first. A stop
  sends its request at once, so it gets in however many others dawdle; and so does a herd of guards that come back in
  the same moment, whose requests are here and only not read yet.
- The kernel gives up a peer that acknowledges nothing for half a minute: a cable that was pulled says no goodbye.

There is no timer per request, which would be a third of what an acknowledgement costs: whoever waits stands in one
queue, in the order of arrival, and a look at its head once a second is enough (`cut_dawdlers`).
"""

import asyncio
import socket
from itertools import islice
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_WITHIN_S = 10.0
DAWDLERS_MAX = 1_024
DAWDLES_AFTER_S = 1.0
SILENT_PEER_MS = 30_000

_HEAD = b"HTTP/1.1 "


class SwitchProtocol(HttpToolsProtocol):
    """See the module."""

    _dawdlers: ClassVar[dict["SwitchProtocol", float]] = {}  # whose request is not complete, and since when

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer has connected."""
        super().connection_made(cast("asyncio.Transport", _HeadWithBody(transport)))
        _set_kernel_bounds(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        SwitchProtocol._dawdlers.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came. A further request on the same connection is as bounded as the first."""
        if _is_between_requests(self):
            self._await_request()
        super().data_received(data)

    def on_message_complete(self) -> None:
        """A request is here, head and body."""
        SwitchProtocol._dawdlers.pop(self, None)
        super().on_message_complete()

    def _await_request(self) -> None:
        dawdlers, now_s = SwitchProtocol._dawdlers, asyncio.get_running_loop().time()
        dawdlers.setdefault(self, now_s)
        if len(dawdlers) > DAWDLERS_MAX:
            cut_dawdlers(now_s - DAWDLES_AFTER_S, most=1)

    @classmethod
    def cut(cls, before_s: float, most: int) -> None:
        """See `cut_dawdlers`."""
        for connection, since_s in list(islice(cls._dawdlers.items(), most)):
            if since_s > before_s:
                return
            del cls._dawdlers[connection]
            connection.transport.abort()


class _HeadWithBody:
    """A transport that sends the head of an answer together with what follows it.

    The server writes them apart, and a system call each is most of what an acknowledgement costs.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it, or keep it for the next one if it is a head. What nothing follows goes out with the loop's turn."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what is kept, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)


def cut_dawdlers(before_s: float, *, most: int) -> None:
    """Cut off connections whose request has not been complete since before this moment of the loop's clock.

    Args:
        before_s: The moment.
        most: How many at most, oldest first.
    """
    SwitchProtocol.cut(before_s, most)


async def watch_dawdlers() -> None:
    """Cut off who is too slow, until cancelled."""
    while True:
        await asyncio.sleep(1.0)
        cut_dawdlers(asyncio.get_running_loop().time() - REQUEST_WITHIN_S, most=DAWDLERS_MAX * 64)


def _set_kernel_bounds(transport: asyncio.Transport) -> None:
    connection = cast("socket.socket | None", transport.get_extra_info("socket"))
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    option: Any = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
    if option is not None:
        connection.setsockopt(socket.IPPROTO_TCP, option, SILENT_PEER_MS)


def _is_between_requests(protocol: HttpToolsProtocol) -> bool:
    cycle = cast("Any", protocol).cycle  # None before the first request, whatever its annotation says
    return cycle is not None and bool(cycle.response_complete)
