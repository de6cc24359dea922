"""The one thread that touches the disk, so that a disk that hangs holds up nothing else: no beat, no answer, no exit.

A switch that could not take a stop must not keep its guards going (`renews`). So the thread is given a small write to
do every second, and its health is what became of the last write: fine, refused, or not back for too long. What became
of a read says nothing: a full disk can be read.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from rescind.clock import Clock
from rescind.errors import OrdersUnavailable

T = TypeVar("T")

HANGS_AFTER_S = 3.0
"""A write takes milliseconds on a disk that works, and a second on one that is very busy."""

QUEUE_MAX = 10_000
"""Writes that wait. Beyond it the disk is stuck, and what comes is refused rather than collected."""


class _Job(NamedTuple):
    function: Callable[[], Any]
    future: "asyncio.Future[Any]"
    writes: bool


class Writer:
    """Runs functions on its thread, one after the other, and hands their results to the event loop."""

    def __init__(self, clock: Clock) -> None:
        """A writer in the running loop; its thread begins now."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.Queue[_Job | None] = queue.Queue(QUEUE_MAX)
        self._owed = 0  # jobs that have not come back
        self._oldest_s: float | None = None  # since when the disk has owed an answer
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="rescind-ledger", daemon=True)
        self._thread.start()

    def write(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Do it on the thread. The future is done in the loop, in the order of the calls.

        Raises: OrdersUnavailable, if more waits than could ever be done.
        """
        return self._run(function, writes=True)

    def read(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """As `write`, for what could be done on a full disk too, and so tells nothing about it."""
        return self._run(function, writes=False)

    def _run(self, function: Callable[[], T], *, writes: bool) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self._loop.create_future()
        try:
            self._jobs.put_nowait(_Job(function, future, writes))
        except queue.Full:
            raise OrdersUnavailable("the disk of this switch hangs, and too much waits for it already") from None
        self._owed += 1
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

    def close(self, timeout_s: float) -> bool:
        """Finish what waits, within bounds; whether all is done. A thread that hangs in the kernel is left behind.

        Then the ledger must be left alone too: SQLite would make whoever closes it wait for that thread.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        with contextlib.suppress(queue.Full):  # then it hangs, and is left behind
            self._jobs.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, deadline_s - self._clock.monotonic_s()))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result = job.function()
            except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for it
                self._tell(job, None, error)
            else:
                self._tell(job, result, None)

    def _tell(self, job: _Job, result: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._settle, job, result, error)

    def _settle(self, job: _Job, result: Any, error: BaseException | None) -> None:
        # Counted, for an empty queue says nothing: the thread may have taken the last job out and hang in it.
        self._owed -= 1
        self._oldest_s = self._clock.boot_s() if self._owed else None
        if job.writes:
            self._trouble = "" if error is None else str(error) or type(error).__name__
        if job.future.cancelled():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
            _ = job.future.exception()  # who does not wait for it any more is not to be warned of it
