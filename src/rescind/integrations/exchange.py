"""One request or connection of an ASGI application, ended with the fallback when a stop comes.

The application runs in a task of its own, and what it sends passes through here, so that one side at a time speaks to
the client. Three things may end an exchange:

    the application returns, or raises what is none of ours     it is passed on as it is
    a refusal of the guard gets out of the application          the fallback, as far as the response still allows
    a halted order covers the subject                           the fallback at once; then the application leaves

The last is `_end_early`: first the user is told, then the steps in flight may end (a write that is cancelled is a write
in doubt), then the application is cancelled, and waited for within a bound. Meanwhile it hears that its client has
gone, and whatever it sends waits.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rescind.guard.fallback import Fallback, Held
from rescind.integrations.front import Front
from rescind.model.scope import Subject

logger = logging.getLogger("rescind")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_DRAIN_POLL_S = 0.01

_strays: set[asyncio.Task[None]] = set()  # applications that would not leave; asyncio itself keeps no hold of a task


class Exchange(ABC):
    """What requests and connections have in common."""

    def __init__(
        self,
        front: Front,
        subject: Subject,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        drain_s: float,
        end_s: float,
    ) -> None:
        """See `FallbackMiddleware` for the bounds."""
        self.subject = subject
        self._front, self._scope, self._receive, self._send = front, scope, receive, send
        self._drain_s, self._end_s = drain_s, end_s
        self._lock = asyncio.Lock()  # who speaks to the client
        self._over = asyncio.Event()  # the application was told to leave
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held: Held | None = None
        self._ended = False  # by us: the application is not heard any more
        self._last: deque[Message] | None = None  # what we have left to say, once we have begun to

    # --- what it looks like from outside ---

    def stop(self, held: Held) -> None:
        """A halted order covers this exchange."""
        self._held = held
        self._wake()

    async def refuse(self, held: Held) -> None:
        """Answer without asking the application."""
        await self._end(self._front.shown(held))

    async def run(self, app: App) -> None:
        """Let the application answer, and see to it that it can be stopped.

        Raises: what the application raises, unless it is a refusal of a guard.
        """
        task = asyncio.ensure_future(app(self._scope, self.receive, self.send))
        try:
            await self._follow(task)
        except BaseException:
            self._over.set()
            if not task.done():  # whoever runs us has given up on us
                task.cancel()
                await self._await_end(task)
            raise

    # --- what it looks like from the application ---

    async def receive(self) -> Message:
        """What the client sends."""
        if self._ended:
            return self._gone()
        message = await self._receive()
        self._note_received(message)
        return message

    async def send(self, message: Message) -> None:
        """Tell the client.

        Raises: OSError, as ASGI has it for a client that has gone, once the exchange was ended.
        """
        async with self._lock:
            if not self._ended:
                await self._pass_on(message)
                return
        if not self._is_replaced():
            await self._over.wait()
            await asyncio.sleep(0)  # one that goes on sending all the same must leave others a turn
            raise OSError("this response was ended, since a standing order halts its agent")

    # --- the life of it ---

    async def _follow(self, task: asyncio.Future[None]) -> None:
        while not task.done():
            await asyncio.wait({task, self._woken}, timeout=self._holds_back_s(), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                break
            if self._held is not None and await self._end_early(task, self._held):
                return
            if not self._woken.done():
                await self._release()
            else:
                self._woken = asyncio.get_running_loop().create_future()
        await self._conclude(task)

    async def _conclude(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        fallback = None if error is None else self._front.shown_for(error)
        if fallback is not None:
            await self._end(fallback)
            return
        await self._release()
        task.result()

    async def _end_early(self, task: asyncio.Future[None], held: Held) -> bool:
        """End the exchange for a stop. False, if there is nothing left to end."""
        fallback = self._front.shown(held)
        told = await self._end(fallback, early=True)
        if told and not self._ended:
            return False
        self._ended = True
        await self._drain(task)
        self._over.set()
        task.cancel()
        await self._await_end(task)
        if not told:  # a client that does not read kept the application from letting us speak
            await self._end(fallback)
        return True

    async def _drain(self, task: asyncio.Future[None]) -> None:
        before = self._front.in_flight()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_s
        while not task.done() and before & self._front.in_flight() and loop.time() < until:
            await asyncio.wait({task}, timeout=_DRAIN_POLL_S)

    async def _await_end(self, task: asyncio.Future[None]) -> None:
        await asyncio.wait({task}, timeout=self._end_s)
        if not task.done():
            logger.warning("an application goes on although its request was cancelled %g s ago", self._end_s)
            _keep(task)
        elif not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("an application ended like this when its request was ended by a stop", exc_info=error)

    async def _end(self, fallback: Fallback, *, early: bool = False) -> bool:
        """Say the last that is to be said. False, if there was no getting through in time.

        Args:
            fallback: What to say.
            early: Say nothing, if what the application has sent by now makes that needless.
        """
        try:
            async with asyncio.timeout(self._end_s), self._lock:
                if not early or self._is_endable():
                    await self.say_last(fallback)
        except TimeoutError:
            return False
        except Exception as error:  # noqa: BLE001  # whatever servers raise when their client has gone
            logger.debug("a client had gone before it could be told of a stop: %s", error)
        return True

    async def say_last(self, fallback: Fallback) -> None:
        """Say it. The caller holds the lock; what was not said in time is said at the next attempt."""
        self._ended = True
        if self._last is None:
            self._last = deque(self._closing(fallback))
        while self._last:
            await self._send(self._last[0])
            self._last.popleft()

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    # --- what differs ---

    @abstractmethod
    def _gone(self) -> Message:
        """What the application receives once the exchange was ended."""

    @abstractmethod
    def _is_endable(self) -> bool:
        """Whether a stop may end it now."""

    @abstractmethod
    def _closing(self, fallback: Fallback) -> list[Message]:
        """What may still be said, in the state that the exchange is in."""

    @abstractmethod
    async def _pass_on(self, message: Message) -> None:
        """Send what the application says, and note what became of the exchange."""

    def _note_received(self, message: Message) -> None:
        """Note what the client said."""
        return

    def _is_replaced(self) -> bool:
        """Whether we have spoken in the application's place, which may go on as if it were heard."""
        return False

    def _holds_back_s(self) -> float | None:
        """How long what is held back may wait to be released; None if nothing is."""
        return None

    async def _release(self) -> None:
        """Send what was held back."""
        return


def is_final(message: Message) -> bool:
    """Whether it is the last of a response's body."""
    return not message.get("more_body", False) and message["type"] != "http.response.start"


def _keep(task: asyncio.Future[None]) -> None:
    if isinstance(task, asyncio.Task):
        _strays.add(task)
        task.add_done_callback(_let_go)


def _let_go(task: asyncio.Task[None]) -> None:
    _strays.discard(task)
    with contextlib.suppress(asyncio.CancelledError, Exception):
        task.result()
