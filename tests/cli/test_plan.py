"""`rescind plan`: how far undos are, and pause, resume and cancel from another terminal."""

import io
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
from rescind.model.entry import Disposition, PlanStarted, RunOpened, StepRef
from rescind.model.step import RunInfo

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
