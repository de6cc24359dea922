"""One HTTP/1.1 connection from a guard to a switch: asyncio's streams below, h11 for the grammar.

Not httpx, although it is well kept: after a fork the child has to let go of every inherited descriptor without a word
to the other side, and so it must know the sockets; a client with a pool keeps them to itself. It also takes 100 ms to
import, in which an agent that has just started would wait for the GIL.

Proxies of the environment are not asked, since the environment is within the agent's reach. Redirects are not followed.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import h11
import msgspec

from rescind.errors import RescindError

HEAD_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 64 * 1024
"""The body of an answer to a report, or of a refusal."""

ADDRESS_S = 1.5
"""How long one address of a name may take to accept a connection, before the next one is tried."""

_PIECE_BYTES = 64 * 1024


class LineDown(RescindError):
    """The switch cannot be reached, or the connection broke. The message says how, for people."""


class Origin(msgspec.Struct, frozen=True):
    """Where a switch listens."""

    url: str
    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, tls: ssl.SSLContext | None) -> "Origin":
        """The place that a URL of the configuration names; `tls` is for those that begin with https."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        return cls(url, parts.hostname or "", parts.port or (443 if secure else 80), tls if secure else None)


class Exchange:
    """One connection. `sockets` holds the open ones of the process, for whoever must close them after a fork."""

    def __init__(self, origin: Origin, sockets: set[socket.socket]) -> None:
        """A connection that is not open yet: see `open`."""
        self._origin, self._sockets = origin, sockets
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._socket: socket.socket | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect. Raises: LineDown."""
        origin = self._origin
        try:
            self._socket = await self._connect()
            self._reader, self._writer = await asyncio.open_connection(
                sock=self._socket, ssl=origin.tls, server_hostname=origin.host if origin.tls else None
            )
        except OSError as error:
            raise LineDown(_reason(error)) from error

    async def ask(self, method: str, path: str, body: bytes, *, token: str) -> int:
        """Send a request with a JSON body, and read the head of its answer. Returns the status.

        Raises: LineDown.
        """
        headers = [
            ("Host", urlsplit(self._origin.url).netloc),
            ("User-Agent", "rescind"),
            ("Accept", "text/event-stream, application/json"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        if token:
            headers.append(("Authorization", f"Bearer {token}"))
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        request = h11.Request(method=method, target=path, headers=headers)
        await self._send(request, h11.Data(data=body), h11.EndOfMessage())
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event.status_code
            if not isinstance(event, h11.InformationalResponse):
                raise LineDown("it closed the connection without an answer")

    async def piece(self) -> bytes | None:
        """The next bytes of the answer's body, as they come; None at its end. Raises: LineDown."""
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def body(self) -> bytes:
        """The rest of the answer's body, whole. Raises: LineDown, also if it is longer than `ANSWER_BYTES_MAX`."""
        whole = b""
        while (piece := await self.piece()) is not None:
            whole += piece
            if len(whole) > ANSWER_BYTES_MAX:
                raise LineDown("its answer is too long")
        return whole

    @property
    def can_go_on(self) -> bool:
        """Whether another request may be sent on this connection."""
        if self._reader is None or self._writer is None or self._reader.at_eof():
            return False
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def close(self) -> None:
        """Break the connection. A second close does nothing."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
        elif self._socket is not None:
            self._socket.close()
        if self._socket is not None:
            self._sockets.discard(self._socket)
            self._socket = None

    async def _connect(self) -> socket.socket:
        problem: OSError = OSError("its name has no address")
        for family, kind, protocol, _, address in await _addresses(self._origin):
            candidate = socket.socket(family, kind, protocol)
            self._sockets.add(candidate)
            try:
                candidate.setblocking(False)
                async with asyncio.timeout(ADDRESS_S):
                    await asyncio.get_running_loop().sock_connect(candidate, address)
            except BaseException as error:
                self._sockets.discard(candidate)
                candidate.close()
                if not isinstance(error, OSError):
                    raise
                problem = error
            else:
                return candidate
        raise problem

    async def _send(self, *events: h11.Event) -> None:
        assert self._writer is not None, "the connection is open"
        try:
            for event in events:
                self._writer.write(self._http.send(event) or b"")
            await self._writer.drain()
        except OSError as error:
            raise LineDown(_reason(error)) from error

    async def _next_event(self) -> Any:
        assert self._reader is not None, "the connection is open"
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_PIECE_BYTES))
        except OSError as error:
            raise LineDown(_reason(error)) from error
        except h11.RemoteProtocolError as error:
            raise LineDown(f"it does not speak HTTP ({error})") from error
        return event


async def _addresses(origin: Origin) -> list[Any]:
    def resolve() -> list[Any]:
        return list(socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM))

    try:
        ipaddress.ip_address(origin.host)
    except ValueError:
        return await _in_a_thread(resolve)
    return resolve()  # a number needs no server of names


async def _in_a_thread(function: Callable[[], list[Any]]) -> list[Any]:
    # A thread of our own: those of asyncio are joined when the program ends, and a name server may never answer.
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def settle(settled: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(lambda: None if answer.done() else settled(value))

    def work() -> None:
        try:
            found = function()
        except (OSError, UnicodeError) as error:
            settle(answer.set_exception, error if isinstance(error, OSError) else OSError("its name is none"))
        else:
            settle(answer.set_result, found)

    threading.Thread(target=work, name="rescind-resolver", daemon=True).start()
    return await answer


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not vouched for ({error.verify_message}); see ca_file in rescind.yaml"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection ({error.reason or 'it speaks something else'})"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return error.strerror or str(error) or type(error).__name__
