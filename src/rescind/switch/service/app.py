"""The switch's ASGI application: guards' requests by hand, everybody else's through Litestar."""

import logging
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from rescind import __version__
from rescind.clock import Clock
from rescind.errors import OrdersUnavailable, RescindError
from rescind.switch.alerts import Alerts
from rescind.switch.service import answers
from rescind.switch.service.api import HANDLERS
from rescind.switch.service.approvals import Approvals
from rescind.switch.service.approvals_api import HANDLERS as APPROVAL_HANDLERS
from rescind.switch.service.federation import Federation
from rescind.switch.service.leases_api import show_lease
from rescind.switch.service.limits import Limit
from rescind.switch.service.openapi import add_streams
from rescind.switch.service.problems import Refused
from rescind.switch.service.signals import Signals
from rescind.switch.service.signals_api import HANDLERS as SIGNAL_HANDLERS
from rescind.switch.service.streams import STREAMS_MAX, Streams
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.tokens import Caller
from rescind.switch.service.upkeep import Upkeep
from rescind.switch.wire import BODY_BYTES_MAX

logger = logging.getLogger("rescind.switch")

REQUEST_RATE, REQUEST_BURST = 50.0, 200.0
"""Requests a second by one token or address, apart from stops. A person with a console needs two."""

AnyRequest = Request[Any, Any, State]


class SwitchApp:
    """What the HTTP server calls."""

    def __init__(
        self,
        board: Switchboard,
        upkeep: Upkeep,
        federation: Federation,
        alerts: Alerts,
        signals: Signals,
        clock: Clock,
        streams_max: int = STREAMS_MAX,
    ) -> None:
        self._streams = Streams(board, upkeep, clock, streams_max)
        self.acknowledge = self._streams.acknowledge
        approvals = Approvals(board, clock, alerts.put)
        self._rest = _litestar(
            board, federation, alerts, signals, approvals, Limit(rate=REQUEST_RATE, burst=REQUEST_BURST, clock=clock)
        )

    async def __call__(self, scope: answers.Scope, receive: answers.Receive, send: answers.Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return  # nothing else is spoken here
        if self._streams.serves(scope):
            await self._streams(scope, receive, send)
            return
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
            await self._rest(scope, _replay(body, receive), send)  # type: ignore[arg-type]


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


def _litestar(
    board: Switchboard,
    federation: Federation,
    alerts: Alerts,
    signals: Signals,
    approvals: Approvals,
    limits: Limit,
) -> Litestar:
    def caller_of(request: AnyRequest) -> Caller:
        return board.caller(request.headers.get("authorization", ""), request.client.host if request.client else "")

    @get("/openapi.json", include_in_schema=False)
    async def describe() -> dict[str, Any]:
        return app.openapi_schema.to_schema()

    app = Litestar(
        [*HANDLERS, *SIGNAL_HANDLERS, *APPROVAL_HANDLERS, show_lease, describe],
        dependencies={
            "board": Provide(lambda: board, sync_to_thread=False),
            "federation": Provide(lambda: federation, sync_to_thread=False),
            "alerts": Provide(lambda: alerts, sync_to_thread=False),
            "signals": Provide(lambda: signals, sync_to_thread=False),
            "approvals": Provide(lambda: approvals, sync_to_thread=False),
            "limits": Provide(lambda: limits, sync_to_thread=False),
            "caller": Provide(caller_of, sync_to_thread=False),
        },
        exception_handlers={
            RescindError: _refused,
            HTTPException: _bad_request,
            Exception: _unexpected,
        },
        openapi_config=_openapi(),
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
    )
    add_streams(app.openapi_schema)
    return app


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="rescind switch",
        version=__version__,
        path="/openapi",
        create_examples=False,
        components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
        security=[{"token": []}],
        render_plugins=[JsonRenderPlugin()],  # the others load scripts from somebody else's server
    )


def _refused(_: AnyRequest, error: RescindError) -> Response[Any]:
    if isinstance(error, OrdersUnavailable):
        error = answers.refusal_of(error)
    if not isinstance(error, Refused):
        error = Refused(400, str(error))
    return _problem(error)


def _bad_request(_: AnyRequest, error: HTTPException) -> Response[Any]:
    detail = error.detail
    extra = error.extra
    if isinstance(extra, list):
        detail = "; ".join(f"{each.get('key', 'body')}: {each.get('message', '')}" for each in extra) or detail
    return _problem(Refused(error.status_code, detail), **(error.headers or {}))


def _unexpected(_: AnyRequest, error: Exception) -> Response[Any]:
    if isinstance(error, RecursionError):
        return _problem(Refused(400, "the body is nested too deeply"))
    logger.error("a request failed in a way that should not happen: %s: %s", type(error).__name__, error)
    return _problem(Refused(500, "this should not have happened; the switch's log says more"))


def _problem(refused: Refused, **headers: str) -> Response[Any]:
    body = msgspec.json.encode(refused.problem)
    return Response(
        body, status_code=refused.status, media_type=answers.PROBLEM.decode(), headers={**headers, **refused.headers}
    )
