"""Checkpoints of a run (CP1 to CP3), carrying it on (CR1 to CR4), and what is answered then (RS1 to RS3)."""

import asyncio
from typing import Any

import msgspec
import pytest

import rescind
from builders import a_draft, an_order, events_of, steps_of
from rescind.clock import SystemIds
from rescind.compensation.execution.execute import apply_plan
from rescind.compensation.planning.mirror import FORTH, mirrored
from rescind.compensation.planning.redo import find_applied, make_redo_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.errors import CallDenied, JournalUnavailable, NotSerialisable, UsageError
from rescind.guard.checkpointing import DETAIL_MAX
from rescind.guard.guard import Guard
from rescind.guard.run import Run
from rescind.journal.memory import MemoryJournal
from rescind.model.entry import (
    Checkpointed,
    CompensationEnded,
    CompensationIntended,
    Disposition,
    RedoEnded,
    RedoIntended,
    Resumed,
    StepRef,
)
from rescind.model.level import Level
from rescind.recovery.checkpoint import knowledge_at, read_story
from rescind.recovery.resume import choose, choose_this, problem_with, record_resumption, resumption_of
from rescind.recovery.review import list_tasks, resolve_task
from rescind.switch.memory import MemoryOrders
from rescind.testing.clock import ManualClock
from rescind.testing.faulty import FaultyJournal


class Books:
    """An agent that charges customers one by one, and marks a boundary after each."""

    def __init__(self, journal: Any = None) -> None:
        self.clock = ManualClock()
        self.guard = Guard.over(journal or MemoryJournal(), MemoryOrders(), clock=self.clock)
        self.charged: list[str] = []
        self.status: dict[str, str] = {}
        self.raises: set[str] = set()

        @self.guard.write("card.charge", target=lambda name: ("psp", "customer", name))
        def charge(name: str) -> str:
            if name in self.raises:
                raise RuntimeError("the bank hung up")
            self.charged.append(name)
            return f"ch_{name}"

        @charge.compensate(idempotent=True)
        def _(step: rescind.PastStep) -> None:
            self.charged.remove(step.arguments["name"])

        @self.guard.write("mail.send", irreversible="a mail cannot be unsent")
        def mail(name: str) -> None: ...

        @self.guard.write("status.set", effect=rescind.MappingKey(self.status, key=lambda name, status: name))
        def set_status(name: str, status: str) -> object:
            self.status[name] = status
            return object()  # no JSON form: its result is not on record

        self.charge, self.mail, self.set_status = charge, mail, set_status

    def run(self, **fields: Any) -> Run:
        return self.guard.run("billing-agent@2.4.0", tenant="acme", **fields)

    def undo(self, **selection: Any) -> None:
        plan = make_plan(self.guard.journal, Selection(**selection), self.guard.compensators, self.clock)
        apply_plan(plan, self.guard.journal, self.guard.compensators, self.clock, SystemIds(), actor="ops")

    def carry_on(self, run_id: str = "run-1", **fields: Any) -> Any:
        """Choose, and tell the guard. Returns the choice."""
        story = read_story(self.guard.journal, run_id)
        choice = choose(story)
        self.resumption = resumption_of(story, choice, **fields)
        self.guard.resume(self.resumption)
        return choice

    def checkpoints(self, run_id: str = "run-1") -> list[Checkpointed]:
        return [event for event in events_of(self.guard.journal, run_id) if isinstance(event, Checkpointed)]


@pytest.fixture
def books() -> Books:
    return Books()


# --- making one ---


def test_cp1_a_checkpoint_stands_in_the_runs_chain_with_its_state(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        books.charge("ann")
        made = run.checkpoint({"next": 1}, name="after ann")
        assert books.checkpoints() == [made]
    assert made.verified
    assert (made.state, made.name) == ({"next": 1}, "after ann")


def test_a_run_may_begin_with_a_checkpoint(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        run.checkpoint()
        books.charge("ann")
    assert len(books.checkpoints()) == 1
    assert len(steps_of(books.guard.journal, "run-1")) == 1


def test_a_run_that_is_continued_with_a_checkpoint_numbers_its_steps_apart(books: Books) -> None:
    with books.run(run_id="run-1"):
        books.charge("ann")
        books.charge("bob")
    with books.run(run_id="run-1") as run:
        run.checkpoint({"next": 2})
        books.charge("cid")
    steps = steps_of(books.guard.journal, "run-1")
    assert [step.step.requested["name"] for step in steps] == ["ann", "bob", "cid"]

    async def later() -> None:
        async with books.run(run_id="run-1") as run:
            await run.checkpoint_async({"next": 3})
            books.charge("dan")

    asyncio.run(later())
    assert len(steps_of(books.guard.journal, "run-1")) == 4


def test_cp1_what_cannot_be_recorded_raises_and_the_run_goes_on() -> None:
    fails = False
    books = Books(FaultyJournal(MemoryJournal(), lambda _: fails))
    with books.run(run_id="run-1") as run:
        fails = True
        with pytest.raises(JournalUnavailable):
            run.checkpoint()
        fails = False
        with pytest.raises(NotSerialisable, match="the state"):
            run.checkpoint(object())
        books.charge("ann")
    assert books.checkpoints() == []


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (lambda: False, "its postcondition does not hold"),
        (lambda: "3 cents are missing", "3 cents are missing"),
        (lambda: 1 / 0, "could not be checked: ZeroDivisionError"),
    ],
)
def test_cp2_a_checkpoint_whose_postcondition_does_not_hold_is_not_verified(
    books: Books, answer: Any, detail: str
) -> None:
    with books.run() as run:
        made = run.checkpoint(verify=answer)
    assert not made.verified
    assert detail in made.detail


