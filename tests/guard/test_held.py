"""Held effects: laws HE1 to HE5, and what a stop and an undo do with them."""

import contextvars
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import rescind
from builders import a_lift, an_order, at_once, events_of, steps_of
from rescind.clock import from_us
from rescind.compensation.decision import Drop
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.errors import DeclarationError, NothingChanged, UsageError
from rescind.guard import releasing
from rescind.guard.guard import Guard
from rescind.guard.held import HeldEffect
from rescind.guard.releasing import release_step, standing_in
from rescind.journal.memory import MemoryJournal
from rescind.model.action import EffectClass
from rescind.model.entry import Disposition, Released, StepRef
from rescind.model.level import Level
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.recovery.approvals import decide, list_approvals
from rescind.recovery.checkpoint import read_story
from rescind.recovery.held import drop_held, held_of_run, list_held
from rescind.recovery.release import Round, release_due, release_now
from rescind.recovery.resume import choose, record_resumption, resumption_of
from rescind.switch.memory import MemoryOrders
from rescind.testing.clock import ManualClock
from rescind.testing.faulty import FaultyJournal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rescind.guard.request import Request


class Post:
    """Mails that are held until their run has ended, and payouts that are held for five minutes."""

    def __init__(
        self, journal: Any = None, orders: MemoryOrders | None = None, clock: ManualClock | None = None
    ) -> None:
        self.clock = clock or ManualClock()
        self.guard = Guard.over(journal or MemoryJournal(), orders or MemoryOrders(), clock=self.clock)
        self.sent: list[str] = []
        self.before: Callable[[str], None] = lambda _: None

        @self.guard.write("mail.send", irreversible="a mail cannot be unsent", hold="run", key=lambda to: f"mail:{to}")
        def mail(to: str) -> str:
            self.before(to)
            self.sent.append(to)
            return f"sent to {to}"

        @self.guard.write("payout", irreversible="money is gone", hold=timedelta(minutes=5))
        def pay(to: str, cents: int) -> None:
            self.before(to)
            self.sent.append(f"{to}:{cents}")

        self.mail, self.pay = mail, pay

    def again(self) -> "Post":
        """The same application in another process, over the same stores."""
        other = Post(self.guard.journal, self.guard.orders, self.clock)  # type: ignore[arg-type]
        other.sent = self.sent
        return other

    def run(self, run_id: str = "run-1", **fields: Any) -> rescind.Run:
        return self.guard.run("mail-agent@1", run_id=run_id, **fields)

    def held(self) -> list[str]:
        return [str(each.ref) for each in list_held(self.guard.journal, now=self.clock.now())]

    def outcomes(self, run_id: str = "run-1") -> list[str]:
        return [type(step.outcome).__name__ for step in steps_of(self.guard.journal, run_id)]


def words(done: Round) -> tuple[list[str], list[str], list[str]]:
    return tuple([str(ref) for ref, _ in pairs] for pairs in (done.released, done.dropped, done.waiting))  # type: ignore[return-value]


@pytest.fixture
def post() -> Post:
    return Post()


def test_he1_a_held_call_is_journaled_and_answered_and_nothing_has_happened(post: Post) -> None:
    with post.run():
        answer: Any = post.mail("ann")

    assert isinstance(answer, HeldEffect)
    assert str(answer) == (
        "mail.send is held and was not done yet; it will be done once this run has ended, unless it is dropped "
        f"({answer.step})"
    )
    assert post.sent == []
    (step,) = steps_of(post.guard.journal, "run-1")
    assert step.is_held
    assert step.outcome is None


def test_a_held_effect_is_done_once_its_run_has_ended(post: Post) -> None:
    with post.run():
        post.mail("ann")
        assert words(release_due(post.guard))[0] == []
    assert release_due(post.guard).released[0][1] == "done"
    assert post.sent == ["ann"]
    assert release_due(post.guard) == Round()
    (step,) = steps_of(post.guard.journal, "run-1")
    assert step.outcome == Completed("sent to ann")


