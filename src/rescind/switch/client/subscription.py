"""A guard's subscription: it follows every switch of its configuration in the background, in one thread.

The thread has an event loop of its own, so it serves programs with and without one alike. It begins with the guard's
first run and ends with the guard, the process, or a fork: the child makes a subscription of its own, under another
guard id, and lets go of the sockets it has inherited without a word to the other side.

It hands the guard the merged orders whenever they change (`Follower.take_up`), and extends its lease after that and
never before. Closing it says to every switch that the guard leaves.
"""

import asyncio
import atexit
import contextlib
import selectors
import ssl
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from rescind.clock import Clock
from rescind.config import SwitchConfig
from rescind.errors import ConfigError, RescindError
from rescind.model.order import Order
from rescind.switch.client.exchange import Origin
from rescind.switch.client.lease import Lease
from rescind.switch.client.line import Line
from rescind.switch.client.listener import Common, Listener
from rescind.switch.client.merge import Merged
from rescind.switch.client.tokens import tokens_by_url
from rescind.switch.wire import Report

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

LEAVE_S = 1.0
"""How long closing waits for switches to take the goodbye. Who does not hear it sees a lease run out instead."""

CLOSE_S = 2.0


class Follower(Protocol):
    """Who follows the switches: a guard, or a supervisor. All methods are thread-safe and quick."""

    def take_up(self, orders: tuple[Order, ...]) -> frozenset[str]:
        """These orders stand at the switches now, instead of those before.

        When this returns, no step will be admitted under older ones. Returns the steps (`RUN/STEP`) admitted before
        that may still be running.
        """
        ...

    def in_flight(self) -> frozenset[str]:
        """The steps that are running now."""
        ...

    def describe(self) -> Report:
        """What it says of itself; the subscription fills in what it knows better, such as what is bound."""
        ...


