"""One request, one answer, one connection: the little HTTP that an operator's command needs.

`rescind stop` must be durable at a switch within 8 times the start of a bare Python, and importing `http.client` takes
twice that start (measured: 20 ms and 11 ms). So the request is written here over a plain socket. The other side may be
broken, hostile, or no switch at all: every answer is bounded in time and size, and whatever is not understood ends as
`Unreachable`. Redirects are not followed, so that a token goes nowhere but to the switch that was named.
"""

import enum
import errno
import functools
import socket
from typing import TYPE_CHECKING

import msgspec

from rescind.clock import Clock
from rescind.errors import RescindError

if TYPE_CHECKING:
    import ssl

HEAD_BYTES_MAX = 32 * 1024
"""An answer's status line and headers; proxies add a few kilobytes at most."""

CHUNKS_MAX = 100_000
"""Pieces of a chunked answer; with a byte each, one could go on for as long as the body may be large."""

_PIECE_BYTES = 64 * 1024


class Trouble(enum.StrEnum):
    """Why a switch did not do what it was asked."""

    DOWN = "down"  # nobody accepts the connection, or it broke
    NO_HOST = "no_host"  # its name cannot be resolved
    SLOW = "slow"  # no answer in time; if the request was sent, it may have been done
    UNTRUSTED = "untrusted"  # its certificate is not vouched for
    NO_TLS = "no_tls"  # it was called by https and does not speak TLS
    NO_SWITCH = "no_switch"  # it answers, and not as a switch does
    NO_TOKEN = "no_token"  # noqa: S105  # it wants a token, or does not know this one
    WRONG_ROLE = "wrong_role"  # the token's role may not do this
    REFUSED = "refused"  # it says why


class Unreachable(RescindError):
    """No answer that could be understood. Nobody knows whether the request was served, if it was `sent`."""

    def __init__(self, trouble: Trouble, detail: str, *, sent: bool = False) -> None:
        super().__init__(detail)
        self.trouble, self.detail, self.sent = trouble, detail, sent


class Response(msgspec.Struct, frozen=True):
    """An answer: its status, and its body whole."""

    status: int
    body: bytes