def test_a_held_effect_is_done_after_its_time_even_while_its_run_goes_on(post: Post) -> None:
    with post.run():
        post.pay("bob", 100)
        assert words(release_due(post.guard))[2] == post.held()
        post.clock.advance(300)
        release_due(post.guard)
        assert post.sent == ["bob:100"]


def test_the_tool_sees_the_key_of_its_step(post: Post) -> None:
    seen: list[str | None] = []
    post.before = lambda _: seen.append(rescind.idempotency_key())
    with post.run():
        post.mail("ann")
    release_due(post.guard)
    assert seen == ["mail:ann"]


def test_a_repeated_key_is_held_once_and_answered_with_the_result_later(post: Post) -> None:
    with post.run():
        first: Any = post.mail("ann")
        again: Any = post.mail("ann")
        assert again == first
    release_due(post.guard)
    with post.run("run-2"):
        assert post.mail("ann") == "sent to ann"
    assert post.sent == ["ann"]


def test_he2_of_many_who_release_at_once_one_does(post: Post) -> None:
    with post.run():
        for name in "abcdef":
            post.mail(name)
    others = [post.again() for _ in range(6)]
    at_once([lambda other=other: release_due(other.guard) for other in others])  # type: ignore[misc]
    while post.held():
        release_due(post.guard)
    assert sorted(post.sent) == list("abcdef")


def test_he2_who_drops_first_keeps_it_from_being_released(post: Post) -> None:
    with post.run():
        post.mail("ann")
    (held,) = held_of_run(post.guard.journal, "run-1")
    step_ids = (held.ref.step_id,)
    assert drop_held(
        post.guard.journal, "run-1", step_ids, because="wrong", actor="ann", clock=post.clock
    ) == frozenset(step_ids)
    with standing_in(post.guard, held.record.run) as run, pytest.raises(releasing.NotReleased):
        release_step(run, post.guard.compensators["mail.send"], held.record, held.position)
    assert post.sent == []
    assert (
        drop_held(post.guard.journal, "run-1", step_ids, because="wrong", actor="ann", clock=post.clock) == frozenset()
    )
    (step,) = steps_of(post.guard.journal, "run-1")
    assert step.outcome == Failed("dropped while it was held: wrong")
    assert step.dropped_by == "ann"


def test_he3_orders_that_stand_at_the_release_count(post: Post) -> None:
    with post.run():
        post.mail("ann")
    post.guard.orders.place(an_order("ord-1", "agent:mail-agent", Level.READ_ONLY))
    done = release_due(post.guard)
    assert "writes are refused" in done.waiting[0][1]
    assert not [event for event in events_of(post.guard.journal) if isinstance(event, Released)]

    post.guard.orders.lift(a_lift("ord-1"))
    release_due(post.guard)
    assert post.sent == ["ann"]


def test_he3_a_stop_between_release_and_tool_keeps_the_tool_from_running(post: Post) -> None:
    with post.run():
        post.mail("ann")
    orders = post.guard.orders

    def stopped(drafts: Any) -> bool:
        if any(isinstance(draft.event, Released) for draft in drafts):
            orders.place(an_order("ord-1", "agent:mail-agent", Level.READ_ONLY))
        return False

    other = Post(FaultyJournal(post.guard.journal, stopped), orders, post.clock)  # type: ignore[arg-type]
    other.sent = post.sent
    release_due(other.guard)
    assert post.sent == []
    assert post.outcomes() == ["Failed"]


def test_he3_what_a_person_approved_before_it_was_held_is_not_asked_for_again(post: Post) -> None:
    post.guard.orders.place(an_order("ord-1", "agent:mail-agent", Level.SUPERVISED))
    with post.run():
        with pytest.raises(rescind.CallDenied):
            post.mail("ann")
        (asked,) = list_approvals(post.guard.journal, now=post.clock.now())
        decide(post.guard.journal, asked.approval_id, "approved", actor="bob", clock=post.clock)
        post.mail("ann")
    assert [how for _, how in release_due(post.guard).released] == ["done"]
    assert post.sent == ["ann"]


