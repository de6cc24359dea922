"""Agents' processes that follow switches as the real subscription does, and write whenever they may."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from rescind.model.order import Order, effective_level
from rescind.model.scope import Subject
from rescind.switch.client.lease import Lease
from rescind.switch.client.line import NOTHING_BOUND, Line, Malformed
from rescind.switch.client.merge import Merged
from rescind.switch.wire import BeatEvent, Heard, Report, RunDoc, SetEvent
from switch.service.nodes import BEAT_S, Node
from switch.service.virtual import DRIFT, Broken, Clock, Stream

if TYPE_CHECKING:
    from switch.service.simulated import World

TTL_S = 3.0


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
