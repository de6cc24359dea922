"""A world of switches and guards in virtual time, whose network, disks, clocks and processes fail.

Real are the switches (ledger, publisher, hub, registry, federation, the requests of guards) and what a guard concludes
(line, merge, lease). Simulated are the event loop's time, the network between them, the thread of the disk, and what
crashes. What is said about guards is held against what they do, moment by moment: see `World.check_write`.
"""

import asyncio
import contextlib
import contextvars
import random
import selectors
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from rescind.clock import SystemIds
from rescind.errors import OrdersUnavailable, RescindError
from rescind.model.level import Level
from rescind.model.order import LiftRule, Order, effective_level
from rescind.model.scope import Scope, Subject
from rescind.switch.client.lease import Lease
from rescind.switch.client.line import NOTHING_BOUND, Line, Malformed
from rescind.switch.client.merge import Merged
from rescind.switch.receipt import GuardState, Receipt
from rescind.switch.service.documents import Merged as MergedAnswer
from rescind.switch.service.documents import RecordPage
from rescind.switch.service.federation import Federation, PeerConfig
from rescind.switch.service.ledger import Ledger
from rescind.switch.service.problems import Refused
from rescind.switch.service.streams import Streams
from rescind.switch.service.switchboard import Switchboard
from rescind.switch.service.tokens import Caller, Role
from rescind.switch.service.upkeep import Upkeep
from rescind.switch.service.writer import HANGS_AFTER_S
from rescind.switch.wire import BeatEvent, Heard, LiftDoc, OrderDoc, Report, RunDoc, SetEvent

T = TypeVar("T")

BEAT_S, TTL_S, SYNC_S = 0.5, 3.0, 1.0
DRIFT = 0.0003
"""How far the clocks of two machines run apart, each second."""

APPROVER = Caller(name="alice", role=Role.APPROVER)

_process: contextvars.ContextVar["Node | None"] = contextvars.ContextVar("process", default=None)


# --- time ---


