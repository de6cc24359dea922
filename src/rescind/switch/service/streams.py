"""The requests of guards: listen, and acknowledge. Ten thousand of them may come within a second of a stop.

They go past the framework that serves everything else, which would take most of that second for itself.
"""

import asyncio
import logging
import re
from typing import Any

import msgspec

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable
from rescind.switch.service.hub import Listener
from rescind.switch.service.registry import Guard
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.upkeep import Upkeep
from rescind.switch.wire import (
    ID_LENGTH_MAX,
    PROTOCOL,
    RUNS_REPORTED_MAX,
    STEPS_REPORTED_MAX,
    TEXT_LENGTH_MAX,
    Heard,
    Report,
)
from rescind.web.answers import (
    BODY_BYTES_MAX,
    EVENTS,
    Gone,
    Receive,
    Scope,
    Send,
    answer,
    header,
    origin,
    read_body,
    refusal_of,
    refuse,
    refuse_other_types,
    too_long,
    whole_answer,
    whole_refusal,
)
from rescind.web.connection import DIRECT
from rescind.web.limits import Limit
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Power, asker_of

logger = logging.getLogger("rescind.switch")

STREAMS_MAX = 20_000
"""Streams of all guards and viewers. Each takes one file descriptor and about 20 KiB."""

REPORT_RATE, REPORT_BURST = 20.0, 60.0
"""Reports a second that one guard may send; it needs two for each order."""

_HOW_TO = "acknowledge with PUT /v1/guards/ID, listen with POST /v1/guards/ID/stream"

_PATH = re.compile(r"/v1/guards/([^/]+)(/stream)?")
_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", EVENTS),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events to itself
]


class Streams:
    """Serves `/v1/stream`, `/v1/guards/{id}` and `/v1/guards/{id}/stream`."""

    def __init__(self, board: Switchboard, upkeep: Upkeep, clock: Clock, streams_max: int) -> None:
        self._board, self._upkeep, self._streams_max = board, upkeep, streams_max
        self._reports = Limit(rate=REPORT_RATE, burst=REPORT_BURST, clock=clock)
        self._decode = msgspec.json.Decoder(Report).decode

    def serves(self, scope: Scope) -> bool:
        """Whether a request is for us."""
        path = scope["path"]
        return path == "/v1/stream" or _PATH.fullmatch(path) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        try:
            caller = self._board.caller(header(scope, b"authorization"), origin(scope))
            if scope["path"] == "/v1/stream":
                if scope["method"] != "GET":
                    raise Refused(405, "watch with GET /v1/stream", allow="GET")
                self._board.require(caller, Power.LOOK)
                await self._stream(None, scope, receive, send)
            else:
                await self._guard(scope, receive, send, caller)
        except Refused as refused:
            await refuse(send, refused)
        except OrdersUnavailable as error:
            await refuse(send, refusal_of(error))
        except Gone:
            return

    def acknowledge(self, scope: Scope, body: bytes) -> bytes:
        """See `connection.Acknowledge`."""
        scope["method"] = "PUT"
        try:
            match = _PATH.fullmatch(scope["path"])
            if match is None or match[2] is not None:
                raise Refused(405, _HOW_TO, allow="POST")
            caller = self._board.caller(header(scope, b"authorization"), origin(scope))
            self._board.require(caller, Power.SUBSCRIBE)
            return whole_answer(200, msgspec.json.encode(self._heard(match[1], scope, body, caller)))
        except Refused as refused:
            return whole_refusal(refused)
        except OrdersUnavailable as error:
            return whole_refusal(refusal_of(error))
        except Exception as error:  # noqa: BLE001  # it would end the connection without a word
            logger.error("an acknowledgement failed in a way that should not happen: %r", error)
            return whole_refusal(Refused(500, "this should not have happened; the switch's log says more"))

    def _heard(self, guard_id: str, scope: Scope, body: bytes, caller: Caller) -> Heard:
        refuse_other_types(scope)
        # Per token too: nobody uses up what another one's guard may send.
        self._reports.take(f"{guard_id[:ID_LENGTH_MAX]} {asker_of(caller)}")
        if len(body) > BODY_BYTES_MAX:
            raise too_long()
        return self._board.heard(guard_id, caller, self._report(body))[1]

    async def _guard(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        self._board.require(caller, Power.SUBSCRIBE)
        match = _PATH.fullmatch(scope["path"])
        assert match is not None
        guard_id, listens = match[1], match[2] is not None
        wanted = "POST" if listens else "PUT"
        if scope["method"] != wanted:
            raise Refused(405, _HOW_TO, allow=wanted)
        if not listens:
            heard = self._heard(guard_id, scope, await read_body(scope, receive), caller)
            await answer(send, 200, msgspec.json.encode(heard))
            return
        refuse_other_types(scope)
        guard, _ = self._board.heard(guard_id, caller, self._report(await read_body(scope, receive)))
        await self._upkeep.kept(guard)
        await self._stream(guard, scope, receive, send)

    def _report(self, body: bytes) -> Report:
        try:
            report: Report = self._decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Refused(400, f"the body is no report: {error}") from error
        if report.protocol > PROTOCOL:
            raise Refused(
                400, f"this switch speaks protocol {PROTOCOL}, not {report.protocol}; upgrade switches before guards"
            )
        if not 0.1 <= report.lease_ttl_s <= 3600 or not 1 <= report.switches <= 100:
            raise Refused(400, "lease_ttl_s is from 0.1 to 3600 seconds, switches from 1 to 100")
        _refuse_too_much(report)
        return report

    async def _stream(self, guard: Guard | None, scope: Scope, receive: Receive, send: Send) -> None:
        hub = self._board.hub
        if len(hub) >= self._streams_max:
            raise Refused(
                503, f"{self._streams_max:,} streams are open at this switch; use another one", retry_after_s=5
            )
        listener = Listener(scope.get("extensions", {}).get(DIRECT))
        hub.join(listener)
        if guard is not None:
            self._board.registry.stream_began(guard)
        watch = asyncio.get_running_loop().create_task(_watch(receive, listener))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            while not listener.is_gone:
                chunk = hub.take(listener)
                if chunk:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                else:
                    await listener.wait()
            await send({"type": "http.response.body", "body": b""})
        finally:
            watch.cancel()
            hub.leave(listener)
            if guard is not None:
                self._board.registry.stream_ended(guard)


def _refuse_too_much(report: Report) -> None:
    # Kept in memory for each guard, and shown to people.
    texts = (report.kind, report.host, report.program, report.agent, report.on_silence, report.supervisor, report.fault)
    lists = ((report.runs, RUNS_REPORTED_MAX), (report.in_flight, STEPS_REPORTED_MAX), (report.hears, 100))
    if any(len(text) > TEXT_LENGTH_MAX for text in texts) or any(len(each) > most for each, most in lists):
        raise Refused(
            400,
            f"a report has texts of at most {TEXT_LENGTH_MAX:,} characters, names at most {RUNS_REPORTED_MAX} runs and "
            f"{STEPS_REPORTED_MAX} steps, and counts the others",
        )


async def _watch(receive: Receive, listener: Listener) -> None:
    message: Any = None
    while message is None or message["type"] != "http.disconnect":
        message = await receive()
    listener.leave()
