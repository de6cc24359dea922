"""Review tasks on the command line."""

from pathlib import Path
from types import ModuleType

import pytest

from cli.conftest import Rescind

UNDO = ("undo", "--run", "run-1", "--app", "desk")

pytestmark = pytest.mark.usefixtures("shop")


def the_task(rescind: Rescind) -> str:
    rescind(*UNDO, "--apply")
    (task,) = rescind("review", "list", "--json").json["tasks"]
    return str(task["task_id"])


def test_what_an_undo_leaves_to_a_person_is_listed_and_explained(rescind: Rescind) -> None:
    task_id = the_task(rescind)

    listed, shown = rescind("review", "list"), rescind("review", "show", task_id[:12])

    assert f"{task_id}  1 step of letter.send" in listed.out
    assert "irreversible: a letter cannot be unsent" in listed.out
    assert "run-1/3" in shown.out
    assert "name=c" in shown.out
    assert "--as not-needed" in shown.out


def test_a_task_is_resolved_once_and_then_nothing_waits(rescind: Rescind) -> None:
    task_id = the_task(rescind)

    resolved = rescind("review", "resolve", task_id, "--as", "not-needed", "--note", "fine", "--json").json

    assert (resolved["task"]["resolution"], resolved["task"]["note"], resolved["open"]) == ("not_needed", "fine", 0)
    assert "nothing waits" in rescind("review", "list").out
    assert "resolved by" in rescind("review", "list", "--all").out
    again = rescind("review", "resolve", task_id, "--as", "done")
    assert again.status == 2
    assert "cannot be resolved twice" in again.err


def test_a_retry_is_planned_again(rescind: Rescind, shop: ModuleType) -> None:
    task_id = the_task(rescind)
    rescind("review", "resolve", task_id, "--as", "retry")

    assert "1 for a person" in rescind(*UNDO).out


PICKY = """
import rescind
guard = rescind.Guard.at("store")

@guard.write("thing.sell")
def sell(name: str) -> None: ...

@sell.compensate
def _(step):
    raise RuntimeError("no way back for " + step.arguments["name"])
"""


def test_steps_of_one_task_that_failed_differently_are_told_apart_and_a_retry_is_warned_of(
    rescind: Rescind, shop: ModuleType, folder: Path
) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2"):
        shop.sell("x")
        shop.sell("y")
    (folder / "picky.py").write_text(PICKY)

    applied = rescind("undo", "--run", "run-2", "--app", "picky", "--apply")

    assert applied.status == 1
    for name in ("x", "y"):
        assert f"1 step: the compensation may have happened: RuntimeError: no way back for {name}" in applied.out
    (task,) = rescind("review", "list", "--json").json["tasks"]
    assert len(task["steps"]) == 2
    assert "first of them: " in rescind("review", "list").out
    assert "may happen twice" in rescind("review", "show", task["task_id"]).out
    assert "may happen twice" in rescind("review", "resolve", task["task_id"], "--as", "retry").out
