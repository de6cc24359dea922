"""Streams: HU1 (order, and beats after what they count) and HU2 (bounded, and nobody waits)."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.switch.service import hub as hubs
from rescind.switch.service.hub import Hub, Listener


class Story:
    """A hub, what was published, and how a stream's words are checked against it."""

    def __init__(self) -> None:
        self.published = self.beats = 0
        self.hub = Hub(lambda: b"set:%d " % self.published)

    def publish(self) -> None:
        self.published += 1
        self.hub.publish(b"event:%d " % self.published)

    def beat(self) -> None:
        self.beats += 1
        self.hub.beat(b"beat:%d " % self.published)

    def check(self, heard: bytes) -> None:
        """HU1, for one stream from its beginning."""
        known = -1
        for word in heard.decode().split():
            kind, _, number = word.partition(":")
            if kind == "set":
                assert int(number) >= known, heard
                known = int(number)
            elif kind == "event":
                assert known >= 0, "an event came before the set"
                assert int(number) == known + 1, heard
                known = int(number)
            else:
                assert known >= int(number), f"a beat came before what it counts: {heard!r}"


STEPS = st.lists(st.sampled_from(("publish", "publish", "beat", "take-0", "take-1", "join-1", "burst")), max_size=60)


@given(STEPS)
def test_hu1_events_come_in_order_and_beats_after_what_they_count(steps: list[str]) -> None:
    story, heard = Story(), [b"", b""]
    listeners = [Listener(), Listener()]
    story.hub.join(listeners[0])
    for step in steps:
        name, _, who = step.partition("-")
        if name == "publish":
            story.publish()
        elif name == "beat":
            story.beat()
        elif name == "burst":
            for _ in range(hubs.RING_MAX // 3):
                story.publish()
        elif name == "join":
            story.hub.join(listeners[int(who)])
        else:
            heard[int(who)] += story.hub.take(listeners[int(who)])
    for listener, words in zip(listeners, heard, strict=True):
        everything = words
        while chunk := story.hub.take(listener):
            everything += chunk
        story.check(everything)
        assert listener.place == story.published


class Reader:
    """A stream in a task of its own, as `Streams` runs it, whose connection sometimes takes nothing."""

    def __init__(self, hub: Hub, is_clear: Callable[[], bool]) -> None:
        self.heard, self._hub, self._is_clear = b"", hub, is_clear
        self.listener = Listener(self._write_now)
        hub.join(self.listener)

    def _write_now(self, chunk: bytes) -> bool:
        if not self._is_clear():
            return False
        size, _, rest = chunk.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
        self.heard += rest.removesuffix(b"\r\n")
        return True

    async def run(self) -> None:
        while not self.listener.is_gone:
            chunk = self._hub.take(self.listener)
            if chunk:
                self.heard += chunk
                await asyncio.sleep(0)
                if not self._is_clear():
                    await asyncio.sleep(0)
            else:
                await self.listener.wait()


@given(st.lists(st.sampled_from(("publish", "beat", "turn")), max_size=50), st.lists(st.booleans(), min_size=60))
def test_hu1_holds_for_streams_that_are_written_to_directly_now_and_then(steps: list[str], clear: list[bool]) -> None:
    async def tell() -> None:
        story, chances = Story(), iter(clear)
        reader = Reader(story.hub, lambda: next(chances, True))
        task = asyncio.create_task(reader.run())
        for step in steps:
            if step == "turn":
                await asyncio.sleep(0)
            else:
                getattr(story, step)()
        for _ in range(10):
            await asyncio.sleep(0)
        story.check(reader.heard)
        assert reader.listener.place == story.published
        story.hub.close()
        await task

    asyncio.run(tell())


def test_hu2_a_stream_that_fell_out_of_the_ring_is_told_the_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    story, listener = Story(), Listener()
    story.hub.join(listener)
    story.hub.take(listener)
    for _ in range(hubs.RING_MAX + 1):
        story.publish()
    story.beat()

    assert story.hub.take(listener) == b"set:%d " % story.published
    assert story.hub.take(listener) == b""


def test_hu2_what_one_stream_is_given_at_once_is_bounded_however_far_it_lies_behind() -> None:
    hub, listener = Hub(lambda: b""), Listener()
    hub.join(listener)
    hub.take(listener)
    for _ in range(hubs.RING_MAX):
        hub.publish(b"x" * 1_000)
    hub.beat(b"beat")

    chunks = []
    while chunk := hub.take(listener):
        chunks.append(chunk)

    assert max(map(len, chunks)) <= hubs.CHUNK_BYTES_MAX + 1_004
    assert b"".join(chunks) == b"x" * 1_000 * hubs.RING_MAX + b"beat"


def test_missed_beats_are_one_beat() -> None:
    story, listener = Story(), Listener()
    story.hub.join(listener)
    story.hub.take(listener)
    for _ in range(50):
        story.beat()

    assert story.hub.take(listener) == b"beat:0 "


def test_a_stream_that_has_left_is_told_nothing_and_costs_nothing() -> None:
    story, listener = Story(), Listener()
    story.hub.join(listener)
    assert len(story.hub) == 1
    story.hub.leave(listener)
    story.hub.leave(listener)
    story.publish()

    assert len(story.hub) == 0