def test_cp2_what_does_not_hold_may_be_any_text(books: Books) -> None:
    with books.run() as run:
        made = run.checkpoint(verify=lambda: "\ud800" + "x" * 1_000_000)
    assert made.detail.startswith("?xxx")
    assert len(made.detail) == DETAIL_MAX


def test_cp2_invariants_count(books: Books) -> None:
    balanced = True

    @books.guard.invariant("the books balance")
    def _() -> object:
        return balanced or "they are 5 cents apart"

    with books.run() as run:
        assert run.checkpoint().verified
        balanced = False
        assert run.checkpoint().detail == "the books balance: they are 5 cents apart"


def test_cp2_a_step_in_doubt_or_under_way_is_no_boundary(books: Books) -> None:
    books.raises = {"bob"}
    with books.run() as run:
        books.guard.in_flight_steps[StepRef(run.run_id, "9")] = None
        assert run.checkpoint().detail == "step 9 is under way"
        books.guard.in_flight_steps.clear()
        with pytest.raises(RuntimeError):
            books.charge("bob")
        assert "nobody knows whether step" in run.checkpoint().detail


def test_cp3_a_checkpoint_is_made_under_any_order_and_never_of_a_run_that_is_over(books: Books) -> None:
    with books.run() as run:
        books.guard.orders.place(an_order("ord-1", "everything", Level.READ_ONLY))
        assert run.checkpoint().verified
    with pytest.raises(UsageError, match="is over"):
        run.checkpoint()


async def _asynchronous(books: Books) -> Checkpointed:
    async with books.run() as run:
        return await run.checkpoint_async({"next": 2})


def test_an_asynchronous_program_makes_checkpoints_too(books: Books) -> None:

    assert asyncio.run(_asynchronous(books)).state == {"next": 2}


# --- choosing ---


