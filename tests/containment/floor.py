"""A floor of many runs in one process: the real guard under a policy, tools that fail by chance, and one seed.

Runs take turns in an order that the seed decides; a call is delivered twice now and then; slow calls move the clock.
What really happened is kept apart from what the guard says. After every call the laws that hold at any time are
checked: no automatic order takes power away that another gave, and none gives any back.
"""

import contextvars
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rescind.errors import CallDenied, RunHalted, StepInDoubt
from rescind.guard.guard import Guard
from rescind.guard.run import Run
from rescind.journal.memory import MemoryJournal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.level import Level
from rescind.model.order import Lift, Measure, Order, effective_level
from rescind.switch.memory import MemoryOrders
from rescind.switch.probes import ACTOR as BREAKER
from rescind.switch.store import SqliteOrders
from rescind.testing.clock import ManualClock
from rescind.testing.world import CountingIds
from rescind.triggers.policy_file import PolicyFile

TOOLS = ("erp.update", "mail.send", "till.book", "shelf.put")

Turn = Callable[["Worker"], None]


class Down(Exception):
    """The other system does not answer."""


class Worker:
    """One run, and what became of its calls.

    Attributes:
        done, failed: Writes that took place, and that the tool failed at, by action.
        refused: Refusals by the guard, in order.
        records: What was really touched.
        turn: What it does when it is its turn.
    """

    def __init__(self, floor: "Floor", run: Run, turn: Turn) -> None:
        self.floor, self.run, self.turn = floor, run, turn
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.refused: list[CallDenied | RunHalted] = []
        self.records: set[tuple[str, str]] = set()
        self.to_mend: set[tuple[str, str]] = set()
        self.calls = 0

    def write(self, action: str, record: str, value: int = 0, *, tenant: str = "") -> bool:
        """One write, delivered twice now and then; whether it took place."""
        self.calls += 1
        took_place = self._deliver(action, record, value, tenant)
        self.done[action] += took_place
        if self.floor.random.random() < self.floor.twice_ratio:
            effects = len(self.floor.effects)
            self._deliver(action, record, value, tenant)
            assert len(self.floor.effects) == effects or not took_place, f"{action} of {record} took place twice"
        return took_place

    def _deliver(self, action: str, record: str, value: int, tenant: str) -> bool:
        with self.run.activate():
            try:
                self.floor.tools[action](record, value, tenant or self.run.info.tenant)
            except Down:
                self.failed[action] += 1
                return False
            except StepInDoubt:  # it was delivered before, and nobody knows how that went
                return False
            except (CallDenied, RunHalted) as error:
                self.refused.append(error)
                return False
        return True

    def read(self, record: str) -> None:
        """One read."""
        with self.run.activate():
            try:
                self.floor.look(record)
            except (CallDenied, RunHalted) as error:
                self.refused.append(error)

    def level(self, action: str | None = None) -> Level:
        """Where it is held by what stands."""
        return effective_level(self.floor.standing(), self.run.info.subject, action)

    def is_within(self, orders: Iterable[Order]) -> bool:
        """Whether any of these orders is about some call of it."""
        subject = self.run.info.subject
        return any(order.scope.covers(subject, action) for order in orders for action in (None, *TOOLS))


def healthy(worker: Worker) -> None:
    """A few records of its own, each in another way, with a look now and then; what has failed is tried once more."""
    chance = worker.floor.random
    if chance.random() < 0.3:
        worker.read(f"look {chance.random()}")
        return
    action, record = chance.choice(TOOLS), f"{worker.run.run_id}-{chance.randrange(2)}"
    if worker.to_mend and chance.random() < 0.5:
        action, record = min(worker.to_mend)
    took_place = worker.write(action, record, worker.calls)
    (worker.to_mend.discard if took_place else worker.to_mend.add)((action, record))


