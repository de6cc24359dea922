"""The control plane's ASGI application."""

from litestar import Litestar, Response, get

from rescind.errors import JournalUnavailable
from rescind.journal.port import Query
from rescind.plane.documents import CallerDoc, Health
from rescind.plane.incidents_api import HANDLERS as INCIDENT_HANDLERS
from rescind.plane.plane import Plane, seen_as
from rescind.plane.plans_api import HANDLERS as PLAN_HANDLERS
from rescind.plane.progress import Progress
from rescind.plane.reviews_api import HANDLERS as REVIEW_HANDLERS
from rescind.plane.undos_api import HANDLERS as UNDO_HANDLERS
from rescind.web import answers
from rescind.web.edge import AsciiResponse, application, pass_on
from rescind.web.tokens import Caller, Power


@get("/v1/caller", tags=["tokens"], summary="Whom the server takes you for, by your token")
async def show_caller(viewer: Caller) -> CallerDoc:
    """Whoever asks is told about itself."""
    role = "" if viewer.role is None else viewer.role.value
    return CallerDoc(
        name=viewer.name, role=role, may_undo=viewer.may(Power.UNDO), may_approve=viewer.may(Power.APPROVE)
    )


@get("/health", tags=["health"], summary="Whether the journal can be read", security=[{}], sync_to_thread=True)
def health(plane: Plane) -> Response[Health]:
    """200 if it can; 503 if not."""
    try:
        plane.journal.entries(Query(), limit=1)
    except JournalUnavailable as error:
        return AsciiResponse(Health(readable=False, trouble=type(error).__name__), status_code=503)
    return AsciiResponse(Health(readable=True), status_code=200)


class PlaneApp:
    """What the HTTP server calls."""

    def __init__(self, plane: Plane, progress: Progress) -> None:
        self._rest: Litestar = application(
            "rescind control plane",
            [*UNDO_HANDLERS, *PLAN_HANDLERS, *REVIEW_HANDLERS, *INCIDENT_HANDLERS, show_caller, health],
            given={"plane": plane, "progress": progress},
            caller_of=plane.caller,
            seen_as=seen_as,
            admitted={
                "viewer": plane.admits(Power.LOOK),
                "operator": plane.admits(Power.UNDO),
                "approver": plane.admits(Power.APPROVE),
            },
            response_class=AsciiResponse,
        )

    async def __call__(self, scope: answers.Scope, receive: answers.Receive, send: answers.Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":  # nothing else is spoken here
            await pass_on(self._rest, scope, receive, send)
