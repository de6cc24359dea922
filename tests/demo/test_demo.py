"""The story from end to end, in a real process with real agents."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rescind.demo
from rescind.errors import UsageError


def test_everything_holds_and_the_exit_status_says_so(kept: Any) -> None:
    assert kept.status == 0, kept.stderr
    result = json.loads(kept.stdout)
    assert all(result["invariants"].values())
    assert len(result["invariants"]) == 15
    assert result["chain_intact"]
    assert result["writes_after_stop"] == result["bystander_writes_lost"] == 0


def test_json_is_the_only_thing_on_stdout_and_has_all_the_numbers(kept: Any) -> None:
    assert kept.stdout.count("\n") == 1
    result = json.loads(kept.stdout)
    stop, undo = result.pop("stop"), result.pop("undo")
    assert result.keys() == {
        "customers_wronged",
        "guards",
        "writes_after_stop",
        "invariants",
        "bystander_writes_lost",
        "chain_intact",
    }
    assert result["customers_wronged"] == 340
    assert 0 < stop.pop("ms") < 10_000
    assert 0 < undo.pop("ms") < 60_000
    assert stop == {"by": "operator", "acknowledged": result["guards"], "unknown": 0}
    assert result["guards"] == 4
    assert undo == {"restored": 339, "compensated": 340, "review": 340, "conflicts": 1}


def test_the_story_is_told_beside_json_without_escape_sequences(kept: Any) -> None:
    assert "6  Proof" in kept.stderr
    assert "\x1b" not in kept.stderr


def test_what_is_kept_can_be_explored_with_the_commands_that_are_printed(kept: Any) -> None:
    plan = call_rescind(kept.folder, "undo", "--agent", "subscriptions-agent@2.4.0", "--app", "desk", "--json")
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["counts"] == {"already_in_review": 341, "already_undone": 679}
    for command in (["status"], ["review", "list"], ["audit", "verify"]):
        assert call_rescind(kept.folder, *command).returncode == 0


def test_no_agent_complained(kept: Any) -> None:
    assert (kept.folder / "agents.log").read_text() == ""


def test_ctrl_c_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    program = "import rescind.demo; rescind.demo.run(keep=None, manual_stop=False, as_json=False)"
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "customers wronged: " in line:
                break
        agents = children_of(demo.pid)
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert len(agents) == 5  # and a switch
    assert not [pid for pid in agents if Path(f"/proc/{pid}").exists()]
    assert list(tmp_path.iterdir()) == []


def test_without_sqlalchemy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(rescind.demo, "find_spec", importlib.util.find_spec)
    with pytest.raises(UsageError, match=r"pip install 'rescind\[sql\]'"):
        rescind.demo.run(keep=None, manual_stop=False, as_json=False)


def call_rescind(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys; from rescind.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