class _Selector(selectors.SelectSelector):
    """Waits for nothing: instead of sleeping until the next timer, it moves the time there."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for ever"
        self.now_s += max(1e-6, timeout)  # work takes some time too
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which an hour takes no time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.set_task_factory(_tasks_of_processes)

    def time(self) -> float:
        return self._virtual.now_s


def _tasks_of_processes(
    loop: asyncio.AbstractEventLoop, work: Any, context: contextvars.Context | None = None
) -> "asyncio.Task[Any]":
    task = asyncio.Task(work, loop=loop, context=context)
    process = _process.get() if context is None else context.get(_process, None)
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(process.forget)
    return task


class Clock:
    """The clocks of one machine: one that counts from its start, and one on the wall that jumps."""

    def __init__(self, world: "World", *, started_s: float, rate: float) -> None:
        self._world, self._started_s, self._rate = world, started_s, rate
        self.wall_s = 1_795_262_400.0

    def boot_s(self) -> float:
        return self._started_s + self._world.now_s * self._rate

    monotonic_s = boot_s

    def now_us(self) -> int:
        return round((self.wall_s + self._world.now_s) * 1e6)

    def sleep(self, duration_s: float) -> None:
        raise AssertionError("nobody sleeps in an event loop")


# --- network ---


class Broken(Exception):
    """A connection broke."""


class NothingListens(Broken):
    """The machine is there, and the process is not."""


class Network:
    """Delays everything, keeps the order within a connection, and lets nothing through where it is cut."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._cut_until_s: dict[tuple[str, str], float] = {}

    def cut(self, source: str, target: str, duration_s: float) -> None:
        self._cut_until_s[source, target] = self._world.now_s + duration_s

    async def travel(self, source: str, target: str) -> None:
        """As long as a message takes; while the way is cut, it is sent again and again."""
        await asyncio.sleep(self._world.random.choice((0.001, 0.01, 0.05, 0.3)) * self._world.random.random())
        while (left_s := self._cut_until_s.get((source, target), 0.0) - self._world.now_s) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s + 0.01)

    async def call(
        self, source: str, node: "Node", work: Callable[[], Coroutine[Any, Any, T]], *, timeout_s: float
    ) -> T:
        """Have a process do something, there and back. Raises: Broken; it may have been done all the same, or twice."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def deliver() -> None:
            try:
                await self.travel(source, node.name)
                if self._world.random.random() < 0.05:
                    self._world.spawn(self._again(source, node, work))
                result = await node.perform(work)
                await self.travel(node.name, source)
            except BaseException as error:  # noqa: BLE001  # whatever became of it is the caller's
                if not answer.done():
                    answer.set_exception(error if isinstance(error, Exception) else Broken("it died"))
                    answer.exception()
            else:
                if not answer.done():
                    answer.set_result(result)

        self._world.spawn(deliver())
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise Broken("no answer in time") from None

    async def _again(self, source: str, node: "Node", work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        await asyncio.sleep(self._world.random.random() * 5)
        await self.travel(source, node.name)
        with contextlib.suppress(Broken, RescindError):
            await node.perform(work)


class Stream:
    """A connection on which a switch speaks to a guard. What it said lies there until it is read."""

    def __init__(self, world: "World", node: "Node", guard: str) -> None:
        self._world, self._node, self._guard = world, node, guard
        self._on_the_way: asyncio.Queue[bytes] = asyncio.Queue(8)  # the window
        self._here = bytearray()
        self._news = asyncio.Event()
        self.is_broken = asyncio.Event()
        self._pump = world.spawn(self._carry())

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            if self.is_broken.is_set():
                return
            putting = asyncio.ensure_future(self._on_the_way.put(message.get("body", b"")))
            breaking = asyncio.ensure_future(self.is_broken.wait())
            await asyncio.wait((putting, breaking), return_when=asyncio.FIRST_COMPLETED)
            for each in (putting, breaking):
                each.cancel()
        elif message["status"] != 200:
            self.break_off()

    async def read(self, timeout_s: float) -> bytes:
        """What has come, or the beginning of it. Raises: Broken."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                while not self._here:
                    if self.is_broken.is_set():
                        raise Broken("the connection broke")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Broken("nothing came") from None
        return self.take()

    def take(self) -> bytes:
        """Some of what is here, without waiting."""
        length = self._world.random.choice((len(self._here), len(self._here), self._world.random.randint(1, 200)))
        piece = bytes(self._here[:length])
        del self._here[:length]
        return piece

    def break_off(self) -> None:
        self.is_broken.set()
        self._news.set()
        self._pump.cancel()

    async def _carry(self) -> None:
        while True:
            piece = await self._on_the_way.get()
            await self._world.network.travel(self._node.name, self._guard)
            self._here += piece
            self._news.set()


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
        merged: MergedAnswer = await node.board.merge(page.records, page.switch_id)
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


# --- switches ---


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
        context.run(_process.set, self)
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


# --- guards ---