class Floor:
    """Drives the guard. `fails` decides whether a call of a tool fails, by the worker's run and the action."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        policy: str,
        *,
        on_disk: bool = False,
        failed_ratio: float = 0.02,
        slow_ratio: float = 0.02,
        twice_ratio: float = 0.05,
    ) -> None:
        self.random = random.Random(seed)
        self.failed_ratio, self.slow_ratio, self.twice_ratio = failed_ratio, slow_ratio, twice_ratio
        self.clock = ManualClock()
        path = folder / "rescind.yaml"
        path.write_text(policy)
        journal = SqliteJournal(folder / "journal.db") if on_disk else MemoryJournal()
        orders = SqliteOrders(folder / "orders", clock=self.clock) if on_disk else MemoryOrders()
        ids = CountingIds()
        self.guard = Guard.over(journal, orders, clock=self.clock, ids=ids, policy=PolicyFile(path))
        self.fails: Callable[[Run, str], bool] = lambda *_: self.random.random() < self.failed_ratio
        self.workers: list[Worker] = []
        self.effects: list[tuple[str, str, str]] = []
        self.tools = {action: self._declare(action) for action in TOOLS}
        self._levels: dict[tuple[str, str], Level] = {}
        self._contexts: list[tuple[Run, contextvars.Context]] = []

        @self.guard.read("shelf.look")
        def look(record: str) -> str:
            return record

        self.look = look

    def _declare(self, action: str) -> Callable[[str, int, str], None]:
        system = action.partition(".")[0]

        @self.guard.write(
            action,
            target=lambda record: (system, "record", record),
            key=lambda record, value, customer: f"{customer}/{action}/{record}/{value}",
            irreversible="a simulation",
        )
        def tool(record: str, value: int, customer: str) -> None:
            run = self._acting.run
            self.clock.advance(40.0 if self.random.random() < self.slow_ratio else self.random.random())
            if self.fails(run, action):
                raise Down(system)
            self.effects.append((run.run_id, action, record))
            self._acting.records.add((system, record))

        return tool

    # --- runs ---

    def open(
        self, agent: str, *, tenant: str = "acme", workflow: str = "", parent: str | None = None, turn: Turn = healthy
    ) -> Worker:
        """A run of its own, or below one in another process. Raises: CallDenied, RunHalted."""
        return self._enter(self.guard.run(agent, tenant=tenant, workflow=workflow, parent=parent), turn)

    def spawn(self, above: Worker, agent: str) -> Worker:
        """A run below another one. Raises: CallDenied, RunHalted."""
        return self._enter(above.run.spawn(agent=agent), healthy)

    def _enter(self, run: Run, turn: Turn) -> Worker:
        # In a context of its own, as a task has; or the run that was entered last would be its parent.
        context = contextvars.Context()
        context.run(run.__enter__)
        self._contexts.append((run, context))
        worker = Worker(self, run, turn)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """Leave all runs, the last one first."""
        for run, context in reversed(self._contexts):
            context.run(run.__exit__, None, None, None)
        self._contexts.clear()
        self.guard.close()

    # --- the story ---

    def turns(self, count: int, workers: Iterable[Worker] | None = None) -> None:
        """So many turns of workers that the seed chooses, laws checked after each."""
        for _ in range(count):
            self.turn(self.random.choice(list(workers) if workers is not None else self.workers))

    def turn(self, worker: Worker) -> None:
        """One turn of this worker."""
        self._acting = worker
        worker.turn(worker)
        self.check()

    def write_as(self, worker: Worker, action: str, record: str, value: int = 0) -> bool:
        """One write of this worker, out of turn."""
        self._acting = worker
        return worker.write(action, record, value)

    # --- what stands ---

    def standing(self) -> tuple[Order, ...]:
        """What stands now."""
        return self.guard.orders.standing().orders

    def lifts(self) -> list[Lift]:
        """All lifts there ever were."""
        return list(self.guard.orders.history().lifts)

    def refused(self) -> int:
        """How many refusals there were, of all workers."""
        return sum(len(worker.refused) for worker in self.workers)

    def check(self) -> None:
        """Automatic action only tightens: what stood stands, but for trips that their breaker or a person lifted."""
        history = self.guard.orders.history()
        by_id = {order.order_id: order for order in history.orders}
        for lift in history.lifts:
            if lift.actor != "ann":
                assert lift.actor == BREAKER, f"{lift.actor} gave power back by itself"
                assert {by_id[order_id].measure for order_id in lift.order_ids} == {Measure.TRIP}
        assert all(order.trigger for order in history.orders if order.actor == "policy")
        kept = tuple(order for order in history.standing if order.measure is not Measure.TRIP)
        for worker in self.workers:
            for action in (None, *TOOLS):
                key, level = (worker.run.run_id, action or ""), effective_level(kept, worker.run.info.subject, action)
                assert level >= self._levels.get(key, Level.NORMAL), f"{key} went down to {level.label} by itself"
                self._levels[key] = level

    def lift_by_ann(self, *order_ids: str) -> None:
        """A person lifts these orders."""
        lift = Lift(
            lift_id=self.guard.ids.new_id("lift"),
            order_ids=frozenset(order_ids),
            reason="looked at it",
            actor="ann",
            lifted_at=self.clock.now(),
        )
        self.guard.orders.lift(lift)
        self._levels.clear()


@contextmanager
def a_floor(seed: int, folder: Path, policy: str, **fields: float) -> Iterator[Floor]:
    """A floor, left at the end; every fifth one has its stores on disk."""
    floor = Floor(seed, folder, policy, on_disk=seed % 5 == 0, **fields)
    try:
        yield floor
    finally:
        floor.close()
