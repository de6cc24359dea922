"""The requests of people and their programs: orders, lifts, receipts, the register, the audit log."""

from typing import Annotated

from litestar import Response, get, post
from litestar.params import Parameter

from rescind.switch.alerts import Alerts
from rescind.switch.receipt import Receipt
from rescind.switch.service.documents import GuardDoc, Health, Known, Merged, RecordPage
from rescind.switch.service.federation import Federation
from rescind.switch.service.intake import checked_id
from rescind.switch.service.ledger import AuditLine
from rescind.switch.service.publisher import PAGE_MAX
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.wire import Asker, LiftDoc, Lifted, OrderDoc, Placed, Standing, order_doc
from rescind.web.limits import Limit
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power, asker_of

WAIT_MAX_S = 300.0
"""How long one request for a receipt may wait. Who wants to wait longer asks again."""


Wait = Annotated[float, Parameter(ge=0, le=WAIT_MAX_S, description="Seconds to wait for all guards to drain.")]
Place = Annotated[int, Parameter(ge=0, le=2**62, description="Only what comes after this place.")]
Page = Annotated[int, Parameter(ge=1, le=PAGE_MAX)]


@post("/v1/orders", tags=["orders"], summary="Stop: place an order")
async def place_order(data: OrderDoc, board: Switchboard, caller: Caller, limits: Limit) -> Response[Placed]:
    """201, or 200 if this very order was there before. It is on disk in either case."""
    if not caller.may(Power.LOOK):  # an agent: it may stop itself, and not keep everybody busy with it
        limits.take(asker_of(caller))
    placed = await board.place(data, caller)
    return Response(placed, status_code=200 if placed.known_before else 201)


@get("/v1/orders", tags=["orders"], summary="What stands")
async def list_orders(board: Switchboard, caller: Caller, limits: Limit) -> Standing:
    """Orders most severe first, and lifts that wait for somebody."""
    _look(board, caller, limits)
    return board.standing()


@get("/v1/orders/{order_id:str}", tags=["orders"], summary="One order")
async def show_order(order_id: str, board: Switchboard, caller: Caller, limits: Limit) -> Known:
    """An order that was placed here or at another switch, standing or lifted."""
    _look(board, caller, limits)
    return Known(order=order_doc(board.placement(order_id).order), standing=board.book.is_standing(order_id))


@get("/v1/orders/{order_id:str}/receipt", tags=["orders"], summary="What became of an order, guard by guard")
async def show_receipt(
    order_id: str,
    board: Switchboard,
    caller: Caller,
    federation: Federation,
    limits: Limit,
    wait_s: Wait = 0.0,
    here: bool = False,  # a query parameter
) -> Receipt:
    """Joined with what the other switches know, unless `here`. Waits until no guard is outstanding, or for `wait_s`."""
    if not caller.may(Power.EXCHANGE):
        _look(board, caller, limits)
    board.placement(order_id)
    return await federation.receipt(order_id, wait_s=wait_s, here=here)


@post("/v1/lifts", tags=["lifts"], summary="Resume: lift orders")
async def place_lift(data: LiftDoc, board: Switchboard, caller: Caller, limits: Limit) -> Response[Lifted]:
    """201 if it is in force, 202 if it waits for a second person or another switch."""
    limits.take(asker_of(caller))
    lifted = await board.lift(data, caller)
    return Response(lifted, status_code=201 if lifted.in_force else 202)


@post("/v1/lifts/{lift_id:str}/consents", tags=["lifts"], summary="Consent to a lift that waits")
async def place_consent(lift_id: str, board: Switchboard, caller: Caller, limits: Limit) -> Response[Lifted]:
    """201 if the lift is in force now, 202 if it still waits."""
    limits.take(asker_of(caller))
    lifted = await board.consent(lift_id, caller)
    return Response(lifted, status_code=201 if lifted.in_force else 202)


@get("/v1/guards", tags=["guards"], summary="Every guard, and what it said last")
async def list_guards(board: Switchboard, caller: Caller, limits: Limit) -> tuple[GuardDoc, ...]:
    """By id."""
    _look(board, caller, limits)
    return tuple(
        GuardDoc(guard_id=guard.guard_id, connected=guard.streams > 0, heard_ago_s=ago_s, report=guard.report)
        for guard, ago_s in board.registry.heard()
    )


@get("/v1/caller", tags=["tokens"], summary="Whom the switch takes you for, by your token")
async def show_caller(caller: Caller, limits: Limit) -> Asker:
    """Whoever asks is told about itself."""
    limits.take(asker_of(caller))
    return Asker(name=caller.name, role=caller.role or "", may_lift=caller.may(Power.LIFT))


@get("/v1/audit", tags=["audit"], summary="Who ordered and lifted what, when, from where")
async def list_audit(
    board: Switchboard, caller: Caller, limits: Limit, after: Place = 0, limit: Page = 100
) -> tuple[AuditLine, ...]:
    """In order of sequence."""
    _look(board, caller, limits)
    return await board.audit(after, limit)


@get("/v1/peer/records", tags=["federation"], summary="Records, for another switch")
async def give_records(board: Switchboard, caller: Caller, after: Place = 0, limit: Page = 500) -> RecordPage:
    """In order of sequence."""
    board.require(caller, Power.EXCHANGE)
    page = await board.records(after, limit)
    until = page[-1][0] if page else after
    return RecordPage(
        switch_id=board.switch_id,
        until=until,
        # What is on disk may be ahead of the book.
        sequence=max(until, board.sequence) if page else board.sequence,
        records=tuple(record for _, record in page),
        guards=board.registry.names(),
    )


@post("/v1/peer/records", tags=["federation"], summary="Records of another switch", status_code=200)
async def take_records(data: RecordPage, board: Switchboard, caller: Caller) -> Merged:
    """On disk and on the streams when this answers, apart from those that it names."""
    board.require(caller, Power.EXCHANGE)
    if len(data.records) > PAGE_MAX:
        raise Refused(413, f"at most {PAGE_MAX:,} records at once")
    return await board.merge(data.records, checked_id("switch_id", data.switch_id), caller.name)


@get("/health", tags=["health"], summary="Whether it could take a stop now", security=[{}])
async def health(board: Switchboard, federation: Federation, alerts: Alerts) -> Response[Health]:
    """200 if it could; 503 if not."""
    found = Health(
        switch_id=board.switch_id,
        accepting=board.renews,
        trouble=board.trouble,
        sequence=board.sequence,
        guards_connected=len(board.hub),
        peers=federation.health(),
        alerts=alerts.health(),
    )
    return Response(found, status_code=200 if found.accepting else 503)


def _look(board: Switchboard, caller: Caller, limits: Limit) -> None:
    board.require(caller, Power.LOOK)
    limits.take(asker_of(caller))


HANDLERS = (
    place_order,
    list_orders,
    show_order,
    show_receipt,
    place_lift,
    place_consent,
    list_guards,
    show_caller,
    list_audit,
    give_records,
    take_records,
    health,
)
