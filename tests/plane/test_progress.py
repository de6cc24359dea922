"""Streams of progress over a journal in memory: laws LP1 to LP6."""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import rescind.plane.progress
from compensation.crew import Crew
from compensation.undo_world import Shop
from rescind.errors import JournalUnavailable
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import PAGE_LIMIT, Query
from rescind.model.entry import Entry
from rescind.plane.progress import Progress
from rescind.recovery.ordering import order_undo
from rescind.web.problems import Refused

PATIENCE_S = 20.0

Told = tuple[str, str, Any]


class FlickeringJournal(MemoryJournal):
    """Cannot be read while it is told so, and counts how often somebody tried."""

    is_away, refused, steps_read = False, 0, 0
    error: Exception = JournalUnavailable("away")

    def entries(self, query: Query, *, after: int = 0, limit: int = PAGE_LIMIT) -> list[Entry]:
        if self.is_away:
            self.refused += 1
            raise self.error
        self.steps_read += query.run_id == "run-1"
        return super().entries(query, after=after, limit=limit)


class Stream:
    """What one client hears."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        self._events = events
        self.beats = 0

    async def next(self) -> Told:
        """The next event: name, id, data. Comments are counted."""
        async with asyncio.timeout(PATIENCE_S):
            while (chunk := (await anext(self._events)).decode()).startswith(":"):
                self.beats += 1
        fields = dict(line.split(": ", 1) for line in chunk.strip().split("\n"))
        return fields["event"], fields["id"], json.loads(fields["data"])

    async def rest(self) -> list[Told]:
        found: list[Told] = []
        while True:
            try:
                found.append(await self.next())
            except StopAsyncIteration:
                return found

    async def close(self) -> None:
        await self._events.aclose()


class Undo:
    """An undo that was left to workers: it waits, and goes on when a test says so."""

    def __init__(self, folder: Path) -> None:
        self.journal = FlickeringJournal()
        self.shop = Shop(self.journal)
        for _ in range(3):
            self.shop.charge()
        self.crew = Crew(self.shop, folder)
        self.crew.hire()
        self.submission = self.crew.submit()
        self.digest = self.submission.submitted.plan_digest

    def order(self, what: str) -> None:
        order_undo(self.journal, self.digest, what, actor="eve", reason="why", clock=self.shop.clock)

    def finish(self) -> None:
        assert self.crew.see_to_its_end(self.submission).finished

    async def follow(
        self, progress: Progress, last_id: str = "", may_look: Callable[[], bool] = lambda: True
    ) -> Stream:
        return Stream(progress.events(await progress.look(self.digest), last_id, may_look))


@pytest.fixture
def undo(tmp_path: Path) -> Undo:
    return Undo(tmp_path)


def told(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(story())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # nobody sets an event for it
            await asyncio.sleep(0.005)


def test_lp1_lp2_and_lp3_each_event_tells_all_and_nobody_is_told_a_thing_twice(undo: Undo) -> None:
    async def story() -> None:
        progress = Progress(undo.journal, look_every_s=0.01)
        stream = await undo.follow(progress)
        seen = [await stream.next()]
        assert (seen[0][0], seen[0][2]["undo"]["state"], seen[0][2]["percent"]) == ("progress", "waiting", 0.0)
        again = await undo.follow(progress, last_id=seen[0][1])
        undo.order("pause")
        seen.append(await stream.next())
        assert seen[-1][2]["undo"]["held_by"] == "eve"
        assert await again.next() == seen[-1]
        undo.order("resume")
        undo.finish()
        seen += await stream.rest()

        ids = [event_id for _, event_id, _ in seen]
        assert all(one != other for one, other in itertools.pairwise(ids)), "two events in a row differ"
        assert [name for name, _, _ in seen] == ["progress"] * (len(seen) - 1) + ["end"]
        assert (seen[-1][2]["undo"]["state"], seen[-1][2]["undo"]["done"]) == ("finished", 3)
        assert (await again.rest())[-1] == seen[-1]
        elsewhere = await undo.follow(Progress(undo.journal), last_id=ids[0])
        assert await elsewhere.rest() == [seen[-1]]
        after_the_end = await undo.follow(Progress(undo.journal), last_id=ids[-1])
        assert await after_the_end.rest() == []

    told(story)


def test_lp4_while_nothing_changes_somebody_is_there_until_the_server_leaves(undo: Undo) -> None:
    async def story() -> None:
        progress = Progress(undo.journal, look_every_s=0.01, beat_every_s=0.01)
        stream = await undo.follow(progress)
        await stream.next()
        waiting = asyncio.create_task(stream.rest())
        await until(lambda: stream.beats > 3)
        progress.close()
        assert await waiting == []

    told(story)


def test_lp5_a_stream_ends_when_its_token_is_revoked(undo: Undo) -> None:
    async def story() -> None:
        good = [True]
        progress = Progress(undo.journal, look_every_s=0.01, beat_every_s=0.01)
        stream = await undo.follow(progress, may_look=lambda: good[0])
        await stream.next()
        good[0] = False
        assert await stream.rest() == []

    told(story)


def test_lp6_however_many_follow_one_looks_for_them_and_nobody_for_nobody(undo: Undo) -> None:
    def looking() -> int:
        return sum(task.get_name().startswith("look ") for task in asyncio.all_tasks())

    async def story() -> None:
        progress = Progress(undo.journal, look_every_s=0.01)
        streams = [await undo.follow(progress) for _ in range(50)]
        for stream in streams:
            await stream.next()
        assert looking() == 1
        undo.order("pause")
        assert len({(await stream.next())[1] for stream in streams}) == 1
        for stream in streams:
            await stream.close()
        await until(lambda: looking() == 0)

    told(story)


def test_lp6_the_steps_are_read_once_however_many_come_at_once_or_later(undo: Undo) -> None:
    async def story() -> None:
        progress = Progress(undo.journal, look_every_s=60)
        undo.crew.see_to_its_end(undo.submission)
        undo.journal.steps_read = 0
        first = await undo.follow(progress)
        alone = undo.journal.steps_read
        await asyncio.gather(*(undo.follow(progress) for _ in range(20)))
        assert undo.journal.steps_read <= 2 * alone
        await first.close()

    async def going_on() -> None:
        progress = Progress(undo.journal, look_every_s=60)
        stream = await undo.follow(progress)
        await stream.next()
        undo.journal.steps_read = 0
        later = [await undo.follow(progress) for _ in range(5)]
        for each in later:
            await each.next()
        assert undo.journal.steps_read == 0
        for each in [stream, *later]:
            await each.close()

    told(going_on)
    told(story)


def test_no_more_streams_are_begun_than_there_may_be_open(undo: Undo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescind.plane.progress, "STREAMS_MAX", 3)

    async def story() -> None:
        progress = Progress(undo.journal)
        looks = await asyncio.gather(*(undo.follow(progress) for _ in range(10)), return_exceptions=True)
        refused = [each for each in looks if isinstance(each, Refused)]
        assert [each.status for each in refused] == [503] * 7
        for each in looks:
            if isinstance(each, Stream):
                await each.close()

    told(story)


@pytest.mark.parametrize("error", [JournalUnavailable("away"), KeyError("a fault of ours")])
def test_a_journal_that_is_away_for_a_while_ends_no_stream(
    undo: Undo, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        stream = await undo.follow(Progress(undo.journal, look_every_s=0.01))
        await stream.next()
        undo.journal.error, undo.journal.is_away = error, True
        await until(lambda: undo.journal.refused > 3)
        undo.journal.is_away = False
        undo.order("pause")
        assert (await stream.next())[2]["undo"]["state"] == "paused"
        await stream.close()

    told(story)
    assert len([line for line in caplog.messages if "cannot be followed now" in line]) == 1
