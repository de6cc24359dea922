"""And when processes die between any two requests, race for one approval, and people decide at any moment?

Law W6 over many seeds: nothing is executed that was not approved before, with just these arguments; and nothing twice.
"""

import contextvars
import random
from collections import Counter
from typing import Any

import pytest

from rescind.config import ApprovalConfig
from rescind.errors import RescindError
from rescind.guard.call import WriteCall, idempotency_key
from rescind.guard.drive import perform
from rescind.guard.flow import write_flow
from rescind.guard.guard import Guard
from rescind.guard.request import Request, Threw
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.model.approval import fold_approvals
from rescind.model.entry import ApprovalUsed, Intended
from rescind.recovery.approvals import decide, list_approvals
from rescind.switch.memory import MemoryOrders
from rescind.testing import FaultyJournal, ManualClock
from rescind.testing.world import CountingIds

QUICK, SLOW = range(80), range(80, 2_000)


class _KilledError(BaseException):
    """The process is gone."""


class Process:
    """One of several that go on with the same run."""

    def __init__(self, world: "World") -> None:
        self.world = world
        journal = FaultyJournal(world.disk, lambda _: world.random.random() < 0.01)
        approval = ApprovalConfig(wait_s=world.random.choice([0, 5, 50]), expire_s=40)
        self.guard = Guard.over(journal, MemoryOrders(), clock=world.clock, ids=world.ids, approval=approval)
        self.guard.approval_reason = lambda _: "every payment needs one"
        self.pay = self.guard.write("pay", irreversible="a test")(self._pay)
        # A context of its own, as a process has.
        self.context = contextvars.Context()
        self.run = self.context.run(self.guard.run, "payer@1", run_id="run-1")
        self.context.run(self.run.__enter__)
        self.calls: list[Call] = []

    def _pay(self, to: list[str]) -> None:
        self.world.effects.append((str(idempotency_key()), tuple(to)))


class Call:
    """A call under way, and the list that somebody may change under it."""

    def __init__(self, process: Process, to: list[str]) -> None:
        self.process, self.to = process, to
        self.flow = write_flow(WriteCall(process.pay.tool, process.run, (to,), {}, None))
        with process.run.activate():
            self.request: Request = next(self.flow)

    def advance(self) -> bool:
        """Perform its request; whether it has ended by that."""
        with self.process.run.activate():
            try:
                try:
                    answer = perform(self.request, self.process.guard.journal)
                except RescindError as error:
                    self.request = self.flow.throw(error)
                else:
                    self.request = self.flow.send(answer)
            except StopIteration as done:
                self.process.world.ends[_end_of(done.value)] += 1
                return True
        return False

    def die(self) -> None:
        """Whatever the flow still asks for, nobody does."""
        with self.process.run.activate():
            try:
                while True:
                    self.flow.throw(_KilledError())
            except (StopIteration, _KilledError):
                return


class World:
    """Everything that happens is decided by one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk, self.clock, self.ids = MemoryJournal(), ManualClock(), CountingIds()
        self.effects: list[tuple[str, tuple[str, ...]]] = []
        self.ends: Counter[str] = Counter()
        self.processes = [Process(self) for _ in range(3)]

    def happen(self, turns: int) -> "World":
        for _ in range(turns):
            self.random.choices(
                (self._begin, self._advance, self._die, self._decide, self._change, self._pass_time),
                weights=(8, 60, 1.5, 5, 1, 4),
            )[0]()
        for process in self.processes:
            for call in process.calls:
                call.die()
        return self

    def _begin(self) -> None:
        process = self.random.choice(self.processes)
        if len(process.calls) < 4:
            process.calls.append(Call(process, [self.random.choice("abc")]))

    def _advance(self) -> None:
        process = self.random.choice(self.processes)
        if process.calls:
            call = self.random.choice(process.calls)
            if call.advance():
                process.calls.remove(call)

    def _die(self) -> None:
        process = self.random.choice(self.processes)
        for call in process.calls:
            call.die()
        self.processes[self.processes.index(process)] = Process(self)

    def _decide(self) -> None:
        waiting = list_approvals(self.disk, now=self.clock.now())
        if waiting:
            chosen, decision = self.random.choice(waiting), self.random.choice(["approved", "approved", "denied"])
            decide(self.disk, chosen.approval_id, decision, actor="olga", clock=self.clock)

    def _change(self) -> None:
        calls = [call for process in self.processes for call in process.calls]
        if calls:
            self.random.choice(calls).to.append("mallory")

    def _pass_time(self) -> None:
        self.clock.advance(self.random.choice([0.1, 1, 10]))


def _end_of(end: Any) -> str:
    return type(end.error).__name__ if isinstance(end, Threw) else "returned"


def check(seed: int) -> World:
    world = World(seed).happen(turns=600)
    entries = world.disk.entries(Query(), limit=100_000)
    approvals = {each.approval_id: each for each in fold_approvals(entries)}
    intents = {
        f"{each.run.run_id}/{each.event.step.step_id}": each for each in entries if isinstance(each.event, Intended)
    }
    uses = [each.event for each in entries if isinstance(each.event, ApprovalUsed)]

    assert len({use.approval_id for use in uses}) == len(uses), "one approval was used twice"
    assert len(intents) == len(uses), "an intent without an approval of its own"
    for step, to in world.effects:
        event = intents[step].event
        assert isinstance(event, Intended)
        recorded = event.step
        approval = approvals[str(recorded.approval_id)]
        assert str(approval.used) == step
        assert approval.decided is not None
        assert approval.decided.decision == "approved"
        assert approval.decided_at is not None
        assert approval.decided_at <= intents[step].recorded_at < approval.asked.expires_at
        assert list(to) == recorded.arguments["to"] == approval.asked.arguments["to"], "not what was approved"
    assert len({step for step, _ in world.effects}) == len(world.effects), "one step had two effects"
    return world


@pytest.mark.parametrize("seed", QUICK)
def test_w6_nothing_happens_unapproved_or_twice_whoever_dies_when(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_w6_holds_over_many_more_seeds(seed: int) -> None:
    check(seed)


def test_the_simulation_does_come_by_every_end() -> None:
    ends: Counter[str] = Counter()
    effects = 0
    for seed in QUICK:
        world = check(seed)
        ends += world.ends
        effects += len(world.effects)
    assert effects > 100
    assert {"returned", "ApprovalPending", "ApprovalDenied", "ApprovalVoid", "JournalUnavailable"} <= set(ends)
