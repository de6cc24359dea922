"""The thread that follows the switch for a guard, so that a stop is acknowledged even while no call is made.

The gate looks at the stamp on every call; a stop takes hold without this thread. What the thread adds: runs that make
no call are held too, somebody outside learns that the order was taken up and when the last call under older orders
ended, and files that are deleted or replaced are noticed.

    stamp moved ─▶ bind ─▶ report "bound" ─▶ … the calls admitted before end … ─▶ report "drained"

Every look may fail and none ends the thread: what failed stands in the report as its fault, and is tried again.
"""

import contextlib
import math
import os
import sys
import threading
from typing import Protocol

from rescind.clock import Clock
from rescind.switch.port import GuardReport, LiveRun, Orders, Subscriber

POLL_S = 0.005
"""How often the stamp is looked at. The look takes 0.3 µs and waking up for it about 30 µs on a small virtual machine:
below one percent of a core. A stop does not wait for it, since every call looks at the stamp itself."""

CHECK_S = 0.25
"""How often files are checked, and what failed is tried again."""

REPORT_S = 0.2
"""The least time between two reports that only say which runs are open, or which calls have ended."""

ODD_S = 0.05
"""How long an odd stamp is given to become even. A commit takes milliseconds; after this its writer may be dead."""

_REPORT_SHARE = 50
"""A report may take one part in so many of the thread's time; a guard with 100,000 runs reports less often."""

_CLOSE_S = 2.0
_NOTHING = -1
"""Less than any stamp."""

_PROGRAM_LENGTH_MAX = 200


class WatchedOrders(Orders, Protocol):
    """Orders that can tell whether their files are still the ones in place."""

    def is_current(self) -> bool:
        """Whether what is mapped and open is still what others find at the path."""
        ...


class Entry(Protocol):
    """A guard's entry in a register of guards: files of this machine, or a row in a database."""

    @property
    def guard_id(self) -> str:
        """As it is called there."""
        ...

    def register(self) -> None:
        """Appear as living. A second call repairs what was removed, and else does nothing.

        Raises: OrdersUnavailable. The guard must then not act, since no stop would know of it.
        """
        ...

    def is_registered(self) -> bool:
        """Whether others see this guard as living, as far as can be told at once."""
        ...

    def publish(self, report: GuardReport) -> None:
        """Replace the report, now or soon. Raises: OSError; the last report then goes on to stand."""
        ...

    def close(self) -> None:
        """Disappear. In a forked child: only let go of what is the parent's."""
        ...

    def reset_after_fork(self) -> None:
        """In a child: let go of what is the parent's."""
        ...


