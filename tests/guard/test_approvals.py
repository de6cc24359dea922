"""Approvals: a write waits for a person, who approves exactly what is then executed, once."""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from builders import a_draft, a_lift, an_order, at_once, events_of, steps_of
from rescind.clock import SystemClock, from_us
from rescind.config import ApprovalConfig
from rescind.errors import (
    ApprovalDenied,
    ApprovalPending,
    ApprovalVoid,
    CallDenied,
    FanOutBlocked,
    JournalUnavailable,
    RunHalted,
    UsageError,
)
from rescind.guard.call import WriteCall
from rescind.guard.flow import write_flow
from rescind.guard.guard import Guard
from rescind.guard.holding import Hold
from rescind.guard.request import Append, Perform, ReadRun, Request, Wait
from rescind.guard.request import read_run as answer_to
from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Query
from rescind.model.approval import Approval, ApprovalState
from rescind.model.entry import ApprovalAsked, ApprovalDecided, ApprovalUsed, Intended, RunOpened
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.step import REDACTED, digest_of
from rescind.recovery.approvals import decide, find_approval, list_approvals
from rescind.switch.memory import MemoryOrders
from rescind.testing import FaultyJournal, ManualClock

SUPERVISED = an_order(level=Level.SUPERVISED)


class ClockOfEvents(ManualClock):
    """A clock whose sleeps let something happen: at the n-th of them, from 1."""

    def __init__(self, **events: Callable[[], Any]) -> None:
        super().__init__()
        self.at = {int(name.removeprefix("sleep")): event for name, event in events.items()}

    def sleep(self, duration_s: float) -> None:
        super().sleep(duration_s)
        self.at.get(len(self.slept_s), lambda: None)()


class Shop:
    """A guard with tools, in the hands of supervised agents."""

    def __init__(
        self,
        *,
        wait_s: float = 0.0,
        expire_s: float = 600.0,
        journal: MemoryJournal | None = None,
        clock: ManualClock | SystemClock | None = None,
        supervised: bool = True,
    ) -> None:
        self.journal, self.orders = journal or MemoryJournal(), MemoryOrders()
        self.clock = clock or ClockOfEvents()
        approval = ApprovalConfig(wait_s=wait_s, expire_s=expire_s)
        self.guard = guard = Guard.over(self.journal, self.orders, clock=self.clock, approval=approval)
        self.paid: list[Any] = []

        @guard.read("price.get")
        def get(item: str) -> int:
            return 7

        @guard.write("pay", irreversible="a test", target=lambda to: ("bank", "account", to))
        def pay(to: str, cents: int) -> str:
            self.paid.append((to, cents))
            return "paid"

        @guard.write("pay.many", irreversible="a test")
        def pay_many(to: list[str]) -> None:
            self.paid.append(list(to))

        @guard.write("card.charge", irreversible="a test", redact=["card"])
        def charge(card: str, cents: int) -> None:
            self.paid.append((card, cents))

        @guard.write("pay.later", irreversible="a test")
        async def pay_async(to: str) -> None:
            self.paid.append(to)

        self.get, self.pay, self.pay_many, self.charge, self.pay_async = get, pay, pay_many, charge, pay_async
        if supervised:
            self.orders.place(SUPERVISED)

    @property
    def now(self) -> Any:
        return from_us(self.clock.now_us())

    def waiting(self) -> list[Approval]:
        return list_approvals(self.journal, now=self.now)

    def decide(self, decision: str = "approved", **fields: Any) -> Approval:
        (approval,) = self.waiting()
        clock = ManualClock(self.now)
        return decide(self.journal, approval.approval_id, decision, clock=clock, **({"actor": "olga"} | fields))

    def at_sleep(self, number: int, event: Callable[[], Any]) -> None:
        assert isinstance(self.clock, ClockOfEvents)
        self.clock.at[number] = event


