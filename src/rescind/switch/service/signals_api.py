"""The requests of guards and verifiers that have noticed something, and what people ask about it."""

from typing import Annotated

from litestar import Response, get, post
from litestar.params import Parameter

from rescind.switch.service.signals import REMEMBERED_MAX, Signals
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.signal_wire import Noticed, NoticedPage, SignalDoc, VerdictDoc
from rescind.web.limits import Limit
from rescind.web.tokens import Caller, Power, asker_of

Lately = Annotated[int, Parameter(ge=1, le=REMEMBERED_MAX, description="So many at most, newest first.")]


@post("/v1/signals", tags=["signals"], summary="Say what was noticed, and which orders the policy wants")
async def post_signal(data: SignalDoc, signals: Signals, caller: Caller, limits: Limit) -> Response[Noticed]:
    """201, or 200 if this very signal was there before. Orders that it led to are on disk in either case."""
    limits.take(asker_of(caller))
    return _answer(await signals.take_signal(data, caller))


@post("/v1/verdicts", tags=["signals"], summary="Judge a scope, a run or a step")
async def post_verdict(data: VerdictDoc, signals: Signals, caller: Caller, limits: Limit) -> Response[Noticed]:
    """As for a signal. Its source is the name on the token."""
    limits.take(asker_of(caller))
    return _answer(await signals.take_verdict(data, caller))


@get("/v1/signals", tags=["signals"], summary="What was noticed lately, and what became of it")
async def list_signals(
    signals: Signals, board: Switchboard, caller: Caller, limits: Limit, limit: Lately = 100
) -> NoticedPage:
    """Newest first, from the memory of this switch: a restart empties it."""
    board.require(caller, Power.LOOK)
    limits.take(asker_of(caller))
    return signals.lately(limit)


def _answer(noticed: Noticed) -> Response[Noticed]:
    return Response(noticed, status_code=200 if noticed.known_before else 201)


HANDLERS = (post_signal, post_verdict, list_signals)
