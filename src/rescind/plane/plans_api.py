"""The requests for plans, which workers answer: they have the tools, and whoever asks has none."""

import asyncio
from contextlib import closing
from typing import Annotated

from litestar import Response, get, post
from litestar.params import Parameter

from rescind.compensation.planning.selection import select_steps
from rescind.compensation.sharing.requests import (
    PlanRequest,
    ask_for_plan,
    ask_to_apply,
    find_request,
    find_shown,
    items_of,
    read_request,
    refuse_lacking,
    refuse_no_request_id,
)
from rescind.errors import AlreadySettled, UsageError
from rescind.plane.documents import PlanAsked, PlanDoc, Reason
from rescind.plane.pages import PAGE_MAX
from rescind.plane.plane import Plane
from rescind.plane.texts import bounded, needed
from rescind.recovery.places import register_of
from rescind.recovery.workers import WorkerInfo, working
from rescind.web.edge import AsciiResponse
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power, refusal_of_power

WAIT_MAX_S = 60.0

_LOOK_EVERY_S = 0.1

_OPEN = ("waiting", "taken")

Wait = Annotated[float, Parameter(ge=0, le=WAIT_MAX_S, description="Seconds to wait for an answer.")]
From = Annotated[int, Parameter(ge=0, le=10_000_000, description="The number of the first step to be shown.")]
Items = Annotated[int, Parameter(ge=0, le=PAGE_MAX, description="How many steps at most.")]

_STATUSES = {"waiting": 202, "taken": 202, "lacking": 409, "outdated": 409, "live": 409, "refused": 409}
"""Of an answer to who waited for it. What is refused is a problem document, with the answer as its detail."""


@post("/v1/undos", tags=["plans"], summary="Ask the workers for the plan of an undo", status_code=200)
async def ask_plan(
    data: PlanAsked, plane: Plane, operator: Caller, wait_s: Wait = 10.0, limit: Items = 100
) -> Response[PlanDoc]:
    """Changes nothing: 200 with the plan, 202 if no worker has answered yet. Apply it by its digest."""
    _refuse_force(data.force, operator)
    request = await asyncio.to_thread(_ask, plane, data, operator)
    return await _answered(plane, request, wait_s, limit)


@get("/v1/plans/{plan:str}", tags=["plans"], summary="A plan that workers were asked for", sync_to_thread=True)
def show_plan(plan: str, plane: Plane, viewer: Caller, item: From = 0, limit: Items = 100) -> PlanDoc:
    """By the id of the request, or by the digest of the plan that was shown."""
    return _doc(plane, find_request(plane.journal, plan), item, limit)


@post("/v1/undos/{plan:str}/apply", tags=["plans"], summary="Apply exactly the plan that was shown", status_code=200)
async def apply_plan(plan: str, data: Reason, plane: Plane, operator: Caller, wait_s: Wait = 10.0) -> Response[PlanDoc]:
    """200 once it is submitted to the workers, and then it is an undo in progress; 202 if no worker has answered yet.

    409, and nothing was done: if it is another plan by now, a run may still write, or no worker has the tools.
    """
    shown = (await asyncio.to_thread(find_shown, plane.journal, plan)).shown
    assert shown is not None, "it was found by what was shown"
    _refuse_force(bool(shown.facts.get("forces")), operator)
    request = await asyncio.to_thread(_apply, plane, shown.digest, data, operator)  # the one that was looked at
    return await _answered(plane, request, wait_s, 0)


def _refuse_force(force: bool, operator: Caller) -> None:
    """Raises: Refused (403), if later changes would be overwritten for somebody who may not have that done."""
    if force and not operator.may(Power.APPROVE):
        raise refusal_of_power(operator, Power.APPROVE)


def _ask(plane: Plane, data: PlanAsked, operator: Caller) -> PlanRequest:
    refuse_no_request_id(data.request_id)
    selection = data.selection()
    if data.force:
        needed("reason", data.reason)
    records = select_steps(plane.journal, selection)  # a slip is told at once, and asks nobody
    if not records:
        raise AlreadySettled("nothing that could be undone was selected; no write of these runs is on record")
    with closing(register_of(plane.store)) as register:
        known = read_request(plane.journal, f"request_{data.request_id}") if data.request_id else None
        if known is None:
            workers = working(register.look(now_us=plane.clock.now_us()))
            _refuse_lacking({record.step.action for record in records}, workers)
        request = ask_for_plan(
            plane.journal,
            selection,
            actor=operator.name,
            reason=bounded("reason", data.reason),
            force=data.force,
            parallel=data.parallel,
            within_s=data.within_s,
            request_id=data.request_id,
            clock=plane.clock,
            ids=plane.ids,
        )
        register.ring()
    return request


def _apply(plane: Plane, plan: str, data: Reason, operator: Caller) -> PlanRequest:
    reason = needed("reason", data.reason)
    request = ask_to_apply(plane.journal, plan, actor=operator.name, reason=reason, clock=plane.clock)
    with closing(register_of(plane.store)) as register:
        register.ring()
    return request


def _refuse_lacking(actions: set[str], workers: list[WorkerInfo]) -> None:
    try:
        refuse_lacking(actions, workers)
    except UsageError as error:
        raise Refused(409, str(error)) from error


async def _answered(plane: Plane, request: PlanRequest, wait_s: float, limit: int) -> Response[PlanDoc]:
    """The request once it is answered, or after so many seconds. Raises: Refused (409), if it is refused."""
    deadline_s = plane.clock.monotonic_s() + wait_s
    while request.state in _OPEN and plane.clock.monotonic_s() < deadline_s:
        await asyncio.sleep(_LOOK_EVERY_S)
        there = await asyncio.to_thread(read_request, plane.journal, request.run_id)
        assert there is not None, "what was asked stays in the journal"
        request = there
    status = _STATUSES.get(request.state, 200)
    if status == 409:
        raise Refused(409, f"{request.state}: {request.answer.detail if request.answer else ''}")
    doc = await asyncio.to_thread(_doc, plane, request, 0, limit)
    return AsciiResponse(doc, status_code=status)


def _doc(plane: Plane, request: PlanRequest, item: int, limit: int) -> PlanDoc:
    items = items_of(plane.journal, request, after=item, limit=limit) if limit else []
    total = 0 if request.shown is None else int(request.shown.facts.get("steps", 0))
    after = item + len(items)
    return PlanDoc(
        request_id=request.request_id,
        state=request.state,
        detail=request.answer.detail if request.answer is not None else "",
        selection=request.asked.selection,
        asked_by=request.asked.actor,
        worker_id=request.taken_by,
        digest="" if request.shown is None else request.shown.digest,
        facts={} if request.shown is None else request.shown.facts,
        items=tuple(items),
        next_item=after if after < total else None,
    )


HANDLERS = (ask_plan, show_plan, apply_plan)
