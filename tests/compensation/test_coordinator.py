"""Plans left to workers, with the engine in memory: the laws of `coordinator` and of `submission`, and dying at will.

The process dies between any two calls to the engine or to the journal, before and after each, by an exception that
nothing catches. What stands in the journal and in the engine then is all that the next process knows.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from compensation.crew import RUN, Crew, events, refunds
from compensation.dying import Died
from compensation.engines import Jobs
from compensation.undo_world import Charging, Shop, row_of
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.sharing.coordinator import PLAN_QUEUE
from rescind.compensation.sharing.shares import components, split
from rescind.errors import Conflict, EntryUnreadable, Transient, UsageError
from rescind.journal.memory import MemoryJournal
from rescind.model.action import IN_DOUBT_AFTER, EffectClass
from rescind.model.entry import CompensationEnded, CompensationIntended, PlanFinished, PlanStarted, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Failed
from rescind.recovery.control import control_undo
from rescind.recovery.engine import JobState
from rescind.recovery.review import list_tasks, resolve_task
from rescind.recovery.toolset import tool_info
from rescind.recovery.undos import list_undos, undo_status, undo_steps

if TYPE_CHECKING:
    from rescind.compensation.sharing.submission import Submission


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def crew(shop: Shop, tmp_path: Path) -> Crew:
    return Crew(shop, tmp_path)


def test_a_plan_is_undone_by_whoever_lives(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1), shop.set("a", 2), shop.set("b", 3)
    shop.charge(), shop.mail()
    crew.hire()
    ended = crew.see_to_its_end(crew.submit())

    assert ended.finished
    assert shop.rows == {"a": None, "b": None}
    assert refunds(shop) == {1}
    assert [task.reason for task in list_tasks(shop.journal)] == ["irreversible"]
    assert events(shop.journal, PlanFinished)[0].counts == {"compensated": 1, "restored": 3, "review": 1}


@pytest.mark.parametrize("first", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 7))])
def test_it_survives_a_death_between_any_two_calls_of_engine_and_journal(first: int, tmp_path: Path) -> None:
    """A seventh of all moments by default, and every one of them in CI."""
    for dies_after in range(first, 10_000, 7):
        shop = Shop()
        crew = Crew(shop, tmp_path)
        many_charges(shop, 30)
        shop.set("a", 1), shop.set("a", 2)
        shop.mail(), shop.mail()
        crew.hire(), crew.hire()
        submission = crew.submit()
        crew.infos.clear()
        crew.fuse.left = dies_after
        ended = crew.see_to_its_end(submission)

        assert ended.finished, dies_after
        assert shop.rows == {"a": None}
        doubtful = [task for task in list_tasks(shop.journal) if task.reason == "in_doubt"]
        assert sum(shop.charging.refunds.values()) >= 30 - sum(len(task.steps) for task in doubtful)
        assert refunds(shop) == {1}, "nothing twice"
        assert len(doubtful) <= 1
        mails = [task for task in list_tasks(shop.journal) if task.reason == "irreversible"]
        assert [len(task.steps) for task in mails] == [2], "one task for both, and not twice"
        assert len(events(shop.journal, PlanFinished)) == 1
        if not crew.dead:
            assert dies_after > 100, "so many moments were tried"
            return
    raise AssertionError("it never came to its end without dying")


def many_charges(shop: Shop, count: int) -> None:
    for _ in range(count):
        shop.charge()


def test_a_stale_plan_is_refused_and_nothing_is_done(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1), shop.charge()
    crew.hire()
    submission = crew.submit()
    shop.rows["a"] = "somebody's"
    ended = crew.see_to_its_end(submission)

    assert ended.stopped is not None
    assert ended.stopped.why == "stale"
    assert not events(shop.journal, CompensationIntended), "Y1: not even what was still as shown"
    assert not events(shop.journal, PlanStarted)


def test_a_step_that_came_after_the_plan_makes_it_stale(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1)
    crew.hire()
    submission = crew.submit()
    shop.set("b", 1)
    ended = crew.see_to_its_end(submission)

    assert ended.stopped is not None
    assert "1 steps were selected when it was shown, and now it is 2" in ended.stopped.detail


def test_who_submits_it_again_joins_it(crew: Crew, shop: Shop) -> None:
    shop.charge()
    crew.hire()
    assert crew.submit() == crew.submit()  # Z2
    ended = crew.see_to_its_end(crew.submit())
    assert ended.number == 1
    assert len(events(shop.journal, PlanStarted)) == 1


def test_what_no_live_worker_can_do_is_said_before_anything_begins(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1), shop.charge()
    before = len(events(shop.journal, object))
    with pytest.raises(UsageError, match="no worker lives"):
        crew.submit()
    crew.hire({"row.set": shop.setting}, module="rows:guard")
    with pytest.raises(UsageError, match=r"card\.charge: declared by none of them") as refused:
        crew.submit()
    assert "worker_1 (rows:guard)" in str(refused.value)
    assert len(events(shop.journal, object)) == before


def test_a_worker_with_another_version_of_a_tool_is_not_given_its_steps(crew: Crew, shop: Shop) -> None:
    shop.charge()
    crew.hire({"card.charge": Charging(idempotent=True)}, module="old:guard")
    with pytest.raises(UsageError, match="declared otherwise by worker_1"):
        crew.submit()


def test_shares_go_to_whoever_has_their_tools(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1), shop.charge()
    rows = crew.hire({"row.set": shop.setting}, module="rows:guard")
    cards = crew.hire({"card.charge": shop.charging}, module="cards:guard")
    submission = crew.submit()
    for _ in range(20):
        if crew.there(submission).is_over:
            break
        rows.keeper.keep()
        # Looked after by one of them, who waits; the other one works in the meantime.
        rows.engine.wait = lambda prefix, seen, *, timeout_s: (  # type: ignore[method-assign]
            rows.engine.run_next() or cards.engine.run_next(),
            rows.engine.reports(prefix),
        )[1]
        rows.engine.run_next()

    assert crew.there(submission).finished
    assert shop.rows == {"a": None}
    assert refunds(shop) == {1}


def test_a_restore_that_another_share_hinders_is_tried_again_when_all_are_done(crew: Crew, shop: Shop) -> None:
    for number in range(60):
        shop.set(f"order-{number}", 1)
    shop.set("customer", 1)

    def refer(record: StepRecord) -> None:
        # A customer cannot go while orders refer to it; the journal knows nothing of that.
        if record.step.target == row_of("customer") and any(
            value is not None for name, value in shop.rows.items() if name.startswith("order")
        ):
            raise Conflict("orders refer to it")

    shop.setting.before_undo = refer
    crew.hire(), crew.hire()
    submission = crew.submit()
    assert len(submission.shares) > 1
    ended = crew.see_to_its_end(submission)

    assert ended.finished
    assert not any(shop.rows.values())  # Y4
    assert not list_tasks(shop.journal)


def test_what_all_shares_leave_to_a_person_is_one_task(crew: Crew, shop: Shop) -> None:
    for _ in range(120):
        shop.mail()
    crew.hire(), crew.hire()
    submission = crew.submit()
    assert len(submission.shares) > 2
    crew.see_to_its_end(submission)

    assert [len(task.steps) for task in list_tasks(shop.journal)] == [120]  # Y5


def test_a_step_that_had_failed_needs_nothing_and_holds_up_no_end(crew: Crew, shop: Shop) -> None:
    """An older step at its target waits for it, so it is in a share; and no undo ever records an end for it."""
    shop.set("a", "1")
    charged = shop.charge()
    failed = shop.intend("row.set", EffectClass.REVERSIBLE, target=row_of("a"))
    shop.end(failed, Failed("refused before the tool ran"))
    crew.hire()
    submission = crew.submit()
    assert failed in {step for share in submission.shares for step in share.steps}
    ended = crew.see_to_its_end(submission)

    assert ended.finished
    (finish,) = events(shop.journal, PlanFinished)
    assert finish.counts == {"compensated": 1, "never_took_effect": 1, "restored": 1}
    assert shop.ends().keys() >= {charged}
    assert failed not in shop.ends()
    assert list_tasks(shop.journal) == []


def test_a_tool_that_fails_is_a_review_task_and_the_plan_ends(crew: Crew, shop: Shop) -> None:
    shop.charge()
    shop.charging.before_undo = lambda record: (_ for _ in ()).throw(RuntimeError("the bank said no"))
    crew.hire()
    ended = crew.see_to_its_end(crew.submit())

    assert ended.finished
    assert [(task.reason, task.action) for task in list_tasks(shop.journal)] == [("in_doubt", "card.charge")] or [
        (task.reason, task.action) for task in list_tasks(shop.journal)
    ] == [("failed", "card.charge")]


def test_a_step_that_a_reviewer_gave_back_and_that_fails_again_is_a_task_again(crew: Crew, shop: Shop) -> None:
    """U12: the end of the first undo says nothing of the second one."""
    shop.charge()
    shop.charging.before_undo = lambda record: (_ for _ in ()).throw(RuntimeError("the bank said no"))
    crew.hire()
    crew.see_to_its_end(crew.submit())
    (first,) = list_tasks(shop.journal)
    resolve_task(shop.journal, first.task_id, "retry", actor="eve", clock=shop.clock)

    ended = crew.see_to_its_end(crew.submit())

    assert ended.finished
    (second,) = list_tasks(shop.journal)
    assert second.task_id == ended.tasks[0] != first.task_id


def test_a_step_that_was_redone_is_not_taken_for_undone(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1)
    plan = shop.plan()
    shop.apply(plan)
    shop.redo(plan.digest)
    shop.charge()
    shop.charging.before_undo = lambda record: shop.clock.advance(10.0)
    crew.hire()
    ended = crew.see_to_its_end(crew.submit(within_s=5.0))

    assert ended.stopped is not None
    assert ended.stopped.why == "out_of_time"
    assert ended.stopped.counts == {"compensated": 1, "not_reached": 1}
    assert shop.rows == {"a": 1}


def test_all_jobs_lost_with_the_engines_file_are_found_again_in_the_journal(crew: Crew, shop: Shop) -> None:
    many_charges(shop, 60)
    crew.hire()
    submission = crew.submit()
    crew.fuse.left = 60
    hand = crew.hire()
    with pytest.raises(Died):
        hand.work(until=lambda: False)
    crew.dead.add(hand.worker_id)
    crew.fuse.left = -1
    assert crew.kept.jobs
    crew.kept = Jobs()  # EN6

    assert crew.see_to_its_end(submission).finished
    assert refunds(shop) == {1}


def spoil(shop: Shop, run_id: str, kind: str) -> int:
    """An entry of this kind in this run is none that can be read. Its sequence."""
    assert isinstance(shop.journal, MemoryJournal)
    (sequence, *_) = [
        number
        for number, row in enumerate(shop.journal._rows, 1)
        if (row.run.run_id, row.kind) == (run_id, kind)  # as on a damaged disk
    ]
    row = shop.journal._rows[sequence - 1]
    shop.journal._rows[sequence - 1] = msgspec.structs.replace(row, body=b'{"type":"from_the_future"}')
    shop.journal._read.pop(sequence, None)
    return sequence


@pytest.mark.parametrize("kind", ["plan_submitted", "plan_share"])
def test_a_plan_that_cannot_be_read_is_left_alone_in_words_and_the_others_are_undone(
    crew: Crew, shop: Shop, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    shop.charge("run-1"), shop.charge("run-2")
    crew.hire()
    unread, other = crew.submit(), crew.submit(Selection(run_ids=("run-2",)))
    sequence = spoil(shop, unread.plan_run, kind)

    assert crew.see_to_its_end(other).finished
    assert list(shop.charging.refunds) == ["undo:run-2:2"]
    assert f"entry {sequence} of the journal cannot be read" in caplog.text
    with pytest.raises(EntryUnreadable, match=unread.plan_run):
        crew.there(unread)


def test_a_worker_that_leaves_gives_back_the_rest(crew: Crew, shop: Shop) -> None:
    many_charges(shop, 30)
    crew.hire()
    submission = crew.submit()
    leaver = crew.hire()

    def leave(record: StepRecord) -> None:
        leaver.is_leaving = len(shop.charging.order) >= 3

    shop.charging.before_undo = leave
    leaver.keeper.keep()
    leaver.engine.run_next()
    assert len(shop.charging.order) == 4, "the step under way came to its end, and no other was begun"
    assert not crew.there(submission).is_over
    crew.dead.add(leaver.worker_id)
    shop.charging.before_undo = lambda record: None

    assert crew.see_to_its_end(submission).finished
    assert sum(shop.charging.refunds.values()) == 30
    assert refunds(shop) == {1}
    assert not list_tasks(shop.journal)


def test_a_share_whose_workers_are_all_gone_waits_elsewhere(crew: Crew, shop: Shop) -> None:
    shop.charge()
    old = crew.hire({"card.charge": shop.charging}, module="old:guard")
    submission = crew.submit()
    crew.dead.add(old.worker_id)
    new = crew.hire()
    new.keeper.keep()
    # A check is waiting on the queue of those who are gone.
    waiting = [each for each in crew.kept.reports.values() if each.state is JobState.WAITING]
    assert [each.queue for each in waiting] == [PLAN_QUEUE]
    assert crew.see_to_its_end(submission).finished
    assert refunds(shop) == {1}


def test_what_waits_for_workers_is_listed_paused_and_resumed(crew: Crew, shop: Shop) -> None:
    """PC5, also while an earlier undo of the same selection has ended."""
    shop.charge()
    shop.apply()
    shop.charge()
    able = crew.hire()
    submission = crew.submit()
    crew.dead.add(able.worker_id)
    states = [[each.state for each in list_undos(shop.journal)]]
    for what in ("pause", "resume"):
        control_undo(shop.journal, submission.plan_run, what, actor="eve", clock=shop.clock)
        states.append([each.state for each in list_undos(shop.journal)])
        assert undo_status(shop.journal, submission.plan_run).state == states[-1][-1]

    assert states == [["finished", "waiting"], ["finished", "paused"], ["finished", "waiting"]]
    assert crew.see_to_its_end(submission).finished
    assert [each.state for each in list_undos(shop.journal)] == ["finished", "finished"]


def test_a_cancel_reaches_the_undo_under_way_and_the_one_that_waits_behind_it(crew: Crew, shop: Shop) -> None:
    many_charges(shop, 2)
    crew.hire()
    waiting: list[Submission] = []

    def submit_and_cancel(record: StepRecord) -> None:
        if not waiting:
            waiting.append(crew.submit())
            control_undo(shop.journal, waiting[0].plan_run, "cancel", actor="eve", clock=shop.clock)
            shop.clock.advance(1.0)  # orders are looked for now and then

    shop.charging.before_undo = submit_and_cancel
    assert shop.apply().left_because == "cancelled"
    shop.charging.before_undo = lambda record: None
    ended = crew.see_to_its_end(waiting[0]).stopped
    assert ended is not None
    assert ended.why == "cancelled"
    assert len(shop.charging.order) == 1


def raising_died(record: StepRecord) -> None:
    raise Died


def test_a_call_of_a_living_process_that_its_target_does_not_know_yet_is_left_to_a_person(
    crew: Crew, shop: Shop
) -> None:
    """DT2: workers look who lives as whoever made the plan did, so the plan is as it was shown."""
    shop.charging = Charging(probed=True)
    shop.lose_charge(happened=False)
    shop.clock.advance(IN_DOUBT_AFTER.total_seconds())
    shop.charge()
    crew.live_runs.add("run-1")
    crew.hire()
    ended = crew.see_to_its_end(crew.submit())

    assert ended.finished
    assert [(task.reason, task.steps) for task in list_tasks(shop.journal)] == [("in_doubt", (StepRef("run-1", "1"),))]


@pytest.mark.parametrize("what", ["cancel", "time"])
@pytest.mark.parametrize("begun", [False, True])
def test_what_nobody_can_carry_out_ends_when_it_is_cancelled_or_its_time_is_over(
    what: str, begun: bool, crew: Crew, shop: Shop
) -> None:
    """Y6: by a worker that has none of the tools."""
    shop.charge()
    able = crew.hire()
    submission = crew.submit(within_s=60.0)
    if begun:
        shop.charging.before_undo = raising_died
        with pytest.raises(Died):
            able.work(until=lambda: False)
        shop.charging.before_undo = lambda record: None
    crew.dead.add(able.worker_id)
    looker = crew.hire({})
    if what == "cancel":
        control_undo(shop.journal, submission.plan_run, "cancel", actor="eve", reason="wrong run", clock=shop.clock)
        assert undo_status(shop.journal, submission.plan_run).state == "cancelling"
    else:
        shop.clock.advance(61.0)
    looker.work(until=lambda: crew.there(submission).is_over)

    assert crew.there(submission).started is begun
    stopped = crew.there(submission).stopped
    assert stopped is not None
    assert stopped.why == {"cancel": "cancelled", "time": "out_of_time"}[what]
    status = undo_status(shop.journal, submission.plan_run)
    assert (status.state, status.done) == ("cancelled" if what == "cancel" else "left", 0)
    late = crew.hire()
    late.work(until=lambda: False, rounds=3)
    assert not shop.charging.refunds


# --- who did it ---


def test_the_journal_says_which_worker_carried_out_which_step(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1), shop.charge(), shop.mail()
    first = crew.hire()
    submission = crew.submit()
    shop.charging.before_undo = raising_died
    with pytest.raises(Died):
        first.work(until=lambda: False)
    crew.dead.add(first.worker_id)
    shop.charging.before_undo = lambda record: None
    status, steps = undo_steps(shop.journal, submission.plan_run)
    assert {(each.step.step_id, each.word, each.by) for each in steps} >= {("2", "under_way", first.worker_id)}
    second = crew.hire()
    second.work(until=lambda: crew.there(submission).is_over)

    status, steps = undo_steps(shop.journal, submission.plan_run)
    assert status.state == "finished"
    by = {each.step.step_id: (each.word, each.by) for each in steps}
    assert by["1"] in {("restored", first.worker_id), ("restored", second.worker_id)}
    assert by["2"] == ("review", ""), "in doubt: whether to do it is for a person, and nobody carried it out"
    assert by["3"] == ("review", "")
    assert status.by_worker == {by["1"][1]: 1}
    assert {event.by for event in events(shop.journal, CompensationIntended)} <= {first.worker_id, second.worker_id}


def test_what_was_done_without_workers_is_recorded_as_ever(shop: Shop) -> None:
    shop.set("a", 1), shop.charge()
    shop.apply()
    told = [*events(shop.journal, CompensationIntended), *events(shop.journal, CompensationEnded)]
    assert len(told) == 4
    assert not any(b'"by"' in msgspec.json.encode(event) for event in told)
    status, steps = undo_steps(shop.journal, list_undos(shop.journal)[0].plan_run)
    assert status.by_worker == {}
    assert {each.by for each in steps} == {""}


def test_what_is_left_says_which_system_did_not_answer(crew: Crew, shop: Shop) -> None:
    many_charges(shop, 8)

    def fail(record: StepRecord) -> None:
        raise Transient("no route to the bank")

    shop.charging.before_undo = fail
    crew.hire()
    stopped = crew.see_to_its_end(crew.submit()).stopped

    assert stopped is not None
    assert stopped.why == "incomplete"
    assert stopped.detail.startswith("card.charge does not answer: Transient: no route to the bank")


# --- shares ---


def plan_of(shop: Shop) -> Any:
    return make_plan(shop.journal, RUN, shop.compensators, shop.clock, parallel=1)


def test_steps_that_wait_for_each_other_are_in_one_share(shop: Shop) -> None:
    for number in range(100):
        shop.set(f"row-{number % 10}", number)
    plan = plan_of(shop)
    parts = components(plan)
    assert sorted(len(part) for part in parts) == [10] * 10  # SH1
    tools = {name: tool_info(each) for name, each in shop.compensators.items()}
    shares = split(plan, tools, workers=2)
    assert len(shares) == 5
    assert sorted(step for share in shares for step in share.steps) == sorted(item.step for item in plan.items)  # SH2


def test_handlers_that_are_not_parallel_have_shares_of_their_own(shop: Shop) -> None:
    for number in range(60):
        shop.set(f"row-{number}", 1)
        shop.charge()
    shop.charging.parallel = False
    plan = plan_of(shop)
    tools = {name: tool_info(each) for name, each in shop.compensators.items()}
    for share in split(plan, tools, workers=2):
        assert share.alone == ("card.charge" in share.actions)
        assert len(share.actions) == 1  # SH4


def test_a_digest_of_a_share_is_the_same_however_it_is_planned(shop: Shop) -> None:
    for number in range(40):
        shop.set(f"row-{number % 4}", number)
    plan = plan_of(shop)
    from rescind.compensation.planning.survey import make_share
    from rescind.compensation.sharing.shares import digest_of_share

    tools = {name: tool_info(each) for name, each in shop.compensators.items()}
    for share in split(plan, tools, workers=1):
        fresh = make_share(shop.journal, share.steps, shop.compensators, shop.clock)
        assert digest_of_share(fresh.items) == share.digest  # SH3
        assert digest_of_share(reversed(fresh.items)) == share.digest
    shop.rows["row-1"] = "changed"
    fresh = make_share(shop.journal, [item.step for item in plan.items], shop.compensators, shop.clock)
    assert digest_of_share(fresh.items) != digest_of_share(plan.items)


def test_a_step_that_was_left_to_a_person_is_not_undone_when_its_target_has_come_back(crew: Crew, shop: Shop) -> None:
    shop.set("a", 1)
    shop.set("b", 1)
    shop.rows["a"] = "somebody's"
    crew.hire()
    submission = crew.submit()
    hand = crew.hire()
    shown = submission.shares[0]
    assert [shown.steps[place] for place in shown.left] == [StepRef("run-1", "1")]
    shop.rows["a"] = 1  # so that now it could be restored
    share = msgspec.structs.replace(shown, digest="")
    from rescind.compensation.planning.survey import make_share
    from rescind.compensation.sharing.shares import held_to

    fresh = make_share(shop.journal, share.steps, shop.compensators, shop.clock)
    held = held_to(share, fresh, "0" * 64)
    assert held.counts == {"restore": 1, "review": 1}
    assert hand.worker_id
