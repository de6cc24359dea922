"""What all streams are told, encoded once.

Events lie in a ring, and each stream keeps only its place in it: no queue per stream, so ten thousand of them cost what
one costs. A stream that has fallen out of the ring is told the whole set again.

H1. On a stream, events come in order, and a beat comes after every event that was published before it. So a beat
    renews no lease that does not know of an order: receipts rely on it.
H2. A stream that does not read costs a bounded amount of memory, and holds up nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable

RING_MAX = 1_024
"""Events that a slow stream may lie behind before it is told the whole set instead."""


class Listener:
    """One stream: its place in the ring, and how it is woken."""

    __slots__ = ("_waiting", "beats", "is_gone", "place")

    def __init__(self) -> None:
        self.place = -1  # before everything: the whole set comes first
        self.beats = 0
        self.is_gone = False
        self._waiting: asyncio.Future[None] | None = None

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
        await self._waiting
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
        self._listeners: set[Listener] = set()

    def __len__(self) -> int:
        return len(self._listeners)

    def publish(self, event: bytes) -> None:
        """Tell everybody of a change."""
        self._ring.append(event)
        self._count += 1
        self._wake()

    def beat(self, event: bytes) -> None:
        """Tell everybody that we live. A stream that missed beats is told the last one only."""
        self._beat = event
        self._beats += 1
        self._wake()

    def join(self, listener: Listener) -> None:
        """A stream begins."""
        self._listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        """A stream has ended."""
        self._listeners.discard(listener)

    def close(self) -> None:
        """End all streams."""
        for listener in list(self._listeners):
            listener.leave()

    def take(self, listener: Listener) -> bytes:
        """What this stream has not been told yet; empty if that is nothing. It counts as told from here on."""
        behind = self._count - listener.place
        is_lost = listener.place < 0 or behind > len(self._ring)
        if is_lost:
            chunk = self._whole()
        elif behind == 0:
            chunk = b""
        elif behind == 1:
            chunk = self._ring[-1]
        else:
            chunk = b"".join(list(self._ring)[-behind:])
        listener.place = self._count
        if listener.beats != self._beats:
            listener.beats = self._beats
            chunk = chunk if is_lost else chunk + self._beat  # the whole set carries the time itself
        return chunk

    def _wake(self) -> None:
        for listener in self._listeners:
            listener.wake()
