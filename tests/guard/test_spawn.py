"""Runs that runs spawn, in this process and in others: they follow, and get no further than what spawned them."""

import asyncio
from collections.abc import Callable

import pytest

from builders import a_guard, an_order
from rescind.errors import CallDenied, ConfigError, RunHalted, UsageError
from rescind.guard.guard import Guard
from rescind.guard.lineage import ANCESTORS_MAX, PARENT_VARIABLE
from rescind.model.level import Level
from rescind.testing import ManualClock


def _adding(guard: Guard) -> Callable[[str], None]:
    @guard.write("note.add", irreversible="a test")
    def add(text: str) -> None: ...

    return add


def test_children_follow_a_parent_that_is_halted_by_an_order_that_names_only_it() -> None:
    guard = a_guard()
    add = _adding(guard)
    with guard.run("router@1") as parent, parent.spawn(agent="notes@1") as child, child.spawn() as grandchild:
        add("before")
        guard.orders.place(an_order(scope=f"run:{parent.run_id}"))
        guard.bind()
        assert parent.halted
        assert child.halted
        assert grandchild.halted
        with pytest.raises(RunHalted) as caught:
            add("after")
        assert caught.value.order_ids == ("ord-1",)


def test_a_halt_that_a_call_of_the_parent_meets_is_the_childs_as_well() -> None:
    guard = a_guard()
    add = _adding(guard)
    with guard.run("router@1") as parent, parent.spawn(agent="notes@1") as child:
        guard.orders.place(an_order(scope=f"run:{parent.run_id}+action:note.add"))
        add("by the child")  # the order names the parent's calls alone
        with parent.activate(), pytest.raises(RunHalted):
            add("by the parent")
        assert child.halted


def test_a_child_that_has_ended_is_forgotten() -> None:
    guard = a_guard()
    with guard.run("router@1") as parent:
        for _ in range(3):
            with parent.spawn():
                pass
        guard.orders.place(an_order(level=Level.PAUSED))
        with pytest.raises(CallDenied):
            parent.spawn().__enter__()
        assert not parent._children


def test_a_child_in_a_task_of_its_own_is_cancelled_with_its_parent() -> None:
    async def program() -> None:
        guard = a_guard()
        began = asyncio.Event()

        @guard.write("mail.send", irreversible="a test", cancellable=True)
        async def send() -> None:
            began.set()
            await asyncio.sleep(20)

        async with guard.run("router@1") as parent:

            async def work() -> None:
                async with parent.spawn(agent="mailer@1"):
                    await send()

            task = asyncio.ensure_future(work())
            await began.wait()
            guard.orders.place(an_order(scope=f"run:{parent.run_id}"))
            guard.bind()
            with pytest.raises(RunHalted):
                await task

    asyncio.run(program())


def test_a_program_that_a_run_starts_is_in_its_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = a_guard(), a_guard()
    add = _adding(there)
    with here.run("router@1") as parent, parent.spawn(run_id="child") as child:
        environment = child.environment()
    assert environment == {PARENT_VARIABLE: f"child+{parent.run_id}"}
    monkeypatch.setenv(PARENT_VARIABLE, environment[PARENT_VARIABLE])

    with there.run("notes@1") as run:
        assert run.info.ancestors == ("child", parent.run_id)
        there.orders.place(an_order(scope=f"tree:{parent.run_id}", level=Level.READ_ONLY))
        with pytest.raises(CallDenied):
            add("x")
        with run.spawn() as grandchild:
            assert grandchild.info.ancestors == (run.run_id, "child", parent.run_id)
    with there.run("notes@1", parent="elsewhere") as run:
        assert run.info.ancestors == ("elsewhere", "child", parent.run_id)


def test_an_environment_names_store_and_switches_and_no_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    from rescind.config import SwitchConfig

    folder = tmp_path_factory.mktemp("store")
    guard = Guard.at(folder, switch=SwitchConfig(urls=("http://a:1", "http://b:2")), token="sesame")
    environment = guard.run("notes@1", run_id="r").environment()
    assert environment == {
        "RESCIND_STORE": str(folder),
        "RESCIND_URL": "http://a:1 http://b:2",
        PARENT_VARIABLE: "r",
    }


@pytest.mark.parametrize("said", ["a++b", " a", "a\x07", "+"])
def test_an_environment_that_names_no_run_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARENT_VARIABLE, said)
    with pytest.raises(ConfigError, match=PARENT_VARIABLE):
        a_guard().run("notes@1")


def test_the_line_of_ancestors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARENT_VARIABLE, "+".join(f"r{number}" for number in range(1000)))
    run = a_guard().run("notes@1")
    assert len(run.info.ancestors) == ANCESTORS_MAX
    assert run.environment()[PARENT_VARIABLE].count("+") == ANCESTORS_MAX - 1


def test_a_deadline_counts_the_time_that_the_machine_sleeps() -> None:
    clock = ManualClock()
    guard = a_guard(clock=clock)
    add = _adding(guard)
    with guard.run("notes@1", timeout_s=60):
        add("x")
        clock.suspend(61)
        assert clock.monotonic_s() == 0
        with pytest.raises(CallDenied, match="time"):
            add("y")


def test_a_run_is_entered_once() -> None:
    with a_guard().run("notes@1") as run, pytest.raises(UsageError, match="entered"):
        run.__enter__()