class Watcher:
    """Follows the orders for one guard, in one process. A forked child makes its own (see `abandon`)."""

    def __init__(
        self,
        orders: WatchedOrders,
        subscriber: Subscriber,
        presence: Entry,
        clock: Clock,
        poll_s: float = POLL_S,
    ) -> None:
        """A watcher that has not begun: see `start`."""
        self._orders, self._subscriber, self._presence = orders, subscriber, presence
        self._clock, self._poll_s = clock, poll_s
        self._started_at_us = clock.now_us()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen = _NOTHING  # the stamp at the last look
        self._bound_stamp, self._bound_at_s = _NOTHING, clock.monotonic_s()
        self._pending: frozenset[str] = frozenset()  # admitted before the last binding, and running still
        self._drained_at_s: float | None = None
        self._trouble = ""
        self._published: GuardReport | None = None
        self._bind_at_s = self._check_at_s = self._report_at_s = 0.0  # the next moment for each

    def start(self) -> None:
        """Register the guard, bind the standing orders, and follow them from here on.

        When this returns, whoever places an order finds this guard in the register.

        Raises: OrdersUnavailable, if the guard cannot be registered; it must then not act.
        """
        if self.is_running():
            return
        self._presence.register()
        self._closing = threading.Event()
        self._published = None
        self._bind_at_s = self._check_at_s = self._report_at_s = 0.0
        try:
            self._look()
        except Exception as error:  # noqa: BLE001  # the thread tries again, and the report says so
            self._failed(error)
        self._thread = threading.Thread(target=self._follow, name="rescind-watcher", daemon=True)
        self._thread.start()

    def is_running(self) -> bool:
        """Whether the thread is alive. In a forked child it is not."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop, and take the guard out of the register. A second close does nothing."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_S)
        self._presence.close()

    def abandon(self) -> None:
        """In a forked child: forget the parent's thread and registration, and touch neither."""
        self._thread = None
        self._presence.reset_after_fork()

    # --- the thread ---

    def _follow(self) -> None:
        closing = self._closing
        while not closing.wait(self._poll_s):
            try:
                self._look()
            except BaseException as error:  # noqa: BLE001  # a thread that died in silence would acknowledge nothing
                self._failed(error)

    def _look(self) -> None:
        now_s = self._clock.monotonic_s()
        stamp = self._orders.page[0]
        if stamp != self._seen:
            self._seen = stamp
            self._bind_at_s = now_s + ODD_S if stamp % 2 else now_s
        if now_s >= self._check_at_s:
            self._check(now_s)
        if now_s >= self._bind_at_s:
            self._bind()
            self._publish()
        elif self._pending and self._has_drained():
            self._publish()
        if now_s >= self._report_at_s:
            self._publish()

    def _check(self, now_s: float) -> None:
        self._check_at_s = now_s + CHECK_S
        unsettled = self._seen % 2 or self._trouble or self._subscriber.fault()
        if unsettled or not self._orders.is_current():
            self._bind_at_s = now_s
        if not self._presence.is_registered() and not self._closing.is_set():
            self._published = None
            self._presence.register()

    def _bind(self) -> None:
        self._bind_at_s = math.inf  # first: what raises is tried again at the next check, and not at once
        stamp, admitted = self._subscriber.bind()
        self._trouble = ""
        # Orders that could not be read, or were read in the middle of a change, leave the last binding as it was.
        if stamp > self._bound_stamp:
            now_s = self._clock.monotonic_s()
            self._bound_stamp, self._bound_at_s, self._pending = stamp, now_s, admitted
            self._drained_at_s = None if admitted else now_s

    def _has_drained(self) -> bool:
        self._pending &= self._subscriber.in_flight()
        if self._pending:
            return False
        self._drained_at_s = self._clock.monotonic_s()
        return True

    # --- the report ---

    def _publish(self) -> None:
        started_s = self._clock.monotonic_s()
        self._report_at_s = started_s + REPORT_S  # first, for the same reason as in `_bind`
        self._send(self._report(self._subscriber.live_runs(), self._subscriber.fault()))
        took_s = self._clock.monotonic_s() - started_s
        self._report_at_s = started_s + max(REPORT_S, took_s * _REPORT_SHARE)

    def _failed(self, error: BaseException) -> None:
        self._trouble = f"the watcher of this guard failed: {type(error).__name__}: {error}"
        runs = self._published.runs if self._published else ()
        with contextlib.suppress(Exception):  # if even this cannot be said, the guard stays unknown to others
            self._send(self._report(runs, ""))

    def _send(self, report: GuardReport) -> None:
        if report != self._published:
            self._presence.publish(report)
            self._published = report

    def _report(self, runs: tuple[LiveRun, ...], fault: str) -> GuardReport:
        return GuardReport(
            guard_id=self._presence.guard_id,
            pid=os.getpid(),
            program=program_name(),
            started_at_us=self._started_at_us,
            bound_stamp=self._bound_stamp,
            bound_at_s=self._bound_at_s,
            drained_at_s=self._drained_at_s,
            in_flight=tuple(sorted(self._pending)),
            runs=runs,
            fault=self._trouble or fault,
            notice=self._subscriber.notice(),
        )


def program_name() -> str:
    """What runs here, for people: without its arguments, which may hold secrets."""
    name = sys.argv[0] if sys.argv and sys.argv[0] else sys.executable
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:_PROGRAM_LENGTH_MAX]