class Address(msgspec.Struct, frozen=True):
    """Where a switch listens. `authority` is as it was typed."""

    authority: str
    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `http://HOST[:PORT]` or `https://HOST[:PORT]`; an IPv6 address stands in brackets.

        Raises: ValueError, which names the remedy.
        """
        scheme, separator, authority = url.rstrip("/").partition("://")
        host, port = _host_and_port(authority)
        if scheme not in ("http", "https") or not separator or not host or any(c in "/?#@\\" for c in authority):
            raise ValueError(f"{url!r} is no switch; write http://HOST:PORT or https://HOST:PORT")
        if not all("!" <= c <= "~" for c in authority) or (not port.isdigit() and port):
            raise ValueError(f"{url!r} is no switch: {authority!r} is no HOST:PORT")
        number = int(port) if port else 443 if scheme == "https" else 80
        if not 0 < number < 65_536:
            raise ValueError(f"{url!r} is no switch: ports go from 1 to 65535")
        return cls(authority, host, number, scheme == "https")


def fetch(
    address: Address,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    token: str = "",
    ca_file: str | None = None,
    deadline_s: float,
    bytes_max: int,
    clock: Clock,
) -> Response:
    """Send one request and read its answer.

    Args:
        address: The switch.
        method: Such as `POST`.
        path: With its query; quoted already.
        body: JSON; empty for none.
        token: What to show; empty for nothing. Printable ASCII.
        ca_file: Whom to believe with https; None for the system's authorities.
        deadline_s: When to give up, by the monotonic clock.
        bytes_max: Of the answer's body.
        clock: The time.

    Raises: Unreachable.
    """
    time_left = _TimeLeft(deadline_s, clock)
    sent = False
    try:
        with _connect(address, ca_file, time_left) as connection:
            connection.settimeout(time_left())
            connection.sendall(_request(address, method, path, body, token))
            sent = True
            return _Answer(connection, time_left, bytes_max).read()
    except TimeoutError as error:
        raise Unreachable(Trouble.SLOW, "did not answer in time", sent=sent) from error
    except socket.gaierror as error:
        raise Unreachable(Trouble.NO_HOST, f"{address.host} cannot be found: {error.strerror}") from error
    except OSError as error:
        raise _broken(error, sent=sent) from error


class _TimeLeft:
    """Seconds until the deadline, as a timeout for the next step. Raises: TimeoutError, if none is left."""

    def __init__(self, deadline_s: float, clock: Clock) -> None:
        self._deadline_s, self._clock = deadline_s, clock

    def __call__(self) -> float:
        left_s = self._deadline_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise TimeoutError
        return left_s


def _host_and_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = authority.partition(":")
    return host, port


def _connect(address: Address, ca_file: str | None, time_left: _TimeLeft) -> socket.socket:
    # As bytes, since a text would be encoded as an international name, whose tables take 4 ms to import.
    host = address.host.encode("ascii")
    problem: OSError | None = None
    for family, kind, protocol, _, place in socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(time_left())
            connection.connect(place)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _secured(connection, host, ca_file) if address.tls else connection
        except OSError as error:
            connection.close()
            problem = error
        except BaseException:
            connection.close()
            raise
    raise problem or OSError(errno.EADDRNOTAVAIL, "its name has no address")


def _secured(connection: socket.socket, host: bytes, ca_file: str | None) -> socket.socket:
    return _tls(ca_file).wrap_socket(connection, server_hostname=host)


@functools.cache
def _tls(ca_file: str | None) -> "ssl.SSLContext":
    import ssl  # 9 ms that only those with https pay

    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = error.strerror if error.errno else "it holds no certificate"
        raise Unreachable(Trouble.UNTRUSTED, f"switch.ca_file {ca_file} cannot be used: {reason}") from error


def _request(address: Address, method: str, path: str, body: bytes, token: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address.authority}", "Connection: close", "Accept: application/json"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body or method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


def _broken(error: OSError, *, sent: bool) -> Unreachable:
    distrust = getattr(error, "verify_message", "")
    if distrust:
        return Unreachable(Trouble.UNTRUSTED, f"its certificate is not trusted: {distrust}")
    if getattr(error, "reason", "") in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return Unreachable(Trouble.NO_TLS, "it does not speak TLS")
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(Trouble.DOWN, "nothing listens there")
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return Unreachable(Trouble.DOWN, "closed the connection without an answer", sent=sent)
    return Unreachable(Trouble.DOWN, error.strerror or str(error) or type(error).__name__, sent=sent)


class _Answer:
    """Reads one answer, and no byte more than it may have."""

    def __init__(self, connection: socket.socket, time_left: _TimeLeft, bytes_max: int) -> None:
        self._connection, self._time_left, self._bytes_max = connection, time_left, bytes_max
        self._held = bytearray()

    def read(self) -> Response:
        status, headers = self._head()
        while 100 <= status < 200:  # an interim answer; the deadline bounds how many
            status, headers = self._head()
        if status in (204, 304):
            return Response(status, b"")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Response(status, self._chunks())
        length = headers.get("content-length")
        if length is None:
            return Response(status, self._rest())
        if not (length.isascii() and length.isdigit()) or len(length) > 12:
            raise _no_switch("its Content-Length is no number")
        return Response(status, self._exactly(int(length)))

    def _head(self) -> tuple[int, dict[str, str]]:
        lines = self._until(b"\r\n\r\n", HEAD_BYTES_MAX, begins=b"HTTP/1.").decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        status = rest[:3]
        if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit()) or len(status) != 3:
            raise _no_switch("it does not answer with HTTP")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(status), headers

    def _chunks(self) -> bytes:
        body = bytearray()
        for _ in range(CHUNKS_MAX):
            size = self._until(b"\r\n", 256).partition(b";")[0].strip()
            try:
                length = int(size, 16) if size[:1].isalnum() and b"_" not in size else -1
            except ValueError:
                length = -1
            if length < 0:
                raise _no_switch("a chunk of its answer has no length")
            if length == 0:
                return bytes(body)
            if len(body) + length > self._bytes_max:
                raise self._too_large()
            body += self._exactly(length)
            self._exactly(2)
        raise self._too_large()

    def _until(self, mark: bytes, limit: int, *, begins: bytes = b"") -> bytes:
        while (end := self._held.find(mark)) < 0:
            # What is no HTTP need not be read until there is no more room.
            if len(self._held) > limit or not begins.startswith(bytes(self._held[: len(begins)])):
                raise _no_switch("it does not answer with HTTP")
            self._receive()
        found = bytes(self._held[:end])
        del self._held[: end + len(mark)]
        return found

    def _exactly(self, length: int) -> bytes:
        if length > self._bytes_max:
            raise self._too_large()
        while len(self._held) < length:
            self._receive()
        found = bytes(self._held[:length])
        del self._held[:length]
        return found

    def _rest(self) -> bytes:
        while len(self._held) <= self._bytes_max:
            if not self._receive(may_end=True):
                return bytes(self._held)
        raise self._too_large()

    def _receive(self, *, may_end: bool = False) -> bool:
        self._connection.settimeout(self._time_left())
        piece = self._connection.recv(_PIECE_BYTES)
        if not piece and not may_end:
            where = "within its answer" if self._held else "without an answer"
            raise Unreachable(Trouble.DOWN, f"closed the connection {where}", sent=True)
        self._held += piece
        return bool(piece)

    def _too_large(self) -> Unreachable:
        return _no_switch(f"its answer has more than {self._bytes_max:,} bytes")


def _no_switch(detail: str) -> Unreachable:
    return Unreachable(Trouble.NO_SWITCH, detail, sent=True)
