"""ASGI by hand, for the few requests that come from every guard at once: reading a body, sending an answer."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from rescind.errors import OrdersUnavailable
from rescind.switch.service.problems import Refused
from rescind.switch.wire import BODY_BYTES_MAX

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON, PROBLEM, EVENTS = b"application/json", b"application/problem+json", b"text/event-stream"


class Gone(Exception):
    """Whoever asked has left."""


def header(scope: Scope, name: bytes) -> str:
    """A request header, or an empty text."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def origin(scope: Scope) -> str:
    """The network address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. One that drips in ends with its connection: see `connection`.

    Raises: Refused (413), if it is too long; Gone.
    """
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
        raise _too_long()
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunks.append(message.get("body", b""))
        length += len(chunks[-1])
        if length > BODY_BYTES_MAX:
            raise _too_long()
        if not message.get("more_body"):
            return b"".join(chunks)


async def answer(send: Send, status: int, body: bytes, *, kind: bytes = JSON, retry_after_s: int | None = None) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % retry_after_s))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refused: Refused) -> None:
    """Send a problem document."""
    body = msgspec.json.encode(refused.problem)
    await answer(send, refused.status, body, kind=PROBLEM, retry_after_s=refused.retry_after_s)


def refusal_of(error: OrdersUnavailable) -> Refused:
    """What a ledger that cannot be used means to whoever asked: nothing was stored, and another switch may do it."""
    status = 507 if "disk is full" in str(error) else 503
    return Refused(status, str(error), retry_after_s=1)


def _too_long() -> Refused:
    return Refused(413, f"the body is longer than {BODY_BYTES_MAX:,} bytes")
