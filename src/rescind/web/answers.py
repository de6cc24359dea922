"""ASGI by hand, for the few requests that come from every guard at once: reading a body, sending an answer."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

import msgspec

from rescind.errors import OrdersUnavailable
from rescind.web.problems import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_BYTES_MAX = 256 * 1024
"""A request's body. A guard's report of two hundred runs takes about 60 KiB."""

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
        raise too_long()
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunks.append(message.get("body", b""))
        length += len(chunks[-1])
        if length > BODY_BYTES_MAX:
            raise too_long()
        if not message.get("more_body"):
            return b"".join(chunks)


def refuse_other_types(scope: Scope) -> None:
    """Raises: Refused (415), if the body is not said to be JSON.

    Not for form's sake: a web page may send any other type to a switch on its visitor's machine without asking first.
    """
    kind = header(scope, b"content-type").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "send the body as JSON, and say so: `Content-Type: application/json`")


def refuse_ambiguous(body: bytes) -> None:
    """Raises: Refused (400), if the body is no JSON, or names a field twice: which of them counts is nobody's guess."""
    try:
        json.loads(body, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise Refused(400, "the body is nested too deeply") from error
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is named twice")
    return fields


async def answer(
    send: Send, status: int, body: bytes, *, kind: bytes = JSON, headers: Mapping[str, str] | None = None
) -> None:
    """Send a whole answer."""
    sent = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    sent += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


def whole_answer(status: int, body: bytes, *, kind: bytes = JSON, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer as it goes over the wire, for a connection that is kept."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()).encode("latin-1")
    head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\ncache-control: no-store\r\n%s\r\n"
    return head % (status, HTTPStatus(status).phrase.encode(), kind, len(body), more) + body


def whole_refusal(refused: Refused) -> bytes:
    """A problem document, as `whole_answer`."""
    body = msgspec.json.encode(refused.problem)
    return whole_answer(refused.status, body, kind=PROBLEM, headers=refused.headers)


async def refuse(send: Send, refused: Refused) -> None:
    """Send a problem document."""
    body = msgspec.json.encode(refused.problem)
    await answer(send, refused.status, body, kind=PROBLEM, headers=refused.headers)


def refusal_of(error: OrdersUnavailable) -> Refused:
    """What a ledger that cannot be used means to whoever asked: nothing was stored, and another switch may do it."""
    status = 507 if "disk is full" in str(error) else 503
    return Refused(status, str(error), retry_after_s=1)


def too_long() -> Refused:
    """The refusal of a body that is too long."""
    return Refused(413, f"the body is longer than {BODY_BYTES_MAX:,} bytes")
