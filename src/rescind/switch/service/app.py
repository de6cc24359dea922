"""The switch's ASGI application: guards' requests by hand, everybody else's through Litestar."""

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable, RescindError
from rescind.switch.alerts import Alerts
from rescind.switch.service.api import HANDLERS
from rescind.switch.service.approvals import Approvals
from rescind.switch.service.approvals_api import HANDLERS as APPROVAL_HANDLERS
from rescind.switch.service.federation import Federation
from rescind.switch.service.leases_api import show_lease
from rescind.switch.service.openapi import add_streams
from rescind.switch.service.signals import Signals
from rescind.switch.service.signals_api import HANDLERS as SIGNAL_HANDLERS
from rescind.switch.service.streams import STREAMS_MAX, Streams
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.upkeep import Upkeep
from rescind.web import answers
from rescind.web.edge import REQUEST_BURST, REQUEST_RATE, application, pass_on
from rescind.web.limits import Limit
from rescind.web.problems import Refused


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
        self._rest = application(
            "rescind switch",
            [*HANDLERS, *SIGNAL_HANDLERS, *APPROVAL_HANDLERS, show_lease],
            given={
                "board": board,
                "federation": federation,
                "alerts": alerts,
                "signals": signals,
                "approvals": approvals,
                "limits": Limit(rate=REQUEST_RATE, burst=REQUEST_BURST, clock=clock),
            },
            caller_of=board.caller,
            seen_as=_seen_as,
        )
        add_streams(self._rest.openapi_schema)

    async def __call__(self, scope: answers.Scope, receive: answers.Receive, send: answers.Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return  # nothing else is spoken here
        if self._streams.serves(scope):
            await self._streams(scope, receive, send)
            return
        await pass_on(self._rest, scope, receive, send)


def _seen_as(error: RescindError) -> Refused:
    return answers.refusal_of(error) if isinstance(error, OrdersUnavailable) else Refused(400, str(error))