class SimulatedGuard:
    """An agent's process: follows its switches, and writes whenever it may."""

    def __init__(self, world: "World", name: str, follows: list[str], agent: str) -> None:
        self.world, self.name, self.agent, self.follows = world, name, agent, follows
        self.began_s = world.now_s
        self.clock = Clock(world, started_s=world.random.uniform(0, 1e5), rate=1 + world.random.uniform(-DRIFT, DRIFT))
        self.subject = Subject(run_id=f"run-{name}", agent_name=agent, lineage=frozenset((f"run-{name}",)))
        self.lines = {switch: Line(lease_ttl_s=TTL_S) for switch in follows}
        self.merged = Merged(list(self.lines.values()))
        self.lease = Lease(until_s=float("-inf"))
        self.bound: tuple[Order, ...] = ()
        self.in_flight: set[str] = set()
        self.has_left = False
        self._awake = asyncio.Event()
        self._awake.set()
        self._streams: list[Stream] = []
        self._tasks = [world.spawn(self._work())]
        self._voices = {switch: _Voice() for switch in follows}
        for switch, voice in self._voices.items():
            self._tasks += [world.spawn(self._listen(switch, voice)), world.spawn(self._report(switch, voice))]

    def suspend(self) -> None:
        self._awake.clear()

    def resume(self) -> None:
        self._awake.set()

    async def leave(self) -> None:
        if self._awake.is_set() and not self.has_left:
            self.has_left = True
            self.lease.end()
            self.die()
            for switch, line in self.lines.items():
                body = self._said(line, self._voices[switch], leaving=True)
                self.world.spawn(self._goodbye(switch, body))

    async def _goodbye(self, switch: str, body: bytes) -> None:
        node = self.world.nodes[switch]
        with contextlib.suppress(Broken):
            await self.world.network.call(
                self.name, node, lambda: node.guard_request("PUT", f"/v1/guards/{self.name}", body), timeout_s=5.0
            )

    def die(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.break_connections()

    def break_connections(self) -> None:
        for stream in self._streams:
            stream.break_off()

    # --- what it does ---

    async def _work(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(self.world.random.uniform(0.02, 0.3))
            await self._awake.wait()  # and the first thing that it does is to write
            if self.clock.boot_s() < self.lease.until_s and effective_level(self.bound, self.subject).allows_writes:
                number += 1
                self.world.check_write(self)
                step = f"{self.subject.run_id}/{number}"
                self.in_flight.add(step)
                self.world.spawn(self._end(step))

    async def _end(self, step: str) -> None:
        await asyncio.sleep(self.world.random.random() ** 3 * 4)
        self.in_flight.discard(step)

    # --- how it follows: as `Listener` ---

    async def _listen(self, switch: str, voice: "_Voice") -> None:
        line, node = self.lines[switch], self.world.nodes[switch]
        while True:
            await self._awake.wait()
            voice.connection += 1
            voice.bound, voice.is_connected = NOTHING_BOUND, False
            line.begin(asked_s=self.clock.boot_s())
            stream = Stream(self.world, node, self.name)
            self._streams.append(stream)
            body = self._said(line, voice)
            asking = self.world.spawn(self._ask_for(stream, node, body))
            heard_s = self.clock.boot_s()
            try:
                while True:
                    data = await stream.read(heard_s + 3 * BEAT_S + 2 - self.clock.boot_s())
                    await self._awake.wait()
                    heard_s = self.clock.boot_s()
                    self._take(line, voice, data)
            except (Broken, Malformed):
                stream.break_off()
                asking.cancel()
                self._streams.remove(stream)
            voice.is_connected = False
            await asyncio.sleep(self.world.random.random())

    async def _ask_for(self, stream: Stream, node: Node, body: bytes) -> None:
        try:
            await self.world.network.travel(self.name, node.name)
            await node.perform(lambda: node.guard_request("POST", f"/v1/guards/{self.name}/stream", body, stream))
        except Broken:
            stream.break_off()

    def _take(self, line: Line, voice: "_Voice", data: bytes) -> None:
        changed = False
        try:
            for event in line.feed(data, received_s=self.clock.boot_s()):
                changed |= self.merged.take(line, event)
                if isinstance(event, SetEvent | BeatEvent):
                    self._bind(line, voice, changed=changed)
                    changed = False
                    voice.is_connected = True
                    if not self.has_left:
                        self.lease.extend(line.lease.until_s)
                    voice.news.set()
        finally:
            if changed:
                self._bind(line, voice, changed=True)

    def _bind(self, line: Line, voice: "_Voice", *, changed: bool) -> None:
        if changed:
            self.bound = self.merged.orders
            voice.pending = frozenset(self.in_flight)
        voice.bound = line.sequence

    async def _report(self, switch: str, voice: "_Voice") -> None:
        line, node = self.lines[switch], self.world.nodes[switch]
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await voice.news.wait()
            await self._awake.wait()
            voice.news.clear()
            voice.pending &= self.in_flight
            news = (voice.connection, voice.bound, not voice.pending, self._hears())
            if not voice.is_connected or news == voice.said:
                continue
            connection, asked_s = voice.connection, self.clock.boot_s()
            body = self._said(line, voice)
            try:
                answer = await self.world.network.call(
                    self.name,
                    node,
                    lambda body=body: node.guard_request("PUT", f"/v1/guards/{self.name}", body),  # type: ignore[misc]
                    timeout_s=5.0,
                )
            except Broken:
                await asyncio.sleep(self.world.random.random())
                continue
            received_s = self.clock.boot_s()
            await self._awake.wait()
            voice.said = news
            if connection == voice.connection:
                line.heard(msgspec.json.decode(answer, type=Heard), asked_s=asked_s, received_s=received_s)

    def _hears(self) -> tuple[str, ...]:
        return tuple(sorted(line.switch_id for line in self.lines.values() if line.switch_id))

    def _said(self, line: Line, voice: "_Voice", *, leaving: bool = False) -> bytes:
        report = Report(
            pid=1,
            host=self.name,
            lease_ttl_s=TTL_S,
            switches=len(self.lines),
            hears=self._hears(),
            bound=voice.bound,
            drained=not voice.pending & self.in_flight,
            runs=(RunDoc(run_id=self.subject.run_id, agent=self.agent),),
            runs_open=1,
            leaving=leaving,
        )
        return msgspec.json.encode(report)


class _Voice:
    """What a guard has bound of one switch, and has told it."""

    def __init__(self) -> None:
        self.connection, self.bound, self.is_connected = 0, NOTHING_BOUND, False
        self.pending: frozenset[str] = frozenset()
        self.said: tuple[object, ...] | None = None
        self.news = asyncio.Event()


# --- the world ---


class World:
    """Two or three switches, some guards, an operator, and bad luck. Everything follows from the seed."""

    def __init__(self, seed: int, folder: Path, loop: VirtualLoop) -> None:
        self.random = random.Random(seed)
        random.seed(seed)
        self.loop = loop
        self._spawned: set[asyncio.Task[Any]] = set()
        self._over: asyncio.Future[None] = loop.create_future()
        self.network = Network(self)
        self.nodes: dict[str, Node] = {}
        for name in ("a", "b", "c")[: self.random.choice((1, 2, 2, 2, 3))]:
            self.nodes[name] = Node(self, name, folder / name)
        self.guards: list[SimulatedGuard] = []
        self.orders: dict[str, Order] = {}
        self.answered: dict[str, set[str]] = {}  # order to the switches that have said that it stands
        self.lifted: set[str] = set()
        self._said: dict[str, list[tuple[str, str]]] = {}  # guard to (order, what was said of the guard, and when)
        self._everywhere: dict[tuple[str, str], float] = {}
        self.is_sparse = False
        self.misfortune_s = self.random.choice((0.6, 1.5, 4))
        self.writes = self.receipts = self.settled = self.complete = 0

    @property
    def now_s(self) -> float:
        return self.loop.time()

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task of the world itself, which no crash ends."""
        context = contextvars.copy_context()
        context.run(_process.set, None)
        task = self.loop.create_task(work, context=context)
        self._spawned.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._spawned.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Broken) and not self._over.done():
            self._over.set_exception(error)

    async def run(self, duration_s: float) -> None:
        """Let it go on for so long. Raises: AssertionError, if a law is broken."""
        self.is_sparse = self.random.random() < 0.3  # not every switch knows every other one
        for node in self.nodes.values():
            others = [name for name in self.nodes if name != node.name]
            node.peers = [name for name in others if not self.is_sparse or self.random.random() < 0.5]
            await node.start()
        for number in range(self.random.randint(2, 4)):
            self._add_guard(number)
        for each in (self._operate(), self._ask(), self._misfortune(), self._watch()):
            self.spawn(each)
        self.loop.call_later(duration_s, lambda: None if self._over.done() else self._over.set_result(None))
        await self._over

    def _add_guard(self, number: int) -> None:
        names = list(self.nodes)
        follows = self.random.sample(names, self.random.choice((len(names), len(names), 1)))
        for switch in follows:
            if self.random.random() < 0.2:  # out of its reach for now
                self.network.cut(f"g{number}", switch, 10.0)
        self.guards.append(SimulatedGuard(self, f"g{number}", follows, self.random.choice(("x", "y"))))

    # --- what people do ---

    async def _operate(self) -> None:
        for number in range(100):
            await asyncio.sleep(self.random.uniform(0.5, 5))
            node = self.nodes[self.random.choice(list(self.nodes))]
            if self.random.random() < 0.5:  # or everybody would soon be stopped, and nothing could go wrong any more
                self.spawn(self._lift(node, f"lift-{number}"))
            else:
                scope = self.random.choice(("agent:x", "agent:y", "everything", "run:run-g0"))
                self.spawn(self._stop(node, f"ord-{number}", scope))

    async def _stop(self, node: Node, order_id: str, scope: str) -> None:
        doc = OrderDoc(scope=scope, level=self.random.choice(("halted", "read_only")), order_id=order_id)
        self.orders[order_id] = Order(
            order_id=order_id,
            scope=Scope.parse(scope),
            level=Level.parse(doc.level),
            reason="",
            actor="",
            placed_at=None,  # type: ignore[arg-type]
        )
        for _ in range(self.random.choice((1, 1, 3))):
            with contextlib.suppress(Broken, OrdersUnavailable):
                await self.network.call("operator", node, lambda: node.board.place(doc, APPROVER), timeout_s=6.0)
                self.answered.setdefault(order_id, set()).add(node.name)

    async def _lift(self, node: Node, lift_id: str) -> None:
        if not node.is_up or not node.board.book.standing:
            return
        seen = [order.order_id for order in node.board.book.standing]
        chosen = tuple(seen if self.random.random() < 0.7 else self.random.sample(seen, 1))
        self.lifted |= set(chosen)
        doc = LiftDoc(order_ids=chosen, reason="over", lift_id=lift_id)
        with contextlib.suppress(Broken, OrdersUnavailable):
            await self.network.call("operator", node, lambda: node.board.lift(doc, APPROVER), timeout_s=6.0)

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.05, 0.8))
            node = self.nodes[self.random.choice(list(self.nodes))]
            if self.orders:
                order_id = self.random.choice(list(self.orders))
                self.spawn(self._ask_one(node, order_id, self.random.choice((0.0, 0.0, 4.0))))

    async def _ask_one(self, node: Node, order_id: str, wait_s: float) -> None:
        asked_s = self.now_s
        try:
            here = self.random.random() < 0.3
            receipt = await node.perform(lambda: node.federation.receipt(order_id, wait_s=wait_s, here=here))
        except (Broken, Refused):
            return
        self._take_at_its_word(receipt, asked_s, whole=not here)

    # --- what goes wrong ---

    async def _misfortune(self) -> None:
        kinds = (
            self._crash,
            self._cut,
            self._split,
            self._split,
            self._break,
            self._suspend,
            self._jump,
            self._hang,
            self._leave,
        )
        while True:
            await asyncio.sleep(self.random.uniform(0.2, self.misfortune_s))
            self.spawn(self.random.choice(kinds)())

    async def _crash(self) -> None:
        node = self.nodes[self.random.choice(list(self.nodes))]
        if node.is_up:
            node.crash()
            await asyncio.sleep(self.random.choice((0.1, 1, 8)))
            node.ledger.close()
            await node.start()

    async def _cut(self) -> None:
        places = [*self.nodes, *(guard.name for guard in self.guards)]
        one, other = self.random.choice(list(self.nodes)), self.random.choice(places)
        duration_s = self.random.choice((0.5, 3, 12))
        directions = self.random.choice((((one, other),), ((other, one),), ((one, other), (other, one))))
        for source, target in directions:
            self.network.cut(source, target, duration_s)

    async def _split(self) -> None:
        """Two islands, and a stop on one of them."""
        places = [*self.nodes, *(guard.name for guard in self.guards)]
        here = [place for place in places if self.random.random() < 0.5]
        duration_s = self.random.choice((2, 6, 15))
        for place in here:
            for other in places:
                if other not in here:
                    self.network.cut(place, other, duration_s)
                    self.network.cut(other, place, duration_s)
        await asyncio.sleep(self.random.random() * 2)
        node = self.nodes[self.random.choice(list(self.nodes))]
        self.spawn(self._stop(node, f"ord-{len(self.orders)}-split", self.random.choice(("agent:x", "agent:y"))))

    async def _break(self) -> None:
        """Connections break, and another one is not to be had for a while."""
        guard = self.random.choice(self.guards)
        for name in guard.follows:
            self.network.cut(guard.name, name, self.random.choice((1, 4)))
        guard.break_connections()

    async def _suspend(self) -> None:
        guard = self.random.choice(self.guards)
        guard.suspend()
        await asyncio.sleep(self.random.choice((0.5, 2, 5, 15)))
        guard.resume()

    async def _jump(self) -> None:
        clock = self.random.choice(
            [*(node.clock for node in self.nodes.values()), *(guard.clock for guard in self.guards)]
        )
        clock.wall_s += self.random.choice((-3600, -5, 5, 3600))

    async def _hang(self) -> None:
        node = self.nodes[self.random.choice(list(self.nodes))]
        if node.is_up:
            node.disk.hangs_until_s = self.now_s + self.random.choice((0.5, 6))

    async def _leave(self) -> None:
        guard = self.random.choice(self.guards)
        if len(self.guards) < 12:
            await guard.leave()
            self._add_guard(len(self.guards))

    # --- laws ---

    def _take_at_its_word(self, receipt: Receipt, asked_s: float, *, whole: bool) -> None:
        order = self.orders[receipt.order_id]
        self.receipts += 1
        known = {guard.guard_id: guard.state for guard in receipt.guards}
        for guard in self.guards:
            state = known.get(guard.name)
            if state is not None and state is not GuardState.UNKNOWN:
                self.settled += 1
                self._promise(guard, order, f"{state} at {self.now_s:.3f} s")
            if state in (GuardState.DRAINED, GuardState.KILLED) and order.order_id not in self.lifted:
                covered = guard.in_flight if order.scope.covers(guard.subject) else set()
                self._law(not covered, f"{guard.name} was said to be drained of {order.order_id} and runs {covered}")
        if whole and receipt.all_bound and not receipt.unheard and not self.is_sparse:
            self.complete += 1
            for guard in self.guards:
                if guard.name not in known and not self._may_be_news_of_the_dead(guard, asked_s):
                    self._promise(guard, order, f"left out of a complete receipt at {self.now_s:.3f} s")

    def _may_be_news_of_the_dead(self, guard: SimulatedGuard, asked_s: float) -> bool:
        """Whether only a switch that has died knew of it.

        Switches tell each other of their guards when they exchange, every few seconds. Whom a switch got to know after
        the last time, and before it died, no receipt of another one can know of before it is back.
        """
        nodes = [self.nodes[name] for name in guard.follows]
        return guard.began_s > asked_s or any(not node.is_up or node.up_since_s > asked_s for node in nodes)

    def _promise(self, guard: SimulatedGuard, order: Order, said: str) -> None:
        self._said.setdefault(guard.name, []).append((order.order_id, said))

    async def _watch(self) -> None:
        """Note since when a stop is at every switch that a guard follows."""
        while True:
            await asyncio.sleep(0.02)
            for node in self.nodes.values():
                if node.is_up:
                    for order_id in self.orders:
                        if node.board.book.orders(order_id):
                            node.has.setdefault(order_id, self.now_s)
                        elif node.name in self.answered.get(order_id, ()):
                            self._law(False, f"{node.name} has said that {order_id} stands, and does not know it")

    def check_write(self, guard: SimulatedGuard) -> None:
        """The stop contract, at a write that the guard has just admitted.

        - What a receipt said of the guard is true: under a stop that it has bound, or that its lease has outlived, it
          admits nothing any more.
        - `lease_ttl` after a stop has reached every switch that the guard follows, it admits nothing, heard or not.
        """
        self.writes += 1
        for order_id, said in self._said.get(guard.name, ()):
            order = self.orders[order_id]
            covered = order_id not in self.lifted and order.scope.covers(guard.subject)
            self._law(not covered, f"{guard.name} writes under {order_id} ({order.scope}); it was said to be {said}")
        for order_id, order in self.orders.items():
            if order_id not in self.lifted and order.scope.covers(guard.subject):
                since_s = [self.nodes[name].has.get(order_id) for name in guard.follows]
                if None not in since_s:
                    over_s = self.now_s - max(each for each in since_s if each is not None)
                    self._law(
                        over_s <= TTL_S * (1 + 4 * DRIFT) + 0.001,
                        f"{guard.name} writes {over_s:.3f} s after {order_id} came to all that it follows",
                    )

    def _law(self, holds: bool, what: str) -> None:
        if not holds and not self._over.done():
            self._over.set_exception(AssertionError(f"at {self.now_s:.3f} s: {what}"))


def simulate(seed: int, folder: Path, *, duration_s: float) -> World:
    """Run a world of this seed. Raises: AssertionError, if a law is broken."""
    loop = VirtualLoop()
    world = World(seed, folder, loop)
    try:
        loop.run_until_complete(world.run(duration_s))
        return world
    finally:
        for node in world.nodes.values():
            node.tasks.clear()
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        for node in world.nodes.values():
            if hasattr(node, "ledger"):
                node.ledger.close()
        loop.close()