class Subscription:
    """Follows the switches for one follower, in one process. `guard_id` is its name there."""

    def __init__(
        self,
        follower: Follower,
        *,
        guard_id: str,
        switch: SwitchConfig,
        token: str,
        clock: Clock,
        lease: Lease,
        before: "Subscription | None" = None,
    ) -> None:
        """A subscription that has not begun: see `start`.

        Args:
            follower: Whom to tell.
            guard_id: What it is called at the switches.
            switch: Which ones, and for how long one may hold.
            token: What to show them: one token, or lines of `URL TOKEN`; empty for nothing.
            clock: The time.
            lease: What to extend while they are heard.
            before: The one that this follows on, such as the parent's after a fork. What it heard stands until this
                one has heard better.

        Raises: ConfigError, if the token could not be shown, or the authorities of `ca_file` cannot be read.
        """
        tokens_by_url(token)  # what cannot be read is the caller's to mend, and not found out in the background
        self._follower, self._switch, self._lease, self._clock = follower, switch, lease, clock
        self.guard_id = guard_id
        stood = before.orders_by_url() if before is not None else {}
        self._lines = {url: Line(lease_ttl_s=switch.lease_ttl_s, orders=stood.get(url)) for url in switch.urls}
        self._renewing = [line for url, line in self._lines.items() if url not in switch.further]
        further = [line for url, line in self._lines.items() if url in switch.further]
        self._sockets: set[socket.socket] = set()
        common = Common(
            path=f"/v1/guards/{guard_id}",
            token=token,
            clock=clock,
            merged=Merged(self._renewing, further),
            sockets=self._sockets,
            take_up=follower.take_up,
            in_flight=follower.in_flight,
            describe=self._describe,
            heard=self._heard,
        )
        tls = _tls(switch)
        self._listeners = [Listener(Origin.of(url, tls), line, common) for url, line in self._lines.items()]
        self._said_hears: tuple[str, ...] = ()
        self._first = threading.Event()
        self._patient_until_s = clock.monotonic_s() + switch.start_within_s
        self._lease_lock = threading.Lock()
        self._is_closing = False
        self._selector = selectors.DefaultSelector()
        self._loop = _Loop(self._selector)
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="rescind-subscription", daemon=True)

    def start(self) -> None:
        """Begin to follow. Returns at once: see `wait_for_first`."""
        _open.add(self)
        self._thread.start()

    def wait_for_first(self) -> None:
        """Block until a switch has been heard, or `start_within_s` has passed since the beginning."""
        self._first.wait(self._patience_s())

    async def wait_for_first_async(self) -> None:
        """As `wait_for_first`, for a task: its loop goes on meanwhile."""
        patience_s = self._patience_s()
        if self._first.is_set() or not patience_s:
            return
        # Polled, since a thread of the loop's pool would outlive a cancellation; this happens once in a program.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not self._first.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.002)

    def report(self) -> None:
        """Have the follower described to every switch soon, although nothing was ordered."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._report)

    def close(self) -> None:
        """End the lease, and say to every switch that the guard leaves: 2 s at most. A second close does nothing.

        A guard whose steps are still running does not leave by this: it falls silent, which claims nothing of them.
        """
        with self._lease_lock:
            self._is_closing = True
            self._lease.end()
        _open.discard(self)
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's sockets, and leave everything else as it lies."""
        self._is_closing = True
        _open.discard(self)
        for inherited in list(self._sockets):
            inherited.close()  # only the descriptor: nothing is sent, and the parent's own is untouched
        # The loop is never closed: it would take the parent's sockets out of the epoll that both share.
        self._selector.close()
        _abandoned.append(self)

    # --- what is known ---

    def silence(self) -> str:
        """Why the lease has run out; empty while it has not."""
        if self._clock.boot_s() < self._lease.until_s:
            return ""
        why = "; ".join(
            f"{url}: {each.trouble or ('may only hold it' if url in self._switch.further else 'silent')}"
            for url, each in zip(self._lines, self._listeners, strict=True)
        )
        held_at = self._lease.on_silence.label
        return f"no switch has been heard for {self._switch.lease_ttl_s:g} s, so it is held at {held_at} ({why})"

    def orders_by_url(self) -> dict[str, dict[str, frozenset[Order]]]:
        """What each switch says stands."""
        return {url: dict(line.orders) for url, line in self._lines.items()}

    def _describe(self) -> Report:
        refusals = (
            f"{url}: {each.refusal}" for url, each in zip(self._lines, self._listeners, strict=True) if each.refusal
        )
        report = self._follower.describe()
        return msgspec.structs.replace(
            report,
            lease_ttl_s=self._switch.lease_ttl_s,
            on_silence=self._lease.on_silence.label,
            switches=len(self._renewing),  # from whom silence is reckoned; the others cannot let it go on
            hears=self._hears(),
            fault=report.fault or "; ".join(refusals),
        )

    def _heard(self, line: Line) -> None:
        if line not in self._renewing:
            return
        with self._lease_lock:  # not after `close`
            if not self._is_closing:
                self._lease.extend(line.lease.until_s)
        self._first.set()
        hears = self._hears()
        if hears != self._said_hears:  # a switch whose name is new: the others want to know whom else we may obey
            self._said_hears = hears
            self._report()

    def _hears(self) -> tuple[str, ...]:
        return tuple(sorted({line.switch_id for line in self._renewing if line.switch_id}))

    def _patience_s(self) -> float:
        return max(0.0, self._patient_until_s - self._clock.monotonic_s())

    # --- the thread ---

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._follow())
        finally:
            self._loop.close()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        work: list[Coroutine[Any, Any, None]] = [each.listen() for each in self._listeners]
        work += [each.report() for each in self._listeners]
        tasks = [loop.create_task(each) for each in work]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await asyncio.gather(*(self._say_goodbye(each) for each in self._listeners))
        for listener in self._listeners:
            listener.close()
        await asyncio.sleep(0)  # aborted connections close their sockets in the next turn

    async def _say_goodbye(self, listener: Listener) -> None:
        with contextlib.suppress(RescindError, OSError):
            await listener.leave()

    def _report(self) -> None:
        for listener in self._listeners:
            listener.speak()


class _Loop(asyncio.SelectorEventLoop):
    def __del__(self) -> None:
        """Nothing: its thread closes it, and in a forked child, where it lies dead, nobody may."""


def _tls(switch: SwitchConfig) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in switch.urls):
        return None
    try:
        return ssl.create_default_context(cafile=switch.ca_file)
    except OSError as error:
        raise ConfigError(f"switch.ca_file {switch.ca_file} cannot be used: {error.strerror or error}") from error


_open: "weakref.WeakSet[Subscription]" = weakref.WeakSet()
_abandoned: list[Subscription] = []


@atexit.register
def _leave_at_exit() -> None:
    # Without it every program that just ends would look silent until its lease has run out.
    for subscription in list(_open):
        subscription.close()