def a_refused(call: Callable[..., Any], *args: Any) -> ApprovalPending:
    with pytest.raises(ApprovalPending) as caught:
        call(*args)
    return caught.value


# --- asking ---


def test_a_supervised_write_asks_and_does_not_happen_while_reads_go_on() -> None:
    shop = Shop()
    with shop.guard.run("shop@1", run_id="run-1", tenant="acme"):
        assert shop.get("tea") == 7
        error = a_refused(shop.pay, "ada", 5)

    (approval,) = shop.waiting()
    assert error.approval_id == approval.approval_id
    assert (error.level, error.order_ids, error.action) == (Level.SUPERVISED, ("ord-1",), "pay")
    assert "a test (order ord-1 by ops)" in str(error)
    asked = approval.asked
    assert (asked.run.run_id, asked.run.tenant, asked.action, str(asked.target)) == (
        "run-1",
        "acme",
        "pay",
        "bank/account/ada",
    )
    assert asked.arguments == {"to": "ada", "cents": 5}
    assert asked.arguments_digest == digest_of("pay", {"to": "ada", "cents": 5})
    assert (asked.expires_at - shop.now).total_seconds() == 600
    assert shop.paid == []
    assert not [event for event in events_of(shop.journal) if isinstance(event, Intended)]


def test_the_run_that_asks_is_in_the_journal_although_it_has_no_step() -> None:
    shop = Shop()
    with shop.guard.run("shop@1", run_id="run-1"):
        a_refused(shop.pay, "ada", 5)
        assert isinstance(events_of(shop.journal, "run-1")[0], RunOpened)


def test_the_same_call_asks_once_however_often_it_is_made() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        ids = {a_refused(shop.pay, "ada", 5).approval_id for _ in range(5)}
        other = a_refused(shop.pay, "ada", 6).approval_id
    assert len(ids) == 1
    assert other not in ids
    assert len(shop.waiting()) == 2


def test_the_policy_asks_for_single_actions_and_says_why() -> None:
    shop = Shop(supervised=False)
    shop.guard.approval_reason = lambda action: "the policy wants it" if action == "pay" else ""
    with shop.guard.run("shop@1"):
        shop.pay_many(["ada"])
        error = a_refused(shop.pay, "ada", 5)
        assert error.because == "the policy wants it"
        shop.decide()
        assert shop.pay("ada", 5) == "paid"
    assert shop.paid == [["ada"], ("ada", 5)]


def test_what_this_process_holds_at_supervised_for_a_while_asks_too() -> None:
    shop = Shop(supervised=False)
    with shop.guard.run("shop@1") as run:
        run.hold_at(Hold(level=Level.SUPERVISED, until_s=shop.clock.boot_s() + 60, why="too fast", advice="wait"))
        assert shop.get("tea") == 7
        assert a_refused(shop.pay, "ada", 5).because == "too fast"
        shop.decide()
        assert shop.pay("ada", 5) == "paid"
        a_refused(shop.pay, "ada", 5)
        shop.orders.place(an_order("ord-2", level=Level.READ_ONLY))
        with pytest.raises(CallDenied) as caught:
            shop.pay("ada", 6)
        assert caught.value.level is Level.READ_ONLY
        shop.orders.lift(a_lift("ord-2"))
        assert isinstance(shop.clock, ManualClock)
        shop.clock.advance(61)
        assert shop.pay("ada", 5) == "paid"


def test_an_approval_opens_no_other_door() -> None:
    shop = Shop()
    wake = shop.guard.write("agent.wake", irreversible="a test", spawns=True)(lambda name: shop.paid.append(name))
    with shop.guard.run("shop@1"):
        a_refused(wake, "follow-up")
        shop.decide()
        order = an_order("ord-2", level=Level.NORMAL, measure=Measure.BLOCK_FAN_OUT)
        shop.orders.place(order)
        with pytest.raises(FanOutBlocked):
            wake("follow-up")
    assert shop.paid == []


