"""The description of the requests that go past the framework (see `streams`), added to what it knows by itself."""

from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.openapi.spec.media_type import OpenAPIMediaType as MediaType

from rescind.switch.wire import Heard, Report
from rescind.web.problems import Problem

_EVENTS = {"text/event-stream": MediaType(schema=Schema(type=OpenAPIType.STRING))}


def add_streams(document: OpenAPI) -> None:
    """Describe `/v1/stream`, `/v1/guards/{guard_id}` and `/v1/guards/{guard_id}/stream`."""
    paths = document.paths = dict(document.paths or {})
    paths["/v1/stream"] = PathItem(
        get=Operation(
            tags=["guards"],
            summary="Server-sent events: `set`, then `order`, `lift` and `beat`",
            operation_id="Watch",
            responses={"200": OpenAPIResponse(description="The stream", content=_EVENTS), **_refusals(401, 403, 503)},
        )
    )
    paths["/v1/guards/{guard_id}"] = PathItem(
        put=Operation(
            tags=["guards"],
            summary="Acknowledge: what a guard says of itself",
            operation_id="Acknowledge",
            parameters=[_guard_id()],
            request_body=_report(),
            responses={
                "200": OpenAPIResponse(description="Taken up", content=_json(Heard)),
                **_refusals(400, 401, 403, 413, 429),
            },
        )
    )
    paths["/v1/guards/{guard_id}/stream"] = PathItem(
        post=Operation(
            tags=["guards"],
            summary="The stream, for a guard; its report is the body",
            operation_id="Listen",
            parameters=[_guard_id()],
            request_body=_report(),
            responses={
                "200": OpenAPIResponse(description="The stream", content=_EVENTS),
                **_refusals(400, 401, 403, 413, 503),
            },
        )
    )


def _guard_id() -> Parameter:
    return Parameter(
        name="guard_id",
        param_in="path",
        required=True,
        schema=Schema(type=OpenAPIType.STRING, pattern="^[A-Za-z0-9_.-]{1,100}$"),
    )


def _report() -> RequestBody:
    return RequestBody(content=_json(Report), required=True)


def _json(kind: type) -> dict[str, MediaType]:
    return {"application/json": MediaType(schema=Schema(title=kind.__name__, type=OpenAPIType.OBJECT))}


def _refusals(*statuses: int) -> dict[str, OpenAPIResponse | Reference]:
    problem = {"application/problem+json": MediaType(schema=Schema(title=Problem.__name__, type=OpenAPIType.OBJECT))}
    return {str(status): OpenAPIResponse(description="Nothing was stored", content=problem) for status in statuses}
