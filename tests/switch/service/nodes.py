"""Machines with a switch each, which crash and are started again on their ledger, and how they reach each other."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec

from rescind.clock import SystemIds
from rescind.errors import OrdersUnavailable
from rescind.model.order import LiftRule
from rescind.switch.service.documents import Merged, RecordPage
from rescind.switch.service.federation import Federation, PeerConfig
from rescind.switch.service.ledger import Ledger
from rescind.switch.service.streams import Streams
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.upkeep import Upkeep
from rescind.switch.service.writer import HANGS_AFTER_S
from rescind.web.problems import Refused
from switch.service.virtual import DRIFT, Broken, Clock, NothingListens, Stream, process

if TYPE_CHECKING:
    from switch.service.simulated import World

T = TypeVar("T")

BEAT_S, SYNC_S = 0.5, 1.0


class PeerTransport(httpx.AsyncBaseTransport):
    """How a switch reaches another one."""

    def __init__(self, world: "World", name: str) -> None:
        self._world, self._name = world, name

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        node = self._world.nodes[request.url.host]
        timeout_s = float(request.extensions["timeout"]["read"])
        try:
            body = await self._world.network.call(self._name, node, lambda: _served(node, request), timeout_s=timeout_s)
        except NothingListens as error:
            raise httpx.ConnectError("refused", request=request) from ConnectionRefusedError(str(error))
        except Broken as error:
            raise httpx.ReadTimeout(str(error), request=request) from error
        except Refused as error:
            return httpx.Response(error.status, content=msgspec.json.encode(error.problem))
        except OrdersUnavailable as error:
            return httpx.Response(503, content=str(error))
        return httpx.Response(200, content=body)


async def _served(node: "Node", request: httpx.Request) -> bytes:
    """As `api` does for a peer's requests."""
    query = request.url.params
    if request.url.path.endswith("/receipt"):
        order_id = request.url.path.split("/")[3]
        return msgspec.json.encode(await node.federation.receipt(order_id, wait_s=float(query["wait_s"]), here=True))
    if request.method == "POST":
        page = msgspec.json.decode(request.content, type=RecordPage)
        merged: Merged = await node.board.merge(page.records, page.switch_id)
        return msgspec.json.encode(merged)
    found = await node.board.records(int(query["after"]), int(query["limit"]))
    until = found[-1][0] if found else int(query["after"])
    return msgspec.json.encode(
        RecordPage(
            switch_id=node.board.switch_id,
            until=until,
            sequence=max(until, node.board.sequence) if found else node.board.sequence,
            records=tuple(record for _, record in found),
            guards=node.board.registry.names(),
        )
    )


class Disk:
    """As `Writer`, without its thread: takes its time, and hangs now and then."""

    def __init__(self, world: "World", clock: Clock) -> None:
        self._world, self._clock = world, clock
        self._turn = asyncio.Lock()
        self._owed: list[float] = []
        self.hangs_until_s = 0.0

    async def read(self, function: Callable[[], T]) -> T:
        since_s = self._clock.boot_s()
        self._owed.append(since_s)
        try:
            async with self._turn:
                await asyncio.sleep(self._world.random.random() * 0.02)
                while self._world.now_s < self.hangs_until_s:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                result = function()
                await asyncio.sleep(self._world.random.random() * 0.01)  # a crash here is one before the answer
                return result
        finally:
            self._owed.remove(since_s)

    write = read

    @property
    def trouble(self) -> str:
        return "it hangs" if self._owed and self._clock.boot_s() - self._owed[0] > HANGS_AFTER_S else ""


class Node:
    """A machine with a switch, which crashes and is started again on the same ledger."""

    def __init__(self, world: "World", name: str, folder: Path) -> None:
        self.world, self.name, self.folder = world, name, folder
        self.clock = Clock(world, started_s=world.random.uniform(0, 1e5), rate=1 + world.random.uniform(-DRIFT, DRIFT))
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in their order, so that a seed is a story
        self.streams: dict[Stream, None] = {}
        self.is_up = False
        self.up_since_s = 0.0
        self.peers: list[str] = []
        self.has: dict[str, float] = {}
        folder.mkdir()

    async def start(self) -> None:
        await self._as_process(self._start())

    async def _start(self) -> None:
        world = self.world
        self.ledger = Ledger(self.folder, clock=self.clock)
        self.disk = Disk(world, self.clock)
        disk: Any = self.disk
        self.board = Switchboard(
            self.ledger,
            disk,
            rule=LiftRule(),
            beat_s=BEAT_S,
            clock=self.clock,
            ids=SystemIds(),
            alert=lambda alert: None,
        )
        upkeep = Upkeep(self.board, self.ledger, disk, beat_s=BEAT_S, clock=self.clock, alert=lambda alert: None)
        peers = [PeerConfig(f"http://{name}") for name in self.peers]
        self.federation = Federation(
            self.board, peers, clock=self.clock, sync_s=SYNC_S, transport=PeerTransport(world, self.name)
        )
        self.requests = Streams(self.board, upkeep, self.clock, 1_000)
        await self.board.load()
        for life in (upkeep.live(), self.federation.live()):
            asyncio.get_running_loop().create_task(life)
        self.is_up, self.up_since_s = True, self.world.now_s

    def crash(self) -> None:
        self.is_up = False
        for task in list(self.tasks):
            task.cancel()
        for stream in list(self.streams):
            self.world.spawn(self._reset(stream))
        self.streams.clear()

    def forget(self, task: "asyncio.Task[Any]") -> None:
        """It has ended."""
        self.tasks.pop(task, None)

    async def _reset(self, stream: Stream) -> None:
        # What was sent arrives before the news that nobody is there any more.
        await asyncio.sleep(self.world.random.random())
        stream.break_off()

    async def perform(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do it in this process. Raises: Broken, if there is none, or it dies."""
        if not self.is_up:
            raise NothingListens(self.name)
        try:
            return await self._as_process(work())
        except asyncio.CancelledError:
            raise Broken("it died") from None

    async def _as_process(self, work: Coroutine[Any, Any, T]) -> T:
        context = contextvars.copy_context()
        context.run(process.set, self)
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(work, context=context)
        return await task

    async def guard_request(self, method: str, path: str, body: bytes, stream: Stream | None = None) -> Any:
        """A guard's request, as it comes from the HTTP server; the answer's body, if it is no stream."""
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"content-type", b"application/json")],
            "client": ("10.0.0.1", 1),
        }
        sent = {"body": b"", "status": 0}
        is_read = False

        async def receive() -> Any:
            nonlocal is_read
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": body, "more_body": False}
            assert stream is not None
            await stream.is_broken.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
            else:
                sent["body"] += message.get("body", b"")

        if stream is None:
            await self.requests(scope, receive, send)
            if sent["status"] != 200:
                raise Broken(f"{sent['status']}: {sent['body']!r}")
            return sent["body"]
        self.streams[stream] = None
        try:
            await self.requests(scope, receive, stream.send)
        finally:
            self.streams.pop(stream, None)
        return None
