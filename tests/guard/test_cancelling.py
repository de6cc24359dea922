"""W5: a halt cancels the running tools that allow it, their outcome is unknown, and no other cancellation is eaten."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from builders import a_guard, an_order, steps_of
from rescind.errors import DeclarationError, RunHalted
from rescind.guard.effect import PastStep
from rescind.model.action import EffectClass
from rescind.model.level import Level
from rescind.model.outcome import Completed, Failed, Unknown


class Desk:
    """A guard with a tool that waits until it is let go."""

    def __init__(self, *, cancellable: bool = True) -> None:
        self.guard = a_guard()
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self.cancelled = False

        @self.guard.write("mail.send", irreversible="a test", cancellable=cancellable)
        async def send(to: str) -> str:
            self.began.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return to

        self.send = send

    def halt(self, scope: str = "everything", level: Level = Level.HALTED) -> None:
        self.guard.orders.place(an_order(scope=scope, level=level))
        self.guard.bind()  # what the watcher does

    @property
    def outcome(self) -> Any:
        (record,) = steps_of(self.guard.journal)
        return record.outcome


async def _in_a_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    thread.join()


async def _halted_while(desk: Desk, halt: Callable[[], Any]) -> RunHalted:
    async with desk.guard.run("shop@1", fallback="Please call us."):
        call = asyncio.ensure_future(desk.send("ada"))
        await desk.began.wait()
        await _in_a_thread(halt)
        with pytest.raises(RunHalted) as caught:
            await asyncio.wait_for(call, 10)
        assert not call.cancelled()
        with pytest.raises(RunHalted):
            await desk.send("grace")
    return caught.value


def test_a_halt_from_another_thread_cancels_the_tool_and_the_caller_gets_the_halt() -> None:
    async def program() -> None:
        desk = Desk()
        error = await _halted_while(desk, desk.halt)
        assert (error.fallback, error.order_ids) == ("Please call us.", ("ord-1",))
        assert "what it did is unknown" in str(error)
        assert desk.cancelled
        assert isinstance(desk.outcome, Unknown)
        assert desk.outcome.reason.startswith("cancelled by a stop while it ran: a test (order ord-1 by ops")

    asyncio.run(program())


def test_an_order_that_halts_just_this_action_cancels_it_too() -> None:
    async def program() -> None:
        desk = Desk()
        await _halted_while(desk, lambda: desk.halt("action:mail.send"))
        assert isinstance(desk.outcome, Unknown)

    asyncio.run(program())


def test_a_pushed_order_of_a_switch_cancels_like_one_of_this_machine() -> None:
    async def program() -> None:
        desk = Desk()
        await _halted_while(desk, lambda: desk.guard.take_up((an_order(),)))
        assert isinstance(desk.outcome, Unknown)

    asyncio.run(program())


@pytest.mark.parametrize("level", [Level.READ_ONLY, Level.PAUSED])
def test_what_is_no_halt_lets_it_finish(level: Level) -> None:
    async def program() -> None:
        desk = Desk()
        async with desk.guard.run("shop@1"):
            call = asyncio.ensure_future(desk.send("ada"))
            await desk.began.wait()
            desk.halt(level=level)
            await asyncio.sleep(0)
            desk.go_on.set()
            assert await call == "ada"
        assert isinstance(desk.outcome, Completed)

    asyncio.run(program())


def test_a_tool_that_is_not_cancellable_runs_out() -> None:
    async def program() -> None:
        desk = Desk(cancellable=False)
        async with desk.guard.run("shop@1"):
            call = asyncio.ensure_future(desk.send("ada"))
            await desk.began.wait()
            await _in_a_thread(desk.halt)
            assert desk.guard.in_flight()
            desk.go_on.set()
            assert await call == "ada"
        assert isinstance(desk.outcome, Completed)

    asyncio.run(program())


def test_a_cancellation_of_the_callers_own_stays_what_it_is() -> None:
    async def program() -> None:
        desk = Desk()
        async with desk.guard.run("shop@1"):
            call = asyncio.ensure_future(desk.send("ada"))
            await desk.began.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert isinstance(desk.outcome, Unknown)
        assert "stop" not in desk.outcome.reason

    asyncio.run(program())


@pytest.mark.parametrize("caller_first", [True, False])
def test_both_at_once_are_a_cancellation(caller_first: bool) -> None:
    async def program() -> None:
        desk = Desk()
        async with desk.guard.run("shop@1"):
            call = asyncio.ensure_future(desk.send("ada"))
            await desk.began.wait()
            if caller_first:
                call.cancel()
            desk.halt()
            if not caller_first:
                await asyncio.sleep(0)  # the halt has cancelled the task by now, which has not gone on yet
                call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert isinstance(desk.outcome, Unknown)

    asyncio.run(program())


def test_a_timeout_around_a_call_that_is_halted_is_not_mistaken_for_one() -> None:
    async def program() -> None:
        desk = Desk()
        async with desk.guard.run("shop@1"):

            async def caller() -> None:
                async with asyncio.timeout(20):
                    await desk.send("ada")

            call = asyncio.ensure_future(caller())
            await desk.began.wait()
            desk.halt()
            with pytest.raises(RunHalted):
                await call
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(1)

    asyncio.run(program())


def test_a_tool_that_ends_all_the_same_has_ended_and_leaves_no_cancellation_behind() -> None:
    async def program() -> None:
        guard = a_guard()
        began = asyncio.Event()

        @guard.write("mail.send", irreversible="a test", cancellable=True)
        async def send() -> str:
            began.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(20)
            return "sent"

        async def caller() -> str:
            result = await send()
            await asyncio.sleep(0)  # where a cancellation that is left over would strike
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            return result

        async with guard.run("shop@1"):
            call = asyncio.ensure_future(caller())
            await began.wait()
            guard.orders.place(an_order())
            guard.bind()
            assert await call == "sent"
        (record,) = steps_of(guard.journal)
        assert isinstance(record.outcome, Completed)

    asyncio.run(program())


def test_an_effect_that_vouches_for_nothing_having_changed_makes_it_failed() -> None:
    class Transaction:
        effect_class = EffectClass.REVERSIBLE

        def open(self, call: Any) -> Any:
            return self

        before = None

        def settle(self, result: Any) -> None:
            return None

        def abandon(self) -> bool:
            return True  # rolled back

        def observe(self, step: PastStep) -> None: ...

        def restore(self, step: PastStep) -> None: ...

    async def program() -> None:
        guard = a_guard()
        began = asyncio.Event()

        @guard.write("row.set", effect=Transaction(), cancellable=True)
        async def put() -> None:
            began.set()
            await asyncio.sleep(20)

        async with guard.run("shop@1"):
            call = asyncio.ensure_future(put())
            await began.wait()
            guard.orders.place(an_order())
            guard.bind()
            with pytest.raises(RunHalted):
                await call
        (record,) = steps_of(guard.journal)
        assert isinstance(record.outcome, Failed)
        assert "cancelled by a stop" in record.outcome.reason

    asyncio.run(program())


def test_one_in_another_cuts_both_short() -> None:
    async def program() -> None:
        desk = Desk()

        @desk.guard.write("order.place", irreversible="a test", cancellable=True)
        async def place() -> None:
            await desk.send("ada")

        async with desk.guard.run("shop@1"):
            call: Awaitable[None] = asyncio.ensure_future(place())
            await desk.began.wait()
            await _in_a_thread(desk.halt)
            with pytest.raises(RunHalted):
                await call
        outcomes: list[Any] = [record.outcome for record in steps_of(desk.guard.journal)]
        assert [type(each) for each in outcomes] == [Unknown, Unknown]
        assert "cancelled by a stop" in outcomes[1].reason

    asyncio.run(program())


def test_a_synchronous_tool_cannot_be_cancellable() -> None:
    guard = a_guard()
    with pytest.raises(DeclarationError, match="cancellable"):

        @guard.write("mail.send", irreversible="a test", cancellable=True)
        def send() -> None: ...
