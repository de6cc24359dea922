"""What all streams are told, encoded once.

Events lie in a ring, and each stream keeps only its place in it: no queue per stream, so ten thousand of them cost what
one costs. A stream that has fallen out of the ring is told the whole set again.

HU1. On a stream, events come in order, and a beat comes after every event that was published before it. So a beat
    renews no lease that does not know of an order: receipts rely on it.
HU2. A stream that does not read costs a bounded amount of memory, and holds up nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

RING_MAX = 1_024
"""Events that a slow stream may lie behind before it is told the whole set instead."""

CHUNK_BYTES_MAX = 64 * 1024
"""What one stream is given at once, but for its last event. Ten thousand slow ones must not have the ring each."""

Write = Callable[[bytes], bool]
"""Sends encoded bytes on a stream at once; False if that must wait, and then nothing was sent."""


class Listener:
    """One stream: its place in the ring, and how it is woken.

    A stream that waits for news, as nearly all do, is written to directly (`write`): waking ten thousand tasks for one
    event each takes twice as long as telling them. Whoever has something under way is woken, so nothing overtakes.
    """

    __slots__ = ("_waiting", "_write", "beats", "is_gone", "place")

    def __init__(self, write: Write | None = None) -> None:
        self.place = -1  # before everything: the whole set comes first
        self.beats = 0
        self.is_gone = False
        self._write = write
        self._waiting: asyncio.Future[None] | None = None

    def write(self, chunk: bytes) -> bool:
        """Send it if the stream has nothing under way; whether it was sent."""
        waiting = self._waiting
        return self._write is not None and waiting is not None and not waiting.done() and self._write(chunk)

    def wake(self) -> None:
        """There may be something to send."""
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def leave(self) -> None:
        """Nobody reads any more."""
        self.is_gone = True
        self.wake()

    async def wait(self) -> None:
        """Until there may be something to send."""
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None


class Hub:
    """The ring, and who listens to it."""

    def __init__(self, whole: Callable[[], bytes]) -> None:
        """A hub without listeners.

        Args:
            whole: Encodes the whole set as it is now. Asked for by each stream that begins, since it carries the
                time: one that was told before the stream was asked for would stretch the lease that it renews.
        """
        self._whole = whole
        self._ring: deque[bytes] = deque(maxlen=RING_MAX)
        self._count = 0  # events ever published
        self._beat = b""
        self._beats = 0
        self._listeners: dict[
            Listener, None
        ] = {}  # in the order in which they came, so that a simulation repeats itself

    def __len__(self) -> int:
        return len(self._listeners)

    def publish(self, event: bytes) -> None:
        """Tell everybody of a change."""
        self._ring.append(event)
        before, self._count = self._count, self._count + 1
        chunk = _chunk(event)
        for listener in self._listeners:
            if listener.place == before and listener.write(chunk):
                listener.place = self._count
            else:
                listener.wake()

    def beat(self, event: bytes) -> None:
        """Tell everybody that we live. A stream that missed beats is told the last one only."""
        self._beat = event
        self._beats += 1
        chunk = _chunk(event)
        for listener in self._listeners:
            if listener.place == self._count and listener.write(chunk):
                listener.beats = self._beats
            else:
                listener.wake()

    def join(self, listener: Listener) -> None:
        """A stream begins."""
        self._listeners[listener] = None

    def leave(self, listener: Listener) -> None:
        """A stream has ended."""
        self._listeners.pop(listener, None)

    def close(self) -> None:
        """End all streams."""
        for listener in list(self._listeners):
            listener.leave()

    def take(self, listener: Listener) -> bytes:
        """What this stream has not been told yet; empty if that is nothing. It counts as told from here on.

        A stream that lies far behind is given it piece by piece (HU2); the beat comes with the last one (HU1).
        """
        behind = self._count - listener.place
        is_lost = listener.place < 0 or behind > len(self._ring)
        if is_lost:
            chunk, listener.place = self._whole(), self._count
        else:
            chunk = self._next_events(listener, behind)
        if listener.beats != self._beats and listener.place == self._count:
            listener.beats = self._beats
            chunk = chunk if is_lost else chunk + self._beat  # the whole set carries the time itself
        return chunk

    def _next_events(self, listener: Listener, behind: int) -> bytes:
        events: list[bytes] = []
        length = 0
        for event in islice(self._ring, len(self._ring) - behind, None):
            events.append(event)
            length += len(event)
            if length >= CHUNK_BYTES_MAX:
                break
        listener.place += len(events)
        return b"".join(events)


def _chunk(event: bytes) -> bytes:
    """As HTTP/1.1 sends a piece of a body whose length nobody knows."""
    return b"%x\r\n%s\r\n" % (len(event), event)