def test_he4_what_was_held_later_does_not_overtake(post: Post) -> None:
    with post.run():
        post.pay("bob", 1)
        post.mail("ann")
    done = release_due(post.guard)
    assert "was held before it" in done.waiting[1][1]
    post.clock.advance(300)
    release_due(post.guard)
    assert post.sent == ["bob:1", "ann"]


def test_he5_a_halted_run_drops_what_it_holds(post: Post) -> None:
    with post.run() as run, pytest.raises(rescind.RunHalted):
        post.mail("ann")
        post.guard.orders.place(an_order("ord-1", f"run:{run.run_id}", Level.HALTED))
        post.mail("bob")
    done = release_due(post.guard)
    assert [why for _, why in done.dropped] == ["its run was halted"]
    post.guard.orders.lift(a_lift("ord-1"))
    assert release_due(post.guard) == Round()
    assert post.sent == []


def test_he5_a_run_that_was_halted_while_nobody_acted_for_it_drops_what_it_holds(post: Post) -> None:
    with post.run():
        post.mail("ann")
    post.guard.orders.place(an_order("ord-1", "run:run-1", Level.HALTED))
    assert len(release_due(post.guard).dropped) == 1
    assert post.sent == []


def test_he5_what_a_failed_run_holds_waits_for_a_person(post: Post) -> None:
    with pytest.raises(RuntimeError), post.run():
        post.mail("ann")
        post.pay("bob", 1)
        raise RuntimeError("the agent broke")
    post.clock.advance(400)
    assert {why for _, why in release_due(post.guard).waiting} == {"its run failed; a person has to release or drop it"}
    (mail, _) = held_of_run(post.guard.journal, "run-1")
    assert release_now(post.guard, mail.ref) == "done"
    assert post.sent == ["ann"]


def test_he5_what_nobody_released_for_weeks_is_dropped(post: Post) -> None:
    with pytest.raises(RuntimeError), post.run():
        post.mail("ann")
        raise RuntimeError
    post.clock.advance(36 * 86_400)
    assert [why for _, why in release_due(post.guard).dropped] == ["nobody released it within 35 days"]


def test_a_run_that_is_continued_settles_by_how_it_ends_then(post: Post) -> None:
    with pytest.raises(RuntimeError), post.run():
        post.mail("ann")
        raise RuntimeError
    other = post.again()
    with other.run():
        other.mail("bob")
        assert release_due(post.guard).released == ()
    release_due(post.guard)
    assert post.sent == ["ann", "bob"]


def test_what_a_halted_run_holds_once_it_was_carried_on_is_settled_by_how_it_ends_then(post: Post) -> None:
    with post.run() as run, pytest.raises(rescind.RunHalted):
        run.checkpoint(verify=lambda: True)
        post.mail("ann")
        post.guard.orders.place(an_order("ord-1", "run:run-1", Level.HALTED))
        post.mail("bob")
    release_due(post.guard)
    post.guard.orders.lift(a_lift("ord-1"))
    carry_on(post)
    with post.run():
        post.mail("ann")
        assert words(release_due(post.guard)) == ([], [], post.held())
    assert [how for _, how in release_due(post.guard).released] == ["done"]
    assert post.sent == ["ann"]


def test_what_a_run_holds_whose_process_died_is_settled_once_it_was_carried_on(post: Post) -> None:
    def dies() -> None:
        run = post.run()
        run.__enter__()  # and nobody leaves it
        run.checkpoint()
        post.mail("ann")

    contextvars.Context().run(dies)
    assert [why for _, why in release_due(post.guard).waiting] == ["its run has not ended"]
    other = post.again()
    carry_on(other)
    with other.run():
        other.mail("ann")
    assert [how for _, how in release_due(other.guard).released] == ["done"]


