"""What programs really do: fork, leak contexts, close too early, change their arguments, hammer, and nest."""

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rescind
from builders import a_guard, an_order, events_of, steps_of
from rescind.errors import CallDenied, RunHalted, UsageError
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.level import Level
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.switch.memory import MemoryOrders
from rescind.switch.presence import living_guards


def adding(guard: Guard) -> Any:
    @guard.write("note.add", irreversible="a test")
    def add(text: object) -> object:
        return text

    return add


@pytest.mark.parametrize("run_id", [None, "nightly"])
def test_after_a_fork_no_two_steps_share_an_id(tmp_path: Path, run_id: str | None) -> None:
    guard = Guard.at(tmp_path / "store")
    add = adding(guard)
    with guard.run("notes@1", run_id=run_id):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                add("child")
                add("child")
                guard.journal.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        add("parent")
    journal = SqliteJournal(tmp_path / "store" / "journal.db")
    refs = [str(record.ref) for record in steps_of(journal)]
    journal.close()
    guard.close()
    assert len(refs) == len(set(refs)) == 3


def test_a_closed_guard_is_registered_again_before_it_acts(tmp_path: Path) -> None:
    guard = Guard.at(tmp_path / "store")
    add = adding(guard)
    with guard.run("notes@1"):
        add("before")
        guard.close()
        assert living_guards(tmp_path / "store") == []
        add("after")
        assert len(living_guards(tmp_path / "store")) == 1
    guard.close()


def test_a_halted_run_opens_no_other_run() -> None:
    guard = a_guard()
    add = adding(guard)
    with guard.run("notes@1") as run:
        guard.orders.place(an_order(scope=f"run:{run.run_id}"))
        with pytest.raises(RunHalted):
            add("x")
        with pytest.raises(RunHalted):
            guard.run("other@1").__enter__()
        with pytest.raises(RunHalted):
            run.spawn(agent="other@1").__enter__()
    with guard.run("other@1"):
        add("x")


def test_a_child_gets_no_more_than_its_parent() -> None:
    guard = a_guard()
    add = adding(guard)
    with guard.run("notes@1", allow=[]) as run, run.spawn(allow={"note.add"}), pytest.raises(CallDenied):
        add("x")
    with guard.run("notes@1", calls_max=2) as run:
        for text in "ab":
            with run.spawn():
                add(text)
        with run.spawn(), pytest.raises(CallDenied, match="calls"):
            add("c")
    assert len(steps_of(guard.journal)) == 2


def test_a_run_left_in_another_context_ends_and_is_nobodys_parent() -> None:
    guard = a_guard()
    add = adding(guard)

    def dependency(tenant: str) -> Iterator[None]:
        with guard.run("notes@1", tenant=tenant):
            add(tenant)
            yield

    first, second = dependency("acme"), dependency("globex")
    next(first)
    contextvars.copy_context().run(next, second)
    for each in (first, second):
        with pytest.raises(StopIteration):
            next(each)
    assert guard.live_runs() == ()
    with guard.run("notes@1") as later:
        assert (later.info.tenant, later.info.ancestors) == ("", ())


def test_a_loop_of_tasks_does_not_pile_up_parents() -> None:
    guard = a_guard()

    @guard.write("note.add", irreversible="a test")
    async def add(number: int) -> None: ...

    async def story() -> None:
        async with guard.run("notes@1"):
            for number in range(200):
                await asyncio.create_task(add(number))

    asyncio.run(story())
    assert max(len(record.step.causal_parents) for record in steps_of(guard.journal)) == 1


def test_an_argument_changed_while_its_intent_was_written_is_refused() -> None:
    class Slow(MemoryJournal):
        async def append_async(self, drafts: Any) -> Any:
            await asyncio.sleep(0)
            return await super().append_async(drafts)

    guard, executed = Guard.over(Slow(), MemoryOrders()), list[object]()

    @guard.write("note.add", irreversible="a test")
    async def add(numbers: list[int]) -> None:
        executed.append(list(numbers))

    async def story() -> None:
        async with guard.run("notes@1"):
            numbers = [1]
            task = asyncio.create_task(add(numbers))
            await asyncio.sleep(0)
            numbers.append(999)
            with pytest.raises(UsageError, match="changed"):
                await task

    asyncio.run(story())
    assert executed == []
    assert isinstance(steps_of(guard.journal)[0].outcome, Failed)