def test_what_a_run_may_not_do_at_all_is_refused_and_nobody_is_asked() -> None:
    shop = Shop()
    with shop.guard.run("shop@1", allow={"pay.many"}), pytest.raises(CallDenied, match="not among"):
        shop.pay("ada", 5)
    assert shop.waiting() == []


def test_what_cannot_be_asked_durably_is_refused() -> None:
    shop = Shop()
    guard = Guard.over(FaultyJournal(shop.journal, lambda _: True), shop.orders, clock=shop.clock)
    pay = guard.write("pay", irreversible="a test")(lambda cents: shop.paid.append(cents))
    with guard.run("shop@1"), pytest.raises(JournalUnavailable):
        pay(5)
    assert shop.paid == []
    assert events_of(shop.journal) == []


# --- approved ---


def test_what_was_approved_is_executed_once_and_journaled_with_its_approval() -> None:
    shop = Shop()
    with shop.guard.run("shop@1", run_id="run-1"):
        a_refused(shop.pay, "ada", 5)
        approval_id = shop.decide(note="fine").approval_id
        assert shop.pay("ada", 5) == "paid"
        again = a_refused(shop.pay, "ada", 5)

    assert shop.paid == [("ada", 5)]
    (record,) = steps_of(shop.journal, "run-1")
    assert record.step.approval_id == approval_id
    assert record.step.arguments == {"to": "ada", "cents": 5}
    approval = find_approval(shop.journal, approval_id)
    assert approval.used == record.ref
    assert approval.decided is not None
    assert (approval.decided.actor, approval.decided.note) == ("olga", "fine")
    assert again.approval_id != approval_id


def test_other_arguments_are_not_approved() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        a_refused(shop.pay, "ada", 5)
        shop.decide()
        a_refused(shop.pay, "ada", 500)
        a_refused(shop.pay, "bob", 5)
    assert shop.paid == []


def test_the_same_call_of_another_run_is_not_approved() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        a_refused(shop.pay, "ada", 5)
        shop.decide()
    with shop.guard.run("shop@1"):
        a_refused(shop.pay, "ada", 5)


def test_a_waiting_call_goes_on_when_it_is_approved() -> None:
    shop = Shop(wait_s=60)
    shop.at_sleep(3, shop.decide)
    with shop.guard.run("shop@1"):
        assert shop.pay("ada", 5) == "paid"
    kinds = [type(event).__name__ for event in events_of(shop.journal) if not isinstance(event, RunOpened)]
    assert kinds == ["ApprovalAsked", "ApprovalDecided", "Intended", "ApprovalUsed", "Ended", "RunClosed"]


def test_a_call_that_waits_gives_up_and_what_it_asked_stays() -> None:
    shop = Shop(wait_s=60)
    with shop.guard.run("shop@1"):
        a_refused(shop.pay, "ada", 5)
        assert isinstance(shop.clock, ManualClock)
        assert sum(shop.clock.slept_s) == pytest.approx(60)
        assert len(shop.clock.slept_s) < 200
        shop.decide()
        assert shop.pay("ada", 5) == "paid"


def test_a_keyed_call_that_ended_needs_no_second_approval() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        a_refused(shop.pay.keyed("k-1"), "ada", 5)
        shop.decide()
        assert shop.pay.keyed("k-1")("ada", 5) == "paid"
        assert shop.pay.keyed("k-1")("ada", 5) == "paid"
    assert shop.paid == [("ada", 5)]
    assert shop.waiting() == []


# --- denied, expired, stopped ---


def test_a_denial_says_who_and_why_and_stands_until_it_expires() -> None:
    shop = Shop(expire_s=600)
    with shop.guard.run("shop@1"):
        a_refused(shop.pay, "ada", 5)
        shop.decide("denied", note="not ada")
        for _ in range(3):
            with pytest.raises(ApprovalDenied, match="olga has denied it") as caught:
                shop.pay("ada", 5)
        assert "not ada" in str(caught.value)
        assert shop.waiting() == []
        assert isinstance(shop.clock, ManualClock)
        shop.clock.advance(601)
        a_refused(shop.pay, "ada", 5)
    assert shop.paid == []
    assert len(shop.waiting()) == 1


