"""Lines to a person that never keep the supervisor waiting: the reader of a full pipe may be asleep."""

import contextlib
import queue
import threading
from typing import TextIO

LINES_MAX = 1_000
"""Lines that wait to be written. Further ones are dropped: whoever reads nothing misses nothing."""

_CLOSE_S = 1.0


class Voice:
    """Writes lines in a thread of its own, in order."""

    def __init__(self, stream: TextIO) -> None:
        """A voice on this stream; the thread begins with the first line."""
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_MAX)
        self._thread: threading.Thread | None = None

    def say(self, line: str) -> None:
        """Write a line, sooner or later. Never waits, never fails."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="rescind-voice", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(line)

    def close(self) -> None:
        """Wait for what is to be written, a second at most."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._lines.put(None, timeout=_CLOSE_S)
            self._thread.join(_CLOSE_S)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, a stream that is closed
                self._stream.write(line + "\n")
                self._stream.flush()
