"""What has to be written down and need not be waited for: at once in a thread, and beside the loop in a task.

A task that waited for a disk would hold up every other task of its program. What protects (an order, a hold) never goes
this way: it is in place before the call goes on.
"""

import logging
import queue
import sys
import threading
from collections.abc import Callable

logger = logging.getLogger("rescind")

ERRANDS_MAX = 256
"""Errands that wait. Each is one incident's line; the signal itself is in the journal in any case."""


class Errands:
    """Runs errands in their order. Its thread begins with the first one that must not be waited for."""

    def __init__(self) -> None:
        """None yet."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._queue: queue.Queue[Callable[[], object]] = queue.Queue(ERRANDS_MAX)
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()  # a signal's handler may come by in the middle of it

    def run(self, errand: Callable[[], object]) -> None:
        """Run it now; soon, if an event loop runs in this thread. It says itself what goes wrong, and never raises."""
        if not _in_event_loop():
            errand()
            return
        try:
            self._queue.put_nowait(errand)
        except queue.Full:
            logger.error("more incidents than can be written down; the signals are in the journal")
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rescind-errands", daemon=True)
                self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Wait until those that were given are done, for so long at most."""
        waiting = self._queue
        with waiting.all_tasks_done:
            waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, timeout_s)

    def after_fork(self) -> None:
        """In a forked child: the parent's errands are the parent's, and its thread did not come along."""
        self._begin_anew()

    def _work(self) -> None:
        while True:
            errand = self._queue.get()
            try:
                errand()
            except Exception:  # the next one is somebody else's
                logger.exception("what was noticed could not be written down")
            finally:
                self._queue.task_done()


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # who has not imported it runs none
    return asyncio is not None and asyncio._get_running_loop() is not None  # exported for whoever must not raise
