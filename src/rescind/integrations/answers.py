"""A fallback on its way to a browser, a program or an event stream: which form is wanted, and its encoding."""

import enum
import html
import json
import re
from collections.abc import Iterable

import msgspec

from rescind.guard.fallback import Fallback, plain_json
from rescind.model.level import Level

CLOSE_CODE = 1013
"""WebSocket: "try again later"."""

_CLOSE_REASON_BYTES_MAX = 123  # RFC 6455, section 5.5
_TITLE_MAX = 70

_RANGE = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


class Form(enum.StrEnum):
    """What an answer may be written in."""

    JSON = "application/json"
    HTML = "text/html"
    EVENTS = "text/event-stream"


class Answer(msgspec.Struct, frozen=True):
    """An answer to one request, encoded."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def form_for(accept: str) -> Form:
    """The form that a request's Accept header prefers (RFC 9110, section 12.5.1); JSON where it does not care.

    Events are for those who name them: `*/*` and `text/*` mean documents.
    """
    ranges = [_range(each) for each in _RANGE.findall(accept)]

    def weight(form: Form) -> float:
        kind = form.partition("/")[0]
        for wanted in (str(form),) if form is Form.EVENTS else (str(form), f"{kind}/*", "*/*"):
            weights = [weight for name, weight in ranges if name == wanted]
            if weights:
                return max(weights)
        return 0.0

    return max(Form, key=weight)  # the first of equals, and JSON is first


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        key, equals, value = parameter.partition("=")
        if equals and key.strip() == "q":
            value = value.strip()
            return name, float(value) if _WEIGHT.fullmatch(value) else 0.0
    return name, 1.0


def answer(fallback: Fallback, form: Form, *, head: bool = False) -> Answer:
    """The fallback as the whole answer to a request. `head`: the request wants no body.

    An event stream is answered with 200, since browsers do not reconnect after anything else.
    """
    body = {Form.JSON: as_json, Form.HTML: as_page, Form.EVENTS: as_event}[form](fallback)
    headers = {
        "content-type": str(form) if form is Form.JSON else f"{form}; charset=utf-8",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "vary": "accept",
        "x-content-type-options": "nosniff",
    }
    if form is Form.HTML:
        headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'"
    if form is not Form.EVENTS:
        headers["retry-after"] = str(fallback.retry_after_s)
    return Answer(200 if form is Form.EVENTS else 503, tuple(headers.items()), b"" if head else body)


def tail_for(status: str, headers: Iterable[tuple[str, str]], fallback: Fallback) -> bytes:
    """What may be added to a response that has begun like this; nothing, where it would break what was sent.

    Args:
        status: Begins with the three digits.
        headers: As they were sent.
        fallback: What is to be said.
    """
    headers = tuple(headers)
    encoding = header_of(headers, "content-encoding") or "identity"
    if header_of(headers, "content-length") is not None or encoding != "identity" or status[:3] in ("204", "304"):
        return b""
    kind, _, parameters = (header_of(headers, "content-type") or "").lower().partition(";")
    if kind.strip() == Form.EVENTS:
        return as_event(fallback)
    is_utf8 = "charset" not in parameters or "utf-8" in parameters
    return as_plain(fallback) if kind.strip() == "text/plain" and is_utf8 else b""


def header_of(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    """The value of the first header of this name, in lower case; None if there is none."""
    return next((value.strip() for each, value in headers if each.lower() == name), None)


def as_json(fallback: Fallback) -> bytes:
    """JSON on one line."""
    try:
        text = json.dumps(fallback.json, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):  # a program's own, and no JSON: the user shall be told all the same
        said = plain_json(fallback.text, level=Level.HALTED, retry_after_s=fallback.retry_after_s)
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def as_event(fallback: Fallback) -> bytes:
    """One server-sent event. The empty lines before it end an event that was half sent, and mean nothing otherwise."""
    return b"\n\nevent: agent_paused\nretry: %d\ndata: %s\n\n" % (fallback.retry_after_s * 1000, as_json(fallback))


def as_plain(fallback: Fallback) -> bytes:
    """A last paragraph."""
    return f"\n\n{fallback.text}\n".encode("utf-8", "replace")


def close_reason(fallback: Fallback) -> str:
    """The text, as far as it fits into the frame that closes a WebSocket."""
    line = " ".join(fallback.text.split())
    return line.encode("utf-8", "replace")[:_CLOSE_REASON_BYTES_MAX].decode("utf-8", "ignore")


def as_page(fallback: Fallback) -> bytes:
    """A page without scripts, in the reader's colours."""
    first, *rest = [html.escape(part) for part in fallback.text.splitlines() if part.strip()] or [""]
    line = " ".join(fallback.text.split())
    title = line if len(line) <= _TITLE_MAX else line[: _TITLE_MAX - 1].rstrip() + "…"
    words = {"lang": html.escape(fallback.lang), "title": html.escape(title), "first": first}
    return _PAGE.format(**words, rest="".join(f"<p>{part}</p>" for part in rest)).encode("utf-8", "replace")


_PAGE = """<!doctype html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas; color: CanvasText;
  font: 1rem/1.6 system-ui, sans-serif }}
main {{ max-width: 32rem; padding: 2rem; overflow-wrap: anywhere }}
h1 {{ margin: 0; font-size: 1.25rem; font-weight: 600; line-height: 1.4 }}
</style>
</head>
<body>
<main><div role="status" dir="auto"><h1>{first}</h1>{rest}</div></main>
</body>
</html>
"""
