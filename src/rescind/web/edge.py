"""The framework as our servers use it: bodies are read and looked at before it, refusals are problem documents."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.datastructures import ResponseHeader, State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from rescind import __version__
from rescind.errors import RescindError
from rescind.web import answers
from rescind.web.problems import Refused
from rescind.web.tokens import Caller

logger = logging.getLogger("rescind.web")

REQUEST_RATE, REQUEST_BURST = 50.0, 200.0
"""Requests a second by one token or address. A person with a console needs two."""

_HEADERS = (
    ResponseHeader(name="cache-control", value="no-store"),  # it tells what agents did to customers' data
    ResponseHeader(name="x-content-type-options", value="nosniff"),
)

AnyRequest = Request[Any, Any, State]

SeenAs = Callable[[RescindError], Refused]
"""What an error of ours means to whoever asked."""


def ascii_json(value: object) -> bytes:
    """The value as JSON in plain ASCII, so that nothing in it reaches a terminal unescaped."""
    return json.dumps(builtins_of(value), ensure_ascii=True, separators=(",", ":")).encode("ascii")


def builtins_of(value: object) -> Any:
    """The value as JSON values."""
    return msgspec.to_builtins(value, str_keys=True)


class AsciiResponse(Response[Any]):
    """An answer whose JSON is plain ASCII."""

    def render(self, content: Any, media_type: str, enc_hook: Any = None) -> bytes:
        """See `ascii_json`; text and bytes are sent as they are."""
        if isinstance(content, str | bytes) or "json" not in media_type:
            return super().render(content, media_type, enc_hook)
        return ascii_json(content)


async def pass_on(app: Litestar, scope: answers.Scope, receive: answers.Receive, send: answers.Send) -> None:
    """Let the application serve a request whose body is no longer than it may be, and says each thing once."""
    try:
        body = await answers.read_body(scope, receive)
        if body and scope["method"] == "POST":
            answers.refuse_other_types(scope)
            answers.refuse_ambiguous(body)
    except Refused as refused:
        await answers.refuse(send, refused)
    except answers.Gone:
        return
    else:
        await app(scope, _replay(body, receive), send)  # type: ignore[arg-type]


def _replay(body: bytes, receive: answers.Receive) -> answers.Receive:
    """The body that was read already, and after it whatever comes."""
    given = False

    async def replayed() -> answers.Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def application(
    title: str,
    handlers: Sequence[Any],
    *,
    given: Mapping[str, object],
    caller_of: Callable[[str, str], Caller],
    seen_as: SeenAs,
    admitted: Mapping[str, Callable[[Caller], None]] | None = None,
    response_class: type[Response[Any]] = Response,
) -> Litestar:
    """An application that describes itself at `/openapi.json`.

    Args:
        title: What the description is headed by.
        handlers: Its requests.
        given: What they may ask for as parameters, by name, besides `caller`.
        caller_of: Who sends a request with this `Authorization` header from this address; may raise `Refused`.
        seen_as: What an error of ours means to whoever asked.
        admitted: Parameters that are the caller as well, by name: each lets it in, or raises `Refused`.
        response_class: What answers are.
    """

    def caller(request: AnyRequest) -> Caller:
        return caller_of(request.headers.get("authorization", ""), request.client.host if request.client else "")

    def refused(_: AnyRequest, error: RescindError) -> Response[Any]:
        return _problem(error if isinstance(error, Refused) else seen_as(error))

    @get("/openapi.json", include_in_schema=False)
    async def describe() -> dict[str, Any]:
        return app.openapi_schema.to_schema()

    app = Litestar(
        [*handlers, describe],
        dependencies={
            **{name: _provide(value) for name, value in given.items()},
            **{name: _admit(check) for name, check in (admitted or {}).items()},
            "caller": Provide(caller, sync_to_thread=False),
        },
        exception_handlers={RescindError: refused, HTTPException: _bad_request, Exception: _unexpected},
        openapi_config=_openapi(title),
        response_class=response_class,
        response_headers=_HEADERS,
        request_max_body_size=answers.BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
    )
    return app


def _provide(value: object) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)


def _admit(check: Callable[[Caller], None]) -> Provide:
    def admit(caller: Caller) -> Caller:
        check(caller)
        return caller

    return Provide(admit, sync_to_thread=False)


def _openapi(title: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title=title,
        version=__version__,
        path="/openapi",
        create_examples=False,
        components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
        security=[{"token": []}],
        render_plugins=[JsonRenderPlugin()],  # the others load scripts from somebody else's server
    )


def _bad_request(_: AnyRequest, error: HTTPException) -> Response[Any]:
    detail = error.detail
    extra = error.extra
    if isinstance(extra, list) and any(each.get("message") == "'data'" for each in extra):  # it found none to give us
        detail = "the body is missing; send it as JSON, and say so: `Content-Type: application/json`"
    elif isinstance(extra, list):
        detail = "; ".join(f"{each.get('key', 'body')}: {each.get('message', '')}" for each in extra) or detail
    return _problem(Refused(error.status_code, detail), **(error.headers or {}))


def _unexpected(_: AnyRequest, error: Exception) -> Response[Any]:
    if isinstance(error, RecursionError):
        return _problem(Refused(400, "the body is nested too deeply"))
    logger.error("a request failed in a way that should not happen: %s: %s", type(error).__name__, error)
    return _problem(Refused(500, "this should not have happened; the server's log says more"))


def _problem(refused: Refused, **headers: str) -> Response[Any]:
    return Response(
        ascii_json(refused.problem),
        status_code=refused.status,
        media_type=answers.PROBLEM.decode(),
        headers={**headers, **refused.headers},
    )
