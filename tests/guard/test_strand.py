"""Happens-before, as steps record it."""

import asyncio
import threading

import pytest

from builders import a_guard, steps_of
from rescind.guard.guard import Guard


@pytest.fixture
def guard() -> Guard:
    guard = a_guard()

    @guard.write("note.add", irreversible="a test")
    def add(text: str) -> None: ...

    @guard.write("note.add_later", irreversible="a test")
    async def add_later(text: str) -> None:
        await asyncio.sleep(0)

    @guard.write("note.outer", irreversible="a test")
    def outer(text: str) -> None:
        add("inner")

    guard.add, guard.add_later, guard.outer = add, add_later, outer  # type: ignore[attr-defined]
    return guard


def parents(guard: Guard) -> dict[str, set[str]]:
    """By the first argument of each step, the first arguments of its causal parents."""
    records = steps_of(guard.journal)
    texts = {str(record.ref): record.step.requested["text"] for record in records}
    return {
        record.step.requested["text"]: {
            texts[parent if "/" in parent else f"{record.run.run_id}/{parent}"] for parent in record.step.causal_parents
        }
        for record in records
    }


def test_a_sequence_is_a_chain(guard: Guard) -> None:
    with guard.run("notes@1"):
        for text in "abc":
            guard.add(text)  # type: ignore[attr-defined]
    assert parents(guard) == {"a": set(), "b": {"a"}, "c": {"b"}}


def test_branches_are_apart_and_what_follows_comes_after_all_of_them(guard: Guard) -> None:
    with guard.run("notes@1") as run:
        guard.add("start")  # type: ignore[attr-defined]
        for name in "ab":
            with run.branch():
                guard.add(f"{name}1")  # type: ignore[attr-defined]
                guard.add(f"{name}2")  # type: ignore[attr-defined]
        guard.add("end")  # type: ignore[attr-defined]
    assert parents(guard) == {
        "start": set(), "a1": {"start"}, "a2": {"a1"}, "b1": {"start"}, "b2": {"b1"}, "end": {"start", "a2", "b2"},
    }  # fmt: skip


def test_tasks_are_apart_and_what_awaits_them_comes_after_them(guard: Guard) -> None:
    async def story() -> None:
        async with guard.run("notes@1"):
            await guard.add_later("start")  # type: ignore[attr-defined]
            await asyncio.gather(*(guard.add_later(name) for name in "ab"))  # type: ignore[attr-defined]
            await guard.add_later("end")  # type: ignore[attr-defined]

    asyncio.run(story())
    assert parents(guard)["a"] == parents(guard)["b"] == {"start"}
    assert parents(guard)["end"] == {"start", "a", "b"}


def test_a_task_after_a_finished_task_comes_after_it(guard: Guard) -> None:
    async def story() -> None:
        async with guard.run("notes@1"):
            await asyncio.create_task(guard.add_later("a"))  # type: ignore[attr-defined]
            await asyncio.create_task(guard.add_later("b"))  # type: ignore[attr-defined]

    asyncio.run(story())
    assert parents(guard)["b"] == {"a"}


def test_threads_are_strands_of_their_own(guard: Guard) -> None:
    run = guard.run("notes@1")

    def work(name: str) -> None:
        with run.activate():
            guard.add(name)  # type: ignore[attr-defined]

    with run:
        guard.add("before")  # type: ignore[attr-defined]
        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
            thread.join()
        guard.add("after")  # type: ignore[attr-defined]
    assert parents(guard)["a"] == {"before"}
    assert parents(guard)["b"] == {"before", "a"}  # it was started once the other had ended
    assert parents(guard)["after"] == {"before", "b"}  # and so after a, which was before b


def test_a_call_made_by_a_tool_comes_after_the_call_that_made_it(guard: Guard) -> None:
    with guard.run("notes@1"):
        guard.outer("outer")  # type: ignore[attr-defined]
        guard.add("next")  # type: ignore[attr-defined]
    assert parents(guard) == {"outer": set(), "inner": {"outer"}, "next": {"inner"}}


def test_a_child_run_comes_after_what_spawned_it_and_before_what_follows(guard: Guard) -> None:
    with guard.run("router@1") as parent:
        guard.add("before")  # type: ignore[attr-defined]
        with parent.spawn(agent="notes@1"):
            guard.add("in the child")  # type: ignore[attr-defined]
        guard.add("after")  # type: ignore[attr-defined]
    assert parents(guard)["in the child"] == {"before"}
    assert parents(guard)["after"] == {"before", "in the child"}


def test_a_failed_step_does_not_break_the_chain() -> None:
    from rescind.errors import NothingChanged

    guard = a_guard()

    @guard.write("note.add", irreversible="a test")
    def add(text: str) -> None:
        if text == "b":
            raise NothingChanged

    with guard.run("notes@1"):
        add("a")
        with pytest.raises(NothingChanged):
            add("b")
        add("c")
    assert parents(guard) == {"a": set(), "b": {"a"}, "c": {"a"}}
