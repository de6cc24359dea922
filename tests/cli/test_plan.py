"""`rescind plan`: how far undos are, and pause, resume and cancel from another terminal."""

import io
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from cli.conftest import Rescind
from rescind.cli.progress import drawn_progress
from rescind.clock import SystemClock
from rescind.compensation.result import StepResult
from rescind.journal.port import Draft
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Disposition, PlanLeft, PlanStarted, RunOpened, StepRef
from rescind.model.step import RunInfo
from rescind.recovery.appliers import FolderAppliers

UNDO = ("undo", "--run", "run-1", "--app", "desk")
DIGEST = "8096baef412b2ef84672249a8f88ceca6241c45ea29be88d6bf251ff79b63aaa"


@pytest.fixture
def begun(rescind: Rescind, shop: ModuleType) -> str:
    """An undo that another process is at; the beginning of its digest."""
    digest = DIGEST
    run = RunInfo(run_id=f"undo_{digest[:16]}", agent_name="rescind-undo")
    started = PlanStarted(
        plan_digest=digest, selection={"agent": "x"}, runs=("run-1",), steps=4, actor="ops\x1b[2J", pending=4
    )
    journal = SqliteJournal(
        Path(rescind("undo", "--run", "run-1", "--app", "desk", "--json").json["store"], "journal.db")
    )
    now_us = SystemClock().now_us()
    journal.append(
        [
            Draft(run_id=run.run_id, event=RunOpened(run=run, guard_id="undo_1"), recorded_at_us=now_us),
            Draft(run_id=run.run_id, event=started, recorded_at_us=now_us),
        ]
    )
    journal.close()
    return digest[:8]


def test_an_undo_in_progress_is_listed_with_how_far_it_is(rescind: Rescind, begun: str) -> None:
    shown = rescind("plan", "list")

    assert shown.status == 0
    assert f"{DIGEST[:16]}  running      0.0 %  0 of 4 steps  by ops" in shown.out
    assert "\x1b" not in shown.out
    assert max(map(len, shown.out.splitlines()[:1])) <= 80
    (listed,) = rescind("plan", "list", "--json").json["plans"]
    assert (listed["state"], listed["percent"], listed["ended"]) == ("running", 0.0, False)


@pytest.fixture
def died(rescind: Rescind, shop: ModuleType) -> str:
    """An undo that was applied by a process which has died; the beginning of its digest."""
    store = Path(rescind(*UNDO, "--json").json["store"])
    run = RunInfo(run_id=f"undo_{DIGEST[:16]}", agent_name="rescind-undo")
    started = PlanStarted(
        plan_digest=DIGEST, selection={"run_ids": ["run-1"]}, runs=("run-1",), steps=4, actor="ops", shown=True
    )
    with closing(SqliteJournal(store / "journal.db")) as journal:
        now_us = SystemClock().now_us()
        events = (RunOpened(run=run, guard_id="undo_1"), started)
        journal.append([Draft(run_id=run.run_id, event=event, recorded_at_us=now_us) for event in events])
    return DIGEST[:8]


def test_of_an_undo_whose_process_has_died_list_and_show_say_so_and_what_to_type(rescind: Rescind, died: str) -> None:
    store = Path(rescind(*UNDO, "--json").json["store"])
    for command in (("plan", "list"), ("plan", "show", died)):
        shown = rescind(*command)
        assert "  the process that applied it has died, last heard " in shown.out
        assert "  rescind undo --run run-1 --app … --apply\n" in shown.out
    assert shown.out.startswith(f"plan {DIGEST[:16]}: running, and nobody goes on with it\n")
    (listed,) = rescind("plan", "list", "--json").json["plans"]
    assert (listed["holder"], listed["heard_at"] is None) == ("nobody", False)
    with FolderAppliers(store).here(f"undo_{DIGEST[:16]}"):
        assert "has died" not in rescind("plan", "list").out
        assert rescind("plan", "show", died, "--json").json["plan"]["holder"] == "process"


def test_who_orders_something_of_an_undo_that_nobody_goes_on_with_is_told_so(rescind: Rescind, died: str) -> None:
    paused = rescind("plan", "pause", died, "--reason", "look")
    assert "nobody applies it now; whoever does next obeys; to let it go on:\n  rescind plan resume" in paused.out
    resumed = rescind("plan", "resume", died)
    assert "  the process that applied it has died" in resumed.out
    assert resumed.out.endswith("  rescind undo --run run-1 --app … --apply\n")
    assert "within about a second" not in paused.out + resumed.out
    cancelled = rescind("plan", "cancel", died, "--reason", "wrong run", "--json").json["plan"]
    assert (cancelled["state"], cancelled["holder"]) == ("cancelling", "nobody")


def test_a_pause_says_by_whom_and_why_and_how_to_go_on(rescind: Rescind, begun: str) -> None:
    paused = rescind("plan", "pause", begun, "--reason", "the bank asks", "--actor", "eve")

    assert paused.status == 0
    assert "paused" in paused.out
    assert "by eve: the bank asks" in paused.out
    assert f"rescind plan resume {DIGEST[:16]}" in paused.out
    again = rescind("plan", "pause", begun, "--reason", "again")
    assert (again.status, "is paused already, by eve" in again.err) == (2, True)
    resumed = rescind("plan", "resume", begun, "--json").json["plan"]
    assert (resumed["state"], resumed["held_by"]) == ("running", "")
    assert rescind("plan", "resume", begun).status == 2


