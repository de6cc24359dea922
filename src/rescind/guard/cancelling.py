"""Cuts a running tool short when its run is halted: the tool's own task is cancelled, wherever the halt came from.

The tool runs in the task of its caller, whom somebody else may cancel too. The two are told apart as `asyncio.timeout`
does it: each cancellation is counted by the task, ours is taken back when the tool has been left, and what is left of
the count is the others'.
"""

import asyncio
import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rescind.guard.fallback import halted
from rescind.triggers.facts import CUT_SHORT

if TYPE_CHECKING:
    from rescind.guard.gate import Halt
    from rescind.guard.run import Run


class Cancelling:
    """Around the await of a cancellable tool, in its task. `reason` says that a stop has cut it short."""

    def __init__(self, run: "Run", action: str) -> None:
        self.action, self.reason = action, ""
        self._run = run
        self._halt: Halt | None = None
        self._is_inside = self._was_sent = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a coroutine of asyncio runs in a task"
        self._task, self._loop = task, asyncio.get_running_loop()
        self._others = task.cancelling()
        self._is_inside = True
        self._run.hold(self)
        return self

    def cut(self, halt: "Halt") -> None:
        """The run is halted. From any thread; the first halt counts."""
        if self._halt is None:
            self._halt = halt
            with contextlib.suppress(RuntimeError):  # its loop is closed, and the tool with it
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._is_inside:
            self._was_sent = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_inside = False
        self._run.release(self)
        if not self._was_sent or self._halt is None:
            return
        left = self._task.uncancel()
        if kind is None or not issubclass(kind, asyncio.CancelledError):
            return  # the tool had ended all the same, or made something else of it
        self.reason = f"{CUT_SHORT}: {self._halt.reason}"
        if left <= self._others:
            order_ids = tuple(order.order_id for order in self._halt.orders)
            raise halted(
                f"run {self._run.run_id} is halted ({self._halt.reason}); {self.action} was cancelled while it ran, "
                "and what it did is unknown. End this run now",
                self._run.shown(self._halt),
                run_id=self._run.run_id,
                order_ids=order_ids,
            ) from None
