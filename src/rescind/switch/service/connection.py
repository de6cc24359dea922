"""A connection of the switch's HTTP server, with bounds that keep hostile or dead peers from holding it.

- Who has sent no complete request head within a few seconds is cut off: a slow one must not hold a place.
- If more such connections wait than we like, those that have dawdled for a second are cut off, the oldest first. A stop
  sends its request at once, so it gets in however many others dawdle; and so does a herd of guards that come back in the
  same moment, whose requests are here and only not read yet.
- The kernel gives up a peer that acknowledges nothing for half a minute: a cable that was pulled says no goodbye.
"""

import asyncio
import socket
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_WITHIN_S = 10.0
DAWDLERS_MAX = 1_024
DAWDLES_AFTER_S = 1.0
SILENT_PEER_MS = 30_000


class SwitchProtocol(HttpToolsProtocol):
    """See the module."""

    _dawdlers: ClassVar[dict["SwitchProtocol", float]] = {}  # and since when

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer has connected."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._set_kernel_bounds(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came. A further request on the same connection is as bounded as the first."""
        if self._head_timer is None and _is_between_requests(self):
            self._await_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head of a request is here."""
        self._head_is_here()
        super().on_headers_complete()

    def _await_head(self) -> None:
        loop = asyncio.get_running_loop()
        dawdlers, now_s = SwitchProtocol._dawdlers, loop.time()
        self._head_timer = loop.call_later(HEAD_WITHIN_S, self._cut)
        dawdlers[self] = now_s
        if len(dawdlers) > DAWDLERS_MAX:
            oldest, since_s = next(iter(dawdlers.items()))
            if now_s - since_s > DAWDLES_AFTER_S:
                oldest._cut()  # one of us

    def _head_is_here(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()
            SwitchProtocol._dawdlers.pop(self, None)

    def _cut(self) -> None:
        self._head_is_here()
        self.transport.abort()

    @staticmethod
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
