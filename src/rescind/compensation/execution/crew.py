"""Threads that call handlers, so that whoever drives an undo never waits inside of one."""

import queue
import threading
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

Ticket = TypeVar("Ticket")


class Returned(NamedTuple, Generic[Ticket]):
    """What came of a call: its answer, or the error that it raised."""

    ticket: Ticket
    answer: Any
    error: BaseException | None


class Crew(Generic[Ticket]):
    """At most so many threads. Only one thread may use a crew; leaving the `with` block waits for calls under way."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[tuple[Ticket, Context, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._returned: queue.SimpleQueue[Returned[Ticket]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.busy = 0
        """Calls that were handed over and not taken back yet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def call(self, ticket: Ticket, context: Context, function: Callable[[], Any]) -> None:
        """Have the function called with these context variables; its answer comes back with the ticket.

        A crew of one calls it at once: while it is busy, whoever drives it could begin nothing else anyway, and a step
        costs half as much without two changes of threads.
        """
        self.busy += 1
        if self._size == 1:
            self._returned.put(_come_of(ticket, context, function))
            return
        if self.busy > len(self._threads) < self._size:
            thread = threading.Thread(target=self._work, name=f"rescind-undo-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()
        self._jobs.put((ticket, context, function))

    def take(self, timeout_s: float) -> list[Returned[Ticket]]:
        """What has come back, in order of coming; waits for the first one for so long. Empty if none came."""
        taken: list[Returned[Ticket]] = []
        try:
            taken.append(self._returned.get(timeout=timeout_s) if timeout_s > 0 else self._returned.get_nowait())
            while len(taken) < self._size:
                taken.append(self._returned.get_nowait())
        except queue.Empty:
            pass
        self.busy -= len(taken)
        return taken

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._returned.put(_come_of(*job))


def _come_of(ticket: Ticket, context: Context, function: Callable[[], Any]) -> Returned[Ticket]:
    try:
        return Returned(ticket, context.run(function), None)
    except BaseException as error:  # noqa: BLE001  # whoever takes it decides what it means
        return Returned(ticket, None, error)
