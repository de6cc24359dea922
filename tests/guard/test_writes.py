"""The life of a write, as its caller and its journal see it."""

import asyncio
import math
import socket
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import rescind
from builders import a_guard, at_once, events_of, steps_of
from rescind.errors import (
    IdempotencyConflict,
    NoRun,
    NothingChanged,
    NotSerialisable,
    OutcomeNotRecorded,
    ResultNotRecorded,
    StepInDoubt,
    VerificationFailed,
)
from rescind.guard.guard import Guard
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.model.entry import Ended, Intended, RunClosed, RunOpened, Verified
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.model.step import REDACTED
from rescind.switch.memory import MemoryOrders


@dataclass
class Receipt:
    charge_id: str
    cents: int


class Desk:
    """A world of one table, and tools on it."""

    def __init__(self, journal: MemoryJournal | None = None) -> None:
        self.guard = Guard.over(journal or MemoryJournal(), MemoryOrders())
        self.status = {"inv_1": "open"}
        self.journal_at_call: list[str] = []
        self.charges: list[int] = []

        @self.guard.write("invoice.status.update", target=lambda invoice_id: ("erp", "invoice", invoice_id))
        def set_status(invoice_id: str, status: str) -> str:
            self.journal_at_call = [type(event).__name__ for event in events_of(self.guard.journal)]
            old, self.status[invoice_id] = self.status[invoice_id], status
            return old

        @set_status.snapshot
        def _(invoice_id: str) -> str:
            return self.status[invoice_id]

        @set_status.restore
        def _(step: rescind.PastStep) -> None:
            self.status[step.arguments["invoice_id"]] = step.before

        @self.guard.write("card.charge", redact=["card"])
        def charge(card: str, cents: int) -> Receipt:
            self.charges.append(cents)
            return Receipt(f"ch_{len(self.charges)}", cents)

        @charge.compensate
        def _(step: rescind.PastStep) -> None:
            self.charges.append(-step.result.cents)

        self.set_status, self.charge = set_status, charge


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_intent_is_in_the_journal_before_the_tool_runs(desk: Desk) -> None:
    with desk.guard.run("billing@1"):
        desk.set_status("inv_1", "void")

    assert desk.journal_at_call == ["RunOpened", "Intended"]


def test_a_write_leaves_intent_outcome_and_both_snapshots(desk: Desk) -> None:
    with desk.guard.run("billing-agent@2.4.0", tenant="acme", workflow="dunning", session="s-1") as run:
        assert desk.set_status("inv_1", status="void") == "open"

    opened, intended, ended, closed = events_of(desk.guard.journal)
    assert isinstance(opened, RunOpened)
    assert opened.run.agent == "billing-agent@2.4.0"
    assert isinstance(intended, Intended)
    assert intended.step.requested == {"invoice_id": "inv_1", "status": "void"}
    assert str(intended.step.target) == "erp/invoice/inv_1"
    assert isinstance(ended, Ended)
    assert ended.outcome == Completed("open")
    assert isinstance(closed, RunClosed)
    assert closed.how == "ended"
    (record,) = steps_of(desk.guard.journal, run.run_id)
    assert record.step.before is not None
    assert record.after is not None
    assert (record.step.before.image, record.after.image) == ("open", "void")
    assert record.step.compensation is not None
    assert record.step.compensation.kind == "restore"


def test_defaults_of_a_tool_are_part_of_what_was_asked() -> None:
    guard = a_guard()

    @guard.write("mail.send", irreversible="a mail cannot be unsent")
    def send(to: str, subject: str = "hello", *, copy: bool = False) -> None: ...

    with guard.run("mailer@1"):
        send("ada@example.com")

    (record,) = steps_of(guard.journal)
    assert record.step.requested == {"to": "ada@example.com", "subject": "hello", "copy": False}


def test_an_exception_leaves_the_step_unknown_and_reaches_the_caller() -> None:
    guard = a_guard()

    @guard.write("card.charge", irreversible="a test")
    def charge() -> None:
        raise TimeoutError("no reply in 30 s")

    with guard.run("billing@1"), pytest.raises(TimeoutError, match="no reply"):
        charge()

    (record,) = steps_of(guard.journal)
    assert record.outcome == Unknown("TimeoutError: no reply in 30 s")


