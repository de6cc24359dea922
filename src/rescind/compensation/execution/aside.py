"""An undo in a thread of its own, where no interrupt can tear it apart, and what it tells meanwhile in the caller's."""

import contextvars
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rescind.compensation.execution.account import Progress
from rescind.compensation.execution.stopping import Stopping

if TYPE_CHECKING:
    import queue

    from rescind.compensation.result import StepResult


def aside(
    work: Callable[[], None],
    stopping: Stopping,
    news: "queue.SimpleQueue[StepResult | None]",
    progress: Progress | None,
) -> None:
    """Do the work in a thread of its own, where no interrupt can tear it apart, and tell its news in this one.

    Raises: what the work raises; KeyboardInterrupt, at the second one.
    """
    failures: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread that asked for the work
            failures.append(error)
        finally:
            news.put(None)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(do,), name="rescind-undo")
    thread.start()
    try:
        while True:
            try:
                while (result := news.get()) is not None:
                    if progress is not None:
                        progress(result)
                break
            except KeyboardInterrupt:
                if stopping.interrupted:
                    raise
                stopping.interrupt()
    finally:
        stopping.interrupt()  # only if something was raised here is there anything left to stop
        thread.join()
    if failures:
        raise failures[0]
