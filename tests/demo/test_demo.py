"""The story from end to end, in a real process with real agents."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import rescind.demo
from demo.conftest import Kept
from rescind.demo.mailroom import ROGUE
from rescind.demo.opening import WRONGED
from rescind.demo.policy import EXCERPT, RULE
from rescind.demo.world import World
from rescind.errors import UsageError
from rescind.journal.sqlite import SqliteJournal
from rescind.recovery.undos import list_undos

pytest.importorskip("dbos")


@pytest.fixture(params=["kept", "triggered"])
def story(request: pytest.FixtureRequest) -> Kept:
    found: Kept = request.getfixturevalue(request.param)
    return found


def test_everything_holds_and_the_exit_status_says_so(story: Kept) -> None:
    assert story.status == 0, story.stderr
    result = json.loads(story.stdout)
    assert all(result["invariants"].values())
    assert len(result["invariants"]) == 19
    assert result["chain_intact"]
    assert result["writes_after_stop"] == result["bystander_writes_lost"] == 0


def test_json_is_the_only_thing_on_stdout_and_has_all_the_numbers(story: Kept) -> None:
    assert story.stdout.count("\n") == 1
    result = json.loads(story.stdout)
    stop, undo = result["stop"], result["undo"]
    assert result.keys() == {
        "customers_wronged",
        "guards",
        "stop",
        "writes_after_stop",
        "undo",
        "workers",
        "invariants",
        "bystander_writes_lost",
        "chain_intact",
    }
    assert 0 < stop.pop("ms") < 10_000
    assert 0 < undo.pop("ms") < 60_000
    assert stop.pop("by") in ("operator", "trigger")
    assert stop == {"acknowledged": result["guards"], "unknown": 0}
    assert result["guards"] == 4
    assert undo.keys() == {"restored", "compensated", "review", "conflicts"}


def test_with_a_manual_stop_everybody_is_wronged_before_the_operator_stops_it(kept: Kept) -> None:
    result = json.loads(kept.stdout)
    result["undo"].pop("ms")
    assert (result["stop"]["by"], result["customers_wronged"]) == ("operator", WRONGED)
    assert result["undo"] == {"restored": 339, "compensated": 340, "review": 340, "conflicts": 1}


def test_one_of_two_workers_is_killed_in_mid_share_and_the_other_one_finishes_it(story: Kept) -> None:
    result = json.loads(story.stdout)
    workers, undo = result["workers"], result["undo"]
    killed, (other,) = workers["killed"], {*workers["processes"]} - {workers["killed"]}
    assert workers["shares"] > 1
    assert workers["undone_by_killed"] >= 3
    assert workers["undone_by_killed"] + workers["undone_by_others"] == undo["restored"] + undo["compensated"]
    assert workers["left_at_kill"] >= workers["unreported_at_kill"] > 0
    assert 0 < workers["taken_over_ms"] < 30_000

    # The world says the same, and rescind is not asked: who asked the bank for what, and how often that was booked.
    requests = World(story.folder).credit_requests()
    assert {process for _, process, _ in requests} == {killed, other}
    booked = Counter(key for key, _, was_booked in requests if was_booked)
    assert {*booked.values()} == {1}
    assert len(booked) == undo["compensated"]
    again = {key for key, count in Counter(key for key, _, _ in requests).items() if count > 1}
    assert len(again) == workers["asked_again"] == workers["unreported_at_kill"]
    assert all({process for key, process, _ in requests if key == each} == {killed, other} for each in again)
    assert workers["credited_twice"] == 0

    told = " ".join(story.stderr.split())
    assert f"$ kill -9 {killed} ✗ worker {killed} is gone, in the middle of its share" in told
    assert f"✓ worker {other} goes on with that share" in told


def test_no_worker_and_no_plan_is_left(story: Kept) -> None:
    left = json.loads(call_rescind(story.folder, "worker", "--list", "--json").stdout)
    assert left == {"workers": [], "plans": []}
    with contextlib.closing(SqliteJournal(story.folder / ".rescind" / "journal.db")) as journal:
        assert [undo.state for undo in list_undos(journal)] == ["finished"]
    for pid in json.loads(story.stdout)["workers"]["processes"]:
        assert not Path(f"/proc/{pid}").exists()


def test_a_trigger_stops_it_after_a_few_customers_of_whom_the_database_knows(triggered: Kept) -> None:
    result, world = json.loads(triggered.stdout), World(triggered.folder)
    undo, wronged = result["undo"], result["customers_wronged"]
    assert result["stop"]["by"] == "trigger"
    assert 8 <= wronged < WRONGED / 4
    touched = world.customers_charged(ROGUE) | world.customers_mailed(ROGUE)
    assert len(touched) in (wronged, wronged - 1)  # of one, the subscription alone may have been changed
    assert undo["compensated"] == world.charged_by(ROGUE)[0]
    assert undo["review"] == len(world.mails(ROGUE))
    assert undo["restored"] + undo["conflicts"] in (wronged, wronged - 1)
    assert undo["conflicts"] == 1
    assert f"{wronged} of 340 customers wronged. Stopped by a trigger" in triggered.stderr


def test_the_trigger_leaves_one_order_and_one_incident_which_the_commands_show(triggered: Kept) -> None:
    status = json.loads(call_rescind(triggered.folder, "status", "--json").stdout)
    (order,) = {(each["scope"], each["level"], each["trigger"], each["actor"]) for each in status["orders"]}
    assert order == (f"agent:{ROGUE}", "paused", RULE, "policy")
    (incident,) = json.loads(call_rescind(triggered.folder, "incidents", "list", "--json").stdout)["incidents"]
    assert incident["cause"] == f"blast_radius.records_per_minute agent:{ROGUE}"
    for shown in (incident["incident_id"], status["orders"][0]["order_id"]):
        assert shown in triggered.stderr


def test_what_a_manual_stop_let_happen_is_measured_against_the_rule_in_shadow(kept: Kept) -> None:
    assert json.loads(call_rescind(kept.folder, "incidents", "list", "--json").stdout)["incidents"] == []
    told = " ".join(kept.stderr.split())
    found = re.search(rf"{RULE} would have stopped the release after (\d+) customers", told)
    assert found is not None
    assert 8 <= int(found[1]) < WRONGED / 4


def test_the_lines_of_the_policy_that_are_shown_are_those_of_the_folder(triggered: Kept) -> None:
    config = (triggered.folder / "rescind.yaml").read_text()
    for line in EXCERPT.splitlines():
        assert f"{line}\n" in config
        assert f"    {line}\n" in triggered.stderr


def test_the_story_is_told_beside_json_in_80_columns_and_without_escape_sequences(story: Kept) -> None:
    assert "6  Proof" in story.stderr
    assert "\x1b" not in story.stderr
    assert [line for line in story.stderr.splitlines() if len(line) > 80 and "$ cd " not in line] == []


def test_what_is_kept_can_be_explored_with_the_commands_that_are_printed(story: Kept) -> None:
    undo = json.loads(story.stdout)["undo"]
    plan = call_rescind(story.folder, "undo", "--agent", ROGUE, "--app", "desk", "--json")
    assert plan.returncode == 0, plan.stderr
    counts = json.loads(plan.stdout)["counts"]
    assert counts["already_in_review"] == undo["review"] + undo["conflicts"]
    # The other process of the agent may have been at a step which was refused between its intent and its effect.
    assert counts["already_undone"] - undo["restored"] - undo["compensated"] in (0, 1)
    for command in (["status"], ["review", "list"], ["audit", "verify"]):
        assert call_rescind(story.folder, *command).returncode == 0


def test_no_agent_complains_and_an_incident_is_said_once(kept: Kept, triggered: Kept) -> None:
    assert (kept.folder / "agents.log").read_text() == ""
    (alert,) = (triggered.folder / "agents.log").read_text().splitlines()
    assert alert.startswith("incident inc_")


@pytest.mark.parametrize(
    "moment", ["is released for", pytest.param("kill -9", marks=pytest.mark.slow)], ids=["early", "in mid-undo"]
)
def test_ctrl_c_leaves_no_process_and_no_folder(moment: str, tmp_path: Path) -> None:
    program = "import rescind.demo; rescind.demo.run(keep=None, manual_stop=False, as_json=False)"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if moment in line:
                break
        agents = children_of(demo.pid)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert len(agents) == (7 if moment == "is released for" else 6)  # and a switch, and two workers
    assert not [pid for pid in agents if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []


def test_without_sqlalchemy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(rescind.demo, "find_spec", importlib.util.find_spec)
    with pytest.raises(UsageError, match=r"pip install 'rescind\[sql\]'"):
        rescind.demo.run(keep=None, manual_stop=False, as_json=False)


@pytest.mark.slow
def test_without_the_extra_workers_it_says_so_and_undoes_in_its_own_process(tmp_path: Path) -> None:
    without = "import sys; sys.modules['dbos'] = None; from rescind.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", without, "demo", "--json", "--keep", tmp_path / "kept"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["workers"] is None
    assert all(result["invariants"].values())
    assert {"nothing_ran_twice", "nothing_pending"} < {*result["invariants"]}
    assert "killed_in_mid_undo" not in result["invariants"]
    assert "pip install 'rescind[workers]'" in " ".join(done.stderr.split())
    assert {process for _, process, _ in World(tmp_path / "kept").credit_requests()} != set()


def call_rescind(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys; from rescind.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
