"""Whom a supervisor follows: the store of its machine, and the switches of its configuration."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rescind.clock import Clock
from rescind.config import SwitchConfig
from rescind.model.level import Level
from rescind.switch.client.lease import Lease
from rescind.switch.desk import open_store
from rescind.switch.presence import Presence
from rescind.switch.store import SqliteOrders
from rescind.switch.supervisor.run import SupervisedRun
from rescind.switch.watcher import Watcher

if TYPE_CHECKING:
    from rescind.switch.client.subscription import Subscription

LINGER_S = 0.5
"""How long a stopped supervisor stays in the register, so that whoever waits for the receipt reads that it drained."""


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """Where orders come from.

    Attributes:
        store: The folder of the store; it is made where there is none, as by a guard.
        switch: The switches, and what their silence means.
        token: What to show them.
        guard_id: Who follows.
        ends_on_silence: Whether the program is ended when the lease runs out. If it is not, silence holds nobody, and
            the switches are told so.
    """

    store: Path
    switch: SwitchConfig
    token: str
    guard_id: str
    ends_on_silence: bool


class Channels:
    """The open channels of one supervised run. Closed, the supervisor is out of every register."""

    def __init__(self, following: Following, orders: SqliteOrders, run: SupervisedRun, clock: Clock) -> None:
        self._following, self._orders, self._run, self._clock = following, orders, run, clock
        self._watcher = Watcher(orders, run, Presence(following.store, following.guard_id), clock)
        self._subscription: Subscription | None = None

    def start(self) -> None:
        """Be registered, and follow. When this returns, the standing orders are known, or `silence` says why not.

        Raises: OrdersUnavailable, if no stop of this machine would know of the program; ConfigError.
        """
        self._watcher.start()
        if self._following.switch.urls:
            self._subscription = self._subscribe()
            self._subscription.start()
            self._subscription.wait_for_first()

    def silence(self) -> str:
        """Why nobody can be heard who could stop the program; empty if everybody can, or could a moment ago."""
        ttl_s = self._following.switch.lease_ttl_s
        unreadable_s = self._run.unreadable_for_s()
        if unreadable_s > ttl_s:
            return f"the orders of this machine could not be read for {unreadable_s:.0f} s: {self._run.fault()}"
        return "" if self._subscription is None else self._subscription.silence()

    def close(self, *, linger: bool) -> None:
        """Leave. With `linger`, first let those who wait for a receipt see the end."""
        if linger:
            self._clock.sleep(LINGER_S)
        if self._subscription is not None:
            self._subscription.close()
        self._watcher.close()
        self._orders.close()

    def _subscribe(self) -> "Subscription":
        from rescind.switch.client.subscription import Subscription  # with asyncio and ssl, for those who follow any

        on_silence = Level.HALTED if self._following.ends_on_silence else Level.NORMAL
        return Subscription(
            self._run,
            guard_id=self._following.guard_id,
            switch=self._following.switch,
            token=self._following.token,
            clock=self._clock,
            lease=Lease(until_s=-math.inf, on_silence=on_silence),
        )


def open_orders(following: Following, clock: Clock) -> SqliteOrders:
    """The orders of this machine.

    Raises: UsageError, if what is there is no store of ours; OrdersUnavailable.
    """
    return open_store(following.store, create=True, clock=clock)
