"""A WebSocket connection to an ASGI application."""

from rescind.guard.fallback import Fallback, Held
from rescind.integrations.answers import CLOSE_CODE, close_reason
from rescind.integrations.exchange import Exchange, Message, is_final


class SocketExchange(Exchange):
    """A WebSocket connection."""

    _accepted = _closed = _denied = False

    def _gone(self) -> Message:
        return {"type": "websocket.disconnect", "code": CLOSE_CODE}

    def _is_endable(self) -> bool:
        return not self._closed

    def _note_received(self, message: Message) -> None:
        self._closed = self._closed or message["type"] == "websocket.disconnect"

    async def refuse(self, held: Held) -> None:
        """See `Exchange`. The connection is asked for before it is refused, as ASGI has it."""
        self._note_received(await self._receive())
        await super().refuse(held)

    async def _pass_on(self, message: Message) -> None:
        await self._send(message)
        match message["type"]:
            case "websocket.close":
                self._closed = True
            case "websocket.http.response.start":
                self._denied = True
            case "websocket.http.response.body":
                self._closed = is_final(message)
            case _:
                pass

    def _closing(self, fallback: Fallback) -> list[Message]:
        if self._closed:
            return []
        if self._denied:
            return [{"type": "websocket.http.response.body", "body": b""}]
        return [{"type": "websocket.close", "code": CLOSE_CODE, "reason": close_reason(fallback)}]
