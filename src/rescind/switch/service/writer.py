"""The one thread that touches the disk, so that a disk that hangs holds up nothing else: no beat, no answer, no exit.

A switch that could not take a stop must not keep its guards going (`renews`). So the thread is given a small write to
do every second, and its health is what became of the last one: fine, refused, or not back for too long.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable, RescindError

T = TypeVar("T")

HANGS_AFTER_S = 3.0
"""A write takes milliseconds on a disk that works, and a second on one that is very busy."""

QUEUE_MAX = 10_000
"""Writes that wait. Beyond it the disk is stuck, and what comes is refused rather than collected."""

Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Writer:
    """Runs functions on its thread, one after the other, and hands their results to the event loop."""

    def __init__(self, clock: Clock) -> None:
        """A writer in the running loop; its thread begins now."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.Queue[Job | None] = queue.Queue(QUEUE_MAX)
        self._oldest_s: float | None = None  # since when the disk has owed an answer
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="rescind-ledger", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Do it on the thread. The future is done in the loop, in the order of the calls.

        Raises: OrdersUnavailable, if more waits than could ever be done.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        try:
            self._jobs.put_nowait((function, future))
        except queue.Full:
            raise OrdersUnavailable("the disk of this switch hangs, and too much waits for it already") from None
        if self._oldest_s is None:
            self._oldest_s = self._clock.boot_s()
        return future

    @property
    def trouble(self) -> str:
        """Why a stop could not be taken now; empty if it could."""
        waited_s = 0.0 if self._oldest_s is None else self._clock.boot_s() - self._oldest_s
        if waited_s > HANGS_AFTER_S:
            return f"the disk has not answered for {waited_s:.0f} s"
        return self._trouble

    def close(self, timeout_s: float) -> None:
        """Finish what waits, within bounds: a thread that hangs in the kernel is left behind."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, future = job
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for it
                self._tell(future, None, error)
            else:
                self._tell(future, result, None)

    def _tell(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, future, result, error)
        except RuntimeError:
            return  # the loop is closed, so nobody waits

    def _settle(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self._oldest_s = None if self._jobs.empty() else self._clock.boot_s()
        self._trouble = str(error) if isinstance(error, RescindError) else ""
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
            _ = future.exception()  # who does not wait for it any more is not to be warned of it
