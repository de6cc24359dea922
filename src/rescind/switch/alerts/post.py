"""One HTTP POST that ends in time, whatever the receiver does.

`http.client` bounds each single read: a receiver that trickles one byte a second is never too slow for it. Here every
read gets what is left of one deadline. Nothing is read beyond the head of the answer, no redirect is followed, and no
proxy is asked.
"""

import http.client
import io
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import cast

import msgspec

from rescind.clock import Clock


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a webhook lives. `target` is path and query; it may hold a secret, and so is never shown."""

    secure: bool
    host: str
    port: int
    target: str

    def __repr__(self) -> str:
        return f"Address({self.origin})"

    @property
    def authority(self) -> str:
        """Host and port, as in a URL; a port that goes without saying is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """What can be shown to anybody: `https://hooks.example`."""
        return f"{'https' if self.secure else 'http'}://{self.authority}"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The head of an answer. `retry_after` as the receiver wrote it; empty if it did not."""

    status: int
    retry_after: str = ""


def post(
    address: Address,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    clock: Clock,
    tls: ssl.SSLContext | None,
) -> Answer:
    """POST the body and read the head of the answer.

    Args:
        address: Where to.
        body: What to send.
        headers: Further ones than Host, Content-Length and Connection.
        timeout_s: For everything together, but for looking up the host's name.
        clock: Measures it.
        tls: How to verify the receiver; not None if the address is secure.

    Raises: OSError (a TimeoutError, if it took too long) or http.client.HTTPException.
    """
    give_up_s = clock.monotonic_s() + timeout_s

    def remaining() -> float:
        left = give_up_s - clock.monotonic_s()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    with _connected(address, remaining, tls) as connected:
        connection = http.client.HTTPConnection(address.host, address.port)
        # It only sends, makes a file to read from, and closes.
        connection.sock = cast("socket.socket", _Bounded(connected, remaining))
        own = {"Host": address.authority, "Connection": "close"}
        connection.request("POST", address.target, body=body, headers={**headers, **own})
        answer = connection.getresponse()
        return Answer(status=answer.status, retry_after=answer.getheader("Retry-After", ""))


class _Bounded:
    """What `http.client` needs of a socket, with one deadline for all of it."""

    def __init__(self, connected: socket.socket, remaining: Callable[[], float]) -> None:
        self._connected, self._remaining = connected, remaining

    def sendall(self, data: bytes) -> None:
        self._connected.settimeout(self._remaining())
        self._connected.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._connected, self._remaining))

    def close(self) -> None:
        self._connected.close()


class _Reader(io.RawIOBase):
    def __init__(self, connected: socket.socket, remaining: Callable[[], float]) -> None:
        super().__init__()
        self._connected, self._remaining = connected, remaining

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader passes
        self._connected.settimeout(self._remaining())
        return self._connected.recv_into(buffer)


def _connected(address: Address, remaining: Callable[[], float], tls: ssl.SSLContext | None) -> socket.socket:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    problem = OSError("the name has no address")
    for place, (family, kind, protocol, _, where) in enumerate(found):
        connected = socket.socket(family, kind, protocol)
        try:
            # Each address gets its share, so that a first one that swallows packets leaves time for the second.
            connected.settimeout(remaining() / (len(found) - place))
            connected.connect(where)
            if not address.secure:
                return connected
            assert tls is not None, "a secure address needs to know whom to believe"
            connected.settimeout(remaining())
            return tls.wrap_socket(connected, server_hostname=address.host)
        except OSError as error:
            connected.close()
            problem = error
    raise problem
