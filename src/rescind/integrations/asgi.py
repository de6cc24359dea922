"""The fallback for ASGI applications: Starlette, FastAPI, Litestar, Django, Quart, or none of these.

    app = FallbackMiddleware(app, guard, agent="billing-agent@2.4.0", workflow="refunds", paths=("/chat",))

Standard library only, and for servers that run on asyncio. See `docs/fallback.md`.
"""

import asyncio
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rescind.guard.fallback import Fallbacks
from rescind.integrations.exchange import App, Exchange, Receive, Scope, Send
from rescind.integrations.front import EXEMPT, Front, Standing, Tenant, refuses
from rescind.integrations.http_exchange import HttpExchange
from rescind.integrations.socket_exchange import SocketExchange
from rescind.model.level import Level

if TYPE_CHECKING:
    from rescind.guard.guard import Guard
    from rescind.model.order import Order

POLL_S = 0.05
"""How often the orders are looked at while a request is open: a look at shared memory, unless they have changed."""


class FallbackMiddleware:
    """Shows users a helpful answer while their agent is stopped, in place of an error or of nothing.

    - Under `paused` and `halted`, new requests are refused: 503 with Retry-After, as JSON or as a page; a stream with
      one event `agent_paused` for those who ask for events; WebSockets are closed with 1013.
    - When `halted` comes, open requests and connections are ended in the same words, and the application is cancelled.
      Under `paused` they run out.
    - A `RunHalted` that gets out of the application becomes the fallback, alone or in a group, and so does a
      `CallDenied` by an order.
    - Under `read_only` and `supervised` requests go on: the agent can still answer from what it reads.
    """

    def __init__(
        self,
        app: App,
        guard: "Guard",
        *,
        agent: str | None = None,
        tenant: Tenant = "",
        workflow: str = "",
        paths: Iterable[str] = ("/",),
        exempt: Iterable[str] = EXEMPT,
        fallbacks: Fallbacks | None = None,
        standing: Standing | None = None,
        drain_s: float = 2.0,
        end_within_s: float = 5.0,
    ) -> None:
        """Stand in front of an application.

        Args:
            app: The application.
            guard: Its guard.
            agent: Who answers here, `name@version` or `name`. Without it only orders that name no agent count.
            tenant: On whose behalf, or a function that says so of a request's scope.
            workflow: The class of task.
            paths: Which paths are the agent's, with all below them; relative to where the application is mounted.
            exempt: Which are not, all the same.
            fallbacks: What is shown; the guard's by default.
            standing: Which orders stand; the guard's by default.
            drain_s: How long steps in flight may go on after a stop, before the application is cancelled.
            end_within_s: How long to wait for a cancelled application, and for a client that does not read.

        Raises: UsageError, if the agent or a path cannot be read.
        """
        self._app = app
        self._front = Front(
            guard,
            agent=agent,
            tenant=tenant,
            workflow=workflow,
            paths=paths,
            exempt=exempt,
            fallbacks=fallbacks,
            standing=standing,
        )
        self._drain_s, self._end_s = drain_s, end_within_s
        self._watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = weakref.WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, connection, or lifespan."""
        kind = _KINDS.get(scope["type"])
        if kind is None or _is_preflight(scope) or not self._front.covers(_path(scope)):
            await self._app(scope, receive, send)
            return
        subject = self._front.subject(scope)
        exchange = kind(self._front, subject, scope, receive, send, drain_s=self._drain_s, end_s=self._end_s)
        held = self._front.admits(subject)
        if refuses(held):
            await exchange.refuse(held)
            return
        watch = self._watch()
        watch.add(exchange)
        try:
            await exchange.run(self._app)
        finally:
            watch.discard(exchange)

    def _watch(self) -> "Watch":
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = Watch(self._front)
        return watch


class Watch:
    """Tells the open exchanges of one event loop when they are halted. While none is open, nothing runs."""

    def __init__(self, front: Front) -> None:
        """Made in the loop that it is for."""
        self._front = front
        self._open: dict[Exchange, None] = {}
        self._seen: tuple[Order, ...] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: Exchange) -> None:
        """Follow an exchange, which was not held when it was last judged."""
        self._open[exchange] = None
        if self._timer is None:
            self._seen = None
            self._timer = asyncio.get_running_loop().call_later(POLL_S, self._look)

    def discard(self, exchange: Exchange) -> None:
        """Follow it no more."""
        self._open.pop(exchange, None)
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(POLL_S, self._look)
        standing = self._front.standing()
        if standing == self._seen:
            return
        self._seen = standing
        for exchange in self._open:
            held = self._front.held(exchange.subject)
            if held.level is Level.HALTED:
                exchange.stop(held)


_KINDS: dict[str, type[Exchange]] = {"http": HttpExchange, "websocket": SocketExchange}


def _path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    below = path.removeprefix(root)
    return below if below.startswith("/") or not below else path


def _is_preflight(scope: Scope) -> bool:
    """Whether a browser only asks what it may ask. A refusal would keep it from reading the real one."""
    names = {name for name, _ in scope.get("headers") or ()}
    return scope.get("method") == "OPTIONS" and b"access-control-request-method" in names
