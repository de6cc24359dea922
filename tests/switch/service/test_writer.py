"""The disk's thread: in order, and its health is that of writes (PB3 rests on it)."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from rescind.clock import SystemClock
from rescind.errors import OrdersUnavailable
from rescind.switch.service import writer as writers
from rescind.switch.service.writer import HANGS_AFTER_S, Writer
from rescind.testing import ManualClock

PATIENCE_S = 10.0


def with_writer(story: Callable[[Writer, ManualClock], Awaitable[None]]) -> None:
    async def tell() -> None:
        clock = ManualClock()
        writer = Writer(clock)
        try:
            await asyncio.wait_for(story(writer, clock), PATIENCE_S)
        finally:
            writer.close(1.0)

    asyncio.run(tell())


async def turns(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.001)


def fail() -> None:
    raise OrdersUnavailable("its disk is full; make room")


def test_jobs_are_done_one_after_the_other_and_told_in_the_order_of_the_calls() -> None:
    async def story(writer: Writer, _: ManualClock) -> None:
        done: list[int] = []
        told: list[int] = []
        futures = [writer.write(lambda number=number: done.append(number) or number) for number in range(50)]  # type: ignore[misc, func-returns-value]
        for future in futures:
            future.add_done_callback(lambda future: told.append(future.result()))
        await asyncio.gather(*futures)
        await asyncio.sleep(0)
        assert done == told == list(range(50))

    with_writer(story)


def test_an_error_belongs_to_whoever_waits_for_it() -> None:
    async def story(writer: Writer, _: ManualClock) -> None:
        with pytest.raises(OrdersUnavailable):
            await writer.write(fail)
        with pytest.raises(ZeroDivisionError):
            await writer.read(lambda: 1 // 0)
        assert await writer.read(lambda: 7) == 7

    with_writer(story)


def test_trouble_is_what_became_of_the_last_write_and_no_read_talks_it_away() -> None:
    async def story(writer: Writer, _: ManualClock) -> None:
        with pytest.raises(OrdersUnavailable):
            await writer.write(fail)
        assert "disk is full" in writer.trouble
        assert await writer.read(lambda: 1) == 1
        assert "disk is full" in writer.trouble
        await writer.write(lambda: None)
        assert writer.trouble == ""
        with pytest.raises(OrdersUnavailable):
            await writer.read(fail)
        assert writer.trouble == ""

    with_writer(story)


@pytest.mark.parametrize("queued_behind", [0, 1])
def test_a_disk_that_hangs_is_trouble_also_if_it_hangs_in_the_last_of_several_jobs(queued_behind: int) -> None:
    async def story(writer: Writer, clock: ManualClock) -> None:
        go, hangs, go_on = threading.Event(), threading.Event(), threading.Event()
        first = [writer.write(lambda: go.wait(PATIENCE_S)) for _ in range(queued_behind)]
        hanging = writer.write(lambda: hangs.set() or go_on.wait(PATIENCE_S))  # type: ignore[func-returns-value]
        go.set()
        await asyncio.gather(*first)
        await turns(hangs.is_set)
        await asyncio.sleep(0)

        clock.advance(HANGS_AFTER_S - 0.1)
        assert writer.trouble == ""
        clock.advance(0.2)
        assert "not answered for 3 s" in writer.trouble

        go_on.set()
        await hanging
        assert writer.trouble == ""

    with_writer(story)


def test_a_long_queue_is_no_trouble_as_long_as_it_moves() -> None:
    async def story(writer: Writer, clock: ManualClock) -> None:
        for _ in range(5):
            await writer.write(lambda: None)
            clock.advance(HANGS_AFTER_S - 0.5)
        assert writer.trouble == ""

    with_writer(story)


def test_what_could_never_be_done_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "QUEUE_MAX", 3)

    async def story(writer: Writer, _: ManualClock) -> None:
        hangs, go_on = threading.Event(), threading.Event()
        waiting = [writer.write(lambda: hangs.set() or go_on.wait(PATIENCE_S))]  # type: ignore[func-returns-value]
        await turns(hangs.is_set)
        waiting += [writer.write(lambda: True) for _ in range(3)]
        with pytest.raises(OrdersUnavailable, match="hangs"):
            writer.write(lambda: None)
        go_on.set()
        assert len(await asyncio.gather(*waiting)) == 4

    with_writer(story)


def test_who_gave_up_waiting_does_not_stop_what_is_under_way() -> None:
    async def story(writer: Writer, _: ManualClock) -> None:
        done = threading.Event()
        writer.write(done.set).cancel()
        await writer.write(lambda: None)
        assert done.is_set()

    with_writer(story)


@pytest.mark.parametrize("full", [False, True])
def test_closing_is_bounded_and_says_whether_the_thread_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    monkeypatch.setattr(writers, "QUEUE_MAX", 2)
    hangs, go_on = threading.Event(), threading.Event()

    async def story() -> None:
        writer = Writer(SystemClock())
        writer.write(lambda: hangs.set() or go_on.wait(PATIENCE_S))  # type: ignore[func-returns-value]
        await turns(hangs.is_set)
        for _ in range(2 if full else 0):
            writer.write(lambda: None)
        began_s = time.monotonic()
        assert not writer.close(0.2)
        assert time.monotonic() - began_s < 2.0
        go_on.set()
        assert writer.close(PATIENCE_S)

    asyncio.run(story())
