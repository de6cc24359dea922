"""Checkpoints on the command line, and a run that is carried on from one."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cli.conftest import Rescind

APP = """
import rescind
guard = rescind.Guard.at("store")
charged = []

@guard.write("card.charge", target=lambda name: ("psp", "customer", name))
def charge(name: str) -> str:
    charged.append(name)
    return "ch_" + name

@charge.compensate(idempotent=True)
def _(step):
    charged.remove(step.arguments["name"])

def main(state=None):
    with guard.run("billing-agent@2.4.1", tenant="acme") as run:
        for name in ("ann", "bob", "cid")[state["next"] if state else 0:]:
            charge(name)

async def later(state):
    async with guard.run("billing-agent@2.4.1", tenant="acme"):
        pass

def idle():
    pass

def waits(state):
    with guard.run("billing-agent@2.4.1", tenant="acme"):
        print("thinking", flush=True)
        input()

def breaks(state):
    with guard.run("billing-agent@2.4.1", tenant="acme"):
        raise RuntimeError("still broken")
"""


@pytest.fixture(autouse=True)
def biller(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A program whose agent charged two customers and broke."""
    (folder / "biller.py").write_text(APP)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("RESCIND_STORE", str(folder / "store"))
    app = importlib.import_module("biller")
    with pytest.raises(RuntimeError), app.guard.run("billing-agent@2.4.0", tenant="acme", run_id="run-1") as run:
        app.charge("ann")
        run.checkpoint({"next": 1}, name="after ann")
        app.charge("bob")
        raise RuntimeError("broke")
    app.guard.close()
    yield app
    app.guard.close()


def test_the_checkpoints_of_a_run_are_shown_with_the_one_to_carry_it_on_from(rescind: Rescind) -> None:
    answer = rescind("checkpoints", "run-1")
    assert answer.status == 0
    assert "-> cp_" in answer.out
    assert "1 target" not in answer.out  # nobody looked at one
    assert "1 receipt" in answer.out
    assert "(after ann)" in answer.out
    assert "rescind resume run-1 --entry MODULE:FUNCTION" in answer.out
    shown = rescind("checkpoints", "run-1", "--json").json
    assert shown["chosen"] == shown["checkpoints"][0]["checkpoint"]["checkpoint_id"]


def test_a_run_is_carried_on_and_what_stands_is_not_done_twice(rescind: Rescind, biller: ModuleType) -> None:
    answer = rescind("resume", "run-1", "--entry", "biller:main", "--reason", "fixed in 2.4.1")
    assert answer.status == 0, answer.err
    assert "is carried on from cp_" in answer.out
    assert "1 call since then stand" in answer.out
    assert "biller:main came to its end" in answer.out
    assert biller.charged == ["ann", "bob", "cid"]
    log = rescind("audit", "log").out
    assert "carried on from cp_" in log
    assert "fixed in 2.4.1" in log


def test_an_undone_step_is_done_anew_by_an_asynchronous_or_a_synchronous_program(
    rescind: Rescind, biller: ModuleType
) -> None:
    step = rescind("checkpoints", "run-1", "--json")
    assert step.status == 0
    rescind("undo", "--run", "run-1", "--app", "biller", "--exclude", "run-1/1", "--apply")
    answer = rescind("resume", "run-1", "--entry", "biller:later", "--reason", "x", "--json").json
    assert len(answer["anew"]) == len(biller.charged) == 1


def test_it_is_held_at_a_tighter_level_and_may_call_less(rescind: Rescind, biller: ModuleType) -> None:
    held = rescind(
        "resume", "run-1", "--entry", "biller:main", "--level", "read-only", "--allow", "card.charge", "--reason", "x"
    )
    assert 'held at read_only from here; to lift that:\n  rescind resume run:run-1 --reason "…"' in held.out
    assert held.status == 1
    assert "changes are paused" in held.out
    assert biller.charged == ["ann", "bob"]
    assert "run:run-1" in rescind("status").out


def test_what_was_not_asked_for_again_is_told(rescind: Rescind) -> None:
    answer = rescind("resume", "run-1", "--entry", "biller:later", "--reason", "x")
    assert "1 earlier effect stand that were not asked for again: run-1/" in answer.out


def test_a_program_that_breaks_again_is_told_with_status_1(rescind: Rescind) -> None:
    answer = rescind("resume", "run-1", "--entry", "biller:breaks", "--reason", "x")
    assert answer.status == 1
    assert "biller:breaks raised RuntimeError: still broken" in answer.out


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (("run-1", "--entry", "biller:main"), "Missing option '--reason'"),
        (("run-1", "--entry", "biller", "--reason", "x"), "write MODULE:FUNCTION"),
        (("run-1", "--entry", "biller:nothing", "--reason", "x"), "has no function 'nothing'"),
        (("run-1", "--entry", "biller:main", "--level", "halted", "--reason", "x"), "would not let the run go on"),
        (("run-1", "--entry", "biller:main", "--allow", "card.chrage", "--reason", "x"), "no action of this guard"),
        (("run-1", "--entry", "biller:main", "--checkpoint", "cp_zzzz", "--reason", "x"), "knows no checkpoint"),
        (("run-9", "--entry", "biller:main", "--reason", "x"), "knows no run 'run-9'"),
        (("a", "b", "--entry", "biller:main", "--reason", "x"), "name the run, and nothing else"),
        (("run-1", "--level", "supervised", "--reason", "x"), "go with --entry"),
    ],
)
def test_what_cannot_be_carried_on_is_refused_and_nothing_changes(
    rescind: Rescind, biller: ModuleType, argv: tuple[str, ...], problem: str
) -> None:
    before = rescind("audit", "log").out
    answer = rescind("resume", *argv)
    assert answer.status == 2
    assert problem in answer.err
    assert rescind("audit", "log").out == before
    assert biller.charged == ["ann", "bob"]


def test_a_run_that_is_stopped_is_not_carried_on_before_the_order_is_lifted(rescind: Rescind) -> None:
    rescind("stop", "run:run-1", "--reason", "wrong")
    answer = rescind("resume", "run-1", "--entry", "biller:main", "--reason", "x")
    assert answer.status == 2
    assert "is held at halted by 1 standing order" in answer.err
    assert "Lift first: rescind resume ord_" in answer.err


def test_a_program_that_opens_no_run_has_carried_nothing_on(rescind: Rescind) -> None:
    answer = rescind("resume", "run-1", "--entry", "biller:idle", "--reason", "x")
    assert answer.status == 2
    assert "has opened no run of billing-agent" in answer.err


def test_cr5_of_two_processes_one_carries_the_run_on(rescind: Rescind, folder: Path) -> None:
    main = "import sys; from rescind.cli import main; sys.exit(main())"
    argv = [sys.executable, "-c", main, "resume", "run-1", "--entry", "biller:waits", "--reason", "x"]
    with subprocess.Popen(argv, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert any("thinking" in line for line in first.stdout)
        before = rescind("audit", "log").out
        answer = rescind("resume", "run-1", "--entry", "biller:main", "--reason", "x", "--level", "supervised")
        assert answer.status == 2
        assert "a living process acts for run run-1" in answer.err
        assert rescind("audit", "log").out == before
        first.kill()
    assert rescind("resume", "run-1", "--entry", "biller:main", "--reason", "x").status == 0
