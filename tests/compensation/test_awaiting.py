"""Handlers that are coroutines are awaited in one loop, which ends as that of a program does."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from rescind.compensation.awaiting import Waiter


def test_what_a_handler_left_running_may_put_things_in_order() -> None:
    told: list[str] = []

    async def flush() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("flushed")

    async def rows() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            told.append("closed")

    async def handler() -> str:
        left.append(asyncio.create_task(flush()))
        reading.append(rows())
        await anext(reading[0])
        await asyncio.sleep(0)
        return "done"

    left: list[asyncio.Task[None]] = []
    reading: list[AsyncIterator[int]] = []
    with Waiter() as waiter:
        assert waiter.result_of(handler()) == "done"
        assert told == []
    assert sorted(told) == ["closed", "flushed"]
    assert left[0].cancelled()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_handler_that_leaves_the_process_is_heard_and_the_others_go_on(error: BaseException) -> None:
    async def leave() -> None:
        await asyncio.sleep(0)
        raise error

    async def leave_behind() -> str:
        task = asyncio.create_task(leave())
        await asyncio.wait([task])
        return type(task.exception()).__name__

    async def stay() -> str:
        await asyncio.sleep(0)
        return "done"

    with Waiter() as waiter:
        with pytest.raises(type(error)):
            waiter.result_of(leave())
        assert waiter.result_of(leave_behind()) == type(error).__name__
        assert waiter.result_of(stay()) == "done"