def test_a_cancel_takes_a_reason_and_is_said_once(rescind: Rescind, begun: str) -> None:
    assert rescind("plan", "cancel", begun).status == 2
    cancelled = rescind("plan", "cancel", begun, "--reason", "wrong run", "--json").json["plan"]
    assert (cancelled["state"], cancelled["held_because"]) == ("cancelling", "wrong run")
    assert rescind("plan", "cancel", begun, "--reason", "wrong run").status == 2


def test_an_undo_that_has_ended_is_shown_and_cannot_be_paused(rescind: Rescind, shop: ModuleType) -> None:
    digest = rescind(*UNDO, "--apply", "--yes", "--json").json["digest"]

    assert "no undo is in progress" in rescind("plan", "list").out
    assert "finished   100.0 %  3 of 3 steps" in rescind("plan", "list", "--all").out
    shown = rescind("plan", "show", digest[:8])
    assert "1 compensated, 1 restored, 1 review" in shown.out
    followed = rescind("plan", "follow", digest, "--json")
    assert (followed.status, followed.json["state"]) == (0, "finished")
    refused = rescind("plan", "pause", digest, "--reason", "late")
    assert (refused.status, "has ended (finished)" in refused.err) == (2, True)


def test_a_list_says_what_each_is_about_when_it_was_begun_and_why(rescind: Rescind, shop: ModuleType) -> None:
    digest = rescind(*UNDO, "--apply", "--yes", "--reason", "wrong prices", "--json").json["digest"]
    rescind("redo", digest, "--app", "desk", "--apply", "--yes")
    listed = rescind("plan", "list", "--all")
    lines = listed.out.splitlines()

    begun = rescind("plan", "show", digest, "--json").json["plan"]["begun_at"][:10]
    assert lines[1].startswith(f"    undo of run run-1, begun {begun} ")
    assert lines[1].endswith(": wrong prices")
    assert lines[3].startswith(f"    redo of plan {digest[:16]}, begun {begun} ")
    assert max(map(len, lines)) <= 80


def test_every_step_of_one_is_shown_with_where_it_stands(rescind: Rescind, shop: ModuleType) -> None:
    digest = rescind(*UNDO, "--apply", "--yes", "--json").json["digest"]
    shown = rescind("plan", "show", digest, "--steps")
    assert "about     undo of run run-1" in shown.out
    for words in ("restored           run-1/1", "compensated        run-1/2", "review             run-1/3"):
        assert words in shown.out
    steps = rescind("plan", "show", digest, "--steps", "--json").json["steps"]
    assert {(each["step"]["step_id"], each["word"], each["by"]) for each in steps} == {
        ("1", "restored", ""),
        ("2", "compensated", ""),
        ("3", "review", ""),
    }


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("incomplete", "left      the workers did not get to the end of every step: the bank is away"),
        ("from_the_future", "left      from the future: the bank is away"),
    ],
)
def test_why_one_was_left_is_said_in_words(rescind: Rescind, begun: str, why: str, words: str) -> None:
    left = PlanLeft(plan_digest=DIGEST, why=why, detail="the bank is away", counts={"not_reached": 4})
    store = rescind("undo", "--run", "run-1", "--app", "desk", "--json").json["store"]
    journal = SqliteJournal(Path(store, "journal.db"))
    run_id = f"undo_{DIGEST[:16]}"
    journal.append([Draft(run_id=run_id, event=left, recorded_at_us=SystemClock().now_us())])
    journal.close()

    assert words in rescind("plan", "show", begun).out


@pytest.mark.parametrize("command", ["show", "follow", "resume"])
def test_a_slip_in_a_digest_names_the_nearest(rescind: Rescind, begun: str, command: str) -> None:
    refused = rescind("plan", command, "8096baff412b2ef8")

    assert refused.status == 2
    assert f"did you mean 'undo_{DIGEST[:16]}'" in refused.err


def test_before_any_undo_there_is_none(rescind: Rescind, shop: ModuleType) -> None:
    assert "no undo was applied yet" in rescind("plan", "list").out
    assert "none was ever applied" in rescind("plan", "show", "8096baef").err


def test_an_undo_has_its_time(rescind: Rescind, shop: ModuleType) -> None:
    assert rescind(*UNDO, "--within", "10m").status == 2
    assert rescind(*UNDO, "--apply", "--within", "soon").status == 2
    assert rescind(*UNDO, "--apply", "--within", "10m").status == 0


def test_the_bars_are_drawn_without_markup() -> None:
    screen = io.StringIO()
    systems = {StepRef("run-1", str(number)): "erp" for number in range(4)}
    console = Console(file=screen, force_terminal=True, width=80, markup=False, emoji=False, highlight=False)

    with drawn_progress(systems, console) as progress:
        for step in systems:
            progress.advance(StepResult(step=step, action="x", disposition=Disposition.RESTORED))

    assert "100%" in screen.getvalue()
    assert "[progress" not in screen.getvalue()


def test_each_worker_has_a_bar_for_its_part_and_its_name_is_no_markup() -> None:
    screen = io.StringIO()
    steps = [StepRef("run-1", str(number)) for number in range(4)]
    console = Console(file=screen, force_terminal=True, width=80, markup=False, emoji=False, highlight=False)

    with drawn_progress(dict.fromkeys(steps, ""), console) as progress:
        for step, worker in zip(steps, ("worker_1m8cr4d68mav9ynm7dy", "worker_\x1b[2Jevil"), strict=False):
            progress.advance(StepResult(step=step, action="x", disposition=Disposition.RESTORED, by=worker))

    shown = screen.getvalue()
    assert "8mav9ynm7dy" in shown, "the end of an id tells two workers apart"
    assert "2/4" in shown
    assert shown.count("1/2") >= 2, "one of the two that are done, each"
    assert "\x1b[2J" not in shown
