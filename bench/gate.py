"""What the gate adds to an allowed call, against the same checks written by hand."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import wraps
from typing import Any

from bench.form import Row, interleaved, row
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.switch.memory import MemoryOrders

CALLS = 200_000
ROUNDS = 9
TARGET = 3.0


class HandWritten:
    """A context variable, a folded deadline, an allowlist and a call budget: what one would write in place."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + 3600
        self.allowed = {"price.read"}
        self.calls = itertools.count(1)
        self.calls_max = 10**12


current: ContextVar[HandWritten | None] = ContextVar("current", default=None)


def by_hand(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        run = current.get()
        if run is None or time.monotonic() >= run.deadline or "price.read" not in run.allowed:
            raise PermissionError
        if next(run.calls) > run.calls_max:
            raise PermissionError
        return function(*args, **kwargs)

    return wrapper


def by_hand_async(function: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        run = current.get()
        if run is None or time.monotonic() >= run.deadline or "price.read" not in run.allowed:
            raise PermissionError
        if next(run.calls) > run.calls_max:
            raise PermissionError
        return await function(*args, **kwargs)

    return wrapper


def price(item: str) -> int:
    return 1


async def price_async(item: str) -> int:
    return 1


def measure() -> list[Row]:
    guard = Guard.over(MemoryJournal(), MemoryOrders())
    guarded, guarded_async = guard.read("price.read")(price), guard.read("price.read.async")(price_async)
    token = current.set(HandWritten())
    try:
        with guard.run("bench@1", allow={"price.read", "price.read.async"}, calls_max=10**12, timeout_s=3600):
            ours, reference = interleaved(lambda: per_call(guarded), lambda: per_call(by_hand(price)), rounds=ROUNDS)
            ours_async, reference_async = asyncio.run(_measure_async(guarded_async, by_hand_async(price_async)))
    finally:
        current.reset(token)
    note = "all checks on, allowed call"
    return [
        row("gate, sync", ours=ours, reference=reference, unit="µs", target=TARGET, n=ROUNDS, note=note),
        row("gate, async", ours=ours_async, reference=reference_async, unit="µs", target=TARGET, n=ROUNDS, note=note),
    ]


def per_call(function: Callable[[str], Any]) -> float:
    numbers = range(CALLS)
    began = time.perf_counter()
    for _ in numbers:
        function("x")
    return (time.perf_counter() - began) / CALLS * 1e6


async def _measure_async(
    ours: Callable[[str], Coroutine[Any, Any, Any]], reference: Callable[[str], Coroutine[Any, Any, Any]]
) -> tuple[float, float]:
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        mine.append(await _per_await(ours))
        theirs.append(await _per_await(reference))
    return sorted(mine)[ROUNDS // 2], sorted(theirs)[ROUNDS // 2]


async def _per_await(function: Callable[[str], Coroutine[Any, Any, Any]]) -> float:
    numbers = range(CALLS)
    began = time.perf_counter()
    for _ in numbers:
        await function("x")
    return (time.perf_counter() - began) / CALLS * 1e6
