"""Who looks after plans left to workers reads each entry once, and finds what a fold from the beginning finds."""

from pathlib import Path

import pytest

from builders import NOON
from compensation.crew import Crew
from compensation.undo_world import Shop
from counting import CountingJournal
from rescind.clock import to_us
from rescind.compensation.planning.selection import Selection
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.sharing.submission import Submission, read_submission
from rescind.compensation.sharing.under_way import OpenSubmissions
from rescind.journal.port import Draft
from rescind.model.entry import Event, PlanFinished, PlanLeft, PlanStarted, ReviewOpened

RUNS = tuple(f"run-{number}" for number in range(40))


@pytest.fixture
def journal() -> CountingJournal:
    return CountingJournal()


@pytest.fixture
def crew(journal: CountingJournal, tmp_path: Path) -> Crew:
    shop = Shop(journal)
    for run in RUNS:
        shop.charge(run)
    crew = Crew(shop, tmp_path)
    crew.hire()
    return crew


def append(journal: CountingJournal, plan_run: str, *events: Event) -> None:
    journal.append([Draft(run_id=plan_run, event=event, recorded_at_us=to_us(NOON)) for event in events])


def left(submission: Submission, why: str) -> PlanLeft:
    return PlanLeft(plan_digest=submission.submitted.plan_digest, why=why)


def test_a_second_look_at_many_open_plans_reads_nothing_and_asks_once(crew: Crew, journal: CountingJournal) -> None:
    left_to_workers = [crew.submit(Selection(run_ids=(run,))) for run in RUNS]
    open_ones = OpenSubmissions(journal)
    assert [each.plan_run for each in open_ones.read()] == sorted(each.plan_run for each in left_to_workers)
    journal.forget()

    assert len(open_ones.read()) == len(RUNS)
    assert (journal.pages, journal.given) == (1, [])


def test_what_is_new_in_one_plan_is_all_that_is_read(crew: Crew, journal: CountingJournal) -> None:
    first, *_ = [crew.submit(Selection(run_ids=(run,))) for run in RUNS]
    open_ones = OpenSubmissions(journal)
    open_ones.read()
    begun = PlanStarted(
        plan_digest=first.submitted.plan_digest, selection=first.submitted.selection, runs=("run-0",), steps=1, actor=""
    )
    task = ReviewOpened(task_id="task-1", action="charge", reason="conflict", detail="", steps=())
    append(journal, first.plan_run, begun, task)
    journal.forget()

    found = {each.plan_run: each for each in open_ones.read()}
    assert [entry.run.run_id for entry in journal.given] == [first.plan_run] * 2
    assert found[first.plan_run].started
    assert found[first.plan_run].tasks == ("task-1",)
    assert found == {run_id: read_submission(journal, run_id) for run_id in found}


@pytest.mark.parametrize("how", ["stopped", "finished"])
def test_a_plan_that_is_over_and_submitted_again_is_told_with_its_new_number(
    crew: Crew, journal: CountingJournal, how: str
) -> None:
    first = crew.submit()
    open_ones = OpenSubmissions(journal)
    open_ones.read()
    digest = first.submitted.plan_digest
    over = PlanFinished(plan_digest=digest, counts={}) if how == "finished" else left(first, "stale")
    append(journal, first.plan_run, over)
    assert open_ones.read() == []

    again = crew.submit()

    assert (again.plan_run, again.number) == (first.plan_run, 2)
    assert open_ones.read() == [again]
    assert OpenSubmissions(journal).read() == [again]


def test_over_and_submitted_again_between_two_looks_is_seen_as_submitted_again(
    crew: Crew, journal: CountingJournal
) -> None:
    first = crew.submit()
    open_ones = OpenSubmissions(journal)
    open_ones.read()
    append(journal, first.plan_run, left(first, "failed"))

    again = crew.submit()

    assert open_ones.read() == [again]


def test_somebody_who_applies_the_same_plan_himself_and_leaves_it_does_not_end_it(
    crew: Crew, journal: CountingJournal
) -> None:
    first = crew.submit()
    open_ones = OpenSubmissions(journal)
    append(journal, first.plan_run, left(first, "interrupted"))

    assert [each.number for each in open_ones.read()] == [1]


def test_what_a_worker_has_to_know_for_it_is_told(crew: Crew, journal: CountingJournal) -> None:
    plan = make_plan(journal, Selection(run_ids=("run-0",)), crew.shop.compensators, crew.shop.clock)
    crew.shop.apply(plan)

    redo = crew.submit_plan(crew.shop.redo_plan(plan.digest))

    assert redo.needs == ("redo",)
    assert OpenSubmissions(journal).read() == [redo]