def carry_on(post: Post) -> None:
    story = read_story(post.guard.journal, "run-1")
    resumption = resumption_of(story, choose(story))
    post.guard.resume(resumption)
    who: dict[str, Any] = {"guard_id": post.guard.guard_id, "actor": "ops", "reason": "fixed", "clock": post.clock}
    record_resumption(post.guard.journal, story, resumption, **who)


def test_a_tool_that_raises_leaves_the_step_in_doubt_and_is_not_run_again(post: Post) -> None:
    def breaks(_: str) -> None:
        raise RuntimeError("the mail server hung up")

    post.before = breaks
    with post.run():
        post.mail("ann")
    assert "nobody knows" in release_due(post.guard).released[0][1]
    assert release_due(post.guard) == Round()
    assert isinstance(steps_of(post.guard.journal, "run-1")[0].outcome, Unknown)


def test_die_anywhere_in_a_release_and_it_is_held_or_in_doubt_and_never_done_twice() -> None:
    """HE2, and W1 to W4: killed before any request of the flow, another process goes on."""
    for dies_at in itertools.count():
        post = Post()
        with post.run():
            post.mail("ann")
        (held,) = held_of_run(post.guard.journal, "run-1")
        flow_over = _release_until(post, held, dies_at)
        was_sent = len(post.sent)
        other = post.again()
        release_due(other.guard)
        (step,) = steps_of(post.guard.journal, "run-1")
        assert not step.is_held
        if step.outcome is None:
            assert len(post.sent) == was_sent, "what is in doubt was done again"
        else:
            assert post.sent == ["ann"]
        if flow_over:
            assert dies_at > 4
            return


class _Killed(BaseException):
    """The process is gone: nothing that its flow still asks for happens."""


def _release_until(post: Post, held: Any, dies_at: int) -> bool:
    """Perform so many requests of a release, and none after that. Whether it came to its end before."""
    from rescind.guard.call import WriteCall
    from rescind.guard.drive import perform

    with standing_in(post.guard, held.record.run) as run:
        call = WriteCall.of_held(post.guard.compensators["mail.send"], run, held.record)
        flow = releasing.release_flow(call, held.position)
        performed = 0
        try:
            request: Request = next(flow)
            while True:
                if performed == dies_at:
                    request = flow.throw(_Killed())
                    continue
                answer = perform(request, post.guard.journal)
                performed += 1
                request = flow.send(answer)
        except StopIteration:
            return performed < dies_at


def test_he4_what_cannot_even_be_begun_is_held_still_and_holds_back_what_comes_after_it() -> None:
    clock, journal, orders = ManualClock(), MemoryJournal(), MemoryOrders()
    guard = Guard.over(journal, orders, clock=clock)

    @guard.write("payout", irreversible="money is gone", hold="run")
    def pay(cents: int) -> None: ...

    with guard.run("agent@1", run_id="run-1"):
        pay(1)
        pay(2)
    paid: list[Any] = []
    other = Guard.over(journal, orders, clock=clock)
    other.write("payout", effect=_Unreachable(), hold="run")(lambda cents: paid.append(cents))
    done = release_due(other)
    assert done.released == ()
    assert [str(ref) for ref, _ in done.waiting] == ["run-1/1", "run-1/2"]
    assert "it is still held" in done.waiting[0][1]
    assert [step.is_held for step in steps_of(journal, "run-1")] == [True, True]
    with pytest.raises(UsageError, match="it is still held"):
        release_now(other, StepRef("run-1", "1"))
    assert paid == []


class _Unreachable:
    """A target that cannot be looked at."""

    effect_class = EffectClass.IRREVERSIBLE

    def open(self, _call: Any) -> Any:
        raise ConnectionError("no route to the bank")

    def observe(self, _step: Any) -> None:
        return None

    def restore(self, _step: Any) -> None:
        return None


