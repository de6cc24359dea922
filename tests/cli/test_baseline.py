"""Learning from a journal on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

import rescind as library
from cli.conftest import Rescind
from rescind.journal.port import Draft
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import RunOpened, RunSnapshot
from rescind.model.step import RunInfo
from rescind.triggers.baseline import load
from rescind.triggers.behaviour import BehaviourConfig, BehaviourDetector
from rescind.triggers.facts import Call


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A journal of thirty runs that each void an invoice, one that wrote nothing, one that was contained."""
    guard = library.Guard.at(tmp_path / "store")

    @guard.write("invoice.void", irreversible="a test")
    def void(invoice: str, why: str) -> None: ...

    @guard.write("password.set", irreversible="a test")
    def set_password(password: str) -> None: ...

    for number in range(30):
        with guard.run("clerk@1", run_id=f"good-{number}", workflow="void"):
            void(f"inv-{number % 3}", f"because {number}")
    with guard.run("clerk@1", run_id="bad-1", workflow="void"):
        set_password("secret-word")
    guard.close()
    journal = SqliteJournal(tmp_path / "store" / "journal.db")
    for name in ("undo", "held", "reconcile", "request", "incident", "approval", "verdict"):
        ours = RunInfo(run_id=f"{name}-1", agent_name=f"rescind-{name}")
        journal.append([Draft(run_id=f"{name}-1", event=RunOpened(run=ours, guard_id="g"), recorded_at_us=1)])
    quiet = RunInfo(run_id="quiet-1", agent_name="clerk", agent_version="1", workflow="look")
    journal.append([Draft(run_id="quiet-1", event=RunOpened(run=quiet, guard_id="g"), recorded_at_us=1)])
    snapshot = RunSnapshot(order_id="ord_1", level="halted", calls=1, steps=1)
    journal.append([Draft(run_id="bad-1", event=snapshot, recorded_at_us=1)])
    journal.close()
    return tmp_path / "store"


def test_what_a_journal_teaches_makes_a_stranger_stand_out(rescind: Rescind, store: Path, tmp_path: Path) -> None:
    answer = rescind("baseline", "learn", "--store", str(store), "--out", str(tmp_path / "b.json"), "--json")

    assert answer.status == 0, answer.err
    assert answer.json["runs"] == {"clerk@1": 31}
    assert answer.json["left_out"] == ["bad-1"]
    run = RunInfo(run_id="r", agent_name="clerk", agent_version="1", workflow="void")
    detector = BehaviourDetector(BehaviourConfig(), load(tmp_path / "b.json"))
    usual = Call(run=run, action="invoice.void", writes=True, at_s=0.0, arguments={"invoice": "inv-1", "why": "new"})
    strange = Call(run=run, action="password.set", writes=True, at_s=0.0)
    assert detector.watch(run).asked(usual) is None
    assert detector.watch(run).asked(strange) is not None


def test_no_argument_of_the_journal_is_in_the_file(rescind: Rescind, store: Path, tmp_path: Path) -> None:
    rescind("baseline", "learn", "--store", str(store), "--out", str(tmp_path / "b.json"), "--with", "bad-1")

    text = (tmp_path / "b.json").read_text()
    assert "password.set" in text
    assert not any(word in text for word in ("secret-word", "inv-1", "because", "good-1"))


def test_adding_the_same_journal_again_changes_no_run(rescind: Rescind, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    command = ("baseline", "learn", "--store", str(store), "--out", str(file))
    rescind(*command)
    before = load(file)

    again, added = rescind(*command), rescind(*command, "--add")

    assert again.status == 2
    assert "give --add to add to it, or --replace to learn anew" in again.err
    assert added.status == 0
    assert (load(file).key, load(file).agents) == (before.key, before.agents)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--agent", "nobody"], "there is no healthy run to learn from"),
        (["--agent", "@"], "cannot read agent"),
        (["--add"], "rescind baseline learn` writes one"),
        (["--add", "--replace"], "contradict each other"),
        (["--since", "yesterday"], "--since 'yesterday' is no moment"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    rescind: Rescind, store: Path, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    answer = rescind("baseline", "learn", "--store", str(store), "--out", str(tmp_path / "b.json"), *arguments)

    assert answer.status == 2
    assert problem in answer.err
    assert not (tmp_path / "b.json").exists()


def test_people_are_told_how_much_was_learned(rescind: Rescind, store: Path, tmp_path: Path) -> None:
    answer = rescind(
        "baseline", "learn", "--store", str(store), "--out", str(tmp_path / "b.json"), "--without", "good-7"
    )

    assert "clerk@1: 30 runs, 2 workflows" in answer.out
    assert "left out: bad-1, good-7" in answer.out


def test_the_answer_is_json_and_nothing_else(rescind: Rescind, store: Path, tmp_path: Path) -> None:
    answer = rescind("baseline", "learn", "--store", str(store), "--out", str(tmp_path / "b.json"), "--json")

    parsed: dict[str, Any] = json.loads(answer.out)
    assert set(parsed) == {"file", "runs", "left_out"}
