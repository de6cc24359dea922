"""The requests about approvals: guards ask, approvers decide, and each looks at what it may."""

from litestar import Response, get, post

from rescind.switch.approval_wire import ApprovalDoc, Asked, DecisionDoc
from rescind.switch.service.approvals import Approvals
from rescind.web.limits import Limit
from rescind.web.tokens import Caller, asker_of


@post("/v1/approvals", tags=["approvals"], summary="Ask a person to approve one call")
async def post_approval(data: Asked, approvals: Approvals, caller: Caller, limits: Limit) -> Response[ApprovalDoc]:
    """201, or 200 if this very call was asked for before. It is on disk in either case."""
    limits.take(asker_of(caller))
    doc, known_before = await approvals.ask(data, caller)
    return Response(doc, status_code=200 if known_before else 201)


@get("/v1/approvals", tags=["approvals"], summary="What waits for a person, and what was decided")
async def list_approvals(
    approvals: Approvals,
    caller: Caller,
    limits: Limit,
    every: bool = False,  # a query parameter
) -> tuple[ApprovalDoc, ...]:
    """Oldest first; what has expired only with `every`, and for a day. An agent sees its own."""
    limits.take(asker_of(caller))
    return approvals.listed(caller, every=every)


@get("/v1/approvals/{approval_id:str}", tags=["approvals"], summary="One approval")
async def show_approval(approval_id: str, approvals: Approvals, caller: Caller, limits: Limit) -> ApprovalDoc:
    """An agent sees its own."""
    limits.take(asker_of(caller))
    return approvals.shown(approval_id, caller)


@post("/v1/approvals/{approval_id:str}/decision", tags=["approvals"], summary="Approve or deny", status_code=200)
async def post_decision(
    approval_id: str, data: DecisionDoc, approvals: Approvals, caller: Caller, limits: Limit
) -> ApprovalDoc:
    """Once, before it expires; 409 if there is nothing to decide any more."""
    limits.take(asker_of(caller))
    return await approvals.decide(approval_id, data, caller)


HANDLERS = (post_approval, list_approvals, show_approval, post_decision)
