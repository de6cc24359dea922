"""A world of switches and guards in virtual time, whose network, disks, clocks and processes fail.

Real are the switches (ledger, publisher, hub, registry, federation, the requests of guards) and what a guard concludes
(line, merge, lease). Simulated are the event loop's time, the network between them, the thread of the disk, and what
crashes. What is said about guards is held against what they do, moment by moment: see `World.check_write`.
"""

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from rescind.errors import OrdersUnavailable
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.switch.receipt import GuardState, Receipt
from rescind.switch.wire import LiftDoc, OrderDoc
from rescind.web.problems import Refused
from rescind.web.tokens import Caller, Role
from switch.service.guards import TTL_S, SimulatedGuard
from switch.service.nodes import Node
from switch.service.virtual import DRIFT, Broken, Network, VirtualLoop, process

T = TypeVar("T")

APPROVER = Caller(name="alice", role=Role.APPROVER)


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
        context.run(process.set, None)
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
