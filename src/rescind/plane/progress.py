"""How far an undo is, as a stream of events, until it has ended.

LP1. *All in each.* An event tells all that there is to know of an undo at one moment, so whoever has missed some has
    lost nothing. Two events in a row differ.
LP2. *From where one was.* An event's id follows from what it tells, at whichever server and after whichever restart.
    Who comes back with the last one is told nothing again, and is told the next change.
LP3. *It ends.* The event `end` tells of the end, once, and nothing follows; who comes back with its id is sent away
    (204), so that no browser knocks for ever.
LP4. *Never silent.* While nothing changes, a comment says now and then that somebody is there. What does not read costs
    a bounded amount of memory: events are not queued, the newest takes the place of the older.
LP5. *Only who may look.* A stream ends within a beat of the token that it was asked for with being revoked.
LP6. *One look for all.* However many follow one undo, the journal is read once for them.
"""

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

import msgspec

from rescind.errors import RescindError
from rescind.journal.port import Journal
from rescind.plane.documents import UndoDoc
from rescind.recovery.undos import UndoFollower, plan_run_meant
from rescind.web.edge import ascii_json
from rescind.web.problems import Refused

LOOK_EVERY_S, BEAT_EVERY_S = 0.5, 15.0

STREAMS_MAX = 1_000
"""Each takes a connection and a few KiB."""

_BEAT = b": beat\n\n"

_log = logging.getLogger("rescind.plane")


class Event(msgspec.Struct, frozen=True):
    """What is told at one moment. `is_end`: nothing follows."""

    event_id: str
    data: bytes
    is_end: bool

    @property
    def encoded(self) -> bytes:
        """As it goes over the wire."""
        name = b"end" if self.is_end else b"progress"
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (self.event_id.encode(), name, self.data)


class Progress:
    """The streams of one server. Everything but the looks happens in its event loop.

    Args:
        journal: Where the undos are.
        look_every_s: Between two looks at an undo that somebody follows.
        beat_every_s: After how much silence a comment is sent (LP4).
    """

    def __init__(
        self, journal: Journal, *, look_every_s: float = LOOK_EVERY_S, beat_every_s: float = BEAT_EVERY_S
    ) -> None:
        self._journal, self._look_every_s, self._beat_every_s = journal, look_every_s, beat_every_s
        self._watches: dict[str, _Watch] = {}
        self._beginnings: dict[str, asyncio.Task[Look]] = {}
        self._streams = self._looking = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all streams."""
        self._closing.set()
        for watch in self._watches.values():
            watch.news.set()

    async def look(self, plan: str) -> "Look":
        """One look, from which `events` goes on.

        Raises: NameUnknown, if there is no such undo; Refused (503), if too many look; JournalUnavailable.
        """
        if self._streams + self._looking >= STREAMS_MAX or self._closing.is_set():
            raise Refused(503, f"{STREAMS_MAX:,} streams are open at this server; ask again later", retry_after_s=5)
        self._looking += 1
        try:
            plan_run = await asyncio.to_thread(plan_run_meant, self._journal, plan)
            watch = self._watches.get(plan_run)
            if watch is not None and not watch.event.is_end:
                return watch.look
            return await self._begin(plan_run)
        finally:
            self._looking -= 1

    async def _begin(self, plan_run: str) -> "Look":
        """One look for all who begin to follow this at the same time, as after a restart of the server (LP6)."""
        beginning = self._beginnings.get(plan_run)
        if beginning is None:
            beginning = asyncio.get_running_loop().create_task(asyncio.to_thread(_first_look, self._journal, plan_run))
            self._beginnings[plan_run] = beginning
            beginning.add_done_callback(lambda _: self._beginnings.pop(plan_run))
        return await asyncio.shield(beginning)  # who gives up ends it for nobody else

    async def events(self, look: "Look", last_id: str, may_look: Callable[[], bool]) -> AsyncGenerator[bytes]:
        """What is told from this look on, for as long as whoever follows may look (LP1 to LP5).

        Args:
            look: As `look` has returned it.
            last_id: The id of the event that was told last; empty if none was.
            may_look: Whether the token that was shown is good still.
        """
        watch = self._join(look)
        told = last_id
        try:
            while may_look() and not self._closing.is_set():
                event, news = watch.event, watch.news
                if event.event_id != told:
                    told = event.event_id
                    yield event.encoded
                if event.is_end:
                    return
                try:
                    async with asyncio.timeout(self._beat_every_s):
                        await news.wait()
                except TimeoutError:
                    yield _BEAT
        finally:
            self._leave(look.plan_run, watch)

    def _join(self, look: "Look") -> "_Watch":
        self._streams += 1
        watch = self._watches.get(look.plan_run)
        if watch is None or watch.event.is_end:  # an undo may be begun again
            watch = self._watches[look.plan_run] = _Watch(look, self._look_every_s)
        watch.listeners += 1
        return watch

    def _leave(self, plan_run: str, watch: "_Watch") -> None:
        self._streams -= 1
        watch.listeners -= 1
        if watch.listeners == 0:
            watch.task.cancel()
            if self._watches.get(plan_run) is watch:
                del self._watches[plan_run]


class Look(NamedTuple):
    """What was seen of an undo, and what goes on looking."""

    plan_run: str
    follower: "_Follower"
    event: Event


class _Follower:
    """Looks in one thread at a time: of a look that nobody waits for any more, the thread goes on all the same."""

    def __init__(self, journal: Journal, plan_run: str) -> None:
        self._follower, self._lock = UndoFollower(journal, plan_run), threading.Lock()

    def look_on(self) -> Event:
        """What is to be told now."""
        with self._lock:
            status = self._follower.look_on()
        data = ascii_json(UndoDoc.of(status))
        return Event(hashlib.sha256(data).hexdigest()[:16], data, status.has_ended)


class _Watch:
    """Looks at one undo for all who follow it (LP6)."""

    def __init__(self, look: Look, every_s: float) -> None:
        self._look = look
        self.event: Event = look.event
        self.news, self.listeners = asyncio.Event(), 0
        self.task = asyncio.get_running_loop().create_task(self._watch(look, every_s), name=f"look {look.plan_run}")

    @property
    def look(self) -> Look:
        """As one would have it who looked now."""
        return self._look._replace(event=self.event)

    async def _watch(self, look: Look, every_s: float) -> None:
        trouble = ""
        while not self.event.is_end:
            await asyncio.sleep(every_s)
            try:
                event = await asyncio.to_thread(look.follower.look_on)
            except Exception as error:  # noqa: BLE001  # whatever it is: who follows would wait for news for ever
                before, trouble = trouble, f"{type(error).__name__}: {error}"
                if trouble != before:  # once, and not at each look
                    is_ours = isinstance(error, RescindError)  # the journal cannot be read now, most likely
                    told = "the undo %s cannot be followed now, and is looked at again: %s"
                    _log.warning(told, look.plan_run, trouble, exc_info=not is_ours)
                continue
            trouble = ""
            if event.event_id != self.event.event_id:
                self.event, news, self.news = event, self.news, asyncio.Event()
                news.set()


def _first_look(journal: Journal, plan_run: str) -> Look:
    follower = _Follower(journal, plan_run)
    return Look(plan_run, follower, follower.look_on())
