"""Virtual time, and a network in it: delays, cuts, broken connections, and messages that come twice."""

import asyncio
import contextlib
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from rescind.errors import RescindError

if TYPE_CHECKING:
    from switch.service.nodes import Node
    from switch.service.simulated import World

T = TypeVar("T")

process: contextvars.ContextVar["Node | None"] = contextvars.ContextVar("process", default=None)
"""Whose task this is, so that a crash ends it; None for the world's own."""


DRIFT = 0.0003
"""How far the clocks of two machines run apart, each second."""


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
    owner = process.get() if context is None else context.get(process, None)
    if owner is not None:
        owner.tasks[task] = None
        task.add_done_callback(owner.forget)
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
