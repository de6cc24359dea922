"""Two small loops that perform what a write's flow asks for: one for threads, one for tasks."""

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rescind.errors import DeclarationError
from rescind.guard.request import (
    Append,
    Boundary,
    LookUp,
    Perform,
    ReadRun,
    Request,
    Returned,
    Threw,
    Wait,
    WriteFlow,
    read_run,
)
from rescind.journal.port import Journal

if TYPE_CHECKING:
    import asyncio


def drive(flow: WriteFlow, journal: Journal) -> Any:
    """Run the flow to its end in this thread.

    Raises: whatever the flow ends with.
    """
    try:
        request = next(flow)
        while True:
            try:
                answer = perform(request, journal)
            except BaseException as error:  # noqa: BLE001  # the flow decides what an error means
                request = flow.throw(error)
            else:
                request = flow.send(answer)
    except StopIteration as done:
        return _leave(done.value)


def perform(request: Request, journal: Journal) -> Any:
    """Do what the flow of a synchronous tool asks for, in this thread.

    Raises: whatever that raises; the flow decides what it means.
    """
    match request:
        case Perform(function):
            answer = function()
            if inspect.isawaitable(answer):
                _close(answer)
                raise DeclarationError("a synchronous tool has an asynchronous handler; make both async or neither")
            return answer
        case Append(drafts):
            return journal.append(drafts)
        case LookUp(tenant, key):
            return journal.slot(tenant, key)
        case ReadRun():
            return read_run(journal, request)
        case Wait(clock, duration_s):
            return clock.sleep(duration_s)
        case Boundary():
            return None


async def drive_async(flow: WriteFlow, journal: Journal) -> Any:
    """Run the flow to its end in this task. A cancellation never leaves a record half made.

    Raises: whatever the flow ends with; CancelledError, if the task was cancelled meanwhile.
    """
    waiting = _Waiting()
    try:
        request = next(flow)
        while True:
            try:
                answer = await _perform_async(request, journal, waiting)
            except GeneratorExit:
                flow.close()  # nobody will drive this any further; the intent without an end says so
                raise
            except BaseException as error:  # noqa: BLE001
                request = flow.throw(error)
            else:
                request = flow.send(answer)
    except StopIteration as done:
        value = _leave(done.value)
        waiting.raise_cancellation()
        return value


async def _perform_async(request: Request, journal: Journal, waiting: "_Waiting") -> Any:
    match request:
        case Perform(function):
            answer = function()
            return await answer if inspect.isawaitable(answer) else answer
        case Append(drafts):
            return await waiting.to_the_end(lambda: journal.append_async(drafts))
        case LookUp(tenant, key):
            return journal.slot(tenant, key)
        case ReadRun():
            return read_run(journal, request)
        case Wait(_, duration_s):
            import asyncio

            return await asyncio.sleep(duration_s)  # a task waits in its loop's time, whatever clock the guard has
        case Boundary():
            waiting.raise_cancellation()
            return None


class _Waiting:
    """Awaits that a cancellation may not cut short; it is kept, and raised at the next boundary or at the end."""

    def __init__(self) -> None:
        self._cancellation: asyncio.CancelledError | None = None

    async def to_the_end(self, begin: Callable[[], Awaitable[Any]]) -> Any:
        import asyncio

        task = asyncio.ensure_future(begin())
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if task.cancelled():
                    raise
                self._cancellation = error
            except GeneratorExit:
                raise
            except BaseException:  # noqa: BLE001, S110  # it is the task's own, and result() raises it below
                pass
        return task.result()

    def raise_cancellation(self) -> None:
        cancellation, self._cancellation = self._cancellation, None
        if cancellation is not None:
            raise cancellation


def _leave(end: Returned | Threw) -> Any:
    if isinstance(end, Threw):
        raise end.error
    return end.value


def _close(awaitable: Any) -> None:
    close = getattr(awaitable, "close", None)
    if close is not None:
        close()  # a coroutine that is never awaited would warn later, far from its cause
