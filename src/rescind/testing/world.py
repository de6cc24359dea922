"""A world to break: the real guard and journal between tools that lie, a disk that fills and a process that dies.

Everything that happens is decided by one seed. Several calls are under way at once; before each of their requests the
world may kill the process (all calls under way are lost, a new process opens new runs), fill the disk, or place an
order. What really happened is kept apart from what the journal says, so that tests can hold one against the other.
"""

import contextvars
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rescind.clock import from_us
from rescind.compensation.effects.mapping import MappingKey
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.errors import NothingChanged, RescindError
from rescind.guard.call import WriteCall, idempotency_key
from rescind.guard.drive import perform
from rescind.guard.effect import PastStep
from rescind.guard.flow import write_flow
from rescind.guard.guard import Guard
from rescind.guard.request import Request, WriteFlow
from rescind.guard.run import Run
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Appended, Draft, Query, SlotTaken
from rescind.model.entry import Intended
from rescind.model.history import StepRecord, fold_steps
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.scope import Scope
from rescind.switch.memory import MemoryOrders
from rescind.testing.clock import ManualClock
from rescind.testing.faulty import FaultyJournal

CALLS_AT_ONCE = 4

_PAGE = 10_000


class LostReply(Exception):
    """The tool did its work, and its answer never arrived."""


class _KilledError(BaseException):
    """The process is gone."""


class _Call:
    """A call under way: its flow, and what the flow is to be sent next."""

    def __init__(self, run: Run, flow: WriteFlow) -> None:
        self.run, self.flow = run, flow
        self.request: Request = next(flow)

    def goes_on_with(self, answer: Any) -> bool:
        """Answer the request; whether that was the last one."""
        try:
            self.request = self.flow.send(answer)
        except StopIteration:
            return True
        return False

    def ends_with(self, error: BaseException) -> bool:
        """Fail the request; whether that was the last one."""
        try:
            self.request = self.flow.throw(error)
        except StopIteration:
            return True
        return False

    def die(self) -> None:
        """Its process is killed: nothing that it still asks for happens."""
        while not self.ends_with(_KilledError()):
            pass