def test_a_waiting_call_ends_when_it_is_denied() -> None:
    shop = Shop(wait_s=60)
    shop.at_sleep(2, lambda: shop.decide("denied"))
    with shop.guard.run("shop@1"), pytest.raises(ApprovalDenied):
        shop.pay("ada", 5)


def test_what_expires_while_it_waits_is_refused_and_asked_anew_the_next_time() -> None:
    shop = Shop(wait_s=100, expire_s=30)
    with shop.guard.run("shop@1"):
        with pytest.raises(ApprovalVoid, match="nobody decided in time") as caught:
            shop.pay("ada", 5)
        shop.at_sleep(len(shop.clock.slept_s) + 1, shop.decide)  # type: ignore[union-attr]
        assert shop.pay("ada", 5) == "paid"
    states = [each.state(shop.now) for each in list_approvals(shop.journal, now=shop.now, waiting_only=False)]
    assert states == [ApprovalState.EXPIRED, ApprovalState.USED]
    assert find_approval(shop.journal, caught.value.approval_id).state(shop.now) is ApprovalState.EXPIRED


def test_an_approval_that_was_not_used_in_time_is_good_for_nothing() -> None:
    shop = Shop(expire_s=30)
    with shop.guard.run("shop@1"):
        a_refused(shop.pay, "ada", 5)
        shop.decide()
        assert isinstance(shop.clock, ManualClock)
        shop.clock.advance(30)
        a_refused(shop.pay, "ada", 5)
    assert shop.paid == []


@pytest.mark.parametrize("level", [Level.READ_ONLY, Level.PAUSED])
def test_a_stop_ends_the_waiting_and_nothing_happens(level: Level) -> None:
    shop = Shop(wait_s=60)
    shop.at_sleep(2, lambda: shop.orders.place(an_order("ord-2", level=level)))
    with shop.guard.run("shop@1"), pytest.raises(CallDenied) as caught:
        shop.pay("ada", 5)
    assert caught.value.level is level
    assert len(shop.clock.slept_s) == 2  # type: ignore[union-attr]
    assert shop.paid == []


def test_a_halt_ends_the_waiting_and_the_run_although_it_was_approved_in_the_same_moment() -> None:
    shop = Shop(wait_s=60)

    def both() -> None:
        shop.decide()
        shop.orders.place(an_order("ord-2"))

    shop.at_sleep(2, both)
    with shop.guard.run("shop@1"), pytest.raises(RunHalted):
        shop.pay("ada", 5)
    assert shop.paid == []


def test_a_stop_between_the_approval_and_the_tool_is_obeyed() -> None:
    shop = Shop()

    held = _placing_at_intent(shop, an_order("ord-9", level=Level.READ_ONLY))
    guard = Guard.over(held, shop.orders, clock=shop.clock)
    paid: list[int] = []
    pay = guard.write("pay", irreversible="a test")(lambda cents: paid.append(cents))
    with guard.run("shop@1"):
        a_refused(pay, 5)
        shop.decide()
        with pytest.raises(CallDenied) as caught:
            pay(5)
    assert caught.value.level is Level.READ_ONLY
    assert paid == []


def _placing_at_intent(shop: Shop, order: Order) -> FaultyJournal:
    def place(drafts: Any) -> bool:
        if any(isinstance(draft.event, Intended) for draft in drafts):
            shop.orders.place(order)
        return False

    return FaultyJournal(shop.journal, place)


def test_the_run_may_not_outlive_its_time_by_waiting() -> None:
    shop = Shop(wait_s=600)
    with shop.guard.run("shop@1", timeout_s=10), pytest.raises(CallDenied, match="used up its time"):
        shop.pay("ada", 5)


