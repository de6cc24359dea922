"""Waiting for handlers that may be coroutines, from threads that have no event loop."""

import asyncio
import inspect
import threading
from types import TracebackType
from typing import Any, Self

_WIND_UP_S = 5.0
"""How long tasks that handlers have left may take to end. An undo does not hang on one that will not."""


class Waiter:
    """Answers of handlers, awaited where they are awaitables: all in one event loop, in a thread of its own.

    One loop for all of them, because clients and connection pools belong to the loop they were first used in. The
    thread begins with the first awaitable, and ends with the `with` block.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._loop is not None and self._thread is not None:
            asyncio.run_coroutine_threadsafe(_wind_up(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def result_of(self, answer: Any) -> Any:
        """The answer itself, or what it gives when it is awaited, with the caller's context variables."""
        if not inspect.isawaitable(answer):
            return answer
        return asyncio.run_coroutine_threadsafe(_await(answer), self._running_loop()).result()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="rescind-undo-loop", daemon=True)
                self._thread.start()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run until the loop is stopped.

    A task that leaves the process takes the loop with it, and whoever waits for that task, or another one, would wait
    for ever. So the loop goes on: the task's error reaches who waits for it, and leaves from there.
    """
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue
        return


async def _wind_up() -> None:
    """As `asyncio.run` ends: what handlers have left running is cancelled, and may put things in order."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_WIND_UP_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _await(answer: Any) -> Any:
    return await answer