class SimulatedWorld:
    """Drives the real guard through `run`, then lets tests look.

    Attributes:
        rows: What the reversible tool writes to.
        balance: What the compensatable tool adds to, by idempotency key; compensations subtract.
        mails: What the irreversible tool sends.
        effects: `RUN/STEP` of every effect that really took place, in order.
        effects_after_halt: Those that began after the halt was acknowledged and were not reported as in flight then.
        compensations: How often each compensation's key really took effect.
    """

    def __init__(
        self,
        seed: int,
        *,
        crash_ratio: float = 0.02,
        lost_reply_ratio: float = 0.05,
        failed_ratio: float = 0.05,
        full_disk_ratio: float = 0.01,
    ) -> None:
        self.random = random.Random(seed)  # noqa: S311  # a simulation wants repeatable numbers, not secret ones
        self._crash_ratio, self.lost_reply_ratio = crash_ratio, lost_reply_ratio
        self.failed_ratio, self._full_disk_ratio = failed_ratio, full_disk_ratio
        self.disk = MemoryJournal()
        self.orders = MemoryOrders()
        self.clock = ManualClock()
        self.rows: dict[str, Any] = {f"row-{number}": 0 for number in range(8)}
        self.balance: Counter[str] = Counter()
        self.mails: list[str] = []
        self.effects: list[str] = []
        self.effects_after_halt: list[str] = []
        self.compensations: Counter[str] = Counter()
        self.crashes = 0
        self._reported: frozenset[str] | None = None  # in flight when the halt was acknowledged
        self._death_ratio = 0.0
        self._ids = CountingIds()
        self.guard = self.new_process()

    # --- the process and its tools ---

    def new_process(self) -> Guard:
        """A guard as a freshly started process would make it, with the world's tools declared on it."""
        journal = FaultyJournal(self.disk, lambda _: self.random.random() < self._full_disk_ratio)
        self.guard = Guard.over(journal, self.orders, clock=self.clock, ids=self._ids)
        self._declare(self.guard)
        return self.guard

    def _declare(self, guard: Guard) -> None:
        def row_key(row: str) -> str:
            return row

        effect = MappingKey(self.rows, key=row_key)

        @guard.write("row.set", effect=effect)
        def set_row(row: str, value: int) -> None:
            with _Happening(self):
                self.rows[row] = value

        @guard.write("balance.add")
        def add(amount: int) -> int:
            with _Happening(self):
                self.balance[str(idempotency_key())] += amount
            return amount

        @add.compensate
        def _(step: PastStep) -> None:
            self.perhaps_die()
            self.compensations[f"{step.run.run_id}/{step.step_id}"] += 1
            self.balance[f"{step.run.run_id}/{step.step_id}"] -= step.arguments["amount"]
            self.perhaps_die()

        @guard.write("mail.send", irreversible="a mail cannot be unsent")
        def send(text: str) -> None:
            with _Happening(self):
                self.mails.append(text)

        self._tools = (set_row.tool, add.tool, send.tool)

    def happened(self) -> None:
        """A tool's effect takes place now."""
        step = str(idempotency_key())
        self.effects.append(step)
        if self._reported is not None and step not in self._reported:
            self.effects_after_halt.append(step)

    # --- the story ---

    def run(self, *, calls: int, halt_at: int | None = None) -> "SimulatedWorld":
        """Make that many calls, some at once; halt everything before call `halt_at` begins, and go on trying."""
        begun, under_way, run = 0, list[_Call](), self._new_run()
        while begun < calls or under_way:
            if self.random.random() < self._crash_ratio:
                under_way, run = self._crash(under_way), self._new_run()
            if begun < calls and len(under_way) < CALLS_AT_ONCE:
                begun += 1
                if begun == halt_at:
                    self.halt()
                if run is None:
                    run = self._new_run()
                under_way += self._begin(run)
            elif under_way:
                call = self.random.choice(under_way)
                if self._advance(call):
                    under_way.remove(call)
            elif run is None:
                break
        return self

    def halt(self) -> None:
        """Place a halt on everything, and acknowledge it as a watcher would."""
        order = Order(
            order_id=self._ids.new_id("ord"),
            scope=Scope(),
            level=Level.HALTED,
            reason="the simulation says so",
            actor="world",
            placed_at=from_us(self.clock.now_us()),
        )
        self.orders.place(order)
        _, self._reported = self.guard.bind()

    def undo(self, *, death_ratio: float = 0.05) -> "SimulatedWorld":
        """Undo everything that any agent did, with a process that is killed again and again until it is through."""
        self._death_ratio = death_ratio
        while not self._undo_once():
            self.crashes += 1
            self._death_ratio *= 0.9  # or a long undo would never see its end
        self._death_ratio = 0.0
        return self

    def _undo_once(self) -> bool:
        guard = Guard.over(_MortalJournal(self, self.disk), self.orders, clock=self.clock, ids=self._ids)
        self._declare(guard)
        selection = Selection(agent="agent@1")
        try:
            plan = make_plan(guard.journal, selection, guard.compensators, self.clock)
            apply_plan(plan, guard.journal, guard.compensators, self.clock, self._ids, parallel=1, actor="world")
        except _KilledError:
            return False
        return True

    def perhaps_die(self) -> None:
        """The process may be killed here."""
        if self.random.random() < self._death_ratio:
            raise _KilledError

    def steps(self) -> list[StepRecord]:
        """Every step of the agents, as the journal knows it."""
        records = fold_steps(self.disk.entries(Query(), limit=_PAGE))
        return [record for record in records if record.run.agent_name == "agent"]

    def intended(self) -> set[str]:
        """`RUN/STEP` of every step that the journal has an intent of."""
        entries = self.disk.entries(Query(), limit=_PAGE)
        return {
            f"{entry.run.run_id}/{entry.event.step.step_id}" for entry in entries if isinstance(entry.event, Intended)
        }

    def _new_run(self) -> Run | None:
        # In a context of its own, as a new process has; or the run of a dead one would be its parent.
        fresh = contextvars.Context()
        run = fresh.run(self.guard.run, "agent@1", tenant="acme")
        try:
            return fresh.run(run.__enter__)
        except RescindError:
            return None

    def _begin(self, run: Run | None) -> list[_Call]:
        if run is None:
            return []
        tool = self.random.choice(self._tools)
        arguments_of: dict[str, dict[str, Any]] = {
            "row.set": {"row": self.random.choice(list(self.rows)), "value": self.random.randrange(100)},
            "balance.add": {"amount": self.random.randrange(1, 100)},
            "mail.send": {"text": f"mail {len(self.mails)}"},
        }
        arguments = arguments_of[tool.name]
        with run.activate():
            try:
                return [_Call(run, write_flow(WriteCall(tool, run, (), arguments, None)))]
            except StopIteration:
                return []

    def _advance(self, call: _Call) -> bool:
        """Answer the call's request; whether that was its last."""
        with call.run.activate():
            try:
                answer = perform(call.request, self.guard.journal)
            except Exception as error:  # noqa: BLE001  # the flow decides what an error means
                return call.ends_with(error)
            return call.goes_on_with(answer)

    def _crash(self, under_way: list[_Call]) -> list[_Call]:
        self.crashes += 1
        for call in under_way:
            call.die()
        self.new_process()
        if self._reported is not None:
            self.guard.bind()
        return []


class _Happening:
    """Around a tool's body: it may vouch that nothing happened, or do its work and lose its reply."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world

    def __enter__(self) -> None:
        if self._world.random.random() < self._world.failed_ratio:  # one mechanism in two classes
            raise NothingChanged("the tool declined")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._world.happened()
            if self._world.random.random() < self._world.lost_reply_ratio:
                raise LostReply


class _MortalJournal(FaultyJournal):
    """A journal in a process that may be killed right before or right after an append became durable."""

    def __init__(self, world: SimulatedWorld, journal: MemoryJournal) -> None:
        super().__init__(journal, lambda _: False)
        self._world, self._is_dead = world, False

    def append(self, drafts: Sequence[Draft]) -> Appended | SlotTaken:
        self._live_on()
        answer = super().append(drafts)
        self._live_on()
        return answer

    def _live_on(self) -> None:
        if not self._is_dead:
            try:
                self._world.perhaps_die()  # one mechanism in two classes
            except _KilledError:
                self._is_dead = True
        if self._is_dead:
            raise _KilledError  # also for whatever the dying process would still like to write


class CountingIds:
    """Ids in order: `run_1`, `run_2`."""

    def __init__(self) -> None:
        self._next = 0

    def new_id(self, prefix: str) -> str:
        """See `IdSource`."""
        self._next += 1
        return f"{prefix}_{self._next}"

    def new_trace_id(self) -> str:
        """See `IdSource`."""
        self._next += 1
        return f"{self._next:032x}"
