"""The requests about undos: which there are, how far each is, and what is ordered about it."""

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from litestar import Response, get, post
from litestar.params import Parameter
from litestar.response import Stream

from rescind.plane.documents import OneUndo, Reason, UndoDoc, UndoPage, WorkerDoc, Workers
from rescind.plane.pages import After, Most, page_of
from rescind.plane.plane import Plane
from rescind.plane.progress import Progress
from rescind.plane.texts import needed
from rescind.recovery.ordering import order_undo
from rescind.recovery.places import register_of
from rescind.recovery.undos import list_undos, undo_status
from rescind.recovery.workers import Seen
from rescind.web.answers import EVENTS
from rescind.web.edge import AnyRequest
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power

if TYPE_CHECKING:
    from rescind.errors import EntryUnreadable

LastEventId = Annotated[
    str, Parameter(header="last-event-id", max_length=100, description="The id of the last event that was heard.")
]

_STREAM_HEADERS = {
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # nginx would keep events to itself
}


@get("/v1/undos", tags=["undos"], summary="The undos of the store", sync_to_thread=True)
def list_every_undo(
    plane: Plane,
    viewer: Caller,
    every: bool = False,  # a query parameter
    after: After = "",
    limit: Most = 100,
) -> UndoPage:
    """Those that have not ended, or `every` one; the newest last. Steps are counted for those that have not ended."""
    gaps: list[EntryUnreadable] = []
    undos = list_undos(plane.journal, gaps=gaps, past_too=every)
    found = [status for status in undos if every or not status.has_ended]
    page, further = page_of(found, lambda status: status.plan_run, after, limit)
    return UndoPage(
        undos=tuple(UndoDoc.of(status) for status in page),
        after=further,
        unreadable=tuple(gap.sequence for gap in gaps),
    )


@get("/v1/undos/{plan:str}", tags=["undos"], summary="How far one undo is", sync_to_thread=True)
def show_undo(plan: str, plane: Plane, viewer: Caller) -> OneUndo:
    """By the digest of its plan, or the beginning of that: how far, held by whom, and which worker has which share."""
    status = undo_status(plane.journal, plan)
    shares, unknown = plane.shares_of(status)
    doc = UndoDoc.of(status)
    return OneUndo(undo=doc.undo, percent=doc.percent, ended=doc.ended, shares=shares, unknown_because=unknown)


@get(
    "/v1/undos/{plan:str}/events",
    tags=["undos"],
    summary="Server-sent events: `progress` at each change, `end` at the end",
    media_type=EVENTS.decode(),
)
async def follow_undo(
    plan: str,
    plane: Plane,
    progress: Progress,
    viewer: Caller,
    request: AnyRequest,
    last_event_id: LastEventId = "",
) -> Response[Any]:
    """Each event holds all of it, as in the page of undos. 204 for who has been told the end already.

    A plan that is continued by a later one of the same selection is followed to that one.
    """
    look = await progress.look(plan)
    if look.event.is_end and look.event.event_id == last_event_id:
        return Response(None, status_code=204)
    authorization = request.headers.get("authorization", "")

    def may_look() -> bool:
        try:
            return plane.caller(authorization, viewer.origin).may(Power.LOOK)
        except Refused:
            return False

    return Stream(progress.events(look, last_event_id, may_look), media_type=EVENTS.decode(), headers=_STREAM_HEADERS)


@post("/v1/undos/{plan:str}/pause", tags=["undos"], summary="Begin nothing more", status_code=200)
async def pause_undo(plan: str, data: Reason, plane: Plane, operator: Caller) -> UndoDoc:
    """What is under way comes to its end; obeyed within about a second, also by whoever goes on after a crash."""
    return await _order(plane, plan, "pause", data, operator)


@post("/v1/undos/{plan:str}/resume", tags=["undos"], summary="Go on", status_code=200)
async def resume_undo(plan: str, data: Reason, plane: Plane, operator: Caller) -> UndoDoc:
    """Let a paused undo go on."""
    return await _order(plane, plan, "resume", data, operator)


@post("/v1/undos/{plan:str}/cancel", tags=["undos"], summary="End it", status_code=200)
async def cancel_undo(plan: str, data: Reason, plane: Plane, operator: Caller) -> UndoDoc:
    """What is under way comes to its end; the rest is not reached, and a later undo plans it again."""
    return await _order(plane, plan, "cancel", data, operator)


@get("/v1/workers", tags=["workers"], summary="Who lives, and what each can undo", sync_to_thread=True)
def list_workers(plane: Plane, viewer: Caller) -> Workers:
    """By id."""
    with closing(register_of(plane.store)) as register:
        seen = register.look(now_us=plane.clock.now_us())
    return Workers(workers=tuple(_worker(each) for each in seen))


async def _order(plane: Plane, plan: str, what: str, data: Reason, operator: Caller) -> UndoDoc:
    reason = needed("reason", data.reason)
    give = partial(order_undo, plane.journal, plan, what, actor=operator.name, reason=reason, clock=plane.clock)
    return UndoDoc.of(await plane.order(partial(give, sent_again=True)))


def _worker(seen: Seen) -> WorkerDoc:
    info = seen.info
    silent_s = None if seen.silent_s == float("inf") else round(seen.silent_s, 3)
    if info is None:
        return WorkerDoc(worker_id=seen.worker_id, state=seen.state, silent_s=silent_s)
    return WorkerDoc(
        worker_id=seen.worker_id,
        state=seen.state,
        silent_s=silent_s,
        module=info.module,
        version=info.version,
        host=info.host,
        pid=info.pid,
        actions=tuple(tool.action for tool in info.tools),
    )


HANDLERS = (
    list_every_undo,
    show_undo,
    follow_undo,
    pause_undo,
    resume_undo,
    cancel_undo,
    list_workers,
)
