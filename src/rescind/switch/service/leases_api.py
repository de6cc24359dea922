"""Whether a run may act, for gateways and tools that ask: `GET /v1/leases/{run_id}`."""

from typing import Annotated

from litestar import get
from litestar.params import Parameter

from rescind.model.lease import RunLease, lease_among, unknown_details
from rescind.model.scope import Subject, unnameable
from rescind.model.step import parse_agent
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.wire import TEXT_LENGTH_MAX, LeaseDoc, order_doc
from rescind.web.limits import Limit
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power, Role, asker_of

ANCESTORS_MAX = 100

Name = Annotated[str | None, Parameter(description="Left out: not known. Empty: there is none.")]
Ids = Annotated[list[str] | None, Parameter(description="Ids of its ancestors. Left out: not known. Empty: none.")]


@get("/v1/leases/{run_id:str}", tags=["leases"], summary="Whether a run may act, and its fencing number")
async def show_lease(
    run_id: str,
    board: Switchboard,
    caller: Caller,
    limits: Limit,
    agent: Name = None,
    tenant: Name = None,
    workflow: Name = None,
    action: Name = None,
    ancestor: Ids = None,
) -> LeaseDoc:
    """What is not said of the run may be anything, so an order that names it counts: say all that you know.

    A token that may look may ask for any run, and an agent's for those of its own identity.
    """
    subject, unknown = _asked(run_id, agent, tenant, workflow, ancestor)
    if caller.role is Role.AGENT and not caller.identity.covers(subject, action):
        raise Refused(
            403, f"an agent may ask for its own leases only: the request must say that it is {caller.identity}"
        )
    if caller.role is not Role.AGENT:
        board.require(caller, Power.LOOK)
    limits.take(asker_of(caller))
    lease = lease_among(board.book.revoking, board.book.standing, subject, action or None, unknown=unknown)
    return _doc(lease, board.switch_id, unknown)


def _asked(
    run_id: str, agent: str | None, tenant: str | None, workflow: str | None, ancestors: list[str] | None
) -> tuple[Subject, tuple[str, ...]]:
    given = {"run_id": run_id, "tenant": tenant or "", "workflow": workflow or ""}
    for name, value in [*given.items(), *(("ancestor", each) for each in ancestors or ())]:
        problem = unnameable(value) or ("is too long" if len(value) > TEXT_LENGTH_MAX else "")
        if problem:
            raise Refused(400, f"{name} {problem}")
    if len(ancestors or ()) > ANCESTORS_MAX:
        raise Refused(400, f"at most {ANCESTORS_MAX} ancestors, and these are {len(ancestors or ())}")
    try:
        name, version = parse_agent(agent) if agent else ("", "")
    except ValueError as error:
        raise Refused(400, str(error)) from error
    subject = Subject(
        run_id=run_id,
        agent_name=name,
        agent_version=version,
        tenant=tenant or "",
        workflow=workflow or "",
        lineage=frozenset((run_id, *filter(None, ancestors or ()))),
    )
    return subject, unknown_details(agent=agent, tenant=tenant, workflow=workflow, ancestors=ancestors)


def _doc(lease: RunLease, switch_id: str, unknown: tuple[str, ...]) -> LeaseDoc:
    return LeaseDoc(
        switch_id=switch_id,
        run_id=lease.run_id,
        valid=lease.valid,
        fencing_number=lease.fencing_number,
        level=lease.level.label,
        revocations=tuple(sorted(lease.revocations)),
        held_by=tuple(order_doc(order) for order in lease.held_by),
        unknown=unknown,
    )