def three_customers(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        for number, name in enumerate(("ann", "bob", "cid"), start=1):
            books.charge(name)
            run.checkpoint({"next": number})


def test_cr2_the_earliest_safe_checkpoint_is_chosen_and_what_stands_is_answered(books: Books) -> None:
    three_customers(books)
    choice = choose(read_story(books.guard.journal, "run-1"))
    assert choice.boundary.checkpoint.state == {"next": 1}
    assert [record.step.arguments["name"] for record in choice.answered] == ["bob", "cid"]


def test_cr1_what_builds_on_an_undone_step_is_not_safe(books: Books) -> None:
    three_customers(books)
    bob = steps_of(books.guard.journal, "run-1")[1].ref
    books.undo(run_ids=("run-1",), exclude=tuple(str(r.ref) for r in steps_of(books.guard.journal) if r.ref != bob))
    story = read_story(books.guard.journal, "run-1")
    _, after_ann, after_bob, after_cid = story.boundaries
    assert problem_with(story, after_ann) == ""
    assert "builds on this step, which was undone" in problem_with(story, after_bob)
    assert "builds on this step, which was undone" in problem_with(story, after_cid)
    choice = choose(story)
    assert [record.ref for record in choice.anew] == [bob]
    with pytest.raises(UsageError, match="cannot be carried on from"):
        choose_this(story, after_cid)


def test_cr1_a_step_in_doubt_blocks_every_checkpoint(books: Books) -> None:
    three_customers(books)
    books.raises = {"dan"}
    with pytest.raises(RuntimeError), books.run(run_id="run-1"):
        books.charge("dan")
    with pytest.raises(UsageError, match="nobody knows whether it took effect"):
        choose(read_story(books.guard.journal, "run-1"))


def test_cr1_a_result_that_is_not_on_record_cannot_be_answered(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        first = run.checkpoint({"at": "first"})
        books.set_status("ann", "open")
        run.checkpoint({"at": "second"})
    choice = choose(read_story(books.guard.journal, "run-1"))
    assert choice.boundary.checkpoint.state == {"at": "second"}
    assert choice.refused[0][0].name == first.checkpoint_id
    assert "its result is not on record" in choice.refused[0][1]


def test_cr1_an_unverified_checkpoint_is_passed_over(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        run.checkpoint({"at": "first"}, verify=lambda: False)
        run.checkpoint({"at": "second"})
    assert choose(read_story(books.guard.journal, "run-1")).boundary.checkpoint.state == {"at": "second"}


def test_cr1_what_waits_for_a_person_is_not_safe_until_the_person_has_decided(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        run.checkpoint()
        books.mail("ann")
    books.undo(run_ids=("run-1",))
    (task,) = list_tasks(books.guard.journal)
    with pytest.raises(UsageError, match="waits for a person"):
        choose(read_story(books.guard.journal, "run-1"))
    resolve_task(books.guard.journal, task.task_id, "not_needed", actor="ann", clock=books.clock)
    assert len(choose(read_story(books.guard.journal, "run-1")).answered) == 1


def test_cr1_a_compensation_without_an_end_is_a_doubt(books: Books) -> None:
    three_customers(books)
    ref = steps_of(books.guard.journal, "run-1")[2].ref
    intent = CompensationIntended(step_id=ref.step_id, kind="compensate", idempotency_key="k", plan_digest="d")
    books.guard.journal.append([a_draft(intent, "run-1")])
    with pytest.raises(UsageError, match="its compensation was begun"):
        choose(read_story(books.guard.journal, "run-1"))
    end = CompensationEnded(step_id=ref.step_id, disposition=Disposition.COMPENSATED, plan_digest="d")
    books.guard.journal.append([a_draft(end, "run-1")])
    assert len(choose(read_story(books.guard.journal, "run-1")).anew) == 1


def test_cr1_a_redo_without_an_end_is_a_doubt(books: Books) -> None:
    three_customers(books)
    ref = steps_of(books.guard.journal, "run-1")[2].ref
    end = CompensationEnded(step_id=ref.step_id, disposition=Disposition.RESTORED, plan_digest="d")
    intent = RedoIntended(step_id=ref.step_id, idempotency_key="k", plan_digest="e")
    books.guard.journal.append([a_draft(end, "run-1"), a_draft(intent, "run-1")])
    with pytest.raises(UsageError, match="its redo was begun"):
        choose(read_story(books.guard.journal, "run-1"))
    books.guard.journal.append([a_draft(RedoEnded(step_id=ref.step_id, plan_digest="e", redone=True), "run-1")])
    assert len(choose(read_story(books.guard.journal, "run-1")).answered) == 2


@pytest.mark.parametrize(
    ("resolution", "why_not"),
    [("done", "in effect again by hand"), ("retry", "to be redone again"), ("not_needed", "")],
)
def test_cr1_whether_an_undone_step_is_had_again_is_not_decided_twice(
    books: Books, resolution: str, why_not: str
) -> None:
    three_customers(books)
    run, journal = "run-1", books.guard.journal
    ref = steps_of(journal, run)[2].ref
    books.undo(run_ids=(run,), exclude=tuple(str(r.ref) for r in steps_of(journal) if r.ref != ref))
    digest = next(e.plan_digest for e in events_of(journal, run) if isinstance(e, CompensationEnded))
    tools = mirrored(books.guard.compensators)
    plan = make_redo_plan(journal, find_applied(journal, digest), books.guard.compensators, books.clock)
    (task_id,) = apply_plan(plan, journal, tools, books.clock, SystemIds(), actor="ops", way=FORTH).tasks

    with pytest.raises(UsageError, match="its redo waits for a person"):
        choose(read_story(journal, run))
    resolve_task(journal, task_id, resolution, actor="ann", clock=books.clock)
    story = read_story(journal, run)
    assert why_not in problem_with(story, story.boundaries[1])
    assert bool(why_not) == bool(problem_with(story, story.boundaries[1]))


def test_a_run_without_a_checkpoint_is_refused_with_the_remedy(books: Books) -> None:
    with books.run(run_id="run-1"):
        books.charge("ann")
    story = read_story(books.guard.journal, "run-1")
    with pytest.raises(UsageError, match=r"mark boundaries with run\.checkpoint"):
        choose(story)
    assert [each.step.action for each in choose_this(story, story.boundaries[0]).answered] == ["card.charge"]


def test_a_checkpoint_knows_versions_receipts_and_what_is_irreversible(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        books.charge("ann")
        books.set_status("ann", "open")
        books.mail("ann")
        run.checkpoint()
        books.charge("bob")
    books.undo(run_ids=("run-1",), actions=("card.charge",))
    story = read_story(books.guard.journal, "run-1")
    known = knowledge_at(story, story.boundaries[1])
    ann, _, mail, _ = (record.ref for record in story.records)
    assert list(known.versions) == [str(story.records[1].step.target)]
    assert known.receipts == {str(ann): "ch_ann", str(mail): None}
    assert known.irreversible == (mail,)
    assert known.undone == (ann,)


# --- carrying on ---


def test_rs1_calls_that_stand_are_answered_and_undone_ones_are_made_anew(books: Books) -> None:
    three_customers(books)
    bob = steps_of(books.guard.journal, "run-1")[1].ref
    books.undo(run_ids=("run-1",), exclude=tuple(str(r.ref) for r in steps_of(books.guard.journal) if r.ref != bob))
    assert books.charged == ["ann", "cid"]

    books.carry_on()
    with books.run() as run:
        assert run.run_id == "run-1"
        assert run.resumed_from == {"next": 1}
        answers = [books.charge(name) for name in ("bob", "cid", "dan")]
    assert answers == ["ch_bob", "ch_cid", "ch_dan"]
    assert books.charged == ["ann", "cid", "bob", "dan"]
    assert books.resumption.earlier.left() == ()


def test_rs1_a_recorded_step_answers_one_call_only(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        run.checkpoint()
        books.charge("ann")
    books.carry_on()
    with books.run():
        books.charge("ann")
        assert books.charged == ["ann"]
        books.charge("ann")
    assert books.charged == ["ann", "ann"]


def test_rs1_a_result_that_is_none_of_the_tools_any_more_answers_nothing_and_is_not_made_again(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        run.checkpoint()
        books.charge("ann")

    class Charge(msgspec.Struct):
        charge_id: str

    later = Guard.over(books.guard.journal, books.guard.orders, clock=books.clock)
    charged: list[str] = []

    @later.write("card.charge", irreversible="of a newer version", target=lambda name: ("psp", "customer", name))
    def charge(name: str) -> Charge:
        charged.append(name)
        return Charge(f"ch_{name}")

    later.resume(resumption_of(story := read_story(later.journal, "run-1"), choose(story)))
    with later.run("billing-agent@2.4.0", tenant="acme"):
        for _ in range(2):
            with pytest.raises(UsageError, match=r"no result of the tool as it is declared now .* was not run again"):
                charge("ann")
    assert charged == []


def test_rs3_what_was_not_asked_for_again_is_told(books: Books) -> None:
    three_customers(books)
    books.carry_on()
    with books.run():
        books.charge("cid")
    (left,) = books.resumption.earlier.left()
    assert left.step.arguments["name"] == "bob"


def test_cr3_a_resumed_run_may_do_less_and_never_more(books: Books) -> None:
    three_customers(books)
    books.carry_on(allow=["mail.send"])
    with books.run(allow=["card.charge", "mail.send"]):
        with pytest.raises(CallDenied):
            books.charge("dan")
        books.mail("dan")
    with pytest.raises(UsageError, match="no action of this guard"):
        books.carry_on(allow=["card.chrage"])


def test_only_the_run_of_the_same_agent_and_tenant_is_carried_on(books: Books) -> None:
    three_customers(books)
    books.carry_on()
    with pytest.raises(UsageError, match="is to be carried on, and the program opened a run of other-agent"):
        books.guard.run("other-agent@1", tenant="acme")
    with pytest.raises(UsageError, match="with the id run-7"):
        books.run(run_id="run-7")
    with books.guard.run("billing-agent@2.4.1", tenant="acme") as run:  # a newer version is what one hopes for
        assert run.run_id == "run-1"
    with books.run() as run:
        assert run.run_id != "run-1"


def test_cr4_who_carried_it_on_and_why_is_on_record(books: Books) -> None:
    three_customers(books)
    choice = books.carry_on(allow=["mail.send"])
    story = read_story(books.guard.journal, "run-1")
    who: dict[str, Any] = {"guard_id": "g-1", "actor": "ann", "reason": "fixed", "clock": books.clock}
    record_resumption(books.guard.journal, story, books.resumption, **who)
    with pytest.raises(UsageError, match="has gone on since it was looked at"):  # CR5
        record_resumption(books.guard.journal, story, books.resumption, **who)
    (resumed,) = [event for event in events_of(books.guard.journal, "run-1") if isinstance(event, Resumed)]
    assert resumed.checkpoint_id == choice.boundary.name
    assert (resumed.actor, resumed.reason, resumed.allow) == ("ann", "fixed", ("mail.send",))


def test_a_resumed_run_that_died_is_resumed_again_without_doing_anything_twice(books: Books) -> None:
    with books.run(run_id="run-1") as run:
        run.checkpoint({"next": 0})
        books.charge("ann")
    for _ in range(3):
        books.carry_on()
        with pytest.raises(RuntimeError), books.run():
            for name in ("ann", "bob", "cid"):
                books.charge(name)
            raise RuntimeError("died")
    assert books.charged == ["ann", "bob", "cid"]
