"""Whom a supervisor follows: the store of its machine, and the switches of its configuration."""

from pathlib import Path

import msgspec

from rescind.clock import Clock
from rescind.config import SwitchConfig
from rescind.switch.desk import open_store
from rescind.switch.presence import Presence
from rescind.switch.store import SqliteOrders
from rescind.switch.supervisor.run import SupervisedRun
from rescind.switch.watcher import Watcher

LINGER_S = 0.5
"""How long a stopped supervisor stays in the register, so that whoever waits for the receipt reads that it drained."""


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """Where orders come from.

    Attributes:
        store: The folder of the store; it is made where there is none, as by a guard.
        switch: The switches, and what their silence means.
        token: What to show them.
        guard_id: Who follows.
    """

    store: Path
    switch: SwitchConfig
    token: str
    guard_id: str


class Channels:
    """The open channels of one supervised run. Closed, the supervisor is out of every register."""

    def __init__(self, following: Following, orders: SqliteOrders, run: SupervisedRun, clock: Clock) -> None:
        self._following, self._orders, self._run, self._clock = following, orders, run, clock
        self._watcher = Watcher(orders, run, Presence(following.store, following.guard_id), clock)

    def start(self) -> None:
        """Be registered, and follow. When this returns, the standing orders are known, or `silence` says why not.

        Raises: OrdersUnavailable, if no stop of this machine would know of the program.
        """
        self._watcher.start()

    def silence(self) -> str:
        """Why nobody can be heard who could stop the program; empty if everybody can, or could a moment ago."""
        ttl_s = self._following.switch.lease_ttl_s
        unreadable_s = self._run.unreadable_for_s()
        if unreadable_s > ttl_s:
            return f"the orders of this machine could not be read for {unreadable_s:.0f} s: {self._run.fault()}"
        return ""

    def close(self, *, linger: bool) -> None:
        """Leave. With `linger`, first let those who wait for a receipt see the end."""
        if linger:
            self._clock.sleep(LINGER_S)
        self._watcher.close()
        self._orders.close()


def open_orders(following: Following, clock: Clock) -> SqliteOrders:
    """The orders of this machine.

    Raises: UsageError, if what is there is no store of ours; OrdersUnavailable.
    """
    return open_store(following.store, create=True, clock=clock)
