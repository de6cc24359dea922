"""A connection of one of our HTTP servers, with bounds that keep hostile or dead peers from holding it.

- Who has sent no complete request within a few seconds is cut off: a slow one must not hold a place.
- If more such connections wait than we like, those that have dawdled for a second are cut off, the oldest first. A stop
  sends its request at once, so it gets in however many others dawdle; and so does a herd of guards that come back in
  the same moment, whose requests are here and only not read yet.
- If there are more connections than files may be open, those go first that dawdle, and then those that were kept open
  and ask for nothing, the oldest first. Streams stay, and have a bound of their own.
- A head that does not end is refused before it fills the memory.
- The kernel gives up a peer that acknowledges nothing for half a minute: a cable that was pulled says no goodbye.

An acknowledgement is answered here, as soon as its last byte is read (`Acknowledge`): it waits for nothing, and a task
and a turn of the loop for each would take most of the second in which ten thousand come.

There is no timer per request, which would be a third of what an acknowledgement costs: whoever waits stands in one
queue, in the order of arrival, and a look at its head once a second is enough (`cut_dawdlers`).
"""

import asyncio
import socket
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rescind.web.answers import BODY_BYTES_MAX
from rescind.web.problems import Refused

REQUEST_WITHIN_S = 10.0
DAWDLERS_MAX = 1_024
DAWDLES_AFTER_S = 1.0
IDLE_S = 120
"""How long a connection is kept that asks for nothing. Guards acknowledge by one that they keep."""

SILENT_PEER_MS = 30_000
HEAD_BYTES_MAX = 64 * 1024
PIPELINED_MAX = 16
"""Requests that may wait on one connection for the answers before theirs. Hardly any client sends a second one."""

DIRECT = "rescind.write"
"""The extension of a request's scope that writes to its connection at once: see `BoundedProtocol.write_now`."""

_HEAD = b"HTTP/1.1 "

Acknowledge = Callable[["dict[str, Any]", bytes], bytes]
"""Takes scope and body of a `PUT /v1/guards/ID`; returns the whole answer as it is sent. Never waits, never raises."""

_ACKNOWLEDGED_PATH = b"/v1/guards/"


