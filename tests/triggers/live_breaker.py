"""A breaker as users run it: a guard under a policy, a write that ends as it is told, and a store of orders."""

import contextlib
import enum
import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rescind.errors import CallDenied, NothingChanged, UsageError, VerificationFailed
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.model.entry import Signalled
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope
from rescind.model.signal import SignalKind
from rescind.switch.desk import lift_scope, new_order
from rescind.switch.memory import MemoryOrders
from rescind.switch.store import SqliteOrders
from rescind.testing.clock import ManualClock
from rescind.triggers.known import detector_names
from rescind.triggers.policy_file import LOOK_EVERY_S, PolicyFile
from rescind.triggers.probing import US, ProbeRule, Round, following
from rescind.triggers.rates import RatesConfig

if TYPE_CHECKING:
    from rescind.guard.effect import PastStep

ACTION, AGENT = "shelf.put", "clerk@1"
SCOPE = Scope.parse(f"action:{ACTION}+agent:{AGENT}")

LONG_S = 20.0
"""Longer than anything here takes: what has not happened by then never will."""


class Fate(enum.Enum):
    """How the tool of a write ends."""

    GOOD = enum.auto()
    FAILED = enum.auto()  # and it vouches that nothing changed
    LOST = enum.auto()  # and nobody knows what it did
    ODD = enum.auto()  # it completes, and its postcondition does not hold


class Watched(enum.StrEnum):
    """What the policy's file says of rates."""

    ENFORCED = "enforced"
    SHADOW = "shadow"
    OFF = "off"


class Seen(NamedTuple):
    """A round, in seconds of the clock of calls. Of each probe, by number: claimed at, ended at, succeeded.

    Its cooldown is over, and nobody asks any more when that began, once there is a probe; a file does not keep it.
    """

    number: int
    opened_at: float | None
    probes: list[tuple[float, float | None, bool | None]]


class UnderWay:
    """A write whose tool runs, until it is told how it ends."""

    def __init__(self, name: str) -> None:
        self.name, self.fate = name, Fate.GOOD
        self.go_on = threading.Event()
        self.said: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()  # None: its tool has begun
        self.thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.thread is not None and self.thread.is_alive()


class _Broke(Exception):
    """What the tool raises."""


