"""What a run has read, on its way into the journal: so that an undo can say who acted on what was wrong.

The laws, which the tests cite:

T1. *A read is never refused for its record.* It is handed over without waiting, and a journal that is away loses it.
T2. *Lost is known.* A run's end says how many reads were handed over; fewer in the journal mean that some are missing,
    and a run without an end may have lost its last ones.
T3. *Not earlier than it was, and before what came of it.* A record is made after the read has returned, so behind the
    intent of whatever it saw, and before the intent of the run's next write.
T4. *Once is enough.* The same read again, with no write of the run in between, is recorded once more at most: right
    before that write, or at the end, because somebody else may have written to the target meanwhile.

The log holds a bounded number of targets. Beyond it, it forgets them, and records them again when they are read again.
"""

import logging
import threading
from typing import TYPE_CHECKING

from rescind.errors import RescindError
from rescind.model.entry import Read
from rescind.model.step import Target

if TYPE_CHECKING:
    from rescind.guard.run import Run

logger = logging.getLogger("rescind")

KEPT_MAX = 4_096
"""Reads remembered between two writes of a run: about a megabyte."""

_Key = tuple[str, Target]


class ReadLog:
    """The reads of one run since its last write. Thread-safe."""

    __slots__ = ("_lock", "_run", "count", "seen")

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._lock = threading.Lock()
        self.seen: dict[_Key, bool] = {}
        """Since the last write: whether it was read again after it was recorded."""
        self.count = 0
        """Reads that were handed over."""

    def note(self, action: str, target: Target) -> None:
        """A read has returned. Does not wait, and never raises (T1)."""
        key = (action, target)
        with self._lock:
            if key in self.seen:
                self.seen[key] = True
                return
            if len(self.seen) >= KEPT_MAX:
                self._record_repeated()
            self.seen[key] = False
            self._record([key])

    def flush(self) -> None:
        """The run is going to write, or ends: what was read again is recorded again (T3, T4)."""
        with self._lock:
            self._record_repeated()

    def _record_repeated(self) -> None:
        seen, self.seen = self.seen, {}
        self._record([key for key, again in seen.items() if again])

    def _record(self, keys: list[_Key]) -> None:
        if keys:
            self.count += len(keys)
            try:
                self._run.submit([Read(action=action, target=target) for action, target in keys])
            except RescindError as problem:
                logger.warning("a read of run %s could not be recorded: %s", self._run.run_id, problem)