def test_what_a_release_did_is_said_as_the_journal_has_it(post: Post) -> None:
    raises: dict[str, Exception] = {
        "ann": NothingChanged("the mailbox is full"),
        "bob": RuntimeError("the bank hung up"),
    }

    def breaks(to: str) -> None:
        if to in raises:
            raise raises[to]

    post.before = breaks
    for name in ("ann", "bob", "cid"):
        with post.run(f"run-{name}"):
            post.mail(name)
    post.mail.verify(lambda step: "cid" not in step.arguments["to"])
    done = release_due(post.guard)
    assert done.waiting == ()
    assert [how for _, how in done.released] == [
        "failed and changed nothing: NothingChanged: the mailbox is full",
        "nobody knows whether it took effect: RuntimeError: the bank hung up",
        "done, and its postcondition does not hold",
    ]


def test_what_one_run_holds_is_released_and_dropped_in_a_time_that_grows_with_it_and_not_with_its_square() -> None:
    reads = {"count": 0}

    class Counting(MemoryJournal):
        def entries(self, *args: Any, **kwargs: Any) -> Any:
            page = super().entries(*args, **kwargs)
            reads["count"] += len(page)
            return page

    post = Post(Counting())
    with post.run():
        for number in range(200):
            post.mail(str(number))
    with post.run("run-2"):
        for number in range(200):
            post.mail(f"second {number}")
    post.guard.orders.place(an_order("ord-1", "run:run-2", Level.HALTED))
    done = release_due(post.guard)
    assert (len(done.released), len(done.dropped)) == (200, 200)
    assert reads["count"] < 20 * 400


def test_an_undo_drops_what_is_held_and_undoes_nothing_else_of_it(post: Post) -> None:
    with post.run():
        post.mail("ann")
        post.mail("bob")
    release_now(post.guard, held_of_run(post.guard.journal, "run-1")[0].ref)
    plan = make_plan(post.guard.journal, Selection(run_ids=("run-1",)), post.guard.compensators, post.clock)
    assert [type(item.decision) for item in plan.items if item.outcome == "none"] == [Drop]

    result = apply_plan(plan, post.guard.journal, post.guard.compensators, post.clock, post.guard.ids, actor="ops")
    assert result.counts == {"never_took_effect": 1, "review": 1}
    assert release_due(post.guard) == Round()
    again = make_plan(post.guard.journal, Selection(run_ids=("run-1",)), post.guard.compensators, post.clock)
    assert again.is_settled
    assert {item.decision.disposition for item in again.items if item.outcome == "failed"} == {  # type: ignore[union-attr]
        Disposition.NEVER_TOOK_EFFECT
    }


def test_what_was_released_while_the_plan_was_looked_at_is_planned_again(post: Post) -> None:
    with post.run():
        post.mail("ann")
    plan = make_plan(post.guard.journal, Selection(run_ids=("run-1",)), post.guard.compensators, post.clock)
    release_due(post.guard)
    result = apply_plan(plan, post.guard.journal, post.guard.compensators, post.clock, post.guard.ids, actor="ops")
    assert result.counts == {"not_reached": 1}


def test_a_journal_that_fails_releases_nothing(post: Post) -> None:
    with post.run():
        post.mail("ann")
    fails = Post(FaultyJournal(post.guard.journal, lambda _: True), post.guard.orders, post.clock)  # type: ignore[arg-type]
    fails.sent = post.sent
    assert "not released" in release_due(fails.guard).waiting[0][1]
    assert post.sent == []
    assert post.held()


def test_an_action_that_is_not_declared_here_waits_for_somebody_who_declares_it(post: Post) -> None:
    with post.run():
        post.mail("ann")
    stranger = Guard.over(post.guard.journal, post.guard.orders, clock=post.clock)
    assert release_due(stranger).waiting[0][1] == "its action is not declared here"
    with pytest.raises(UsageError, match="declares no action"):
        release_now(stranger, StepRef("run-1", steps_of(post.guard.journal, "run-1")[0].step.step_id))