class LiveBreaker:
    """The breaker of one agent and action. Every write is of a run of its own: a breaker is fed by all of them."""

    def __init__(self, folder: Path, orders: MemoryOrders | SqliteOrders | None = None, **rates: Any) -> None:
        self.orders, self.clock = orders or MemoryOrders(), ManualClock()
        self.clock.advance(100)
        self._rates, self._path = rates, folder / "rescind.yaml"
        self.rule: ProbeRule = RatesConfig(**rates).probe_rule
        self._write(Watched.ENFORCED)
        self.journal = MemoryJournal()
        self.guard = Guard.over(self.journal, self.orders, clock=self.clock, policy=PolicyFile(self._path))
        self._calls: dict[str, UnderWay] = {}
        self._changing = ""  # whose arguments change while they are recorded
        self._read = 0
        self._kinds: dict[str, SignalKind] = {}
        put = self.guard.write(ACTION, target=self._target, irreversible="sold")(self._tool)
        put.verify(self._is_there)
        self._put = put

    @property
    def now_s(self) -> int:
        return round(self.clock.boot_s())

    # --- calls ---

    def begin(self) -> UnderWay | CallDenied:
        """A write in a thread of its own: its tool runs, or it is refused."""
        call = self._new_call()
        call.thread = threading.Thread(target=self._make, args=(call,))
        call.thread.start()
        problem = call.said.get(timeout=LONG_S)
        if problem is None:
            return call
        call.thread.join(LONG_S)
        if not isinstance(problem, CallDenied):
            raise problem
        return problem

    def end(self, call: UnderWay, fate: Fate) -> list[Signalled]:
        """What was noticed when it ended like this."""
        call.fate = fate
        call.go_on.set()
        assert call.thread is not None
        call.thread.join(LONG_S)
        assert not call.thread.is_alive()
        assert call.said.empty(), call.said.get()
        return self.noticed()

    def call(self, fate: Fate = Fate.GOOD) -> list[Signalled] | CallDenied:
        """A whole write, which takes no time: what was noticed at it, or its refusal."""
        call = self._new_call()
        call.fate = fate
        call.go_on.set()
        self._make(call)
        problem = call.said.get(timeout=0)
        assert problem is None or isinstance(problem, CallDenied), problem
        assert call.said.empty(), call.said.get()
        return self.noticed() if problem is None else problem

    def withdraw(self) -> CallDenied | None:
        """A write that passes the gate, and whose tool does not run after all; or its refusal."""
        call = self._new_call()
        self._changing = call.name
        self._make(call)
        problem = call.said.get(timeout=0)
        if isinstance(problem, CallDenied):
            return problem
        assert isinstance(problem, UsageError), problem
        return None

    def trip(self) -> None:
        """Let it fail until it is open."""
        for _ in range(100):
            if self.standing():
                return
            assert isinstance(self.call(Fate.FAILED), list)
        raise AssertionError("it does not trip")

    def noticed(self) -> list[Signalled]:
        """The signals that are new in the journal."""
        found: list[Signalled] = []
        while entries := self.journal.entries(Query(), after=self._read):
            self._read = entries[-1].sequence
            found += [entry.event for entry in entries if isinstance(entry.event, Signalled)]
        self._kinds |= {event.signal.signal_id: event.signal.kind for event in found}
        return found

    def _new_call(self) -> UnderWay:
        call = UnderWay(f"call {len(self._calls) + 1}")
        self._calls[call.name] = call
        return call

    def _make(self, call: UnderWay) -> None:
        try:
            with self.guard.run(AGENT):
                self._put([call.name])
        except (_Broke, NothingChanged, VerificationFailed):
            pass
        except BaseException as error:  # noqa: BLE001  # told to whoever waits in another thread
            call.said.put(error)

    def _target(self, what: list[str]) -> tuple[str, str, str]:
        if what[0] == self._changing:
            what.append("later")
        return "shop", "shelf", what[0]

    def _tool(self, what: list[str]) -> None:
        call = self._calls[what[0]]
        call.said.put(None)
        assert call.go_on.wait(LONG_S)
        if call.fate is Fate.FAILED:
            raise NothingChanged("the shelf is full")
        if call.fate is Fate.LOST:
            raise _Broke

    def _is_there(self, step: "PastStep") -> bool:
        return self._calls[step.arguments["what"][0]].fate is not Fate.ODD

    # --- people ---

    def force_open(self) -> None:
        order = new_order(
            SCOPE,
            Level.READ_ONLY,
            measure=Measure.FORCED_OPEN,
            reason="the shelf is being rebuilt",
            actor="ann",
            clock=self.clock,
            ids=self.guard.ids,
        )
        self.orders.place(order)

    def reset(self) -> None:
        lift_scope(self.orders, SCOPE, reason="mended", actor="ann", clock=self.clock, ids=self.guard.ids)

    def set_watched(self, watched: Watched) -> None:
        """Change the policy's file, and wait until the next call looks at it."""
        self._write(watched)
        self.clock.advance(2 * LOOK_EVERY_S)

    def _write(self, watched: Watched) -> None:
        rates = "off" if watched is Watched.OFF else json.dumps(self._rates)
        lines = [f"    {name}: {rates if name == 'rates' else 'off'}" for name in detector_names()]
        mode = "shadow" if watched is Watched.SHADOW else "enforce"
        self._path.write_text("\n".join(["policy:", f"  mode: {mode}", "  detect:", *lines, ""]))

    # --- what stands ---

    def standing(self, measure: Measure = Measure.TRIP) -> tuple[Order, ...]:
        return tuple(order for order in self.orders.standing().orders if order.measure is measure)

    def rounds(self) -> dict[SignalKind, Seen]:
        """The present round of each trip that stands, by what it tripped for."""
        found = {}
        for order in self.standing():
            latest = self.orders.probing(order.order_id)
            assert latest is not None
            assert (order.scope, order.level) == (SCOPE, Level.READ_ONLY)
            found[self._kinds[order.cause]] = self._seen(following(latest, self.clock.now_us(), self.rule))
        assert len(found) == len(self.standing())
        return found

    def _seen(self, current: Round) -> Seen:
        began_us = self.clock.now_us() - round(self.clock.boot_s() * US)
        probes = [
            (
                (probe.claimed_at_us - began_us) / US,
                None if probe.ended_at_us is None else (probe.ended_at_us - began_us) / US,
                probe.succeeded,
            )
            for probe in current.probes
        ]
        opened_at = None if probes else (current.opened_at_us - began_us) / US
        return Seen(current.number, opened_at, probes)

    def state(self) -> str:
        """In the words of docs/breakers.md."""
        if self.standing(Measure.FORCED_OPEN):
            return "forced open"
        rounds = self.rounds().values()
        if not rounds:
            return "closed"
        return "half-open" if all(each.probes for each in rounds) else "open"

    def close(self) -> None:
        """Let every call end, well."""
        for call in self._calls.values():
            call.go_on.set()
        for call in self._calls.values():
            if call.thread is not None:
                call.thread.join(LONG_S)
        self.guard.close()


@contextlib.contextmanager
def a_breaker(folder: Path, orders: MemoryOrders | SqliteOrders | None = None, **rates: Any) -> Iterator[LiveBreaker]:
    """One that is closed in the end."""
    breaker = LiveBreaker(folder, orders, **rates)
    try:
        yield breaker
    finally:
        breaker.close()
