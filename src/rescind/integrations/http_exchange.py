"""A request to an ASGI application, and its response."""

from rescind.guard.fallback import Fallback
from rescind.integrations.answers import answer, form_for, header_of, tail_for
from rescind.integrations.exchange import Exchange, Message, is_final
from rescind.integrations.front import refuses

HOLD_S = 0.1
"""How long an error page waits for the application's error, which frameworks let out right after it."""

_BODIES = ("http.response.body", "http.response.pathsend", "http.response.zerocopysend")


class HttpExchange(Exchange):
    """A request and its response.

    A response with status 500 is held back for a moment: frameworks send their error page first, and let the error out
    after it. While the subject is halted it is replaced at once, since other frameworks keep the error to themselves.
    """

    _started: Message | None = None
    _done = _replaced = False
    _bytes_sent = 0
    _back: tuple[Message, ...] = ()

    def _gone(self) -> Message:
        return {"type": "http.disconnect"}

    def _is_endable(self) -> bool:
        # With a length the content is settled: no agent is at work on it any more, and a part of it is no use.
        return not self._done and (self._started is None or self._length() is None)

    def _is_replaced(self) -> bool:
        return self._replaced

    def _holds_back_s(self) -> float | None:
        return HOLD_S if len(self._back) > 1 else None

    async def _release(self) -> None:
        async with self._lock:
            await self._release_locked()

    async def _release_locked(self) -> None:
        back, self._back = self._back, ()
        if not self._ended:
            for message in back:
                await self._transmit(message)

    async def _pass_on(self, message: Message) -> None:
        if self._back:
            self._back = (*self._back, message)
            if is_final(message):
                self._wake()  # for `_follow` to count from now
            else:
                await self._release_locked()
        elif message["type"] == "http.response.start" and message["status"] == 500 and self._started is None:
            held = self._front.held(self.subject)
            self._replaced = refuses(held)
            if self._replaced:
                await self.say_last(self._front.shown(held))
            else:
                self._back = (message,)
        else:
            await self._transmit(message)

    async def _transmit(self, message: Message) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            self._started = message
        elif message["type"] in _BODIES:
            self._bytes_sent += len(message.get("body", b""))
            self._done = self._done or is_final(message)

    def _closing(self, fallback: Fallback) -> list[Message]:
        if self._done:
            return []
        is_head = self._scope.get("method") == "HEAD"
        if self._started is None:
            accept = ",".join(value for name, value in _headers(self._scope) if name.lower() == "accept")
            whole = answer(fallback, form_for(accept), head=is_head)
            headers = [(name.encode(), value.encode()) for name, value in whole.headers]
            return [
                {"type": "http.response.start", "status": whole.status, "headers": headers},
                {"type": "http.response.body", "body": whole.body},
            ]
        if not is_head and self._length() not in (None, str(self._bytes_sent)):
            return []  # nothing fits in; the server closes the connection, and the client knows that a part is missing
        tail = b"" if is_head else tail_for(str(self._started["status"]), _headers(self._started), fallback)
        return [{"type": "http.response.body", "body": tail}]

    def _length(self) -> str | None:
        return None if self._started is None else header_of(_headers(self._started), "content-length")


def _headers(message: Message) -> list[tuple[str, str]]:
    pairs = message.get("headers") or ()
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in pairs]
