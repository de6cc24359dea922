"""How a guard follows orders: those of its machine when their stamp has moved, those of switches as they are pushed."""

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rescind.clock import Clock, IdSource
from rescind.config import STORE_VARIABLE, URL_VARIABLE, SwitchConfig
from rescind.errors import RescindError
from rescind.guard.gate import UNSEEN
from rescind.guard.obeyed import Obeyed
from rescind.guard.stores import Stores, Watch
from rescind.journal.port import Journal
from rescind.model.level import Level
from rescind.switch.client.lease import Lease
from rescind.switch.port import LiveRun, Orders

if TYPE_CHECKING:
    from rescind.guard.governed import Governed
    from rescind.guard.holding import Hold
    from rescind.guard.run import Run
    from rescind.guard.watching import Watching
    from rescind.model.entry import StepRef
    from rescind.model.order import Order
    from rescind.model.scope import Scope, Subject
    from rescind.switch.client.signals import SignalPoster
    from rescind.switch.client.subscription import Subscription
    from rescind.switch.wire import Report

TELL_ON_CLOSE_S = 2.0
"""How long a guard that is closed waits until its last incidents are written down, and its last signals are told."""


class Following:
    """The runs of a guard, and the orders that they follow. The other parts are `Declarations` and `Guard` itself."""

    def __init__(self, stores: Stores, *, clock: Clock, ids: IdSource, switch: SwitchConfig, token: str) -> None:
        self.stores, self.clock, self.ids = stores, clock, ids
        self._switch, self._token = switch, token
        # Closed until a switch is heard, if it is to follow any: the gate asks the lease before it asks who has begun.
        until_s = -math.inf if switch.urls else math.inf
        store_until_s = -math.inf if stores.is_remote else math.inf
        self.lease = Lease(until_s=until_s, store_until_s=store_until_s, on_silence=Level.parse(switch.on_silence))
        self.guard_id = ids.new_id("guard")
        self.in_flight_steps: dict[StepRef, None] = {}
        self.watching: Watching | None = None
        self.teller: SignalPoster | None = None
        self._scope_holds: dict[tuple[Scope, int], Hold] = {}
        self._runs: dict[int, Run] = {}
        self._refresh_lock = threading.RLock()  # a signal's handler may come by here in the middle of it
        self._read_lock = threading.RLock()  # its own: a push must not wait for a disk
        self._obeyed = Obeyed(self.lease)
        self._watch: Watch | None = None
        self._subscription: Subscription | None = None
        self._watching = self._begins_to_watch = False
        self._watch_lock = threading.RLock()

    @property
    def journal(self) -> Journal:
        """Where intents and outcomes go."""
        return self.stores.journal

    @property
    def orders(self) -> Orders:
        """Which orders stand."""
        return self.stores.orders

    @property
    def lease_ttl_s(self) -> float:
        """After how long a silence, of all switches or of the database, this guard lowers itself."""
        return self._switch.lease_ttl_s

    @property
    def page(self) -> Sequence[int]:
        """The shared page of this machine's orders."""
        return self._obeyed.page

    def refresh(self, run: "Governed | None" = None) -> int:
        """Read the orders of this machine, and let every open run follow them. Returns the stamp now bound, or -1.

        Args:
            run: One that has to follow even if nothing has changed: it has just begun, or knows that it is behind.
        """
        self._start_watching()
        return self._read(run)

    def take_up(self, orders: "tuple[Order, ...]") -> frozenset[str]:
        """See `Follower`: these stand at the switches now."""
        with self._refresh_lock:
            self._obeyed.hear(orders)
            self._lead()
        # Read last: a step that was admitted by an older view was in flight before it was in every run's view (W2).
        return self.in_flight()

    def standing(self) -> "tuple[Order, ...]":
        """What stands now, on this machine and at the switches, the most severe first. Follows them from here on."""
        self._start_watching()
        if self._obeyed.page[0] != self._obeyed.stamp:
            self._read()
        return self._obeyed.orders

    def bind(self) -> tuple[int, frozenset[str]]:
        """See `Subscriber`."""
        stamp = self._read()  # the watcher's way: it must not begin another watch while this one is being closed
        return stamp, self.in_flight()

    def in_flight(self) -> frozenset[str]:
        """See `Subscriber`."""
        return frozenset(str(ref) for ref in list(self.in_flight_steps))

    def live_runs(self) -> tuple[LiveRun, ...]:
        """See `Subscriber`."""
        return tuple(run.report() for run in list(self._runs.values()))

    def fault(self) -> str:
        """See `Subscriber`."""
        subscription = self._subscription
        return self._obeyed.fault or ("" if subscription is None else subscription.silence())

    def notice(self) -> str:
        """See `Subscriber`: why a change of the policy's file is not in force, and which signals no switch has."""
        of_policy = "" if self.watching is None else self.watching.fault
        of_signals = "" if self.teller is None else self.teller.notice()
        return "; ".join(filter(None, (of_policy, of_signals)))

    def describe(self) -> "Report":
        """See `Follower`."""
        from rescind.guard.report import described

        runs = list(self._runs.values())
        return described(runs, self._obeyed.fault)

    def hold_runs(self, scope: "Scope", hold: "Hold") -> None:
        """Hold the runs of this process that a scope covers, those to come too, for a time or in place of an order.

        A scope that is limited to an action holds more than it says here: what cannot be ordered is not fine-tuned.
        """
        now_s = self.clock.boot_s()
        for key, earlier in self._scope_holds.copy().items():
            if earlier.until_s <= now_s:
                self._scope_holds.pop(key, None)
        self._scope_holds[scope, id(hold)] = hold
        for run in list(self._runs.values()):
            if scope.may_cover(run.info.subject):
                run.hold_at(hold)

    def fencing_number(self, subject: "Subject") -> int:
        """The fencing number that a run acts under, by the orders of this machine and those it hears of."""
        from rescind.model.lease import fencing_number
        from rescind.model.order import OrderSet

        try:
            known = self.orders.history()
        except RescindError:
            known = OrderSet()
        return fencing_number(known.merge(OrderSet.of(self.standing())), subject)

    def wait_for_switch(self) -> None:
        """Wait until a switch has been heard, if any are followed, or `start_within_s` is over."""
        if self._subscription is not None:
            self._subscription.wait_for_first()

    async def wait_for_switch_async(self) -> None:
        """As `wait_for_switch`, for a task."""
        if self._subscription is not None:
            await self._subscription.wait_for_first_async()

    def environment(self) -> dict[str, str]:
        """The variables by which another program finds the same store and the same switches.

        The address of a database is as it was given: whoever wrote a password into it hands that on.
        """
        place = self.stores.place
        named = "" if place is None else str(place) if isinstance(place, Path) else place.url
        found = {STORE_VARIABLE: named} if named else {}
        return found | ({URL_VARIABLE: " ".join(self._switch.urls)} if self._switch.urls else {})

    def close(self) -> None:
        """Stop following the switch, and make durable what is still on its way. A second close does nothing."""
        with self._watch_lock:
            watch, self._watch, self._watching = self._watch, None, False
            subscription = self._subscription
        self._unsettle()
        if self.watching is not None:
            self.watching.finish(TELL_ON_CLOSE_S)
        if self.teller is not None:
            self.teller.flush(TELL_ON_CLOSE_S)
        if subscription is not None:
            subscription.close()
        if watch is not None:
            watch.close()
        self._unsettle()  # once more: until they were closed, both could still put new views into the runs
        self.stores.close()

    def after_fork(self) -> None:
        """Begin anew in a forked child.

        The child is another process: it has its own id, its own acknowledgements, and none of the parent's calls. It is
        registered at its first call, when every part has got over the fork.
        """
        self.guard_id = self.ids.new_id("guard")
        self.in_flight_steps = {}
        self._refresh_lock, self._read_lock = threading.RLock(), threading.RLock()
        self._watch_lock = threading.RLock()
        self.stores.after_fork()
        if self.teller is not None:
            self.teller.reset_after_fork()
        if self.watching is not None:
            self.watching.after_fork()
        if self._switch.urls:
            self.lease.end()  # the parent's; this process must hear a switch itself
        if self.stores.is_remote:
            self.lease.end_store()
        for run in self._runs.values():
            run.after_fork()
        watch, self._watch, self._watching, self._begins_to_watch = self._watch, None, False, False
        if self._subscription is not None:
            self._subscription.abandon()
        if watch is not None:
            watch.abandon()

    def _read(self, run: "Governed | None" = None) -> int:
        with self._read_lock:
            standing = self._obeyed.look(self.orders)
            with self._refresh_lock:
                before = self._obeyed.version
                self._obeyed.read(standing)
                if self._obeyed.version != before:  # with ten thousand runs, leading all of them for each is too much
                    self._lead()
                elif run is not None:
                    run.follow(self._obeyed)
                return self._obeyed.stamp

    def _lead(self) -> None:
        for run in list(self._runs.values()):
            run.follow(self._obeyed)

    def _unsettle(self) -> None:
        for run in list(self._runs.values()):
            run.view = UNSEEN  # whoever goes on all the same is registered again before the next call

    def _start_watching(self) -> None:
        if self._watching:
            return
        with self._watch_lock:
            if self._watching or self._begins_to_watch:  # the latter: a signal's handler in the middle of it
                return
            self._begins_to_watch = True
            try:
                self._subscribe()
                self._watch = self.stores.watch(self)
                self._watching = True  # last: another thread that sees it acts, and must find the guard registered
            except BaseException:
                if self._subscription is not None:
                    self._subscription.close()
                raise
            finally:
                self._begins_to_watch = False

    def _subscribe(self) -> None:
        if not self._switch.urls:
            return
        from rescind.switch.client.subscription import Subscription  # with asyncio and ssl, for those who follow any

        before = self._subscription
        if before is not None and before.guard_id == self.guard_id:
            # It has said goodbye under this name, by another connection; whoever hears that late must not believe it.
            self.guard_id = self.ids.new_id("guard")
        self._subscription = Subscription(
            self,
            guard_id=self.guard_id,
            switch=self._switch,
            token=self._token,
            clock=self.clock,
            lease=self.lease,
            before=before,
        )
        self._subscription.start()