def test_an_asynchronous_tool_is_released_too() -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders(), clock=ManualClock())
    sent: list[str] = []

    @guard.write("mail.send", irreversible="sent", hold="run")
    async def mail(to: str) -> None:
        sent.append(to)

    async def agent() -> None:
        async with guard.run("mail-agent@1"):
            assert isinstance(await mail("ann"), HeldEffect)  # type: ignore[func-returns-value]

    import asyncio

    asyncio.run(agent())
    assert sent == []
    release_due(guard)
    assert sent == ["ann"]


@pytest.mark.parametrize(
    ("declare", "problem"),
    [
        ({"hold": "later"}, "neither a timedelta nor 'run'"),
        ({"hold": timedelta(days=31)}, "not between nothing and 30 days"),
        ({"hold": timedelta(0)}, "not between nothing"),
        ({"hold": "run", "redact": ["to"]}, "which redact= keeps to out of"),
    ],
)
def test_a_hold_that_cannot_be_kept_is_refused_at_the_declaration(declare: Any, problem: str) -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders())
    with pytest.raises(DeclarationError, match=problem):

        @guard.write("mail.send", irreversible="sent", **declare)
        def mail(to: str) -> None: ...


def test_what_can_be_put_back_is_not_held() -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders())

    @guard.write("row.set", hold="run", effect=rescind.MappingKey({}, key=lambda name: name))
    def put(name: str) -> None: ...

    with pytest.raises(DeclarationError, match="need not be held"):
        guard.check()


class Payout(msgspec.Struct):
    to: str
    cents: int


class PayoutInEuros(msgspec.Struct):
    to: str
    euros: float = 0.0


class PayoutWithNote(msgspec.Struct):
    to: str
    cents: int
    note: str = ""


def a_payer(journal: Any, payout: Any, paid: list[Any]) -> tuple[Guard, Any]:
    guard = Guard.over(journal, MemoryOrders())

    def pay(payout: Any, note: str = None) -> None:  # type: ignore[assignment]  # noqa: RUF013  # as many write it
        paid.append(payout)

    pay.__annotations__["payout"] = payout
    return guard, guard.write("payout", irreversible="money is gone", hold="run")(pay)


@pytest.mark.parametrize(
    ("later", "problem"),
    [
        (Payout, ""),
        (PayoutWithNote, ""),
        (dict[str, Any], ""),
        (PayoutInEuros, "recorded with a field 'cents', which there is no more"),
        (list[Payout], "Expected `array`, got `object`"),
        (int, "Expected `int`, got `object`"),
    ],
)
def test_what_was_held_as_another_type_than_the_tool_takes_now_is_held_still_and_told(later: Any, problem: str) -> None:
    journal, paid = MemoryJournal(), list[Any]()
    guard, pay = a_payer(journal, Payout, paid)
    with guard.run("pay-agent@1", run_id="run-1"):
        pay(Payout("bob", 100))
    newer, _ = a_payer(journal, later, paid)

    done = release_due(newer)
    if problem:
        ((_, why),) = done.waiting
        assert "takes another payout now: " in why
        assert problem in why
        assert "it is still held" in why
        assert paid == []
        release_due(guard)  # by the version that knows it
    assert len(paid) == 1
    assert not list_held(journal, now=from_us(guard.clock.now_us()))


def test_an_argument_that_is_not_of_its_type_is_not_held_at_all() -> None:
    paid = list[Any]()
    guard, pay = a_payer(MemoryJournal(), Payout, paid)
    with guard.run("pay-agent@1"), pytest.raises(UsageError, match="was not held and will not be done"):
        pay({"to": "bob", "cents": "a hundred"})
    assert steps_of(guard.journal) == []


def test_arguments_without_a_name_cannot_be_held() -> None:
    guard = Guard.over(MemoryJournal(), MemoryOrders())
    with pytest.raises(DeclarationError, match="made by name"):

        @guard.write("mail.send", irreversible="sent", hold="run")
        def mail(*to: str) -> None: ...
