"""An ASGI server of one exchange, in memory: what the client says goes in by a queue, what it is told is kept."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from rescind.integrations.exchange import App, Message, Scope

DEADLINE_S = 5.0


class Client:
    """One client. `reads` may be cleared: then nothing gets through to it any more."""

    def __init__(self, app: App, kind: str = "http", path: str = "/chat", **scope: Any) -> None:
        headers = scope.pop("headers", {})
        self.scope: Scope = {
            "type": kind,
            "path": path,
            "method": "POST",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        } | scope
        self.app, self.told = app, list[Message]()
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.told.append(message)

    async def exchange(self) -> "Client":
        """Let the application answer to the end."""
        async with asyncio.timeout(DEADLINE_S):
            await self.app(self.scope, self.says.get, self.send)
        return self

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[asyncio.Task["Client"]]:
        """Let it answer meanwhile."""
        task = asyncio.create_task(self.exchange())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def until(self, condition: Callable[["Client"], Any]) -> None:
        await until(lambda: condition(self))

    @property
    def status(self) -> int:
        return int(self.told[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.told[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.told[1:])

    @property
    def is_complete(self) -> bool:
        """Whether the response has begun and ended once."""
        ends = [not message.get("more_body", False) for message in self.told[1:]]
        return bool(ends) and ends == [False] * (len(ends) - 1) + [True]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # of many kinds, and the tested code offers no event
            await asyncio.sleep(0.002)


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run a story in a loop of its own, and see that it leaves no task and no timer behind."""

    async def with_a_look_around() -> None:
        await story
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in scheduled if not timer.cancelled() and "_look" in repr(timer)] == []

    asyncio.run(with_a_look_around())


Respond = Callable[[Message], Awaitable[None]]


async def start(send: Respond, status: int = 200, /, **headers: str) -> None:
    """Begin a response; `content_type` is the header content-type."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def chunk(send: Respond, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