def test_a_lift_lets_the_waiting_call_go_on_and_withdraws_what_it_asked() -> None:
    shop = Shop(wait_s=60)
    shop.at_sleep(2, lambda: shop.orders.lift(a_lift("ord-1")))
    with shop.guard.run("shop@1"):
        assert shop.pay("ada", 5) == "paid"
    (approval,) = list_approvals(shop.journal, now=shop.now, waiting_only=False)
    assert approval.state(shop.now) is ApprovalState.WITHDRAWN
    with pytest.raises(UsageError, match="withdrawn"):
        decide(shop.journal, approval.approval_id, "denied", actor="olga", clock=ManualClock())


def test_an_order_that_comes_between_intent_and_tool_holds_what_nobody_approved() -> None:
    shop = Shop(supervised=False)

    guard = Guard.over(_placing_at_intent(shop, SUPERVISED), shop.orders, clock=shop.clock)
    paid: list[int] = []
    pay = guard.write("pay", irreversible="a test")(lambda cents: paid.append(cents))
    with guard.run("shop@1"), pytest.raises(CallDenied, match="Make the same call again"):
        pay(5)
    assert paid == []


# --- what is executed is what was approved ---


def test_a_list_that_is_changed_while_it_waits_voids_the_approval() -> None:
    shop = Shop(wait_s=60)
    to = ["ada"]

    def swap() -> None:
        shop.decide()
        to.append("mallory")

    shop.at_sleep(2, swap)
    with shop.guard.run("shop@1"):
        with pytest.raises(ApprovalVoid, match="an argument was changed"):
            shop.pay_many(to)
        (approval,) = list_approvals(shop.journal, now=shop.now, waiting_only=False)
        assert approval.state(shop.now) is ApprovalState.WITHDRAWN
        shop.guard.approval = ApprovalConfig(wait_s=0)
        a_refused(shop.pay_many, ["ada"])  # what was approved is not good any more either
    assert shop.paid == []


def test_a_list_that_is_changed_while_the_target_is_looked_at_voids_the_approval_too() -> None:
    shop, to, tampers = Shop(), ["ada"], False

    @shop.guard.write("list.pay")
    def pay(to: list[str]) -> None:
        shop.paid.append(list(to))

    @pay.snapshot
    def _() -> None:
        if tampers:
            to.append("mallory")

    @pay.restore
    def _(step: Any) -> None: ...

    with shop.guard.run("shop@1"):
        a_refused(pay, to)
        shop.decide()
        tampers = True
        with pytest.raises(ApprovalVoid):
            pay(to)
    assert shop.paid == []


def test_the_tool_of_an_approved_call_gets_copies_that_nobody_else_can_change() -> None:
    shop, to = Shop(), ["ada"]
    got: list[list[str]] = []
    pay = shop.guard.write("copies.pay", irreversible="a test")(lambda to: got.append(to))
    with shop.guard.run("shop@1"):
        a_refused(pay, to)
        shop.decide()
        pay(to)
    assert got == [["ada"]]
    assert got[0] is not to


def test_a_redacted_argument_is_not_covered_and_the_approval_says_so() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        a_refused(shop.charge, "4111-1111", 5)
        (approval,) = shop.waiting()
        assert approval.uncovered == ("card",)
        assert approval.asked.arguments == {"card": REDACTED, "cents": 5}
        assert approval.asked.arguments_digest == digest_of("card.charge", {"cents": 5})
        assert "4111" not in repr(events_of(shop.journal))
        shop.decide()
        shop.charge("4222-2222", 5)  # nobody could see the one, so nobody can tell it from the other (decision 0006)
    assert shop.paid == [("4222-2222", 5)]


