"""Requests to a server that may be slow, broken or hostile: bounded, never redirected, and silent about credentials.

What an exception says is made of the method, the address without its query, and the status. What a server sends, and
what the client's own exceptions say, can repeat a header; so those are neither quoted nor chained.
"""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

try:
    import httpx
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("HttpResource needs httpx: pip install 'rescind[http]'", name=missing.name) from missing

from rescind.clock import Clock, SystemClock, to_us
from rescind.errors import RescindError, Transient, UsageError

_RETRY_AFTER_MAX_S = 3600.0  # a server may not hold an undo for longer than that; the next try asks it again


class HttpFailed(RescindError):
    """A server said no, or nothing that can be used."""


class Reply(NamedTuple):
    """What a server answered. `body` is empty after a write."""

    status: int
    headers: httpx.Headers
    body: bytes


class Exchange:
    """Sends requests by somebody's client. Threads may share it."""

    def __init__(self, client: httpx.Client, *, bytes_max: int, timeout_s: float, clock: Clock | None = None) -> None:
        self._client, self._bytes_max, self._timeout_s = client, bytes_max, timeout_s
        self._clock = clock or SystemClock()

    def read(self, url: httpx.URL) -> Reply:
        """GET it, as the bytes that the server keeps.

        Raises: Transient for 429, 5xx and where nobody listens; UsageError for too much; HttpFailed for a redirect;
            TimeoutError; ConnectionError.
        """
        # A compressed form would have another ETag than the one that a write is compared with.
        reply = self._send("GET", url, headers={"accept-encoding": "identity"})
        if reply.status == 429 or reply.status >= 500:
            raise Transient(f"GET {shown(url)} answered {reply.status}", retry_after_s=self._retry_after_s(reply))
        return reply

    def write(self, method: str, url: httpx.URL, *, headers: Mapping[str, str], content: bytes | None = None) -> Reply:
        """Send a write.

        Raises: Transient, if it certainly did nothing; ConnectionError and TimeoutError, if it may have.
        """
        reply = self._send(method, url, headers=headers, content=content)
        words = f"{method} {shown(url)} answered {reply.status}"
        if reply.status == 429 or (reply.status == 503 and "retry-after" in reply.headers):
            raise Transient(words, retry_after_s=self._retry_after_s(reply))
        if reply.status >= 500:
            raise ConnectionError(f"{words}; it may have happened")
        return reply

    def _send(self, method: str, url: httpx.URL, *, headers: Mapping[str, str], content: bytes | None = None) -> Reply:
        where = f"{method} {shown(url)}"
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        try:
            with self._client.stream(
                method, url, headers=headers, content=content, timeout=self._timeout_s, follow_redirects=False
            ) as response:
                body = self._body(response, where, deadline_s) if method == "GET" else b""
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Transient(f"{where}: no connection ({type(error).__name__})") from None
        except httpx.TimeoutException as error:
            raise TimeoutError(f"{where}: no answer in {self._timeout_s:g} s ({type(error).__name__})") from None
        except httpx.LocalProtocolError:
            raise HttpFailed(
                f"{where}: what was to be sent is no valid request; look at the client's headers"
            ) from None
        except httpx.TransportError as error:
            raise ConnectionError(f"{where}: the connection broke ({type(error).__name__})") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise HttpFailed(f"{where}: {type(error).__name__}") from None
        if 300 <= response.status_code < 400:
            raise HttpFailed(
                f"{where} answered {response.status_code}, a redirect, and none is followed: credentials and writes "
                "would go elsewhere. Guard the address that it leads to"
            )
        return Reply(response.status_code, response.headers, body)

    def _body(self, response: httpx.Response, where: str, deadline_s: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > self._bytes_max:
                raise UsageError(f"{where} answered with more than bytes_max={self._bytes_max:,}; raise it")
            # The client's own timeout is for each chunk: a server that drips would hold us for ever.
            if self._clock.monotonic_s() > deadline_s:
                raise TimeoutError(f"{where}: the body had not arrived after {self._timeout_s:g} s")
        return bytes(body)

    def _retry_after_s(self, reply: Reply) -> float:
        """Seconds, or a date; 0 for neither."""
        text = reply.headers.get("retry-after", "")
        if text.isascii() and text.isdigit():
            return min(float(text[:10]), _RETRY_AFTER_MAX_S)
        try:
            moment = parsedate_to_datetime(text)
            wait_us = to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - self._clock.now_us()
        except (ValueError, OverflowError):  # a year of twenty digits
            return 0.0
        return min(max(wait_us / 1e6, 0.0), _RETRY_AFTER_MAX_S)


def shown(url: httpx.URL) -> str:
    """The address as people may see it: a query can be a key."""
    return str(url.copy_with(query=None, fragment=None, username=None, password=None))
