"""Held effects on the command line."""

import importlib
from pathlib import Path

import pytest

from builders import spoil_file
from cli.conftest import Rescind

APP = """
import rescind
guard = rescind.Guard.at("store")
sent = []

@guard.write("mail.send", irreversible="a mail cannot be unsent", hold="run")
def mail(to: str) -> None:
    sent.append(to)
    if to == "nobody":
        raise RuntimeError("no such mailbox")
"""


@pytest.fixture(autouse=True)
def mails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three mails that a run holds, which has ended."""
    (folder / "postroom.py").write_text(APP)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("RESCIND_STORE", str(folder / "store"))
    app = importlib.import_module("postroom")
    with app.guard.run("mail-agent@1", run_id="run-1"):
        for name in ("ann", "b\x1b[2Job", "cid"):
            app.mail(name)
    app.guard.close()
    sent: list[str] = app.sent
    return sent


def test_what_is_held_is_listed_with_what_it_waits_for(rescind: Rescind) -> None:
    answer = rescind("held", "list")
    assert answer.out.count("  mail.send\n") == 3
    assert "to be done once its run has ended; its run: ended" in answer.out
    assert "\x1b" not in answer.out
    assert "rescind held drop" in answer.out
    assert len(rescind("held", "list", "--json").json["held"]) == 3


def test_one_is_dropped_with_a_reason_and_cannot_be_dropped_twice(rescind: Rescind, mails: list[str]) -> None:
    step = rescind("held", "list", "--json").json["held"][1]["step"]
    assert "will not be done" in rescind("held", "drop", step, "--reason", "wrong price", "--actor", "ann").out
    again = rescind("held", "drop", step, "--reason", "wrong price")
    assert again.status == 2
    assert f"{step} is held no more: dropped while it was held: wrong price (by ann)" in again.err
    assert "wrong price (by ann)" in rescind("audit", "log", "--run", "run-1").out
    assert "did you mean" not in again.err  # another mail is not what was meant
    rescind("held", "release", "--due", "--app", "postroom")
    assert mails == ["ann", "cid"]
    assert rescind("held", "list").out == "nothing is held\n"


def test_what_a_run_holds_that_cannot_be_read_is_told_and_left_and_the_others_go_on(
    rescind: Rescind, folder: Path, mails: list[str]
) -> None:
    app = importlib.import_module("postroom")
    with app.guard.run("mail-agent@1", run_id="run-2"):
        app.mail("dan")
    app.guard.close()
    sequence = spoil_file(folder / "store" / "journal.db", "run-1", "run_closed")
    names = f"entry {sequence} of the journal cannot be read"

    listed = rescind("held", "list", "--json")
    assert (listed.status, listed.json["unreadable"], len(listed.json["held"])) == (1, [sequence], 1)
    assert names in " ".join(rescind("held", "list").err.split())
    done = rescind("held", "release", "--due", "--app", "postroom")
    assert done.status == 1
    assert names in " ".join(done.err.split())
    assert mails == ["dan"]
    for words in (("drop", "run-1/1", "--reason", "x"), ("release", "run-1/1", "--app", "postroom")):
        refused = rescind("held", *words)
        assert (refused.status, names in refused.err) == (2, True)


def test_one_is_released_by_a_person(rescind: Rescind, mails: list[str]) -> None:
    step = rescind("held", "list", "--json").json["held"][2]["step"]
    assert "released: done" in rescind("held", "release", step, "--app", "postroom").out
    assert mails == ["cid"]


def test_what_a_release_needs_is_said(rescind: Rescind) -> None:
    assert "name it with --app" in rescind("held", "release", "--due").err
    assert "--due for all" in rescind("held", "release", "--app", "postroom").err
    assert rescind("held", "drop", "run-1/zzz", "--reason", "x").status == 2
    assert rescind("held", "drop", "run-1", "--reason", " ").status == 2


def test_a_tool_that_fails_at_its_release_is_told(rescind: Rescind, folder: Path) -> None:
    app = importlib.import_module("postroom")
    with app.guard.run("mail-agent@1", run_id="run-2"):
        app.mail("nobody")
    answer = rescind("held", "release", "--due", "--app", "postroom")
    assert answer.status == 1
    assert "nobody knows whether it took effect: RuntimeError: no such mailbox" in answer.out


def test_an_undo_says_that_it_drops_what_is_held(rescind: Rescind, mails: list[str]) -> None:
    plan = rescind("undo", "--run", "run-1", "--app", "postroom")
    assert "3 to drop" in plan.out
    applied = rescind("undo", "--run", "run-1", "--app", "postroom", "--apply", "--json").json
    assert applied["counts"] == {"never_took_effect": 3}
    rescind("held", "release", "--due", "--app", "postroom")
    assert mails == []
