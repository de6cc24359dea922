"""Whom a supervisor follows: the store of its machine, and the switches of its configuration."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rescind.clock import Clock
from rescind.config import SwitchConfig
from rescind.errors import UsageError
from rescind.model.level import Level
from rescind.switch.client.lease import Lease
from rescind.switch.desk import open_store
from rescind.switch.presence import Presence
from rescind.switch.supervisor.run import SupervisedRun
from rescind.switch.watcher import Entry, Watcher

if TYPE_CHECKING:
    from rescind.database.address import StoreAt
    from rescind.switch.client.subscription import Subscription
    from rescind.switch.desk import StoreOrders

LEASE_TTL_S_MAX = 600.0
"""The longest lease of a configuration. The grace counts: so long after it fell silent, a program may still act."""

LINGER_S = 0.5
"""How long a stopped supervisor stays in the register, so that whoever waits for the receipt reads that it drained."""


_START_WITHIN_S = 10.0
_LOOK_S = 1.0  # more than the looks of watcher and loop take together


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """Where orders come from.

    Attributes:
        store: The folder of the store, or its database; it is made where there is none, as by a guard.
        switch: The switches, and what their silence means.
        token: What to show them.
        guard_id: Who follows.
        ends_on_silence: Whether the program is ended when the lease runs out. If it is not, silence holds nobody, and
            the switches are told so.
        grace_s: How long it may go on after the lease has run out.
    """

    store: "StoreAt"
    switch: SwitchConfig
    token: str
    guard_id: str
    ends_on_silence: bool
    grace_s: float


class _EarlyLease(Lease):
    """A lease that runs out early enough for the program to be dead when it has run out at the switches.

    They are told the sum of lease and grace, and from that they reckon when the silent are known to be harmless.
    """

    __slots__ = ("_early_s",)

    def __init__(self, *, early_s: float, on_silence: Level) -> None:
        super().__init__(until_s=-math.inf, on_silence=on_silence)
        self._early_s = early_s

    def extend(self, until_s: float) -> None:
        """See `Lease`."""
        super().extend(until_s - self._early_s)


class Channels:
    """The open channels of one supervised run. Closed, the supervisor is out of every register."""

    def __init__(self, following: Following, orders: "StoreOrders", run: SupervisedRun, clock: Clock) -> None:
        self._following, self._orders, self._run, self._clock = following, orders, run, clock
        self._watcher = Watcher(orders, run, _entry(following, orders, clock), clock)
        self._subscription: Subscription | None = None

    def start(self) -> None:
        """Be registered, and follow. When this returns, the standing orders are known, or `silence` says why not.

        Raises: OrdersUnavailable, if no stop of this machine would know of the program; UsageError, if the switches
            cannot be followed as configured.
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
            where = "of this machine" if isinstance(self._following.store, Path) else f"in {self._following.store}"
            return f"the orders {where} could not be read for {unreadable_s:.0f} s: {self._run.fault()}"
        silence = "" if self._subscription is None else self._subscription.silence()
        # In its words the lease is longer than ours by the grace, and it is a guard that is held.
        return f"no switch has been heard for {ttl_s:g} s {silence[silence.find('(') :]}" if silence else ""

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

        following = self._following
        ttl_s = following.switch.lease_ttl_s + following.grace_s
        if ttl_s > LEASE_TTL_S_MAX:
            raise UsageError(
                f"lease_ttl_s and --grace are {ttl_s:g} s together, and a silent program must be known to have ended "
                f"after {LEASE_TTL_S_MAX:g} s; shorten one of them"
            )
        on_silence = Level.HALTED if following.ends_on_silence else Level.NORMAL
        return Subscription(
            self._run,
            guard_id=following.guard_id,
            switch=msgspec.structs.replace(following.switch, lease_ttl_s=ttl_s),
            token=following.token,
            clock=self._clock,
            lease=_EarlyLease(early_s=following.grace_s, on_silence=on_silence),
        )


def _entry(following: Following, orders: "StoreOrders", clock: Clock) -> Entry:
    """The supervisor's place in the register of guards of its store."""
    if isinstance(following.store, Path):
        return Presence(following.store, following.guard_id)
    from rescind.switch.postgres.hearing import HeardPresence, Hearing, Listening
    from rescind.switch.postgres.store import PostgresOrders

    assert isinstance(orders, PostgresOrders)
    ttl_s = following.switch.lease_ttl_s
    listening = Listening(
        guard_id=following.guard_id,
        lease=Lease(),  # nobody reads it: the program is not asked before it acts, and `silence` counts by itself
        ttl_s=ttl_s,
        # When the orders are found to be unreadable, the silence is counted, and then the grace.
        harmless_after_s=2 * ttl_s + following.grace_s + _LOOK_S,
        on_silence=(Level.HALTED if following.ends_on_silence else Level.NORMAL).label,
    )
    return HeardPresence(Hearing(orders, listening, clock), following.guard_id, within_s=_START_WITHIN_S)


def open_orders(following: Following, clock: Clock) -> "StoreOrders":
    """The orders of its store.

    Raises: UsageError, if what is there is no store of ours; OrdersUnavailable.
    """
    return open_store(following.store, create=True, clock=clock)
