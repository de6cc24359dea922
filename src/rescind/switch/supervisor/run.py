"""The one run of a supervisor: what orders say about it, and what is said of it to those who ask.

Threads that follow the orders (the watcher of the store, the subscription to the switches) come by here with news and
wake the supervisor's loop; the loop reads what they left and does nothing that could wait for a disk or a network.

The program is one step, `RUN/process`: admitted when it is started, in flight until the last process of it has ended.
So the receipts of guards mean the same for it: *bound*, no program is started under older orders; *drained*, and none
runs that was started before. An order that it cannot obey is therefore bound and never drained, as long as it runs.
"""

import os
import socket
import threading
from collections.abc import Callable

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable
from rescind.model.level import Level
from rescind.model.order import Order
from rescind.model.step import RunInfo
from rescind.switch.port import LiveRun, Orders
from rescind.switch.supervisor.ruling import Ruling, rule
from rescind.switch.watcher import program_name
from rescind.switch.wire import Ended, Report, RunDoc

STEP = "process"

_NEVER_SETTLED = -1

ENDED_MAX = 100
"""Ended processes that are remembered for reports, the latest."""


class SupervisedRun:
    """A `Subscriber` and a `Follower` whose only step is a program. Thread-safe; methods for the loop never wait."""

    def __init__(
        self, run: RunInfo, orders: Orders, *, act_at: Level, clock: Clock, wake: Callable[[], None] = lambda: None
    ) -> None:
        """A run whose program has not been started.

        Args:
            run: Whom an order may cover.
            orders: The standing orders of this machine.
            act_at: The lowest level that ends the program.
            clock: The time.
            wake: Called from any thread when there is news; must not wait.
        """
        self.run = run
        self._orders, self._act_at, self._clock, self._wake = orders, act_at, clock, wake
        self._lock = threading.Lock()
        self._stamp, self._here, self._fault = _NEVER_SETTLED, tuple[Order, ...](), ""
        self._fault_since_s: float | None = None
        self._elsewhere: tuple[Order, ...] = ()
        self._ruling = Ruling()
        self._running = self._latched = False
        self._ended: tuple[Ended, ...] = ()

    # --- for the loop ---

    @property
    def ruling(self) -> Ruling:
        """What the newest known orders say."""
        return self._ruling

    @property
    def ended(self) -> tuple[Ended, ...]:
        """The processes of this run that have ended, those of the oldest program first."""
        return self._ended

    @property
    def is_running(self) -> bool:
        """Whether the program runs, or will be started without another look at the orders."""
        return self._running

    def unreadable_for_s(self) -> float:
        """For how long the orders of this machine could not be read; 0 while they can."""
        since_s = self._fault_since_s
        return 0.0 if since_s is None else self._clock.monotonic_s() - since_s

    def admit(self) -> Ruling:
        """Take up the newest orders and, if none ends the program, count it as running from here on.

        Reads the store, so it is called only while nothing runs. Returns the ruling under which that was decided.
        """
        self._refresh()
        with self._lock:
            # One lock with `_rule`: whoever binds an order from now on finds the program in flight.
            self._running = not self._ruling.ending
            return self._ruling

    def latch(self) -> None:
        """The run is being ended by an order or a silence; it does not begin again, whatever is lifted."""
        self._latched = True

    def has_ended(self, *ended: Ended, for_good: bool) -> None:
        """The last process of a program has ended; `for_good` if no other program is to be started."""
        with self._lock:
            self._ended = (*self._ended, *ended)[-ENDED_MAX:]
            self._running = not for_good

    def give_up(self) -> None:
        """Nothing runs, and nothing will be started."""
        with self._lock:
            self._running = False

    # --- for those who follow the orders ---

    def bind(self) -> tuple[int, frozenset[str]]:
        """See `Subscriber`."""
        stamp = self._refresh()
        return stamp, self._covered()

    def in_flight(self) -> frozenset[str]:
        """See `Subscriber`."""
        return frozenset((f"{self.run.run_id}/{STEP}",)) if self._running else frozenset()

    def notice(self) -> str:
        """See `Subscriber`: nothing."""
        return ""

    def live_runs(self) -> tuple[LiveRun, ...]:
        """See `Subscriber`."""
        return (LiveRun(run=self.run, level=self._ruling.level, latched=self._latched),)

    def fault(self) -> str:
        """See `Subscriber`: why the orders of this machine cannot be followed."""
        return self._fault

    def take_up(self, orders: tuple[Order, ...]) -> frozenset[str]:
        """See `Follower`."""
        with self._lock:
            self._elsewhere = orders
            self._rule()
            covered = self._covered()
        self._wake()
        return covered

    def describe(self) -> Report:
        """See `Follower`."""
        run = self.run
        return Report(
            kind="supervisor",
            pid=os.getpid(),
            host=socket.gethostname(),
            program=program_name(),
            agent=run.agent,
            runs=(
                RunDoc(
                    run_id=run.run_id,
                    agent=run.agent,
                    tenant=run.tenant,
                    workflow=run.workflow,
                    ancestors=run.ancestors,
                    level=self._ruling.level.label,
                    halted=self._latched,
                ),
            ),
            runs_open=1,
            fault=self._fault or self._disobedience(),
            ended=self._ended,
        )

    def _covered(self) -> frozenset[str]:
        # A program that no order covers keeps no order's receipt waiting.
        return self.in_flight() if self._ruling.ending or self._ruling.unheeded else frozenset()

    def _disobedience(self) -> str:
        unheeded = self._ruling.unheeded
        if not unheeded or self._ruling.ending:
            return ""
        named = ", ".join(f"{order.order_id} ({order.level.label})" for order in unheeded[:5])
        return f"its program cannot obey {named} and goes on; it is ended at {self._act_at.label}"

    def _refresh(self) -> int:
        try:
            standing = self._orders.standing()
        except OrdersUnavailable as error:
            with self._lock:
                # What stood goes on standing.
                self._fault = str(error)
                if self._fault_since_s is None:
                    self._fault_since_s = self._clock.monotonic_s()
            self._wake()
            return _NEVER_SETTLED
        stamp = standing.stamp if standing.settled else _NEVER_SETTLED
        with self._lock:
            self._fault, self._fault_since_s = "", None
            if not _NEVER_SETTLED < stamp < self._stamp:  # another thread has read newer ones meanwhile
                self._stamp, self._here = stamp, standing.orders
                self._rule()
        self._wake()
        return stamp

    def _rule(self) -> None:
        self._ruling = rule((*self._here, *self._elsewhere), self.run.subject, act_at=self._act_at)