def test_a_redacted_argument_that_is_changed_while_it_waits_voids_the_approval_in_its_own_process() -> None:
    shop = Shop(wait_s=60)
    cards: list[str] = ["4111-1111"]

    @shop.guard.write("cards.charge", irreversible="a test", redact=["cards"])
    def charge(cards: list[str]) -> None:
        shop.paid.append(list(cards))

    def swap() -> None:
        shop.decide()
        cards[0] = "4222-2222"

    shop.at_sleep(2, swap)
    with shop.guard.run("shop@1"), pytest.raises(ApprovalVoid):
        charge(cards)
    assert shop.paid == []


# --- deciding ---


def test_a_decision_is_taken_once_and_who_comes_second_is_told() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        approval_id = a_refused(shop.pay, "ada", 5).approval_id
    shop.decide()
    for decision in ("approved", "denied"):
        with pytest.raises(UsageError, match="was approved by olga already"):
            decide(shop.journal, approval_id, decision, actor="mike", clock=ManualClock())


def test_of_two_who_decide_in_the_same_moment_one_wins_and_the_other_is_told() -> None:
    for _ in range(20):
        shop = Shop()
        with shop.guard.run("shop@1"):
            approval_id = a_refused(shop.pay, "ada", 5).approval_id
        barrier, told = threading.Barrier(2), list[str]()

        def person(decision: str) -> None:
            barrier.wait()  # noqa: B023  # joined within the turn
            try:
                decide(shop.journal, approval_id, decision, actor=decision, clock=ManualClock())  # noqa: B023
            except UsageError as error:
                told.append(str(error))  # noqa: B023

        at_once(functools.partial(person, each) for each in ("approved", "denied"))
        decided = [event for event in events_of(shop.journal) if isinstance(event, ApprovalDecided)]
        assert len(decided) == 1
        assert told == [
            f"{approval_id} was {decided[0].decision} by {decided[0].actor} already; it cannot be decided twice"
        ]


def test_who_decides_between_anothers_look_and_word_has_decided() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        approval_id = a_refused(shop.pay, "ada", 5).approval_id

    def mike_is_faster(_: Any) -> bool:
        decide(shop.journal, approval_id, "denied", actor="mike", clock=ManualClock())
        return False

    slow = FaultyJournal(shop.journal, mike_is_faster)
    with pytest.raises(UsageError, match="was denied by mike already"):
        decide(slow, approval_id, "approved", actor="olga", clock=ManualClock())
    assert find_approval(shop.journal, approval_id).state(shop.now) is ApprovalState.DENIED
    assert sum(isinstance(event, ApprovalDecided) for event in events_of(shop.journal)) == 1


def test_too_late_is_too_late() -> None:
    shop = Shop(expire_s=30)
    with shop.guard.run("shop@1"):
        approval_id = a_refused(shop.pay, "ada", 5).approval_id
    clock = ManualClock()
    clock.advance(30)
    with pytest.raises(UsageError, match="has expired"):
        decide(shop.journal, approval_id, "approved", actor="olga", clock=clock)


@pytest.mark.parametrize(("decision", "actor"), [("perhaps", "olga"), ("approved", " "), ("withdrawn", "olga")])
def test_only_a_named_person_decides_and_only_yes_or_no(decision: str, actor: str) -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        approval_id = a_refused(shop.pay, "ada", 5).approval_id
    with pytest.raises(UsageError):
        decide(shop.journal, approval_id, decision, actor=actor, clock=ManualClock())
    assert len(shop.waiting()) == 1


def test_what_shows_other_arguments_than_it_is_about_cannot_be_approved() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        a_refused(shop.pay, "ada", 500)
    (approval,) = shop.waiting()
    forged = ApprovalAsked(
        approval_id="approval_forged",
        run=approval.asked.run,
        action="pay",
        arguments={"to": "ada", "cents": 5},
        arguments_digest=approval.asked.arguments_digest,
        expires_at=approval.asked.expires_at,
    )
    own = next(entry.run for entry in shop.journal.entries(Query(run_id=approval.approval_id)))
    opening = RunOpened(run=type(own)(run_id="approval_forged", agent_name=own.agent_name), guard_id="g")
    shop.journal.append([a_draft(opening, "approval_forged"), a_draft(forged, "approval_forged")])
    with pytest.raises(UsageError, match="other arguments"):
        decide(shop.journal, "approval_forged", "approved", actor="olga", clock=ManualClock())