def test_a_tool_may_vouch_that_nothing_changed() -> None:
    guard = a_guard()

    @guard.write("card.charge", irreversible="a test")
    def charge() -> None:
        raise NothingChanged("the card was declined")

    with guard.run("billing@1"), pytest.raises(NothingChanged):
        charge()

    (record,) = steps_of(guard.journal)
    assert isinstance(record.outcome, Failed)


def test_a_stop_iteration_from_a_tool_arrives_as_itself() -> None:
    guard = a_guard()

    @guard.write("queue.pop", irreversible="a test")
    def pop() -> None:
        raise StopIteration("empty")

    with guard.run("worker@1"), pytest.raises(StopIteration, match="empty"):
        pop()


def test_a_cancelled_call_is_unknown() -> None:
    guard = a_guard()
    started = asyncio.Event()

    @guard.write("card.charge", irreversible="a test")
    async def charge() -> None:
        started.set()
        await asyncio.sleep(3600)

    async def story() -> None:
        async with guard.run("billing@1"):
            task = asyncio.create_task(charge())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(story())
    (record,) = steps_of(guard.journal)
    assert isinstance(record.outcome, Unknown)
    assert "CancelledError" in record.outcome.reason


class HeldJournal(MemoryJournal):
    """Holds asynchronous appends until it is told to let them through."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting, self.go = asyncio.Event(), asyncio.Event()

    async def append_async(self, drafts: Any) -> Any:
        self.waiting.set()
        await self.go.wait()
        return await super().append_async(drafts)


def test_a_call_cancelled_while_its_intent_is_written_never_starts_and_says_so() -> None:
    async def story() -> tuple[HeldJournal, list[str]]:
        journal, effects = HeldJournal(), list[str]()
        guard = Guard.over(journal, MemoryOrders())

        @guard.write("card.charge", irreversible="a test")
        async def charge() -> None:
            effects.append("charged")

        with guard.run("billing@1"):
            task = asyncio.create_task(charge())
            await journal.waiting.wait()
            task.cancel()
            journal.go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        return journal, effects

    journal, effects = asyncio.run(story())
    (record,) = steps_of(journal)
    assert effects == []
    assert isinstance(record.outcome, Failed)


def test_an_asynchronous_tool_may_have_asynchronous_handlers() -> None:
    guard, world = a_guard(), {"inv_1": "open"}

    @guard.write("invoice.status.update")
    async def set_status(invoice_id: str, status: str) -> None:
        await asyncio.sleep(0)
        world[invoice_id] = status

    @set_status.snapshot
    async def _(invoice_id: str) -> str:
        return world[invoice_id]

    @set_status.restore
    async def _(step: rescind.PastStep) -> None: ...

    async def story() -> None:
        async with guard.run("billing@1"):
            await set_status("inv_1", "void")

    asyncio.run(story())
    (record,) = steps_of(guard.journal)
    assert record.step.before is not None
    assert record.after is not None
    assert (record.step.before.image, record.after.image) == ("open", "void")


@pytest.mark.parametrize(
    "value", [object(), math.nan, math.inf, [1.0, math.nan], "\ud800", lambda: None, "x" * (1 << 21)]
)
def test_an_argument_that_cannot_be_recorded_is_named_and_nothing_happens(value: object) -> None:
    guard, effects = a_guard(), []

    @guard.write("note.add", irreversible="a test")
    def add(text: str, extra: object) -> None:
        effects.append(text)

    with guard.run("notes@1"), pytest.raises(NotSerialisable, match="argument 'extra'") as caught:
        add("hello", extra=value)

    assert caught.value.name == "argument 'extra'"
    assert effects == []
    assert events_of(guard.journal) == []


def test_a_result_type_without_json_form_is_refused_before_the_effect() -> None:
    guard, effects = a_guard(), []

    @guard.write("socket.open", irreversible="a test")
    def connect() -> socket.socket:
        effects.append("connected")
        raise AssertionError

    with guard.run("net@1"), pytest.raises(NotSerialisable, match="the result"):
        connect()
    assert effects == []


def test_a_result_that_turns_out_unrecordable_is_returned_and_marked() -> None:
    guard = a_guard()

    @guard.write("thing.make", irreversible="a test")
    def make():  # type: ignore[no-untyped-def]  # noqa: ANN202  # the missing annotation is the point
        return threading.Lock()

    with guard.run("maker@1"):
        assert make.keyed("k-1")() is not None
        with pytest.raises(ResultNotRecorded):
            make.keyed("k-1")()

    (record,) = steps_of(guard.journal)
    assert record.outcome == Completed(None, result_recorded=False)


def test_a_redacted_value_is_nowhere_in_the_journal() -> None:
    guard, secret = a_guard(), "4242 4242 4242 4242"

    @guard.write("card.charge", redact=["card"], irreversible="a test")
    def charge(card: str, fail: bool) -> str:
        if fail:
            raise ValueError(f"card {card} is no card")
        return f"charged {card}"

    with guard.run("billing@1"):
        assert charge(secret, fail=False) == f"charged {secret}"
        with pytest.raises(ValueError, match="4242"):
            charge(secret, fail=True)

    assert secret not in repr(events_of(guard.journal))
    assert steps_of(guard.journal)[0].step.requested["card"] == REDACTED


def test_a_redacted_value_may_be_neither_key_nor_target_nor_before_image() -> None:
    guard, vault, effects = a_guard(), {"ada": "hunter2!"}, list[str]()

    @guard.write("by.key", key=lambda secret: secret, redact=["secret"], irreversible="a test")
    def by_key(secret: str) -> None:
        effects.append(secret)

    @guard.write(
        "by.target", target=lambda secret: ("vault", "entry", secret), redact=["secret"], irreversible="a test"
    )
    def by_target(secret: str) -> None:
        effects.append(secret)

    @guard.write("password.set", redact=["secret"])
    def set_password(user: str, secret: str) -> None:
        vault[user] = secret

    @set_password.snapshot
    def _(user: str) -> str:
        return vault[user]

    @set_password.restore
    def _(step: rescind.PastStep) -> None: ...

    with guard.run("vault@1"):
        for call in (by_key, by_target):
            with pytest.raises(NotSerialisable, match="redacted"):
                call("hunter2!")
        with pytest.raises(NotSerialisable, match="the snapshot"):
            set_password("ada", "hunter2!")
        set_password("ada", "swordfish")

    assert effects == []
    assert vault == {"ada": "swordfish"}
    assert "swordfish" not in repr(events_of(guard.journal))


def test_a_repeated_key_gets_the_recorded_result_in_its_own_type(desk: Desk) -> None:
    with desk.guard.run("billing@1"):
        first = desk.charge.keyed("order-17")("4242", 500)
    with desk.guard.run("billing@1"):
        second = desk.charge.keyed("order-17")("4242", 500)

    assert desk.charges == [500]
    assert first == second == Receipt("ch_1", 500)


def test_one_key_with_other_arguments_is_a_conflict(desk: Desk) -> None:
    with desk.guard.run("billing@1"):
        desk.charge.keyed("order-17")("4242", 500)
        with pytest.raises(IdempotencyConflict, match="order-17"):
            desk.charge.keyed("order-17")("4242", 501)
    assert desk.charges == [500]


def test_tenants_do_not_share_keys(desk: Desk) -> None:
    for tenant in ("acme", "globex"):
        with desk.guard.run("billing@1", tenant=tenant):
            desk.charge.keyed("order-17")("4242", 500)
    assert desk.charges == [500, 500]


def test_a_failed_step_frees_its_key_and_an_unknown_one_does_not() -> None:
    guard, problems = a_guard(), [NothingChanged("declined"), TimeoutError("no reply")]

    @guard.write("card.charge", key=lambda order: f"order-{order}", irreversible="a test")
    def charge(order: int) -> str:
        if problems:
            raise problems.pop(0)
        return "charged"

    with guard.run("billing@1"):
        with pytest.raises(NothingChanged):
            charge(17)
        with pytest.raises(TimeoutError):
            charge(17)
        with pytest.raises(StepInDoubt, match="no reply"):
            charge(17)
    assert not problems


def test_a_key_in_flight_is_not_run_a_second_time() -> None:
    guard, effects = a_guard(), []

    @guard.write("card.charge", irreversible="a test")
    def charge(depth: int) -> None:
        effects.append(depth)
        with pytest.raises(StepInDoubt, match="still runs"):
            charge.keyed("order-17")(0)

    with guard.run("billing@1"):
        charge.keyed("order-17")(0)
    assert effects == [0]


def test_threads_with_one_key_have_one_effect() -> None:
    guard, effects, results = a_guard(), [], []

    @guard.write("card.charge", irreversible="a test")
    def charge() -> str:
        effects.append(1)
        return "charged"

    run = guard.run("billing@1")

    def work() -> None:
        with run.activate():
            try:
                results.append(charge.keyed("order-17")())
            except StepInDoubt:
                results.append("in doubt")

    with run:
        at_once(work for _ in range(16))

    assert effects == [1]
    assert len(results) == 16
    assert set(results) <= {"charged", "in doubt"}


def test_a_tool_can_hand_its_key_on() -> None:
    guard, seen = a_guard(), []

    @guard.write("card.charge", irreversible="a test")
    def charge() -> None:
        seen.append(rescind.idempotency_key())

    with guard.run("billing@1", run_id="run-7"):
        charge()
        charge.keyed("order-17")()
    assert seen == ["run-7/1", "order-17"]
    assert rescind.idempotency_key() is None


def test_a_postcondition_that_does_not_hold_reaches_caller_and_journal(desk: Desk) -> None:
    @desk.set_status.verify
    def _(step: rescind.PastStep) -> bool:
        return bool(step.after == step.arguments["status"] != "voidd")

    with desk.guard.run("billing@1"):
        desk.set_status("inv_1", "void")
        with pytest.raises(VerificationFailed, match="postcondition"):
            desk.set_status("inv_1", "voidd")

    good, bad = steps_of(desk.guard.journal)
    assert (good.verified, bad.verified) == (True, False)
    assert isinstance(bad.outcome, Completed)
    assert [event.holds for event in events_of(desk.guard.journal) if isinstance(event, Verified)] == [True, False]


def test_an_outcome_that_cannot_be_recorded_is_told_with_its_result() -> None:
    class FillingDisk(MemoryJournal):
        def append(self, drafts: Any) -> Any:
            if any(isinstance(draft.event, Ended) for draft in drafts):
                raise rescind.JournalUnavailable("disk full")
            return super().append(drafts)

    desk = Desk(FillingDisk())
    with desk.guard.run("billing@1"), pytest.raises(OutcomeNotRecorded, match="in doubt") as caught:
        desk.set_status("inv_1", "void")

    assert caught.value.result == "open"
    assert steps_of(desk.guard.journal)[0].outcome is None


def test_without_a_journal_there_is_no_effect() -> None:
    class FullDisk(MemoryJournal):
        def append(self, drafts: list[Draft]) -> Any:  # type: ignore[override]
            raise rescind.JournalUnavailable("disk full")

    desk = Desk(FullDisk())
    with desk.guard.run("billing@1"), pytest.raises(rescind.JournalUnavailable):
        desk.set_status("inv_1", "void")
    assert desk.status == {"inv_1": "open"}


def test_a_call_outside_a_run_is_refused_with_the_remedy(desk: Desk) -> None:
    with pytest.raises(NoRun, match=r"guard\.run"):
        desk.set_status("inv_1", "void")


def test_a_continued_run_numbers_its_steps_apart(desk: Desk) -> None:
    for status in ("void", "paid"):
        with desk.guard.run("billing@1", run_id="nightly"):
            desk.set_status("inv_1", status)
            desk.set_status("inv_1", status)

    ids = [record.step.step_id for record in steps_of(desk.guard.journal, "nightly")]
    assert len(set(ids)) == 4
    assert desk.status == {"inv_1": "paid"}


def test_the_deadline_of_a_compensation_is_in_the_intent() -> None:
    guard = a_guard()

    @guard.write("card.charge", undo_within=timedelta(days=30))
    def charge() -> None: ...

    @charge.compensate
    def _(step: rescind.PastStep) -> None: ...

    with guard.run("billing@1"):
        charge()
    (record,) = steps_of(guard.journal)
    assert record.step.compensation is not None
    assert record.step.compensation.allowed_until == record.intended_at + timedelta(days=30)
