"""Review tasks on the command line."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from cli.conftest import Rescind
from rescind.switch.alerts import new_webhook_secret
from switch.alerts.receivers import a_receiver

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


def test_a_task_is_given_to_somebody_with_a_deadline_and_a_comment(rescind: Rescind) -> None:
    task_id = the_task(rescind)

    assert rescind("review", "assign", task_id[:12], "ann").out == f"{task_id} is for ann\n"
    assert f"{task_id} is due 20" in rescind("review", "due", task_id, "2d").out
    assert "1 comment" in rescind("review", "comment", task_id, "called\x1b[2J them").out

    listed = rescind("review", "list", "--assignee", "ann").out
    assert "for ann, 1 comment" in listed
    assert "  due 20" in listed
    assert "\\x1b[2J" in rescind("review", "show", task_id).out
    assert "nothing of that kind waits" in rescind("review", "list", "--assignee", "bob").out
    assert "nothing of that kind waits" in rescind("review", "list", "--overdue").out
    told = rescind("audit", "log").out
    assert f"review {task_id} assigned to ann by" in told


def test_a_deadline_that_nobody_can_keep_is_refused(rescind: Rescind) -> None:
    task_id = the_task(rescind)
    for when, words in (
        ("2020-01-01T00:00:00Z", "has passed already"),
        ("soon", "write it like"),
        ("9999d", "not in the range"),
        ("9" * 5_000 + "d", "not in the range"),
    ):
        answer = rescind("review", "due", task_id, when)
        assert answer.status == 2
        assert words in answer.err
    assert rescind("review", "due", task_id, "never").out == f"{task_id} is due at no time\n"


def test_what_was_offset_by_hand_needs_a_reference(rescind: Rescind) -> None:
    task_id = the_task(rescind)
    refused = rescind("review", "resolve", task_id, "--as", "compensated")
    assert refused.status == 2
    assert "needs a reference" in refused.err

    resolved = rescind("review", "resolve", task_id, "--as", "compensated", "--reference", "CN-17", "--json").json
    assert resolved["task"]["reference"] == "CN-17"
    assert "as CN-17" in rescind("review", "list", "--all").out


def test_tasks_are_told_to_the_webhook_of_the_configuration(rescind: Rescind, folder: Path) -> None:
    the_task(rescind)
    (folder / "hook.secret").write_text(new_webhook_secret())
    with a_receiver((503, {}), (204, {})) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/hook"
        (folder / "rescind.yaml").write_text(f"store: store\nreview: {{webhook: '{url}', secret_file: hook.secret}}\n")

        away = rescind("review", "export")
        assert away.status == 1
        assert "1 not told: the receiver answered 503" in away.out
        assert "1 change of review tasks" in rescind("review", "export").out
        assert "0 changes of review tasks" in rescind("review", "export").out
    event = json.loads(receiver.requests[-1][1])
    assert (event["type"], event["source"]) == ("dev.rescind.review.opened.v1", "/rescind/journal")
    assert event["data"]["review"]["action"] == "letter.send"


def test_an_export_to_nowhere_says_what_to_give(rescind: Rescind, folder: Path) -> None:
    assert "give --webhook URL" in rescind("review", "export").err
    no_secret = rescind("review", "export", "--webhook", "http://127.0.0.1:9/")
    assert no_secret.status == 2
    assert "--secret-file" in no_secret.err
    unread = rescind("review", "export", "--webhook", "http://127.0.0.1:9/", "--secret-file", "none.secret")
    assert unread.status == 2
    assert "none.secret cannot be read" in unread.err