def test_a_decision_about_other_arguments_or_after_the_expiry_counts_for_nothing() -> None:
    shop = Shop(expire_s=30)
    with shop.guard.run("shop@1"):
        approval_id = a_refused(shop.pay, "ada", 5).approval_id
        wrong = ApprovalDecided(approval_id=approval_id, decision="approved", actor="m", arguments_digest="other")
        shop.journal.append([a_draft(wrong, approval_id)])
        digest = digest_of("pay", {"to": "ada", "cents": 5})
        late = ApprovalDecided(approval_id=approval_id, decision="approved", actor="m", arguments_digest=digest)
        shop.journal.append([a_draft(late, approval_id, recorded_at_us=shop.clock.now_us() + 30_000_000)])
        a_refused(shop.pay, "ada", 5)
        shop.decide("denied")
        with pytest.raises(ApprovalDenied):
            shop.pay("ada", 5)


def test_where_switches_decide_the_journal_of_the_machine_does_not() -> None:
    shop = Shop()

    class Switch:
        said: ApprovalDecided | None = None

        def decision(self, asked: ApprovalAsked) -> ApprovalDecided | None:
            return self.said

    shop.guard.decider = switch = Switch()
    with shop.guard.run("shop@1", run_id="run-1"):
        approval_id = a_refused(shop.pay, "ada", 5).approval_id
        shop.decide(actor="the agent itself")
        a_refused(shop.pay, "ada", 5)
        digest = digest_of("pay", {"to": "ada", "cents": 5})
        switch.said = ApprovalDecided(
            approval_id=approval_id, decision="approved", actor="olga", arguments_digest=digest
        )
        assert shop.pay("ada", 5) == "paid"
    assert [event.actor for event in events_of(shop.journal, approval_id) if isinstance(event, ApprovalDecided)] == [
        "the agent itself",
        "olga",
    ]


# --- at once, and in two processes ---