class BoundedProtocol(HttpToolsProtocol):
    """See the module."""

    connections_max: ClassVar[int] = 20_000
    acknowledge: ClassVar[tuple[Acknowledge, ...]] = ()  # one, once somebody serves them
    _dawdlers: ClassVar[dict["BoundedProtocol", float]] = {}  # whose request is not complete, and since when
    _idle: ClassVar[dict["BoundedProtocol", float]] = {}  # who keeps a connection and asks for nothing, and since when

    _body: bytes | None = None  # of an acknowledgement that is being read
    _overtaken: tuple[Any, ...] = ()  # requests that were not answered yet when another one came behind them
    _has_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer has connected."""
        super().connection_made(cast("asyncio.Transport", _HeadWithBody(transport)))
        _set_kernel_bounds(transport)
        self._await_request()
        if len(self.connections) > self.connections_max:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        BoundedProtocol._dawdlers.pop(self, None)
        BoundedProtocol._idle.pop(self, None)
        for cycle in self._overtaken:  # the server tells the last request only, and a stream would never end
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came. A further request on the same connection is as bounded as the first."""
        if self in BoundedProtocol._idle or _is_between_requests(self):
            BoundedProtocol._idle.pop(self, None)
            self._await_request()
        super().data_received(data)
        if not self._has_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(Refused(431, f"the head of a request has at most {HEAD_BYTES_MAX:,} bytes"))

    def on_message_begin(self) -> None:
        """The first bytes of a request are here."""
        self._has_head, self._head_bytes = False, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head of a request is here."""
        self._has_head = True
        if self._is_acknowledgement():
            self._body = b""
            cast("dict[str, Any]", self.scope)["path"] = self.url.decode("latin-1")
            return
        if _is_within_request(self):
            if len(self.pipeline) >= PIPELINED_MAX:
                raise ValueError("too many requests at once")  # which ends the connection
            self._overtaken = (*(each for each in self._overtaken if not each.response_complete), self.cycle)
        cast("dict[str, Any]", self.scope)["extensions"] = {DIRECT: self.write_now}
        super().on_headers_complete()

    def write_now(self, data: bytes) -> bool:
        """Send encoded bytes of the answer under way, past the application; whether they could be sent at once."""
        if self.flow.write_paused or self.transport.is_closing() or not _is_streaming(self):
            return False
        self.transport.write(data)
        return True

    def on_body(self, body: bytes) -> None:
        """A piece of the body is here."""
        if self._body is None:
            super().on_body(body)
        elif len(self._body) <= BODY_BYTES_MAX:  # one byte more than allowed is enough to be refused for
            self._body += body[: BODY_BYTES_MAX + 1]

    def on_message_complete(self) -> None:
        """A request is here, head and body."""
        BoundedProtocol._dawdlers.pop(self, None)
        body, self._body = self._body, None
        if body is None:
            super().on_message_complete()
        elif not self.transport.is_closing():
            self.transport.write(self.acknowledge[0](cast("dict[str, Any]", self.scope), body))
            BoundedProtocol._idle[self] = asyncio.get_running_loop().time()

    def on_response_complete(self) -> None:
        """An answer was sent."""
        super().on_response_complete()
        if not self.transport.is_closing() and _is_between_requests(self):
            BoundedProtocol._idle[self] = asyncio.get_running_loop().time()

    def _is_acknowledgement(self) -> bool:
        # Anything unusual (pipelined, HTTP/1.0, an upgrade, an encoded path, one who waits for 100) goes the long way.
        parser = cast("Any", self.parser)
        return bool(
            self.acknowledge
            and self.url.startswith(_ACKNOWLEDGED_PATH)
            and parser.get_method() == b"PUT"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and not _is_within_request(self)
            and b"%" not in self.url
            and b"?" not in self.url
        )

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(Refused(400, msg))

    def _refuse(self, refused: Refused) -> None:
        # Not in the middle of another answer: the peer would take it for a part of that one.
        if not _is_within_request(self):
            body = msgspec.json.encode(refused.problem)
            head = b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            head %= refused.status, refused.problem.title.encode(), len(body)
            self.transport.write(head + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _make_room(self) -> None:
        others = (each for each in chain(self._dawdlers, self._idle) if each is not self)
        oldest = next(others, None)
        if oldest is not None:
            BoundedProtocol._dawdlers.pop(oldest, None)
            BoundedProtocol._idle.pop(oldest, None)
            oldest.transport.abort()

    def _await_request(self) -> None:
        BoundedProtocol._dawdlers.setdefault(self, asyncio.get_running_loop().time())

    @classmethod
    def cut_dawdlers(cls, now_s: float) -> None:
        """Cut off who is too slow, and, where many are slow, who is slow at all. `now_s` is the loop's clock."""
        many = len(cls._dawdlers) - DAWDLERS_MAX
        for number, (connection, since_s) in enumerate(list(cls._dawdlers.items())):
            if now_s - since_s <= (DAWDLES_AFTER_S if number < many else REQUEST_WITHIN_S):
                return  # they stand in the order of their arrival
            del cls._dawdlers[connection]
            connection.transport.abort()

    @classmethod
    def cut_idle(cls, now_s: float) -> None:
        """Let go of who has kept a connection for long and asked for nothing."""
        for connection, since_s in list(cls._idle.items()):
            if now_s - since_s <= IDLE_S:
                return
            del cls._idle[connection]
            connection.transport.close()


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


async def watch_dawdlers() -> None:
    """Cut off dawdlers, until cancelled.

    Once a second and not when somebody connects: by its turn, the loop has read whatever was there to be read. So a
    loop that is late itself takes nobody for slow.
    """
    while True:
        await asyncio.sleep(1.0)
        now_s = asyncio.get_running_loop().time()
        BoundedProtocol.cut_dawdlers(now_s)
        BoundedProtocol.cut_idle(now_s)


def _set_kernel_bounds(transport: asyncio.Transport) -> None:
    connection = cast("socket.socket | None", transport.get_extra_info("socket"))
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    option: Any = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
    if option is not None:
        connection.setsockopt(socket.IPPROTO_TCP, option, SILENT_PEER_MS)


def _is_streaming(protocol: HttpToolsProtocol) -> bool:
    cycle = cast("Any", protocol).cycle
    return cycle is not None and bool(cycle.chunked_encoding) and not cycle.response_complete


def _is_within_request(protocol: HttpToolsProtocol) -> bool:
    cycle = cast("Any", protocol).cycle
    return cycle is not None and not cycle.response_complete


def _is_between_requests(protocol: HttpToolsProtocol) -> bool:
    cycle = cast("Any", protocol).cycle  # None before the first request, whatever its annotation says
    return cycle is not None and bool(cycle.response_complete)
