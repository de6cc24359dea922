"""What guards need from a switch, and what a switch needs from guards.

S1. Reading `page[0]` makes no system call. The number is even while the set is at rest, and has moved once a place
    or lift has returned.
S2. An odd number means: a change is under way, or its writer died. Whoever sees it rereads the set on every check.
S3. A returned place or lift is durable and visible to every process of the machine that reads the set afterwards.
    Where several machines share a store, the number moves at another one when that hears of it, and is odd from when
    it has heard nothing for a lease: see `switch.postgres.hearing`.
S4. A set that cannot be read raises `OrdersUnavailable`; guards then refuse writes.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from rescind.model.level import Level
from rescind.model.order import Lift, Order, OrderSet
from rescind.model.step import RunInfo


class Standing(msgspec.Struct, frozen=True):
    """The standing orders, most severe first, and the stamp that was read *before* they were."""

    stamp: int
    orders: tuple[Order, ...]

    @property
    def settled(self) -> bool:
        """Whether these orders may be kept until the stamp moves (law S2)."""
        return self.stamp % 2 == 0


class Orders(Protocol):
    """The set of standing orders of one machine."""

    @property
    def page(self) -> Sequence[int]:
        """The shared page; `page[0]` is the stamp."""
        ...

    def standing(self) -> Standing:
        """What stands now.

        Raises: OrdersUnavailable (S4).
        """
        ...

    def history(self) -> OrderSet:
        """All orders and lifts ever placed here.

        Raises: OrdersUnavailable (S4).
        """
        ...

    def place(self, order: Order) -> None:
        """Add an order; durable on return (S3).

        Raises: OrdersUnavailable, and then it is not known to stand.
        """
        ...

    def lift(self, lift: Lift) -> None:
        """Add a lift; durable on return (S3).

        Raises: OrdersUnavailable, and then its orders are not known to be lifted.
        """
        ...


class LiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that a guard holds open, with the level it is held at and whether it was ended by a halt."""

    run: RunInfo
    level: Level
    latched: bool = False


class GuardReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a guard last said of itself.

    Attributes:
        guard_id: Unique per guard and process; a forked child has its own.
        pid: Process id.
        program: What runs there, for people.
        started_at_us: Wall clock, microseconds since 1970.
        bound_stamp: The stamp of the newest orders it has bound: no step is admitted under older ones.
        bound_at_s: Machine-wide monotonic clock, when that was.
        drained_at_s: When the steps that were in flight at that moment had all ended; None while some have not.
        in_flight: `RUN/STEP` of those still running.
        runs: The runs it holds open.
        fault: Why it has lowered itself to read-only, if it cannot read the orders; empty otherwise.
        notice: What somebody should mend although it holds nobody back, such as a policy that cannot be read.
    """

    guard_id: str
    pid: int
    program: str
    started_at_us: int
    bound_stamp: int
    bound_at_s: float
    drained_at_s: float | None
    in_flight: tuple[str, ...]
    runs: tuple[LiveRun, ...]
    fault: str = ""
    notice: str = ""


class Subscriber(Protocol):
    """A guard, as its watcher thread sees it. All methods are thread-safe and quick."""

    def bind(self) -> tuple[int, frozenset[str]]:
        """Take up the standing orders.

        When this returns, no step will be admitted under older orders. Returns the stamp that is now bound and the
        steps (`RUN/STEP`) admitted before that may still be running.
        """
        ...

    def in_flight(self) -> frozenset[str]:
        """The steps that are running now."""
        ...

    def live_runs(self) -> tuple[LiveRun, ...]:
        """The runs that are open now."""
        ...

    def fault(self) -> str:
        """Why the guard refuses writes on its own account; empty if it does not."""
        ...

    def notice(self) -> str:
        """What somebody should mend although it holds nobody back; empty if there is nothing."""
        ...