def test_two_equal_calls_at_once_need_two_approvals() -> None:
    shop = Shop(wait_s=20, clock=SystemClock())
    with shop.guard.run("shop@1") as run:

        def pay() -> None:
            with run.activate():
                shop.pay("ada", 5)

        threads = [threading.Thread(target=pay) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in (1, 2):
            _until(lambda: len(shop.waiting()) == 1)
            shop.decide()
            _until(lambda turn=turn: len(shop.paid) == turn)  # type: ignore[misc]
        for thread in threads:
            thread.join()
    assert shop.paid == [("ada", 5), ("ada", 5)]
    used = [event for event in events_of(shop.journal) if isinstance(event, ApprovalUsed)]
    assert len({event.approval_id for event in used}) == 2


def test_two_processes_that_race_for_one_approval_have_one_effect() -> None:
    shop = Shop()
    with shop.guard.run("shop@1", run_id="run-1"):
        a_refused(shop.pay, "ada", 5)
    shop.decide()
    other = Shop(journal=shop.journal)
    with shop.guard.run("shop@1", run_id="run-1") as one, other.guard.run("shop@1", run_id="run-1") as two:
        ends = _interleaved(shop, one, other, two)
    assert shop.paid + other.paid == [("ada", 5)]
    assert sorted(ends) == ["ApprovalVoid", "returned"]


def _interleaved(shop: Shop, one: Any, other: Shop, two: Any) -> list[str]:
    """Both hold the approval before either begins with it."""
    flows = []
    for each, run in ((shop, one), (other, two)):
        with run.activate():
            flow = write_flow(WriteCall(each.pay.tool, run, ("ada", 5), {}, None))
            request: Request = next(flow)
            while not (isinstance(request, Append) and any(isinstance(d.event, Intended) for d in request.drafts)):
                request = flow.send(_answer(each, request))
            flows.append((each, run, flow, request))
    ends = []
    for each, run, flow, request in flows:
        with run.activate():
            try:
                while True:
                    try:
                        answer = _answer(each, request)
                    except Exception as error:  # noqa: BLE001  # the flow decides what it means
                        request = flow.throw(error)
                    else:
                        request = flow.send(answer)
            except StopIteration as done:
                ends.append(type(done.value.error).__name__ if hasattr(done.value, "error") else "returned")
    return ends


def _answer(shop: Shop, request: Request) -> Any:
    match request:
        case Append(drafts):
            return shop.journal.append(drafts)
        case ReadRun():
            return answer_to(shop.journal, request)
        case Perform(function):
            return function()
        case Wait():
            raise AssertionError("nothing has to wait here")
        case _:
            return None


def test_a_run_that_is_continued_finds_what_it_asked_for() -> None:
    shop = Shop()
    with shop.guard.run("shop@1", run_id="run-1"):
        approval_id = a_refused(shop.pay, "ada", 5).approval_id
    later = Shop(journal=shop.journal)
    with later.guard.run("shop@1", run_id="run-1"):
        assert a_refused(later.pay, "ada", 5).approval_id == approval_id
        shop.decide()
        assert later.pay("ada", 5) == "paid"


def test_the_many_approvals_of_one_call_are_found_by_halving() -> None:
    shop = Shop()
    with shop.guard.run("shop@1"):
        for _ in range(37):
            a_refused(shop.pay, "ada", 5)
            shop.decide()
            shop.pay("ada", 5)
    approvals = list_approvals(shop.journal, now=shop.now, waiting_only=False)
    assert len(approvals) == len(shop.paid) == 37
    assert {each.state(shop.now) for each in approvals} == {ApprovalState.USED}


# --- tasks ---


def test_a_task_waits_without_blocking_its_loop() -> None:
    shop = Shop(wait_s=20, clock=SystemClock())

    async def person() -> None:
        await _asked(shop)
        await asyncio.sleep(0.1)
        shop.decide()

    async def story() -> None:
        async with shop.guard.run("shop@1"):
            await asyncio.gather(shop.pay_async("ada"), person())

    asyncio.run(story())
    assert shop.paid == ["ada"]


def test_a_task_that_is_cancelled_while_it_waits_has_done_nothing() -> None:
    shop = Shop(wait_s=20, clock=SystemClock())

    async def story() -> None:
        async with shop.guard.run("shop@1"):
            task = asyncio.ensure_future(shop.pay_async("ada"))
            await _asked(shop)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(story())
    assert shop.paid == []
    assert len(shop.waiting()) == 1
    assert not [event for event in events_of(shop.journal) if isinstance(event, Intended)]


def test_a_task_is_stopped_and_denied_like_a_thread() -> None:
    shop = Shop(wait_s=20, clock=SystemClock())

    async def story() -> None:
        async with shop.guard.run("shop@1"):
            task = asyncio.ensure_future(shop.pay_async("ada"))
            await _asked(shop)
            shop.decide("denied")
            with pytest.raises(ApprovalDenied):
                await task
            task = asyncio.ensure_future(shop.pay_async("bob"))
            await _asked(shop)
            shop.orders.place(an_order("ord-2"))
            with pytest.raises(RunHalted):
                await task

    asyncio.run(story())
    assert shop.paid == []


async def _asked(shop: Shop) -> None:
    for _ in range(5_000):
        if shop.waiting():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("nobody was asked")


def _until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    while not condition():
        assert clock.monotonic_s() < deadline_s, "it did not come to pass"
        clock.sleep(0.005)