def test_a_set_has_one_digest_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from rescind.guard.arguments import record_value; "
        "print(record_value('a', 'b', {'alpha', 'beta', 'gamma', 'delta'}))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(seen) == 1


SECRET = "4242424242424242"


def test_secrets_come_out_of_no_nest_no_tuple_and_no_mapping() -> None:
    guard = a_guard()

    @guard.write("card.charge", redact=["card"], irreversible="a test")
    def charge(card: dict[str, str]) -> None:
        raise ValueError(f"card {card['number']} is declined")

    @guard.write("order.pay", irreversible="a test")
    def pay() -> None:
        charge({"number": SECRET})

    @guard.write("card.keep", redact=["card"], irreversible="a test")
    def keep(card: str, memo: str) -> tuple[tuple[str], int]:
        return ((card,), 7)

    with guard.run("billing@1"):
        with pytest.raises(ValueError, match="declined"):
            pay()
        assert keep(SECRET, memo=f"paid with {SECRET}") == ((SECRET,), 7)
    assert SECRET not in repr(events_of(guard.journal))


def test_a_result_with_something_blotted_out_is_not_given_for_the_real_one() -> None:
    guard = a_guard()

    @guard.write("pin.set", redact=["pin"], irreversible="a test")
    def set_pin(pin: int, year: int) -> int:
        return year

    with guard.run("vault@1"):
        assert set_pin.keyed("k")(2024, 2024) == 2024
        with pytest.raises(rescind.RescindError, match="not recordable"):
            set_pin.keyed("k")(2024, 2024)


def test_an_exception_that_cannot_be_shown_is_recorded_all_the_same() -> None:
    class Opaque(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    guard = a_guard()

    @guard.write("note.add", irreversible="a test")
    def add(problem: str) -> None:
        raise Opaque if problem == "opaque" else ValueError("x" * 10_000_000)

    with guard.run("notes@1"):
        for problem, kind in (("opaque", Opaque), ("long", ValueError)):
            with pytest.raises(kind):
                add(problem)
    outcomes = [record.outcome for record in steps_of(guard.journal)]
    assert all(isinstance(outcome, Unknown) and len(outcome.reason) < 5_000 for outcome in outcomes)


@pytest.mark.parametrize("attribute", ["tenant", "session", "trace_id", "run_id"])
def test_attributes_are_texts(attribute: str) -> None:
    with pytest.raises(UsageError, match=attribute):
        a_guard().run("notes@1", **{attribute: 17})  # type: ignore[arg-type]  # the attribute varies


def test_a_signals_handler_may_use_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = a_guard()
    add = adding(guard)
    standing = guard.orders.standing

    def interrupted() -> Any:
        monkeypatch.setattr(guard.orders, "standing", standing)
        os.kill(os.getpid(), signal.SIGUSR1)
        return standing()

    def handler(*_: object) -> None:
        with contextvars.Context().run(guard.run, "handler@1"):
            add("from the handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        monkeypatch.setattr(guard.orders, "standing", interrupted)
        with guard.run("notes@1"):
            add("from the run")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [record.outcome for record in steps_of(guard.journal)] == [
        Completed("from the handler"),
        Completed("from the run"),
    ]


def test_an_order_bound_in_a_fork_is_the_childs_own(tmp_path: Path) -> None:
    guard = Guard.at(tmp_path / "store")
    add = adding(guard)
    with guard.run("notes@1"):
        add("parent")
        guard.orders.place(an_order(level=Level.READ_ONLY))
        child = os.fork()
        if child == 0:
            try:
                add("child")
            except CallDenied:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    guard.close()
